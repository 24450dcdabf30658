//! The backward pass in plain tiles: one kernel over tiles of queries, one over tiles of keys.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::super::span::{Four, Rows, Span, first_seen, least, place, position};
use super::super::span::{queries_begin, queries_end, sees};
use super::{EDGE, WEIGHTS, accumulate, lay, memory_size, own_column, own_row, products};
use super::{scored, seen_by_rows, write, zeros};

/// Gradient of the queries `[batch, heads, time, width]`.
///
/// `dy` `[batch, time, heads, value width]`; `log_sums` and `inner`, which is Σ dy · y of each
/// row, `[batch, heads, time]`.
#[cube(launch, launch_unchecked)]
pub fn dquery<E: Float>(
    dy: &[Vector<E, Four>],
    query: &[Vector<E, Four>],
    key: &[Vector<E, Four>],
    value: &[Vector<E, Four>],
    starts: &[u32],
    log_sums: &[f32],
    inner: &[f32],
    out: &mut [Vector<f32, Four>],
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
    let (time, heads) = (span.time as usize, span.heads as usize);
    let at = place(&span, heads);
    let tiles = time.div_ceil(EDGE);
    if at.tile >= tiles {
        terminate!();
    }
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
    let dys = Rows {
        start: ((at.batch * time + first_row) * heads + at.head) * value_width,
        stride: heads * value_width,
        count,
    };
    let own = first_row + own_row();
    let mut firsts = Array::<u32>::new(4usize);
    let mut log_sum = Vector::<f32, Four>::new(0.0f32);
    let mut product = Vector::<f32, Four>::new(0.0f32);
    #[unroll]
    for i in 0..4usize {
        firsts[i] = 0u32;
        if own + i < time {
            firsts[i] = first_seen(starts, &span, at.batch, own + i, documents) as u32;
            log_sum.insert(i, log_sums[pair * time + own + i]);
            product.insert(i, inner[pair * time + own + i]);
        }
    }
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
        let value_rows = Rows {
            start: (keys * length + first_key) * value_width,
            stride: value_width,
            count: there,
        };
        let mut scores = products::<E>(&mut memory, query, &queries, key, &key_rows, width);
        let slopes = products::<E>(&mut memory, dy, &dys, value, &value_rows, value_width);
        #[unroll]
        for j in 0..4usize {
            let seen = seen_by_rows(&span, own, &firsts, first_key + own_column() + j);
            let weight = Vector::exp(scored(scores[j], scale, seen) - log_sum) * seen;
            scores[j] = weight * (slopes[j] - product);
        }
        lay(&mut weights, &scores);
        accumulate::<E>(
            &mut memory,
            &weights,
            key,
            &key_rows,
            width,
            &mut sums,
            columns,
        );
    }
    let rows = Rows {
        start: (pair * time + first_row) * width,
        stride: width,
        count,
    };
    write(out, &rows, width, &sums, Vector::new(scale), columns);
}

/// Gradients of keys and values `[batch, groups, length, …]`: of both, or of one of them where
/// both at once would take too many registers. The query heads of a group are added in order.
#[cube(launch, launch_unchecked)]
pub fn dkey_dvalue<E: Float>(
    dy: &[Vector<E, Four>],
    query: &[Vector<E, Four>],
    key: &[Vector<E, Four>],
    value: &[Vector<E, Four>],
    starts: &[u32],
    log_sums: &[f32],
    inner: &[f32],
    dkey: &mut [Vector<f32, Four>],
    dvalue: &mut [Vector<f32, Four>],
    span: Span,
    width: usize,
    value_width: usize,
    scale: f32,
    #[comptime] columns: usize,
    #[comptime] value_columns: usize,
    #[comptime] documents: bool,
    #[define(E)] _element: ElemType,
) {
    let size = comptime!(memory_size(columns).max(memory_size(value_columns)));
    let mut memory = Shared::<[Vector<f32, Four>]>::new_slice(size);
    let mut weights = Shared::<[Vector<f32, Four>]>::new_slice(WEIGHTS);
    let (time, length) = (span.time as usize, span.length as usize);
    let (heads, groups) = (span.heads as usize, span.groups as usize);
    let at = place(&span, groups);
    if at.tile >= length.div_ceil(EDGE) {
        terminate!();
    }
    // Early keys are seen by most: they come first.
    let first_key = at.tile * EDGE;
    let count = least(length - first_key, EDGE);
    let keys = at.batch * groups + at.head;
    let key_rows = Rows {
        start: (keys * length + first_key) * width,
        stride: width,
        count,
    };
    let value_rows = Rows {
        start: (keys * length + first_key) * value_width,
        stride: value_width,
        count,
    };
    let mut key_sums = zeros(columns);
    let mut value_sums = zeros(value_columns);
    let begin = queries_begin(&span, first_key);
    let end = queries_end(starts, &span, at.batch, first_key + count - 1, documents);
    let mut steps = 0usize;
    if end > begin {
        steps = (end - begin).div_ceil(EDGE);
    }
    let members = heads / groups;
    for member in 0..members {
        let head = at.head * members + member;
        let pair = at.batch * heads + head;
        for step in 0..steps {
            let first_row = begin + step * EDGE;
            let there = least(time - first_row, EDGE);
            let queries = Rows {
                start: (pair * time + first_row) * width,
                stride: width,
                count: there,
            };
            let dys = Rows {
                start: ((at.batch * time + first_row) * heads + head) * value_width,
                stride: heads * value_width,
                count: there,
            };
            let mut weight = products::<E>(&mut memory, key, &key_rows, query, &queries, width);
            let mut product = Array::<f32>::new(4usize);
            #[unroll]
            for j in 0..4usize {
                let row = first_row + own_column() + j;
                let mut seen = Vector::<f32, Four>::new(0.0f32);
                let mut log_sum = 0.0f32;
                product[j] = 0.0f32;
                if row < time {
                    let first = first_seen(starts, &span, at.batch, row, documents);
                    log_sum = log_sums[pair * time + row];
                    product[j] = inner[pair * time + row];
                    #[unroll]
                    for i in 0..4usize {
                        if sees(&span, row, first, first_key + own_row() + i) {
                            seen.insert(i, 1.0f32);
                        }
                    }
                }
                let score = scored(weight[j], scale, seen);
                weight[j] = Vector::exp(score - Vector::new(log_sum)) * seen;
            }
            if comptime!(value_columns > 0) {
                lay(&mut weights, &weight);
                accumulate::<E>(
                    &mut memory,
                    &weights,
                    dy,
                    &dys,
                    value_width,
                    &mut value_sums,
                    value_columns,
                );
            }
            if comptime!(columns > 0) {
                let slopes = products::<E>(&mut memory, value, &value_rows, dy, &dys, value_width);
                #[unroll]
                for j in 0..4usize {
                    weight[j] *= slopes[j] - Vector::new(product[j]);
                }
                lay(&mut weights, &weight);
                accumulate::<E>(
                    &mut memory,
                    &weights,
                    query,
                    &queries,
                    width,
                    &mut key_sums,
                    columns,
                );
            }
        }
    }
    if comptime!(columns > 0) {
        write(
            dkey,
            &key_rows,
            width,
            &key_sums,
            Vector::new(scale),
            columns,
        );
    }
    if comptime!(value_columns > 0) {
        let one = Vector::new(1.0f32);
        write(
            dvalue,
            &value_rows,
            value_width,
            &value_sums,
            one,
            value_columns,
        );
    }
}
