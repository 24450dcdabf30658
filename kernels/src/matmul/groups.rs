//! Which rows belong to which group, on the device: the host never learns it.

use std::ops::Range;

use burn::backend::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::gpu::{arg, count, empty, grid, launch};

/// Rows sorted by group.
///
/// The first `slots` rows are the sorted slots of the routed experts; then, for every shared
/// expert, one row a token.
#[derive(Clone, Debug)]
pub(crate) struct Groups {
    /// The first group that a product is taken of.
    pub first: usize,
    /// Groups from there on that it is taken of: all routed and shared experts, or
    /// [some](Groups::some).
    pub count: usize,
    /// Rows, unused ones included.
    pub rows: usize,
    /// First row and end of each group `[2 · count]`.
    pub ranges: CubeTensor,
    /// Token of each row `[rows]`; 0 for unused ones.
    pub tokens: CubeTensor,
    /// Group, first row and end of the group for each tile of rows `[3 · tiles]`; a group behind
    /// the last marks the unused.
    pub tiles: CubeTensor,
    /// Tiles of rows, unused ones included.
    pub tile_count: usize,
}

impl Groups {
    /// Lays out the slots of `offsets` `[experts + 1]` and `slots` `[T · k]`, and `shared` groups
    /// of all tokens, in tiles of `edge` rows: of all these rows those of `part`, which are numbered
    /// from its start. Two launches.
    pub fn new(
        offsets: &CubeTensor,
        slots: &CubeTensor,
        top_k: usize,
        tokens: usize,
        shared: usize,
        edge: usize,
        part: &Range<usize>,
    ) -> Self {
        let experts = count(offsets) - 1;
        let routed = count(slots);
        let rows = part.len();
        let total = experts + shared;
        // Of each group with rows one tile at most is not full.
        let tile_count = rows / edge + total.min(rows);
        let ranges = empty(offsets, [2 * total], DType::I32);
        let tiles = empty(offsets, [3 * tile_count.max(1)], DType::I32);
        let token_of = empty(offsets, [rows.max(1)], DType::I32);
        // SAFETY: every index is below the length of its buffer, as the kernels' checks say.
        unsafe {
            launch!(tile_kernel(
                &offsets.client,
                CubeCount::Static(1, 1, 1),
                CubeDim::new_1d(256),
                arg(offsets, 1),
                arg(&ranges, 1),
                arg(&tiles, 1),
                experts,
                routed,
                tokens,
                total,
                tile_count,
                part.start,
                part.end,
                edge,
            ));
            launch!(token_kernel(
                &offsets.client,
                grid(rows.div_ceil(256)),
                CubeDim::new_1d(256),
                arg(slots, 1),
                arg(&token_of, 1),
                routed,
                part.start,
                rows,
                tokens,
                top_k,
            ));
        }
        Self {
            first: 0,
            count: total,
            rows,
            ranges,
            tokens: token_of,
            tiles,
            tile_count,
        }
    }

    /// The same rows, for products of `count` groups from the group `first` on alone: those whose
    /// matrices lie in one buffer. Every tile is launched, since only the device knows which of
    /// them are of these groups; the others return at once.
    pub fn some(&self, first: usize, count: usize) -> Self {
        Self {
            first,
            count,
            ..self.clone()
        }
    }

    /// One group of rows `0..rows` in order, for dense products.
    pub fn dense(like: &CubeTensor, rows: usize, edge: usize) -> Self {
        let tile_count = rows.div_ceil(edge).max(1);
        let ranges = empty(like, [2], DType::I32);
        let tiles = empty(like, [3 * tile_count], DType::I32);
        // SAFETY: as above.
        unsafe {
            launch!(dense_kernel(
                &like.client,
                grid(tile_count.div_ceil(64)),
                CubeDim::new_1d(64),
                arg(&ranges, 1),
                arg(&tiles, 1),
                rows,
                tile_count,
                edge,
            ));
        }
        Self {
            first: 0,
            count: 1,
            rows,
            tokens: ranges.clone(),
            ranges,
            tiles,
            tile_count,
        }
    }

    /// `parts` runs of rows `0..rows`, for gradients whose sum over rows is taken in parts: the
    /// groups are the parts. Products of rows don't take it.
    pub fn parts(like: &CubeTensor, rows: usize, parts: usize) -> Self {
        let ranges = empty(like, [2 * parts], DType::I32);
        // SAFETY: as above.
        unsafe {
            launch!(part_kernel(
                &like.client,
                grid(parts.div_ceil(64)),
                CubeDim::new_1d(64),
                arg(&ranges, 1),
                rows,
                parts,
            ));
        }
        Self {
            first: 0,
            count: parts,
            rows,
            tokens: ranges.clone(),
            tiles: ranges.clone(),
            ranges,
            tile_count: 0,
        }
    }
}

/// A part is a multiple of this, so that tiles of the sum never begin inside a vector.
const PART_STEP: usize = 32;

#[cube(launch, launch_unchecked)]
fn part_kernel(ranges: &mut [u32], rows: usize, parts: usize) {
    let part = ABSOLUTE_POS;
    if part < parts {
        let length = rows.div_ceil(parts).div_ceil(PART_STEP) * PART_STEP;
        ranges[2 * part] = (part * length).min(rows) as u32;
        ranges[2 * part + 1] = ((part + 1) * length).min(rows) as u32;
    }
}

#[cube(launch, launch_unchecked)]
fn tile_kernel(
    offsets: &[u32],
    ranges: &mut [u32],
    tiles: &mut [u32],
    experts: usize,
    routed: usize,
    tokens: usize,
    total: usize,
    tile_count: usize,
    from: usize,
    until: usize,
    #[comptime] edge: usize,
) {
    // Tiles before each unit's share of the groups.
    let mut before = Shared::<[u32]>::new_slice(257usize);
    let unit = UNIT_POS as usize;
    let share = total.div_ceil(256usize);
    let mut own = 0u32;
    for i in 0..share {
        let group = unit * share + i;
        if group < total {
            let mut begin = routed + (group - experts) * tokens;
            let mut end = begin + tokens;
            if group < experts {
                begin = offsets[group] as usize;
                end = offsets[group + 1] as usize;
            }
            begin = begin.max(from).min(until) - from;
            end = end.max(from).min(until) - from;
            ranges[2 * group] = begin as u32;
            ranges[2 * group + 1] = end as u32;
            own += (end - begin).div_ceil(edge) as u32;
        }
    }
    before[unit + 1] = own;
    sync_cube();
    if unit == 0 {
        before[0] = 0u32;
        for i in 0..256usize {
            before[i + 1] += before[i];
        }
    }
    sync_cube();
    let mut at = before[unit] as usize;
    for i in 0..share {
        let group = unit * share + i;
        if group < total {
            let mut begin = routed + (group - experts) * tokens;
            let mut end = begin + tokens;
            if group < experts {
                begin = offsets[group] as usize;
                end = offsets[group + 1] as usize;
            }
            begin = begin.max(from).min(until) - from;
            end = end.max(from).min(until) - from;
            let steps = (end - begin).div_ceil(edge);
            for step in 0..steps {
                tiles[3 * at] = group as u32;
                tiles[3 * at + 1] = (begin + step * edge) as u32;
                tiles[3 * at + 2] = end as u32;
                at += 1;
            }
        }
    }
    let used = before[256] as usize;
    for i in 0..(tile_count - used).div_ceil(256usize) {
        let tile = used + i * 256 + unit;
        if tile < tile_count {
            tiles[3 * tile] = total as u32;
            tiles[3 * tile + 1] = 0u32;
            tiles[3 * tile + 2] = 0u32;
        }
    }
}

#[cube(launch, launch_unchecked)]
fn token_kernel(
    slots: &[u32],
    token_of: &mut [u32],
    routed: usize,
    from: usize,
    rows: usize,
    tokens: usize,
    #[comptime] top_k: usize,
) {
    if ABSOLUTE_POS < rows {
        let row = from + ABSOLUTE_POS;
        let mut token = 0u32;
        if row < routed {
            // Rows of dropped slots hold `routed`: any token does, nothing reads them.
            let slot = slots[row] as usize;
            if slot < routed {
                token = (slot / top_k) as u32;
            }
        } else {
            token = ((row - routed) % tokens) as u32;
        }
        token_of[ABSOLUTE_POS] = token;
    }
}

#[cube(launch, launch_unchecked)]
fn dense_kernel(
    ranges: &mut [u32],
    tiles: &mut [u32],
    rows: usize,
    tile_count: usize,
    #[comptime] edge: usize,
) {
    let tile = ABSOLUTE_POS;
    if tile == 0 {
        ranges[0] = 0u32;
        ranges[1] = rows as u32;
    }
    if tile < tile_count {
        tiles[3 * tile] = 0u32;
        tiles[3 * tile + 1] = (tile * edge) as u32;
        tiles[3 * tile + 2] = rows as u32;
    }
}
