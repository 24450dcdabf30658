//! The product of hidden states and head, and what becomes of logits before they leave the
//! workgroup.
//!
//! A workgroup's tile holds logits of some tokens for some of the vocabulary, so what a row's
//! softmax needs of the whole vocabulary is kept by parts of it, `[2, rows, parts]`: the part's
//! largest logit, and the sum of its exponentials over that. Stored is the exponential itself: in
//! 16 bits its error is relative, while a logit's would grow with the logit and be raised to a power.
//! Tiles are numbered with the rows of hidden states fastest, so that the head is read once.

use cubecl::cmma::{self, MatrixScope};
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use crate::matmul::cooperative::{self, Piece};
use crate::matmul::epilogue::write;
use crate::matmul::strips::{owner, part_column, part_row, spill, spot, strip_start, sync_owners};
use crate::matmul::tile::{Scope, Tile};
use crate::matmul::{Access, Four, Panel, Plain, plain};

/// Sizes that every kernel here takes.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Sizes {
    /// The first token's number.
    pub first: usize,
    /// Tokens.
    pub rows: usize,
    /// Hidden width.
    pub depth: usize,
    /// Columns of the head.
    pub vocabulary: usize,
    /// Elements from one row of logits to the next.
    pub stride: usize,
}

/// The largest of four columns, as far as there are so many.
#[cube]
fn largest_of(values: Vector<f32, Four>, column: usize, columns: usize) -> f32 {
    let mut most = f32::min_value();
    #[unroll]
    for lane in 0..4usize {
        let value = values.extract(lane);
        if column + lane < columns && value > most {
            most = value;
        }
    }
    most
}

/// `exp(values − most)`; 0 in columns that are not there.
#[cube]
fn exponentials(
    values: Vector<f32, Four>,
    most: f32,
    column: usize,
    columns: usize,
) -> Vector<f32, Four> {
    let mut result = Vector::exp(values - Vector::<f32, Four>::new(most));
    #[unroll]
    for lane in 0..4usize {
        if column + lane >= columns {
            result.insert(lane, 0.0f32);
        }
    }
    result
}

#[cube]
fn total(values: Vector<f32, Four>) -> f32 {
    values.extract(0usize)
        + values.extract(1usize)
        + values.extract(2usize)
        + values.extract(3usize)
}

/// Keeps the label's logit, if it is among these.
#[cube]
fn keep_target(
    targets: &mut [f32],
    row: usize,
    label: u32,
    column: usize,
    values: Vector<f32, Four>,
) {
    #[unroll]
    for lane in 0..4usize {
        if label == (column + lane) as u32 {
            targets[row] = values.extract(lane);
        }
    }
}

/// Gradients of four logits from those of the loss and the log-sum-exp; 0 in columns that are not
/// there.
#[cube]
fn slopes_of(
    values: Vector<f32, Four>,
    log_sum_exp: f32,
    all: f32,
    own: f32,
    label: u32,
    column: usize,
    columns: usize,
) -> Vector<f32, Four> {
    let probabilities = exponentials(values, log_sum_exp, column, columns);
    let mut result = probabilities * Vector::<f32, Four>::new(all);
    #[unroll]
    for lane in 0..4usize {
        if label == (column + lane) as u32 {
            result.insert(lane, result.extract(lane) - own);
        }
    }
    result
}

#[cube]
fn panels(sizes: &Sizes, row: usize, column: usize) -> (Panel, Panel) {
    let hidden = Panel {
        base: 0usize,
        stride: sizes.depth,
        first: row,
        end: sizes.rows,
        half: 0usize,
    };
    let head = Panel {
        base: 0usize,
        stride: sizes.depth,
        first: column,
        end: sizes.vocabulary,
        half: 0usize,
    };
    (hidden, head)
}

/// Every part's largest logit and sum of exponentials, the labels' logits, and with `store` the
/// exponentials `[rows, stride]`, zeros past the vocabulary. `parts` of all rows: `[2, rows, parts]`.
#[cube(launch, launch_unchecked)]
pub(super) fn statistics_plain<A: Float, B: Float, O: Float, N: Size>(
    hidden: &[Vector<A, N>],
    head: &[Vector<B, N>],
    labels: &[u32],
    out: &mut [Vector<O, N>],
    partials: &mut [f32],
    targets: &mut [f32],
    sizes: Sizes,
    #[comptime] store: bool,
    #[comptime] plain: Plain,
    #[define(A, B, O)] _types: [ElemType; 3],
) {
    let row_tiles = sizes.rows.div_ceil(comptime!(plain.rows()));
    let first_row = (CUBE_POS % row_tiles) * comptime!(plain.rows());
    let part = CUBE_POS / row_tiles;
    let column = part * comptime!(plain.columns());
    if column >= sizes.vocabulary {
        terminate!();
    }
    let parts = sizes.vocabulary.div_ceil(comptime!(plain.columns()));
    let (left, right) = panels(&sizes, first_row, column);
    let sums = plain::product::<A, B, N, N>(
        hidden,
        head,
        labels,
        &left,
        &right,
        0usize,
        sizes.depth,
        Access::ROWS,
        Access::ROWS,
        plain,
    );
    let across = comptime!(plain.across());
    let unit_rows = comptime!(plain.unit_rows());
    let own = UNIT_POS as usize % across;
    let mut shared = Shared::<[f32]>::new_slice(comptime!(plain.exchange()));
    let mut largest = Array::<f32>::new(unit_rows);
    #[unroll]
    for i in 0..unit_rows {
        let inside = plain::row_of(i, plain);
        let mut most = f32::min_value();
        #[unroll]
        for j in 0..2usize {
            let at = column + plain::column_of(j, plain);
            let found = largest_of(sums[comptime!(i * 2 + j)], at, sizes.vocabulary);
            if found > most {
                most = found;
            }
        }
        if comptime!(plain.in_memory()) {
            shared[inside * across + own] = most;
        } else {
            largest[i] = plain::subgroup_max(most, plain);
        }
    }
    if comptime!(plain.in_memory()) {
        sync_cube();
        #[unroll]
        for i in 0..unit_rows {
            let inside = plain::row_of(i, plain);
            let mut most = f32::min_value();
            for unit in 0..across {
                let found = shared[inside * across + unit];
                if found > most {
                    most = found;
                }
            }
            largest[i] = most;
        }
        sync_cube();
    }
    let mut totals = Array::<f32>::new(unit_rows);
    #[unroll]
    for i in 0..unit_rows {
        let inside = plain::row_of(i, plain);
        let row = first_row + inside;
        let mut sum = 0.0f32;
        #[unroll]
        for j in 0..2usize {
            let at = column + plain::column_of(j, plain);
            let values = sums[comptime!(i * 2 + j)];
            let powers = exponentials(values, largest[i], at, sizes.vocabulary);
            sum += total(powers);
            if row < sizes.rows {
                keep_target(targets, row, labels[sizes.first + row], at, values);
                if comptime!(store) {
                    write::<O, N>(out, row, at, sizes.stride, powers);
                }
            }
        }
        if comptime!(plain.in_memory()) {
            shared[inside * across + own] = sum;
            totals[i] = 0.0f32;
        } else {
            totals[i] = plain::subgroup_sum(sum, plain);
        }
    }
    if comptime!(plain.in_memory()) {
        sync_cube();
    }
    if own == 0 {
        #[unroll]
        for i in 0..unit_rows {
            let inside = plain::row_of(i, plain);
            let row = first_row + inside;
            if row < sizes.rows {
                let mut sum = totals[i];
                if comptime!(plain.in_memory()) {
                    // A fixed order of summation: the same bits every run.
                    sum = 0.0f32;
                    for unit in 0..across {
                        sum += shared[inside * across + unit];
                    }
                }
                partials[row * parts + part] = largest[i];
                partials[(sizes.rows + row) * parts + part] = sum;
            }
        }
    }
}

/// [`statistics_plain`] with cooperative matrices.
#[cube(launch, launch_unchecked)]
pub(super) fn statistics_cooperative<E: Float>(
    hidden: &[Piece],
    head: &[Piece],
    labels: &[u32],
    out: &mut [Vector<E, Four>],
    partials: &mut [f32],
    targets: &mut [f32],
    sizes: Sizes,
    #[comptime] store: bool,
    #[comptime] tile: Tile,
    #[define(E)] _type: ElemType,
) {
    let row_tiles = sizes.rows.div_ceil(comptime!(tile.rows));
    let row = (CUBE_POS % row_tiles) * comptime!(tile.rows);
    let column_tile = CUBE_POS / row_tiles;
    if column_tile * comptime!(tile.columns) >= sizes.vocabulary {
        terminate!();
    }
    if comptime!(tile.scope == Scope::Subgroup) {
        statistics_tile::<E, cmma::Plane>(
            hidden,
            head,
            labels,
            out,
            partials,
            targets,
            &sizes,
            row,
            column_tile,
            store,
            tile,
        );
    } else {
        statistics_tile::<E, cmma::Cube>(
            hidden,
            head,
            labels,
            out,
            partials,
            targets,
            &sizes,
            row,
            column_tile,
            store,
            tile,
        );
    }
}

#[cube]
fn statistics_tile<E: Float, S: MatrixScope>(
    hidden: &[Piece],
    head: &[Piece],
    labels: &[u32],
    out: &mut [Vector<E, Four>],
    partials: &mut [f32],
    targets: &mut [f32],
    sizes: &Sizes,
    first_row: usize,
    column_tile: usize,
    #[comptime] store: bool,
    #[comptime] tile: Tile,
) {
    let column = column_tile * comptime!(tile.columns);
    let across = comptime!(tile.across());
    let parts = sizes.vocabulary.div_ceil(comptime!(tile.columns)) * across;
    let (left, right) = panels(sizes, first_row, column);
    let mut memory =
        Shared::<[Piece]>::new_slice(comptime!(tile.memory(Access::ROWS, Access::ROWS)));
    let sums = cooperative::product::<E, S>(
        &mut memory,
        hidden,
        head,
        labels,
        &left,
        &right,
        0usize,
        sizes.depth,
        Access::ROWS,
        Access::ROWS,
        tile,
    );
    // The owners of a part share the rows of a strip.
    let owners = comptime!(tile.owners());
    let rows = comptime!(tile.m());
    let lanes = comptime!(if owners > rows { owners / rows } else { 1 });
    let turns = comptime!(rows * lanes / owners);
    let width = comptime!(tile.part_columns() / 4);
    let pieces = comptime!(width / lanes);
    let mut exchange = Shared::<[f32]>::new_slice(comptime!(tile.units()));
    let unit = owner(tile);
    let lane = unit % lanes;
    let own = UNIT_POS as usize;
    let part = column_tile * across + part_column(tile);
    let part_start = column + part_column(tile) * comptime!(tile.part_columns());
    #[unroll]
    for strip in 0..comptime!(tile.strips()) {
        spill(&mut memory, &sums, strip, tile);
        let strip_row = first_row + part_row(tile) + comptime!(strip * rows);
        #[unroll]
        for turn in 0..turns {
            let inside = comptime!(turn * (owners / lanes)) + unit / lanes;
            let row = strip_row + inside;
            let start = strip_start(tile) + inside * comptime!(tile.strip_stride());
            let mut label = 0xFFFF_FFFFu32.runtime();
            if row < sizes.rows {
                label = labels[sizes.first + row];
            }
            let mut most = f32::min_value();
            #[unroll]
            for piece in 0..pieces {
                let at = comptime!(piece * lanes) + lane;
                let values = Vector::<f32, Four>::reinterpret(memory[start + at]);
                let found = largest_of(values, part_start + at * 4, sizes.vocabulary);
                if found > most {
                    most = found;
                }
                if row < sizes.rows {
                    keep_target(targets, row, label, part_start + at * 4, values);
                }
            }
            if comptime!(lanes > 1) {
                sync_owners(tile);
                exchange[own] = most;
                sync_owners(tile);
                #[unroll]
                for other in 0..lanes {
                    let found = exchange[own - lane + other];
                    if found > most {
                        most = found;
                    }
                }
            }
            let mut sum = 0.0f32;
            #[unroll]
            for piece in 0..pieces {
                let at = comptime!(piece * lanes) + lane;
                let values = Vector::<f32, Four>::reinterpret(memory[start + at]);
                let powers = exponentials(values, most, part_start + at * 4, sizes.vocabulary);
                sum += total(powers);
                if comptime!(store) {
                    memory[start + at] = Piece::reinterpret(powers);
                }
            }
            if comptime!(lanes > 1) {
                sync_owners(tile);
                exchange[own] = sum;
                sync_owners(tile);
                // A fixed order of summation: the same bits every run.
                sum = 0.0f32;
                #[unroll]
                for other in 0..lanes {
                    sum += exchange[own - lane + other];
                }
            }
            if lane == 0 && row < sizes.rows {
                partials[row * parts + part] = most;
                partials[(sizes.rows + row) * parts + part] = sum;
            }
        }
        if comptime!(store) {
            sync_owners(tile);
            #[unroll]
            for turn in 0..comptime!(tile.turns(width)) {
                let spot = spot(strip, turn, width, tile);
                let row = first_row + spot.row;
                if row < sizes.rows {
                    let values = Vector::<f32, Four>::reinterpret(memory[spot.from]);
                    let to = part_start + spot.piece * 4;
                    write::<E, Four>(out, row, to, sizes.stride, values);
                }
            }
        }
    }
}

/// The gradient of every logit `[rows, stride]`, zeros past the vocabulary, where the log-sum-exps
/// `[tokens]` are known. `slopes` `[2, tokens]`: of the loss, and of loss and log-sum-exp together.
#[cube(launch, launch_unchecked)]
pub(super) fn slopes_plain<A: Float, B: Float, O: Float, N: Size>(
    hidden: &[Vector<A, N>],
    head: &[Vector<B, N>],
    labels: &[u32],
    log_sum_exp: &[f32],
    slopes: &[f32],
    out: &mut [Vector<O, N>],
    sizes: Sizes,
    #[comptime] plain: Plain,
    #[define(A, B, O)] _types: [ElemType; 3],
) {
    let row_tiles = sizes.rows.div_ceil(comptime!(plain.rows()));
    let first_row = (CUBE_POS % row_tiles) * comptime!(plain.rows());
    let column = (CUBE_POS / row_tiles) * comptime!(plain.columns());
    if column >= sizes.vocabulary {
        terminate!();
    }
    let (left, right) = panels(&sizes, first_row, column);
    let sums = plain::product::<A, B, N, N>(
        hidden,
        head,
        labels,
        &left,
        &right,
        0usize,
        sizes.depth,
        Access::ROWS,
        Access::ROWS,
        plain,
    );
    let tokens = labels.len();
    #[unroll]
    for i in 0..comptime!(plain.unit_rows()) {
        let row = first_row + plain::row_of(i, plain);
        if row < sizes.rows {
            let token = sizes.first + row;
            #[unroll]
            for j in 0..2usize {
                let at = column + plain::column_of(j, plain);
                let values = slopes_of(
                    sums[comptime!(i * 2 + j)],
                    log_sum_exp[token],
                    slopes[tokens + token],
                    slopes[token],
                    labels[token],
                    at,
                    sizes.vocabulary,
                );
                write::<O, N>(out, row, at, sizes.stride, values);
            }
        }
    }
}

/// [`slopes_plain`] with cooperative matrices.
#[cube(launch, launch_unchecked)]
pub(super) fn slopes_cooperative<E: Float>(
    hidden: &[Piece],
    head: &[Piece],
    labels: &[u32],
    log_sum_exp: &[f32],
    slopes: &[f32],
    out: &mut [Vector<E, Four>],
    sizes: Sizes,
    #[comptime] tile: Tile,
    #[define(E)] _type: ElemType,
) {
    let row_tiles = sizes.rows.div_ceil(comptime!(tile.rows));
    let row = (CUBE_POS % row_tiles) * comptime!(tile.rows);
    let column = (CUBE_POS / row_tiles) * comptime!(tile.columns);
    if column >= sizes.vocabulary {
        terminate!();
    }
    if comptime!(tile.scope == Scope::Subgroup) {
        slopes_tile::<E, cmma::Plane>(
            hidden,
            head,
            labels,
            log_sum_exp,
            slopes,
            out,
            &sizes,
            row,
            column,
            tile,
        );
    } else {
        slopes_tile::<E, cmma::Cube>(
            hidden,
            head,
            labels,
            log_sum_exp,
            slopes,
            out,
            &sizes,
            row,
            column,
            tile,
        );
    }
}

#[cube]
fn slopes_tile<E: Float, S: MatrixScope>(
    hidden: &[Piece],
    head: &[Piece],
    labels: &[u32],
    log_sum_exp: &[f32],
    slopes: &[f32],
    out: &mut [Vector<E, Four>],
    sizes: &Sizes,
    first_row: usize,
    column: usize,
    #[comptime] tile: Tile,
) {
    let (left, right) = panels(sizes, first_row, column);
    let mut memory =
        Shared::<[Piece]>::new_slice(comptime!(tile.memory(Access::ROWS, Access::ROWS)));
    let sums = cooperative::product::<E, S>(
        &mut memory,
        hidden,
        head,
        labels,
        &left,
        &right,
        0usize,
        sizes.depth,
        Access::ROWS,
        Access::ROWS,
        tile,
    );
    let tokens = labels.len();
    let part_start = column + part_column(tile) * comptime!(tile.part_columns());
    let pieces = comptime!(tile.part_columns() / 4);
    #[unroll]
    for strip in 0..comptime!(tile.strips()) {
        spill(&mut memory, &sums, strip, tile);
        #[unroll]
        for turn in 0..comptime!(tile.turns(pieces)) {
            let spot = spot(strip, turn, pieces, tile);
            let row = first_row + spot.row;
            if row < sizes.rows {
                let token = sizes.first + row;
                let at = part_start + spot.piece * 4;
                let values = slopes_of(
                    Vector::<f32, Four>::reinterpret(memory[spot.from]),
                    log_sum_exp[token],
                    slopes[tokens + token],
                    slopes[token],
                    labels[token],
                    at,
                    sizes.vocabulary,
                );
                write::<E, Four>(out, row, at, sizes.stride, values);
            }
        }
    }
}
