//! Gradient of the queries with cooperative matrices, over tiles of queries.

use cubecl::cmma::{self, MatrixScope};
use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::super::Scope;
use super::super::span::{Four, Rows, Span, sees};
use super::scratch::{own_column, pack, packed, spread, write};
use super::walk::{covers, fetch, keep, task, touches};
use super::{Frame, Piece, accumulate, operands, products, zeros};

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
    let task = task(starts, &span, width, value_width, frame);
    let mut memory = Shared::<[Piece]>::new_slice(comptime!(frame.memory()));
    let (time, heads) = (span.time as usize, span.heads as usize);
    let dys = Rows {
        start: (task.batch * time * heads + task.head) * value_width,
        stride: heads * value_width,
        count: time,
    };
    let log_sum = log_sums[task.pair * time + task.present];
    let product = inner[task.pair * time + task.present];
    let rows = operands::<E, S>(
        &mut memory,
        query,
        &task.queries,
        task.first_row,
        width,
        comptime!(frame.width),
        frame,
    );
    let dy_rows = operands::<E, S>(
        &mut memory,
        dy,
        &dys,
        task.first_row,
        value_width,
        comptime!(frame.value_width),
        frame,
    );
    let sums = zeros::<S>(comptime!(frame.width), frame);

    let ahead = fetch(key, value, &task.sides, task.begin, frame);
    sync_cube();
    keep(&mut memory, &ahead, frame);
    sync_cube();
    for step in 0..(task.end - task.begin).div_ceil(comptime!(frame.columns)) {
        let first_key = task.begin + step * comptime!(frame.columns);
        let next_key = first_key + comptime!(frame.columns);
        let ahead = fetch(key, value, &task.sides, next_key, frame);
        if touches(&task.reach, first_key, next_key) {
            let scores = products::<E, S>(&memory, 0usize, &rows, comptime!(frame.width), frame);
            let slopes = products::<E, S>(
                &memory,
                comptime!(frame.second()),
                &dy_rows,
                comptime!(frame.value_width),
                frame,
            );
            let column = first_key + own_column(frame);
            let full = covers(&task.reach, first_key, next_key);
            let mut parts = spread::<S>(&mut memory, &scores, frame);
            #[unroll]
            for i in 0..comptime!(frame.share() / 4) {
                let exponent = parts[i] * Vector::new(scale) - Vector::new(log_sum);
                let mut weight = Vector::exp(exponent);
                if !full {
                    #[unroll]
                    for lane in 0..4usize {
                        let key = column + comptime!(i * 4 + lane);
                        if !sees(&span, task.row, task.first, key) {
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
            let parts = packed::<E, S>(&memory, frame);
            accumulate::<E, S>(
                &memory,
                0usize,
                &parts,
                &sums,
                comptime!(frame.width),
                frame,
            );
        }
        sync_cube();
        keep(&mut memory, &ahead, frame);
        sync_cube();
    }
    let rows = Rows {
        start: task.pair * time * width * 2,
        stride: width * 2,
        count: time,
    };
    write::<S>(
        &mut memory,
        out,
        &rows,
        task.first_row,
        width * 2,
        &sums,
        scale,
        comptime!(frame.width),
        frame,
    );
}
