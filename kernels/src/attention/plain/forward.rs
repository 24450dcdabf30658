//! The forward pass in plain tiles.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::super::NOTHING;
use super::super::span::{Four, Rows, Span, first_seen, least, place, position};
use super::{EDGE, SIDE, UNITS, WEIGHTS, accumulate, lay, memory_size, own_column, own_row};
use super::{products, scored, seen_by_rows, write, zeros};

/// Results `[batch, time, heads, value width]` and log-sum-exps `[batch, heads, time]`.
///
/// `width` and `value_width` count vectors; `columns` is the value width in steps of 32, rounded
/// up.
#[cube(launch, launch_unchecked)]
pub fn attend<E: Float>(
    query: &[Vector<E, Four>],
    key: &[Vector<E, Four>],
    value: &[Vector<E, Four>],
    starts: &[u32],
    out: &mut [Vector<f32, Four>],
    log_sums: &mut [f32],
    span: Span,
    width: usize,
    value_width: usize,
    scale: f32,
    #[comptime] columns: usize,
    #[comptime] documents: bool,
    #[define(E)] _element: ElemType,
) {
    let mut memory = Shared::<[Vector<f32, Four>]>::new_slice(comptime!(memory_size(columns)));
    let mut weights = Shared::<[Vector<f32, Four>]>::new_slice(WEIGHTS);
    let mut partial = Shared::<[Vector<f32, Four>]>::new_slice(UNITS);
    let (time, heads) = (span.time as usize, span.heads as usize);
    let at = place(&span, heads);
    let tiles = time.div_ceil(EDGE);
    if at.tile >= tiles {
        terminate!();
    }
    // Late queries see most: they come first.
    let first_row = (tiles - 1 - at.tile) * EDGE;
    let count = least(time - first_row, EDGE);
    let pair = at.batch * heads + at.head;
    let groups = span.groups as usize;
    let keys = at.batch * groups + at.head / (heads / groups);
    let length = span.length as usize;
    let queries = Rows {
        start: (pair * time + first_row) * width,
        stride: width,
        count,
    };
    let down = UNIT_POS as usize / SIDE;
    let across = UNIT_POS as usize % SIDE;
    let own = first_row + own_row();
    let mut firsts = Array::<u32>::new(4usize);
    #[unroll]
    for i in 0..4usize {
        firsts[i] = 0u32;
        if own + i < time {
            firsts[i] = first_seen(starts, &span, at.batch, own + i, documents) as u32;
        }
    }
    let mut largest = Vector::<f32, Four>::new(NOTHING);
    let mut total = Vector::<f32, Four>::new(0.0f32);
    let mut sums = zeros(columns);
    let begin = first_seen(starts, &span, at.batch, first_row, documents);
    let end = position(&span, first_row + count - 1) + 1;
    for step in 0..(end - begin).div_ceil(EDGE) {
        let first_key = begin + step * EDGE;
        let there = least(length - first_key, EDGE);
        let key_rows = Rows {
            start: (keys * length + first_key) * width,
            stride: width,
            count: there,
        };
        let mut scores = products::<E>(&mut memory, query, &queries, key, &key_rows, width);
        let mut seen = Array::<Vector<f32, Four>>::new(4usize);
        let mut most = Vector::<f32, Four>::new(NOTHING);
        #[unroll]
        for j in 0..4usize {
            let visible = seen_by_rows(&span, own, &firsts, first_key + own_column() + j);
            let score = scored(scores[j], scale, visible);
            most = max(most, score);
            seen[j] = visible;
            scores[j] = score;
        }
        partial[across * SIDE + down] = most;
        sync_cube();
        #[unroll]
        for other in 0..SIDE {
            most = max(most, partial[other * SIDE + down]);
        }
        let above = max(largest, most);
        let shrink = Vector::exp(largest - above);
        largest = above;
        total *= shrink;
        #[unroll]
        for j in 0..4usize {
            let weight = Vector::exp(scores[j] - above) * seen[j];
            total += weight;
            scores[j] = weight;
        }
        #[unroll]
        for i in 0..4usize {
            #[unroll]
            for j in 0..columns {
                sums[comptime!(i * columns + j)] *= Vector::new(shrink.extract(i));
            }
        }
        lay(&mut weights, &scores);
        let value_rows = Rows {
            start: (keys * length + first_key) * value_width,
            stride: value_width,
            count: there,
        };
        accumulate::<E>(
            &mut memory,
            &weights,
            value,
            &value_rows,
            value_width,
            &mut sums,
            columns,
        );
    }
    sync_cube();
    partial[across * SIDE + down] = total;
    sync_cube();
    total = partial[down];
    #[unroll]
    for other in 1..SIDE {
        total += partial[other * SIDE + down];
    }
    let out_rows = Rows {
        start: ((at.batch * time + first_row) * heads + at.head) * value_width,
        stride: heads * value_width,
        count,
    };
    let inverse = Vector::<f32, Four>::new(1.0f32) / total;
    write(out, &out_rows, value_width, &sums, inverse, columns);
    if across == 0 {
        #[unroll]
        for i in 0..4usize {
            if own + i < time {
                log_sums[pair * time + own + i] = largest.extract(i) + total.extract(i).ln();
            }
        }
    }
}
