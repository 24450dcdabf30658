//! A tile by one subgroup, without workgroup memory and barriers.
//!
//! Along the sum four numbers a step are taken. Every unit reads the right operand for its own
//! eight columns. The left operand's rows by 4 are read once: for 16 of them 16 vectors of four,
//! dealt to the units in turn, and broadcast from there to all of them. So a step of 16×8 results a
//! unit costs eight vectors, two more at a width of 8, for 512 products; one of 32×8 eight and four
//! for 1024. Such a driver reads a vector number by number, which takes as long as to multiply it.

use cubecl::prelude::*;

use super::super::{Access, Four, Panel};
use super::Plain;

/// Numbers along the sum that are read at a time.
const STEP: usize = 4;

/// Four elements of a buffer from `start + column` on, as f32; those past `last` are the one there.
#[cube]
fn four<E: Float, N: Size>(
    source: &[Vector<E, N>],
    start: usize,
    column: usize,
    last: usize,
) -> Vector<f32, Four> {
    let lanes = N::value();
    let mut values = Vector::<f32, Four>::new(0.0f32);
    if comptime!(lanes == 4) {
        values = Vector::cast_from(source[(start + column.min(last)) / 4]);
    } else {
        #[unroll]
        for i in 0..4usize {
            let at = start + (column + i).min(last);
            values.insert(i, f32::cast_from(source[at].extract(0usize)));
        }
    }
    values
}

/// Which of the left operand's vectors has row `row`, step `k`.
const fn holder(row: usize, k: usize, k_rows: bool, rows: usize) -> usize {
    if k_rows {
        k * (rows / 4) + row / 4
    } else {
        row
    }
}

/// Which of its four numbers that is.
const fn place(row: usize, k: usize, k_rows: bool) -> usize {
    if k_rows { row % 4 } else { k }
}

/// Row number `at` of a buffer's, through the list where the operand is gathered.
#[cube]
fn listed(tokens: &[u32], at: usize, #[comptime] access: Access) -> usize {
    let mut row = at;
    if comptime!(access.gather) {
        row = tokens[at] as usize;
    }
    row
}

/// Adds the product to a unit's sums.
#[cube]
pub(super) fn add<A: Float, B: Float, NA: Size, NB: Size>(
    sums: &mut Array<Vector<f32, Four>>,
    a: &[Vector<A, NA>],
    b: &[Vector<B, NB>],
    tokens: &[u32],
    a_panel: &Panel,
    b_panel: &Panel,
    k_begin: usize,
    k_end: usize,
    #[comptime] a_access: Access,
    #[comptime] b_access: Access,
    #[comptime] plain: Plain,
) {
    let width = comptime!(plain.units());
    let rows = comptime!(plain.rows());
    let turns = comptime!(rows / width);
    let lane = UNIT_POS_PLANE as usize;
    let a_last = a_panel.end - 1;
    let b_last = b_panel.end - 1;
    // Where rows begin that stay the same along the sum. Rows and columns past the end are read as
    // the last one is: nothing is branched over, and nobody stores what becomes of them.
    let mut a_rows = Array::<usize>::new(turns);
    #[unroll]
    for turn in 0..turns {
        let row = (a_panel.first + lane + comptime!(turn * width)).min(a_last);
        a_rows[turn] = 0usize;
        if comptime!(!a_access.k_rows) {
            a_rows[turn] = a_panel.base + listed(tokens, row, a_access) * a_panel.stride;
        }
    }
    let own = b_panel.first + UNIT_POS as usize * 4;
    let mut shift = comptime!(plain.columns() / 2).runtime();
    if comptime!(b_access.split) {
        shift = b_panel.half;
    }
    let mut b_rows = Array::<usize>::new(8usize);
    #[unroll]
    for half in 0..2usize {
        #[unroll]
        for i in 0..4usize {
            let mut row = (own + i).min(b_last);
            if comptime!(half == 1) {
                row = (own + i + shift).min(b_last);
                if comptime!(b_access.split) {
                    row = (own + i).min(b_last) + shift;
                }
            }
            b_rows[comptime!(4 * half + i)] = 0usize;
            if comptime!(!b_access.k_rows) {
                b_rows[comptime!(4 * half + i)] =
                    b_panel.base + listed(tokens, row, b_access) * b_panel.stride;
            }
        }
    }
    let k_last = k_end - 1;
    let steps = (k_end - k_begin).div_ceil(STEP);
    for step in 0..steps {
        let k = k_begin + step * STEP;
        let mut left = Array::<Vector<f32, Four>>::new(turns);
        #[unroll]
        for turn in 0..turns {
            let mut values = Vector::<f32, Four>::new(0.0f32);
            if comptime!(a_access.k_rows) {
                let vector = lane + comptime!(turn * width);
                let at = k + vector / comptime!(rows / 4);
                let row = listed(tokens, at.min(k_last), a_access);
                let column = a_panel.first + vector % comptime!(rows / 4) * 4;
                let start = a_panel.base + row * a_panel.stride;
                // What lies past the end of the sum counts nothing.
                if at < k_end {
                    values = four::<A, NA>(a, start, column, a_last);
                }
            } else {
                values = four::<A, NA>(a, a_rows[turn], k, k_last);
                #[unroll]
                for i in 0..STEP {
                    if k + i >= k_end {
                        values.insert(i, 0.0f32);
                    }
                }
            }
            left[turn] = values;
        }
        // One vector of columns for every number along the sum, by halves.
        let mut right = Array::<Vector<f32, Four>>::new(comptime!(2 * STEP));
        if comptime!(b_access.k_rows) {
            #[unroll]
            for i in 0..STEP {
                let row = listed(tokens, (k + i).min(k_last), b_access);
                let start = b_panel.base + row * b_panel.stride;
                right[comptime!(2 * i)] = four::<B, NB>(b, start, own, b_last);
                right[comptime!(2 * i + 1)] = four::<B, NB>(b, start, own + shift, b_last);
            }
        } else {
            #[unroll]
            for half in 0..2usize {
                let mut rows = Array::<Vector<f32, Four>>::new(4usize);
                #[unroll]
                for i in 0..4usize {
                    rows[i] = four::<B, NB>(b, b_rows[comptime!(4 * half + i)], k, k_last);
                }
                #[unroll]
                for i in 0..STEP {
                    let mut turned = Vector::<f32, Four>::new(0.0f32);
                    #[unroll]
                    for j in 0..4usize {
                        turned.insert(j, rows[j].extract(i));
                    }
                    right[comptime!(2 * i + half)] = turned;
                }
            }
        }
        #[unroll]
        for row in 0..rows {
            #[unroll]
            for i in 0..STEP {
                let vector = comptime!(holder(row, i, a_access.k_rows, rows));
                let number = left[comptime!(vector / width)].extract(comptime!(place(
                    row,
                    i,
                    a_access.k_rows
                )));
                let value = Vector::<f32, Four>::new(plane_broadcast(
                    number,
                    comptime!((vector % width) as u32),
                ));
                sums[comptime!(2 * row)] += value * right[comptime!(2 * i)];
                sums[comptime!(2 * row + 1)] += value * right[comptime!(2 * i + 1)];
            }
        }
    }
}
