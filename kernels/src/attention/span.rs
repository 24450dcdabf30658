//! Which keys a query sees, on the device. The keys that one query sees are a run of positions,
//! from [`first_seen`] to its own; both ends grow from query to query, so that the queries which
//! see a key are a run as well.

use cubecl::prelude::*;

/// Four lanes: the width in which plain tiles are moved.
pub(super) type Four = Const<4>;

/// Sizes that all attention kernels share.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub struct Span {
    /// Sequences.
    pub batch: u32,
    /// Query heads.
    pub heads: u32,
    /// Heads of keys and values.
    pub groups: u32,
    /// Queries of a sequence, the last of its positions.
    pub time: u32,
    /// Positions of a sequence, at least `time`.
    pub length: u32,
    /// Most positions that a query sees.
    pub window: u32,
    /// Elements of `starts` from sequence to sequence; 0 where all sequences share them.
    pub starts_stride: u32,
}

/// Rows of a matrix inside a buffer, counted in the buffer's vectors.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Rows {
    /// The first.
    pub start: usize,
    /// From row to row.
    pub stride: usize,
    /// How many there are; those behind read as zero and are not written.
    pub count: usize,
}

/// Position of a query among the keys.
#[cube]
pub(super) fn position(span: &Span, query: usize) -> usize {
    span.length as usize - span.time as usize + query
}

/// The first position that a query sees.
#[cube]
pub(super) fn first_seen(
    starts: &[u32],
    span: &Span,
    batch: usize,
    query: usize,
    #[comptime] documents: bool,
) -> usize {
    let after = position(span, query) + 1;
    let window = span.window as usize;
    let mut first = 0usize;
    if after > window {
        first = after - window;
    }
    if comptime!(documents) {
        let start = starts[batch * span.starts_stride as usize + query] as usize;
        if start > first {
            first = start;
        }
    }
    first
}

/// Whether a query, which sees positions from `first` on, sees the key at `key`.
#[cube]
pub(super) fn sees(span: &Span, query: usize, first: usize, key: usize) -> bool {
    query < span.time as usize && key >= first && key <= position(span, query)
}

/// The first query that sees the key at `key`, or comes after it.
#[cube]
pub(super) fn queries_begin(span: &Span, key: usize) -> usize {
    let past = span.length as usize - span.time as usize;
    let mut begin = 0usize;
    if key > past {
        begin = key - past;
    }
    begin
}

/// The end of the queries that see positions up to `last`: the first that sees none of them.
#[cube]
pub(super) fn queries_end(
    starts: &[u32],
    span: &Span,
    batch: usize,
    last: usize,
    #[comptime] documents: bool,
) -> usize {
    let mut low = 0usize;
    let mut high = span.time as usize;
    while low < high {
        let middle = (low + high) / 2;
        if first_seen(starts, span, batch, middle, documents) > last {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// The smaller of two.
#[cube]
pub(super) fn least(a: usize, b: usize) -> usize {
    let mut least = a;
    if b < a {
        least = b;
    }
    least
}

/// Sequence and head that a workgroup works on, and its tile: tiles of all heads one after
/// another, so that workgroups of one time share keys.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Place {
    /// Sequence.
    pub batch: usize,
    /// Head, of queries or of keys as the kernel counts them.
    pub head: usize,
    /// Number of the tile.
    pub tile: usize,
}

/// The place of this workgroup among `heads` heads of each sequence.
#[cube]
pub(super) fn place(span: &Span, heads: usize) -> Place {
    let pairs = span.batch as usize * heads;
    let pair = CUBE_POS % pairs;
    Place {
        batch: pair / heads,
        head: pair % heads,
        tile: CUBE_POS / pairs,
    }
}
