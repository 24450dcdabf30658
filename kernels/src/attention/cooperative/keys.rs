//! Gradients of keys and values with cooperative matrices, over tiles of keys.

use cubecl::cmma::{self, MatrixScope};
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::super::Scope;
use super::super::span::{Four, Rows, Span, first_seen, least, place};
use super::super::span::{queries_begin, queries_end, sees};
use super::scratch::{own_column, own_row, pack, packed, spread, write};
use super::walk::{Reach, Sides, covers, fetch, keep, touches};
use super::{Frame, Piece, ROWS, accumulate, first_owned, operands, products, zeros};

/// The tiles of queries that a workgroup of [`dkey_dvalue`] goes through: those of each head of
/// the group, one head after another.
#[derive(CubeType, Clone, Copy)]
struct TileOf {
    batch: usize,
    first_head: usize,
    /// First query.
    begin: usize,
    /// Tiles of a head.
    steps: usize,
    /// Tiles of all heads.
    total: usize,
}

/// One of them.
#[derive(CubeType, Clone, Copy)]
struct Turn {
    /// Sequence and head, counted on.
    pair: usize,
    /// Its first query.
    first: usize,
    /// Queries of the head, and the rows of the results' gradient; none once all turns are over.
    sides: Sides,
}

#[cube]
fn turn_of(
    span: &Span,
    tile: &TileOf,
    turn: usize,
    width: usize,
    value_width: usize,
    #[comptime] frame: Frame,
) -> Turn {
    let (time, heads) = (span.time as usize, span.heads as usize);
    let mut head = tile.first_head;
    let mut first = 0usize;
    let mut count = 0usize;
    if turn < tile.total {
        head += turn / tile.steps;
        first = tile.begin + (turn % tile.steps) * comptime!(frame.columns);
        count = time;
    }
    let pair = tile.batch * heads + head;
    Turn {
        pair,
        first,
        sides: Sides {
            first: Rows {
                start: pair * time * width,
                stride: width,
                count,
            },
            second: Rows {
                start: (tile.batch * time * heads + head) * value_width,
                stride: heads * value_width,
                count,
            },
            width,
            value_width,
        },
    }
}

/// What a tile's columns, queries, bring besides their rows.
#[derive(CubeType, Clone, Copy)]
struct Column {
    log_sum: f32,
    inner: f32,
    first: u32,
}

/// Reads that of the unit's query, for units that have a column.
#[cube]
fn fetch_column(
    starts: &[u32],
    log_sums: &[f32],
    inner: &[f32],
    span: &Span,
    tile: &TileOf,
    turn: &Turn,
    #[comptime] frame: Frame,
) -> Column {
    let row = turn.first + UNIT_POS as usize;
    let mut log_sum = 0.0f32;
    let mut product = 0.0f32;
    let mut first = 0u32;
    if UNIT_POS < comptime!(frame.columns as u32) && row < turn.sides.first.count {
        let at = turn.pair * span.time as usize + row;
        log_sum = log_sums[at];
        product = inner[at];
        first = first_seen(starts, span, tile.batch, row, comptime!(frame.documents)) as u32;
    }
    Column {
        log_sum,
        inner: product,
        first,
    }
}

/// Leaves them for all units: log-sum-exps, and behind them the others.
#[cube]
fn keep_column(
    columns: &mut Shared<[f32]>,
    firsts: &mut Shared<[u32]>,
    column: &Column,
    #[comptime] frame: Frame,
) {
    if UNIT_POS < comptime!(frame.columns as u32) {
        columns[UNIT_POS as usize] = column.log_sum;
        columns[UNIT_POS as usize + comptime!(frame.columns)] = column.inner;
        firsts[UNIT_POS as usize] = column.first;
    }
}

/// As the plain kernel of this name; widths count pieces of 16 bytes.
#[cube(launch, launch_unchecked)]
pub fn dkey_dvalue<E: Float>(
    dy: &[Piece],
    query: &[Piece],
    key: &[Piece],
    value: &[Piece],
    starts: &[u32],
    log_sums: &[f32],
    inner: &[f32],
    dkey: &mut [Vector<f32, Four>],
    dvalue: &mut [Vector<f32, Four>],
    span: Span,
    width: usize,
    value_width: usize,
    scale: f32,
    #[comptime] of_key: bool,
    #[comptime] of_value: bool,
    #[comptime] frame: Frame,
    #[define(E)] _element: ElemType,
) {
    if comptime!(frame.scope == Scope::Subgroup) {
        dkey_dvalue_by::<E, cmma::Plane>(
            dy,
            query,
            key,
            value,
            starts,
            log_sums,
            inner,
            dkey,
            dvalue,
            span,
            width,
            value_width,
            scale,
            of_key,
            of_value,
            frame,
        );
    } else {
        dkey_dvalue_by::<E, cmma::Cube>(
            dy,
            query,
            key,
            value,
            starts,
            log_sums,
            inner,
            dkey,
            dvalue,
            span,
            width,
            value_width,
            scale,
            of_key,
            of_value,
            frame,
        );
    }
}

/// The same by matrices of one scope.
#[cube]
fn dkey_dvalue_by<E: Float, S: MatrixScope>(
    dy: &[Piece],
    query: &[Piece],
    key: &[Piece],
    value: &[Piece],
    starts: &[u32],
    log_sums: &[f32],
    inner: &[f32],
    dkey: &mut [Vector<f32, Four>],
    dvalue: &mut [Vector<f32, Four>],
    span: Span,
    width: usize,
    value_width: usize,
    scale: f32,
    #[comptime] of_key: bool,
    #[comptime] of_value: bool,
    #[comptime] frame: Frame,
) {
    let mut memory = Shared::<[Piece]>::new_slice(comptime!(frame.memory()));
    let mut columns = Shared::<[f32]>::new_slice(comptime!(2 * frame.columns));
    let mut firsts = Shared::<[u32]>::new_slice(comptime!(frame.columns));
    let documents = comptime!(frame.documents);
    let length = span.length as usize;
    let (heads, groups) = (span.heads as usize, span.groups as usize);
    let at = place(&span, groups);
    if at.tile >= length.div_ceil(comptime!(frame.rows())) {
        terminate!();
    }
    // Early keys are seen by most: they come first.
    let first_row = at.tile * comptime!(frame.rows());
    let last_row = least(length, first_row + comptime!(frame.rows())) - 1;
    let keys = at.batch * groups + at.head;
    let key_rows = Rows {
        start: keys * length * width,
        stride: width,
        count: length,
    };
    let value_rows = Rows {
        start: keys * length * value_width,
        stride: value_width,
        count: length,
    };
    let first_own = first_owned(first_row, frame);
    let row = first_row + UNIT_POS_Y as usize * ROWS + own_row();
    let rows = operands::<E, S>(
        &mut memory,
        key,
        &key_rows,
        first_row,
        width,
        comptime!(frame.width),
        frame,
    );
    let rows_of_value = operands::<E, S>(
        &mut memory,
        value,
        &value_rows,
        first_row,
        value_width,
        comptime!(if of_key { frame.value_width } else { 0 }),
        frame,
    );
    let key_sums = zeros::<S>(comptime!(if of_key { frame.width } else { 0 }), frame);
    let value_sums = zeros::<S>(
        comptime!(if of_value { frame.value_width } else { 0 }),
        frame,
    );

    // Columns are queries here: it is they who see rows.
    let last_own = first_own + comptime!(frame.owned() - 1);
    let mut reach = Reach {
        any: 0usize,
        any_end: 0usize,
        common: 0usize,
        common_end: 0usize,
    };
    if first_own <= last_row {
        let last = least(last_own, last_row);
        reach.any = queries_begin(&span, first_own);
        reach.any_end = queries_end(starts, &span, at.batch, last, documents);
    }
    if last_own <= last_row {
        reach.common = queries_begin(&span, last_own);
        reach.common_end = queries_end(starts, &span, at.batch, first_own, documents);
    }
    let begin = queries_begin(&span, first_row);
    let end = queries_end(starts, &span, at.batch, last_row, documents);
    let mut steps = 0usize;
    if end > begin {
        steps = (end - begin).div_ceil(comptime!(frame.columns));
    }
    let members = heads / groups;
    let total = members * steps;
    let tile = TileOf {
        batch: at.batch,
        first_head: at.head * members,
        begin,
        steps,
        total,
    };
    let now = turn_of(&span, &tile, 0usize, width, value_width, frame);
    let ahead = fetch(query, dy, &now.sides, now.first, frame);
    let column = fetch_column(starts, log_sums, inner, &span, &tile, &now, frame);
    sync_cube();
    keep(&mut memory, &ahead, frame);
    keep_column(&mut columns, &mut firsts, &column, frame);
    sync_cube();
    for turn in 0..total {
        let first_query = begin + (turn % steps) * comptime!(frame.columns);
        let next_query = first_query + comptime!(frame.columns);
        let next = turn_of(&span, &tile, turn + 1, width, value_width, frame);
        let ahead = fetch(query, dy, &next.sides, next.first, frame);
        let column = fetch_column(starts, log_sums, inner, &span, &tile, &next, frame);
        if touches(&reach, first_query, next_query) {
            let scores = products::<E, S>(&memory, 0usize, &rows, comptime!(frame.width), frame);
            let full = covers(&reach, first_query, next_query);
            let own = own_column(frame);
            let mut parts = spread::<S>(&mut memory, &scores, frame);
            #[unroll]
            for i in 0..comptime!(frame.share() / 4) {
                let mut log_sum = Vector::<f32, Four>::new(0.0f32);
                #[unroll]
                for lane in 0..4usize {
                    log_sum.insert(lane, columns[own + comptime!(i * 4 + lane)]);
                }
                let mut weight = Vector::exp(parts[i] * Vector::new(scale) - log_sum);
                if !full {
                    #[unroll]
                    for lane in 0..4usize {
                        let place = own + comptime!(i * 4 + lane);
                        let first = firsts[place] as usize;
                        let seen = sees(&span, first_query + place, first, row);
                        if !seen || row >= length {
                            weight.insert(lane, 0.0f32);
                        }
                    }
                }
                parts[i] = weight;
            }
            if comptime!(of_value) {
                pack::<E>(&mut memory, &parts, frame);
                let weights = packed::<E, S>(&memory, frame);
                accumulate::<E, S>(
                    &memory,
                    comptime!(frame.second()),
                    &weights,
                    &value_sums,
                    comptime!(frame.value_width),
                    frame,
                );
            }
            if comptime!(of_key) {
                let slopes = products::<E, S>(
                    &memory,
                    comptime!(frame.second()),
                    &rows_of_value,
                    comptime!(frame.value_width),
                    frame,
                );
                let slopes = spread::<S>(&mut memory, &slopes, frame);
                #[unroll]
                for i in 0..comptime!(frame.share() / 4) {
                    let mut product = Vector::<f32, Four>::new(0.0f32);
                    #[unroll]
                    for lane in 0..4usize {
                        let place = own + comptime!(frame.columns + i * 4 + lane);
                        product.insert(lane, columns[place]);
                    }
                    parts[i] *= slopes[i] - product;
                }
                pack::<E>(&mut memory, &parts, frame);
                let slopes = packed::<E, S>(&memory, frame);
                accumulate::<E, S>(
                    &memory,
                    0usize,
                    &slopes,
                    &key_sums,
                    comptime!(frame.width),
                    frame,
                );
            }
        }
        sync_cube();
        keep(&mut memory, &ahead, frame);
        keep_column(&mut columns, &mut firsts, &column, frame);
        sync_cube();
    }
    if comptime!(of_key) {
        let rows = Rows {
            start: keys * length * width * 2,
            stride: width * 2,
            count: length,
        };
        write::<S>(
            &mut memory,
            dkey,
            &rows,
            first_row,
            width * 2,
            &key_sums,
            scale,
            comptime!(frame.width),
            frame,
        );
    }
    if comptime!(of_value) {
        let rows = Rows {
            start: keys * length * value_width * 2,
            stride: value_width * 2,
            count: length,
        };
        write::<S>(
            &mut memory,
            dvalue,
            &rows,
            first_row,
            value_width * 2,
            &value_sums,
            1.0f32,
            comptime!(frame.value_width),
            frame,
        );
    }
}
