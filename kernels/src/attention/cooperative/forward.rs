//! The forward pass with cooperative matrices.

use cubecl::cmma::{self, MatrixScope};
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::super::span::{Four, Rows, Span, sees};
use super::super::{HIDDEN, NOTHING, Scope};
use super::held::{Held, PERIOD, Row, clear, count, none_yet, refer, rescale_all};
use super::held::{settle, total_of, weigh};
use super::scratch::{anyone, own_column, pack, packed, rescale, spread, write};
use super::walk::{Task, covers, fetch, keep, task, touches};
use super::{Frame, Piece, ROWS, accumulate, operands, products, zeros};

/// How far a score may rise above the number that its row's weights are relative to before the
/// row's sums are rescaled: weights stay below e⁵ ≈ 148, which 16 bits hold as exactly as any.
/// Rescaling takes sums through workgroup memory, and nearly always after the first tile nothing
/// rises so far.
const HEADROOM: f32 = 5.0;

/// As the plain kernel of this name; widths count pieces of 16 bytes.
#[cube(launch, launch_unchecked)]
pub fn attend<E: Float>(
    query: &[Piece],
    key: &[Piece],
    value: &[Piece],
    starts: &[u32],
    out: &mut [Vector<f32, Four>],
    log_sums: &mut [f32],
    span: Span,
    width: usize,
    value_width: usize,
    scale: f32,
    #[comptime] frame: Frame,
    #[define(E)] _element: ElemType,
) {
    if comptime!(frame.scope == Scope::Subgroup) {
        attend_by::<E, cmma::Plane>(
            query,
            key,
            value,
            starts,
            out,
            log_sums,
            span,
            width,
            value_width,
            scale,
            frame,
        );
    } else {
        attend_by::<E, cmma::Cube>(
            query,
            key,
            value,
            starts,
            out,
            log_sums,
            span,
            width,
            value_width,
            scale,
            frame,
        );
    }
}

/// The same by matrices of one scope.
#[cube]
fn attend_by<E: Float, S: MatrixScope>(
    query: &[Piece],
    key: &[Piece],
    value: &[Piece],
    starts: &[u32],
    out: &mut [Vector<f32, Four>],
    log_sums: &mut [f32],
    span: Span,
    width: usize,
    value_width: usize,
    scale: f32,
    #[comptime] frame: Frame,
) {
    let task = task(starts, &span, width, value_width, frame);
    let mut memory = Shared::<[Piece]>::new_slice(comptime!(frame.memory()));
    let mut votes = Shared::<[u32]>::new_slice(comptime!(frame.subgroups));
    let rows = operands::<E, S>(
        &mut memory,
        query,
        &task.queries,
        task.first_row,
        width,
        comptime!(frame.width),
        frame,
    );
    let mut sums = zeros::<S>(comptime!(frame.value_width), frame);
    let mut held = none_yet::<S>(frame);
    let mut row = Row {
        reference: NOTHING.runtime(),
        total: 0.0f32,
        settled: false.runtime(),
        spoilt: false.runtime(),
    };
    let mut total = 0.0f32;
    if comptime!(frame.held) {
        let mut in_matrices = true.runtime();
        let mut again = true.runtime();
        while again {
            row.reference = NOTHING.runtime();
            row.settled = false;
            row.spoilt = false;
            clear::<S>(&mut held, &mut sums, frame);
            pass::<E, S>(
                key,
                value,
                &mut memory,
                &mut votes,
                &span,
                &task,
                &rows,
                &mut sums,
                &mut held,
                &mut row,
                in_matrices,
                scale,
                frame,
            );
            total = total_of::<E, S>(&mut memory, &held, &mut row, frame);
            let spoilt = in_matrices && row.spoilt;
            again = anyone(&mut votes, spoilt, Scope::Workgroup, frame);
            in_matrices = false;
        }
    } else {
        pass::<E, S>(
            key,
            value,
            &mut memory,
            &mut votes,
            &span,
            &task,
            &rows,
            &mut sums,
            &mut held,
            &mut row,
            false,
            scale,
            frame,
        );
        total = row_sum(row.total, frame);
    }
    let (time, heads) = (span.time as usize, span.heads as usize);
    let out_rows = Rows {
        start: (task.batch * time * heads + task.head) * value_width * 2,
        stride: heads * value_width * 2,
        count: time,
    };
    write::<S>(
        &mut memory,
        out,
        &out_rows,
        task.first_row,
        value_width * 2,
        &sums,
        1.0f32 / total,
        comptime!(frame.value_width),
        frame,
    );
    if UNIT_POS_X < comptime!(ROWS as u32) && task.row < time {
        log_sums[task.pair * time + task.row] = row.reference + total.ln();
    }
}

/// Goes through all keys once; `in_matrices`: with weights made inside matrices where all rows of
/// an owner see a tile.
#[cube]
fn pass<E: Float, S: MatrixScope>(
    key: &[Piece],
    value: &[Piece],
    memory: &mut Shared<[Piece]>,
    votes: &mut Shared<[u32]>,
    span: &Span,
    task: &Task,
    rows: &Sequence<cmma::Matrix<E, S>>,
    sums: &mut Sequence<cmma::Matrix<f32, S>>,
    held: &mut Held<S>,
    row: &mut Row,
    in_matrices: bool,
    scale: f32,
    #[comptime] frame: Frame,
) {
    let columns = comptime!(frame.columns);
    let ahead = fetch(key, value, &task.sides, task.begin, frame);
    sync_cube();
    keep(memory, &ahead, frame);
    sync_cube();
    for step in 0..(task.end - task.begin).div_ceil(columns) {
        let first_key = task.begin + step * columns;
        let next_key = first_key + columns;
        let ahead = fetch(key, value, &task.sides, next_key, frame);
        if touches(&task.reach, first_key, next_key) {
            let full = covers(&task.reach, first_key, next_key);
            if comptime!(frame.held) {
                if in_matrices && full && row.settled {
                    let weights = weigh::<E, S>(&*memory, rows, &*held, scale, frame);
                    add::<E, S>(&*memory, &weights, &*sums, &*held, frame);
                    if step % PERIOD == 0 {
                        settle::<E, S>(memory, votes, sums, held, row, scale, frame);
                    }
                } else {
                    let weights = weigh_rows::<E, S>(
                        memory, votes, span, task, rows, sums, held, row, first_key, full, scale,
                        frame,
                    );
                    add::<E, S>(&*memory, &weights, &*sums, &*held, frame);
                    let nothing = row.reference <= NOTHING;
                    row.settled = !anyone(votes, nothing, comptime!(frame.scope), frame);
                    refer::<S>(memory, held, &*row, scale, frame);
                }
            } else {
                let weights = weigh_rows::<E, S>(
                    memory, votes, span, task, rows, sums, held, row, first_key, full, scale, frame,
                );
                add::<E, S>(&*memory, &weights, &*sums, &*held, frame);
            }
        }
        sync_cube();
        keep(memory, &ahead, frame);
        sync_cube();
    }
}

/// Adds a tile's values, and its weights where these are held.
#[cube]
fn add<E: Float, S: MatrixScope>(
    memory: &Shared<[Piece]>,
    weights: &Sequence<cmma::Matrix<E, S>>,
    sums: &Sequence<cmma::Matrix<f32, S>>,
    held: &Held<S>,
    #[comptime] frame: Frame,
) {
    accumulate::<E, S>(
        memory,
        comptime!(frame.second()),
        weights,
        sums,
        comptime!(frame.value_width),
        frame,
    );
    if comptime!(frame.held) {
        count::<E, S>(weights, held, frame);
    }
}

/// Weights of the tile of keys from `first_key` on, made row by row out of scores in the scratch.
/// `full`: all of the owner's rows see all of it.
#[cube]
fn weigh_rows<E: Float, S: MatrixScope>(
    memory: &mut Shared<[Piece]>,
    votes: &mut Shared<[u32]>,
    span: &Span,
    task: &Task,
    rows: &Sequence<cmma::Matrix<E, S>>,
    sums: &mut Sequence<cmma::Matrix<f32, S>>,
    held: &mut Held<S>,
    row: &mut Row,
    first_key: usize,
    full: bool,
    scale: f32,
    #[comptime] frame: Frame,
) -> Sequence<cmma::Matrix<E, S>> {
    let scores = products::<E, S>(&*memory, 0usize, rows, comptime!(frame.width), frame);
    let mut parts = spread::<S>(memory, &scores, frame);
    let column = first_key + own_column(frame);
    let mut most = NOTHING.runtime();
    #[unroll]
    for i in 0..comptime!(frame.share() / 4) {
        let mut part = parts[i] * Vector::new(scale);
        if !full {
            #[unroll]
            for lane in 0..4usize {
                let key = column + comptime!(i * 4 + lane);
                if !sees(span, task.row, task.first, key) {
                    part.insert(lane, HIDDEN);
                }
            }
        }
        #[unroll]
        for lane in 0..4usize {
            most = max(most, part.extract(lane));
        }
        parts[i] = part;
    }
    most = row_most(most, frame);
    let mut factor = 1.0f32;
    let mut moved = false;
    if row.reference <= NOTHING {
        row.reference = most;
    } else if most > row.reference + HEADROOM {
        factor = (row.reference - most).exp();
        row.reference = most;
        row.total *= factor;
        moved = true;
    }
    if anyone(votes, moved, comptime!(frame.scope), frame) {
        if comptime!(frame.held) {
            // Afterwards nothing would tell of a sum that was past its limit.
            total_of::<E, S>(memory, &*held, row, frame);
            rescale_all::<S>(memory, sums, held, factor, frame);
        } else {
            rescale::<S>(memory, sums, factor, comptime!(frame.value_width), frame);
        }
    }
    #[unroll]
    for i in 0..comptime!(frame.share() / 4) {
        // A hidden score is so far below that its weight is zero.
        let part = Vector::exp(parts[i] - Vector::new(row.reference));
        if comptime!(!frame.held) {
            #[unroll]
            for lane in 0..4usize {
                row.total += part.extract(lane);
            }
        }
        parts[i] = part;
    }
    pack::<E>(memory, &parts, frame);
    packed::<E, S>(&*memory, frame)
}

/// The largest that the units of a row hold.
#[cube]
fn row_most(value: f32, #[comptime] frame: Frame) -> f32 {
    let mut most = value;
    if comptime!(frame.subgroup >= 32) {
        most = max(most, plane_shuffle_xor(most, 16u32));
    }
    if comptime!(frame.subgroup >= 64) {
        most = max(most, plane_shuffle_xor(most, 32u32));
    }
    most
}

/// The sum of what the units of a row hold.
#[cube]
fn row_sum(value: f32, #[comptime] frame: Frame) -> f32 {
    let mut sum = value;
    if comptime!(frame.subgroup >= 32) {
        sum += plane_shuffle_xor(sum, 16u32);
    }
    if comptime!(frame.subgroup >= 64) {
        sum += plane_shuffle_xor(sum, 32u32);
    }
    sum
}
