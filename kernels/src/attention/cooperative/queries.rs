//! Gradient of the queries with cooperative matrices, over tiles of queries.

use cubecl::cmma::{self, MatrixScope};
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::super::Scope;
use super::super::span::{Four, Rows, Span, first_seen, least, place, position, sees};
use super::{Frame, Piece, ROWS, accumulate, fetch, first_owned, keep, operands, own_column};
use super::{own_row, pack, products, spread, write, zeros};

/// As the plain kernel of this name; widths count pieces of 16 bytes.
#[cube(launch, launch_unchecked)]
pub fn dquery<E: Float>(
    dy: &[Piece],
    query: &[Piece],
    key: &[Piece],
    value: &[Piece],
    starts: &[u32],
    log_sums: &[f32],
    inner: &[f32],
    out: &mut [Vector<f32, Four>],
    span: Span,
    width: usize,
    value_width: usize,
    scale: f32,
    #[comptime] frame: Frame,
    #[define(E)] _element: ElemType,
) {
    if comptime!(frame.scope == Scope::Subgroup) {
        dquery_by::<E, cmma::Plane>(
            dy,
            query,
            key,
            value,
            starts,
            log_sums,
            inner,
            out,
            span,
            width,
            value_width,
            scale,
            frame,
        );
    } else {
        dquery_by::<E, cmma::Cube>(
            dy,
            query,
            key,
            value,
            starts,
            log_sums,
            inner,
            out,
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
fn dquery_by<E: Float, S: MatrixScope>(
    dy: &[Piece],
    query: &[Piece],
    key: &[Piece],
    value: &[Piece],
    starts: &[u32],
    log_sums: &[f32],
    inner: &[f32],
    out: &mut [Vector<f32, Four>],
    span: Span,
    width: usize,
    value_width: usize,
    scale: f32,
    #[comptime] frame: Frame,
) {
    let mut memory = Shared::<[Piece]>::new_slice(comptime!(frame.memory()));
    let documents = comptime!(frame.documents);
    let (time, heads) = (span.time as usize, span.heads as usize);
    let at = place(&span, heads);
    let tiles = time.div_ceil(comptime!(frame.rows()));
    if at.tile >= tiles {
        terminate!();
    }
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
    let dys = Rows {
        start: (at.batch * time * heads + at.head) * value_width,
        stride: heads * value_width,
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
    let first_own = first_owned(first_row, frame);
    let row = first_row + UNIT_POS_Y as usize * ROWS + own_row();
    let present = least(row, last_row);
    let first = first_seen(starts, &span, at.batch, present, documents);
    let log_sum = log_sums[pair * time + present];
    let product = inner[pair * time + present];
    let rows = operands::<E, S>(
        &mut memory,
        query,
        &queries,
        first_row,
        width,
        comptime!(frame.width),
        frame,
    );
    let dy_rows = operands::<E, S>(
        &mut memory,
        dy,
        &dys,
        first_row,
        value_width,
        comptime!(frame.value_width),
        frame,
    );
    let sums = zeros::<S>(comptime!(frame.width), frame);

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
            let slopes = products::<E, S>(
                &memory,
                comptime!(frame.second()),
                &dy_rows,
                comptime!(frame.value_width),
                frame,
            );
            let column = first_key + own_column(frame);
            let full = whole && first_key >= common && next_key <= common_end;
            let mut parts = spread::<S>(&mut memory, &scores, frame);
            #[unroll]
            for i in 0..comptime!(frame.share() / 4) {
                let exponent = parts[i] * Vector::new(scale) - Vector::new(log_sum);
                let mut weight = Vector::exp(exponent);
                if !full {
                    #[unroll]
                    for lane in 0..4usize {
                        if !sees(&span, row, first, column + comptime!(i * 4 + lane)) {
                            weight.insert(lane, 0.0f32);
                        }
                    }
                }
                parts[i] = weight;
            }
            let slopes = spread::<S>(&mut memory, &slopes, frame);
            #[unroll]
            for i in 0..comptime!(frame.share() / 4) {
                parts[i] *= slopes[i] - Vector::new(product);
            }
            pack::<E>(&mut memory, &parts, frame);
            accumulate::<E, S>(&memory, 0usize, &sums, comptime!(frame.width), frame);
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
    let rows = Rows {
        start: pair * time * width * 2,
        stride: width * 2,
        count: time,
    };
    write::<S>(
        &mut memory,
        out,
        &rows,
        first_row,
        width * 2,
        &sums,
        scale,
        comptime!(frame.width),
        frame,
    );
}
