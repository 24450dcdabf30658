//! The forward pass with cooperative matrices.

use cubecl::cmma::{self, MatrixScope};
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::super::span::{Four, Rows, Span, first_seen, least, place, position, sees};
use super::super::{HIDDEN, NOTHING, Scope};
use super::{Frame, Piece, ROWS, accumulate, anyone, fetch, first_owned, keep, operands};
use super::{own_column, own_row, pack, products, rescale, spread, write, zeros};

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
    let mut memory = Shared::<[Piece]>::new_slice(comptime!(frame.memory()));
    let mut votes = Shared::<[u32]>::new_slice(comptime!(frame.subgroups));
    let documents = comptime!(frame.documents);
    let (time, heads) = (span.time as usize, span.heads as usize);
    let at = place(&span, heads);
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
    let queries = Rows {
        start: pair * time * width,
        stride: width,
        count: time,
    };
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
    // The owner's rows, and the one that the unit works on.
    let first_own = first_owned(first_row, frame);
    let row = first_row + UNIT_POS_Y as usize * ROWS + own_row();
    let present = least(row, last_row);
    let first = first_seen(starts, &span, at.batch, present, documents);
    let rows = operands::<E, S>(
        &mut memory,
        query,
        &queries,
        first_row,
        width,
        comptime!(frame.width),
        frame,
    );
    let mut sums = zeros::<S>(comptime!(frame.value_width), frame);
    let mut largest = NOTHING.runtime();
    let mut total = 0.0f32;

    // What all of the owner's rows see, and what any of them sees.
    let last_own = least(first_own + comptime!(frame.owned() - 1), last_row);
    let common = first_seen(starts, &span, at.batch, last_own, documents);
    let common_end = position(&span, first_own) + 1;
    let whole = first_own + comptime!(frame.owned() - 1) <= last_row;
    let mut any = 0usize;
    let mut any_end = 0usize;
    if first_own <= last_row {
        any = first_seen(starts, &span, at.batch, first_own, documents);
        any_end = position(&span, last_own) + 1;
    }

    let begin = first_seen(starts, &span, at.batch, first_row, documents);
    let end = position(&span, last_row) + 1;
    let keys_ahead = fetch(key, &key_rows, begin, width, comptime!(frame.width), frame);
    let values_ahead = fetch(
        value,
        &value_rows,
        begin,
        value_width,
        comptime!(frame.value_width),
        frame,
    );
    sync_cube();
    keep(
        &mut memory,
        0usize,
        &keys_ahead,
        comptime!(frame.width),
        frame,
    );
    keep(
        &mut memory,
        comptime!(frame.second()),
        &values_ahead,
        comptime!(frame.value_width),
        frame,
    );
    sync_cube();
    for step in 0..(end - begin).div_ceil(comptime!(frame.columns)) {
        let first_key = begin + step * comptime!(frame.columns);
        let next_key = first_key + comptime!(frame.columns);
        let keys_ahead = fetch(
            key,
            &key_rows,
            next_key,
            width,
            comptime!(frame.width),
            frame,
        );
        let values_ahead = fetch(
            value,
            &value_rows,
            next_key,
            value_width,
            comptime!(frame.value_width),
            frame,
        );
        if first_key < any_end && next_key > any {
            let scores = products::<E, S>(&memory, 0usize, &rows, comptime!(frame.width), frame);
            let mut parts = spread::<S>(&mut memory, &scores, frame);
            let column = first_key + own_column(frame);
            let full = whole && first_key >= common && next_key <= common_end;
            let mut most = NOTHING.runtime();
            #[unroll]
            for i in 0..comptime!(frame.share() / 4) {
                let mut part = parts[i] * Vector::new(scale);
                if !full {
                    #[unroll]
                    for lane in 0..4usize {
                        if !sees(&span, row, first, column + comptime!(i * 4 + lane)) {
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
            if largest <= NOTHING {
                largest = most;
            } else if most > largest + HEADROOM {
                factor = (largest - most).exp();
                largest = most;
                total *= factor;
                moved = true;
            }
            if anyone(&mut votes, moved, frame) {
                rescale::<S>(
                    &mut memory,
                    &mut sums,
                    factor,
                    comptime!(frame.value_width),
                    frame,
                );
            }
            #[unroll]
            for i in 0..comptime!(frame.share() / 4) {
                // A hidden score is so far below that its weight is zero.
                let part = Vector::exp(parts[i] - Vector::new(largest));
                #[unroll]
                for lane in 0..4usize {
                    total += part.extract(lane);
                }
                parts[i] = part;
            }
            pack::<E>(&mut memory, &parts, frame);
            accumulate::<E, S>(
                &memory,
                comptime!(frame.second()),
                &sums,
                comptime!(frame.value_width),
                frame,
            );
        }
        sync_cube();
        keep(
            &mut memory,
            0usize,
            &keys_ahead,
            comptime!(frame.width),
            frame,
        );
        keep(
            &mut memory,
            comptime!(frame.second()),
            &values_ahead,
            comptime!(frame.value_width),
            frame,
        );
        sync_cube();
    }
    total = row_sum(total, frame);
    let out_rows = Rows {
        start: (at.batch * time * heads + at.head) * value_width * 2,
        stride: heads * value_width * 2,
        count: time,
    };
    write::<S>(
        &mut memory,
        out,
        &out_rows,
        first_row,
        value_width * 2,
        &sums,
        1.0f32 / total,
        comptime!(frame.value_width),
        frame,
    );
    if UNIT_POS_X < comptime!(ROWS as u32) && row < time {
        log_sums[pair * time + row] = largest + total.ln();
    }
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
