//! What a workgroup works on: its rows, the tiles that it walks over, and which of these its rows see.

use cubecl::prelude::*;

use super::super::span::{Rows, Span, first_seen, least, place, position};
use super::scratch::own_row;
use super::{Frame, Piece, ROWS, first_owned, stride};

/// The rows that both tiles in workgroup memory come from: first those of the queries' width, then
/// the others. Widths count pieces.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Sides {
    pub first: Rows,
    pub second: Rows,
    pub width: usize,
    pub value_width: usize,
}

/// A unit's pieces of both tiles, on their way to workgroup memory.
#[derive(CubeType)]
pub(super) struct Ahead {
    first: Array<Piece>,
    second: Array<Piece>,
}

/// Reads the unit's pieces of the tiles of rows from `row` on.
#[cube]
pub(super) fn fetch(
    first: &[Piece],
    second: &[Piece],
    sides: &Sides,
    row: usize,
    #[comptime] frame: Frame,
) -> Ahead {
    Ahead {
        first: fetch_one(
            first,
            &sides.first,
            row,
            sides.width,
            comptime!(frame.width),
            frame,
        ),
        second: fetch_one(
            second,
            &sides.second,
            row,
            sides.value_width,
            comptime!(frame.value_width),
            frame,
        ),
    }
}

/// Writes them there.
#[cube]
pub(super) fn keep(memory: &mut Shared<[Piece]>, ahead: &Ahead, #[comptime] frame: Frame) {
    keep_one(memory, 0usize, &ahead.first, comptime!(frame.width), frame);
    keep_one(
        memory,
        comptime!(frame.second()),
        &ahead.second,
        comptime!(frame.value_width),
        frame,
    );
}

/// The unit's pieces of one tile; `real` pieces of a row exist.
#[cube]
fn fetch_one(
    source: &[Piece],
    rows: &Rows,
    first: usize,
    real: usize,
    #[comptime] width: usize,
    #[comptime] frame: Frame,
) -> Array<Piece> {
    let across = comptime!(width / 8);
    let total = comptime!(frame.columns * width / 8);
    let count = comptime!(total.div_ceil(frame.units()));
    let mut pieces = Array::<Piece>::new(count);
    #[unroll]
    for i in 0..count {
        let index = UNIT_POS as usize + comptime!(i * frame.units());
        let row = first + index / across;
        let column = index % across;
        let mut piece = Piece::new(0u32);
        if index < total && row < rows.count && column < real {
            piece = source[rows.start + row * rows.stride + column];
        }
        pieces[i] = piece;
    }
    pieces
}

/// Writes the unit's pieces to the tile that starts at `start`.
#[cube]
fn keep_one(
    memory: &mut Shared<[Piece]>,
    #[comptime] start: usize,
    pieces: &Array<Piece>,
    #[comptime] width: usize,
    #[comptime] frame: Frame,
) {
    let across = comptime!(width / 8);
    let total = comptime!(frame.columns * width / 8);
    let count = comptime!(total.div_ceil(frame.units()));
    #[unroll]
    for i in 0..count {
        let index = UNIT_POS as usize + comptime!(i * frame.units());
        if index < total {
            memory[start + (index / across) * comptime!(stride(width)) + index % across] =
                pieces[i];
        }
    }
}

/// Which columns an owner's rows see: some of them those from `any` to `any_end`, all of them those
/// from `common` to `common_end`, and of those that are no rows any more none.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Reach {
    pub any: usize,
    pub any_end: usize,
    pub common: usize,
    pub common_end: usize,
}

/// Whether any row sees any of these columns.
#[cube]
pub(super) fn touches(reach: &Reach, begin: usize, end: usize) -> bool {
    begin < reach.any_end && end > reach.any
}

/// Whether all rows see all of these columns.
#[cube]
pub(super) fn covers(reach: &Reach, begin: usize, end: usize) -> bool {
    begin >= reach.common && end <= reach.common_end
}

/// A workgroup's task over a tile of queries.
#[derive(CubeType, Clone, Copy)]
pub(super) struct Task {
    /// Sequence.
    pub batch: usize,
    /// Head of the queries, within the sequence.
    pub head: usize,
    /// Head of the queries, over all sequences.
    pub pair: usize,
    /// The workgroup's first row.
    pub first_row: usize,
    /// The row that the unit works on, and itself or the last one that exists.
    pub row: usize,
    pub present: usize,
    /// The first position that it sees.
    pub first: usize,
    pub queries: Rows,
    /// Keys and values.
    pub sides: Sides,
    /// Of keys.
    pub reach: Reach,
    /// The workgroup's keys.
    pub begin: usize,
    pub end: usize,
}

/// The task of this workgroup, which ends if there is none.
#[cube]
pub(super) fn task(
    starts: &[u32],
    span: &Span,
    width: usize,
    value_width: usize,
    #[comptime] frame: Frame,
) -> Task {
    let documents = comptime!(frame.documents);
    let (time, heads) = (span.time as usize, span.heads as usize);
    let at = place(span, heads);
    let tiles = time.div_ceil(comptime!(frame.rows()));
    if at.tile >= tiles {
        terminate!();
    }
    // Late queries see most: they come first.
    let first_row = (tiles - 1 - at.tile) * comptime!(frame.rows());
    let last_row = least(time, first_row + comptime!(frame.rows())) - 1;
    let pair = at.batch * heads + at.head;
    let groups = span.groups as usize;
    let keys = at.batch * groups + at.head / (heads / groups);
    let length = span.length as usize;
    let row = first_row + UNIT_POS_Y as usize * ROWS + own_row();
    let present = least(row, last_row);

    let first_own = first_owned(first_row, frame);
    let last_own = first_own + comptime!(frame.owned() - 1);
    let mut reach = Reach {
        any: 0usize,
        any_end: 0usize,
        common: 0usize,
        common_end: 0usize,
    };
    if first_own <= last_row {
        reach.any = first_seen(starts, span, at.batch, first_own, documents);
        reach.any_end = position(span, least(last_own, last_row)) + 1;
    }
    if last_own <= last_row {
        reach.common = first_seen(starts, span, at.batch, last_own, documents);
        reach.common_end = position(span, first_own) + 1;
    }
    Task {
        batch: at.batch,
        head: at.head,
        pair,
        first_row,
        row,
        present,
        first: first_seen(starts, span, at.batch, present, documents),
        queries: Rows {
            start: pair * time * width,
            stride: width,
            count: time,
        },
        sides: Sides {
            first: Rows {
                start: keys * length * width,
                stride: width,
                count: length,
            },
            second: Rows {
                start: keys * length * value_width,
                stride: value_width,
                count: length,
            },
            width,
            value_width,
        },
        reach,
        begin: first_seen(starts, span, at.batch, first_row, documents),
        end: position(span, last_row) + 1,
    }
}
