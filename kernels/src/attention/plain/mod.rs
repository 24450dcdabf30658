//! Plain tiles: every device, f32 sums, 16 KiB of workgroup memory, no subgroup operations.
//!
//! A workgroup of 64 units owns 32 rows and takes 32 columns at a time, queries and keys or keys
//! and queries. A unit has 4×4 of the scores in registers, rows and columns next to one another.
//! Weights pass through workgroup memory once, turned, to become the left operand of the second
//! product, in which a unit has its four rows and every eighth vector of the columns.

mod backward;
mod forward;

pub(super) use backward::{dkey_dvalue, dquery};
pub(super) use forward::attend;

use cubecl::prelude::*;

use super::NOTHING;
use super::span::{Four, Rows, Span, sees};

/// Rows, and columns, of a tile.
pub(super) const EDGE: usize = 32;
/// Units of a workgroup.
pub(super) const UNITS: usize = 64;
/// Units along either side of a tile.
const SIDE: usize = EDGE / 4;
/// Vectors from row to row of an operand's slice: four and one against bank conflicts.
const STRIDE: usize = 5;
/// Vectors from column to column of the weights.
const WEIGHTS_STRIDE: usize = SIDE + 1;
/// Rows of a slice of the second product's right operand.
const SLICE: usize = 8;

/// Vectors of workgroup memory for slices, where results are `columns` · 32 wide.
const fn memory_size(columns: usize) -> usize {
    let slices = 2 * EDGE * STRIDE;
    let rows = SLICE * SIDE * columns;
    if slices > rows { slices } else { rows }
}

/// Vectors of workgroup memory for weights.
const WEIGHTS: usize = EDGE * WEIGHTS_STRIDE;

/// The unit's first row.
#[cube]
fn own_row() -> usize {
    (UNIT_POS as usize / SIDE) * 4
}

/// The unit's first column.
#[cube]
fn own_column() -> usize {
    (UNIT_POS as usize % SIDE) * 4
}

/// A vector of a row, as f32; zero where there is none.
#[cube]
fn read<E: Float>(
    source: &[Vector<E, Four>],
    rows: &Rows,
    row: usize,
    at: usize,
    width: usize,
) -> Vector<f32, Four> {
    let mut value = Vector::<f32, Four>::new(0.0f32);
    if row < rows.count && at < width {
        value = Vector::cast_from(source[rows.start + row * rows.stride + at]);
    }
    value
}

/// Products of 32 rows of `left` with 32 of `right`, each `width` vectors long: the unit's four
/// columns, of each its four rows.
#[cube]
fn products<E: Float>(
    memory: &mut Shared<[Vector<f32, Four>]>,
    left: &[Vector<E, Four>],
    left_rows: &Rows,
    right: &[Vector<E, Four>],
    right_rows: &Rows,
    width: usize,
) -> Array<Vector<f32, Four>> {
    let behind = comptime!(EDGE * STRIDE);
    let down = UNIT_POS as usize / SIDE;
    let across = UNIT_POS as usize % SIDE;
    let mut sums = Array::<Vector<f32, Four>>::new(4usize);
    #[unroll]
    for j in 0..4usize {
        sums[j] = Vector::new(0.0f32);
    }
    for slice in 0..width.div_ceil(4) {
        sync_cube();
        #[unroll]
        for i in 0..comptime!(EDGE * 4 / UNITS) {
            let index = UNIT_POS as usize + comptime!(i * UNITS);
            let row = index / 4;
            let column = index % 4;
            // The rows of units next to one another lie next to one another.
            let slot = ((row % 4) * SIDE + row / 4) * STRIDE + column;
            let at = slice * 4 + column;
            memory[slot] = read::<E>(left, left_rows, row, at, width);
            memory[behind + slot] = read::<E>(right, right_rows, row, at, width);
        }
        sync_cube();
        for column in 0..4usize {
            let mut rows = Array::<Vector<f32, Four>>::new(4usize);
            #[unroll]
            for i in 0..4usize {
                rows[i] = memory[(i * SIDE + down) * STRIDE + column];
            }
            #[unroll]
            for j in 0..4usize {
                let other = memory[behind + (j * SIDE + across) * STRIDE + column];
                let mut added = Vector::<f32, Four>::new(0.0f32);
                #[unroll]
                for i in 0..4usize {
                    added.insert(i, rows[i].dot(other));
                }
                sums[j] += added;
            }
        }
    }
    sums
}

/// Lays the unit's weights, as [`products`] orders them, where [`accumulate`] reads them. Between
/// two calls every unit has to pass a barrier.
#[cube]
fn lay(weights: &mut Shared<[Vector<f32, Four>]>, values: &Array<Vector<f32, Four>>) {
    let down = UNIT_POS as usize / SIDE;
    #[unroll]
    for j in 0..4usize {
        weights[(own_column() + j) * WEIGHTS_STRIDE + down] = values[j];
    }
}

/// Adds the weights' product with 32 rows of `source`, `width` vectors long, to the unit's
/// `sums`: of each of its rows `columns` vectors, every eighth.
#[cube]
fn accumulate<E: Float>(
    memory: &mut Shared<[Vector<f32, Four>]>,
    weights: &Shared<[Vector<f32, Four>]>,
    source: &[Vector<E, Four>],
    rows: &Rows,
    width: usize,
    sums: &mut Array<Vector<f32, Four>>,
    #[comptime] columns: usize,
) {
    let line = comptime!(columns * SIDE);
    let down = UNIT_POS as usize / SIDE;
    let across = UNIT_POS as usize % SIDE;
    for slice in 0..comptime!(EDGE / SLICE) {
        sync_cube();
        #[unroll]
        for i in 0..columns {
            let index = UNIT_POS as usize + comptime!(i * UNITS);
            let row = slice * SLICE + index / line;
            memory[index] = read::<E>(source, rows, row, index % line, width);
        }
        sync_cube();
        for step in 0..SLICE {
            let weight = weights[(slice * SLICE + step) * WEIGHTS_STRIDE + down];
            #[unroll]
            for j in 0..columns {
                let value = memory[step * line + comptime!(j * SIDE) + across];
                #[unroll]
                for i in 0..4usize {
                    sums[comptime!(i * columns + j)] +=
                        Vector::<f32, Four>::new(weight.extract(i)) * value;
                }
            }
        }
    }
}

/// Sums of zero, as [`accumulate`] takes them.
#[cube]
fn zeros(#[comptime] columns: usize) -> Array<Vector<f32, Four>> {
    let mut sums = Array::<Vector<f32, Four>>::new(comptime!(4 * columns));
    #[unroll]
    for i in 0..comptime!(4 * columns) {
        sums[i] = Vector::new(0.0f32);
    }
    sums
}

/// Writes the unit's sums, each row multiplied by its lane of `factor`.
#[cube]
fn write(
    out: &mut [Vector<f32, Four>],
    rows: &Rows,
    width: usize,
    sums: &Array<Vector<f32, Four>>,
    factor: Vector<f32, Four>,
    #[comptime] columns: usize,
) {
    let across = UNIT_POS as usize % SIDE;
    #[unroll]
    for i in 0..4usize {
        let row = own_row() + i;
        if row < rows.count {
            #[unroll]
            for j in 0..columns {
                let at = comptime!(j * SIDE) + across;
                if at < width {
                    out[rows.start + row * rows.stride + at] =
                        sums[comptime!(i * columns + j)] * Vector::new(factor.extract(i));
                }
            }
        }
    }
}

/// Of the scores of one key, each of its lanes a query from `query` on: 1 where the query, which
/// sees from its lane of `firsts` on, sees the key, else 0.
#[cube]
fn seen_by_rows(span: &Span, query: usize, firsts: &Array<u32>, key: usize) -> Vector<f32, Four> {
    let mut seen = Vector::<f32, Four>::new(0.0f32);
    #[unroll]
    for i in 0..4usize {
        if sees(span, query + i, firsts[i] as usize, key) {
            seen.insert(i, 1.0f32);
        }
    }
    seen
}

/// Products of queries and keys as scores, those that are not seen (0 in `seen`, where others are
/// 1) below all others.
///
/// Forward and backward must round a score alike: where a device made one operation of a product
/// with `scale` and a difference in one of them alone, weights of scores of 180 differed by 7e-6 from
/// pass to pass, and slopes of a query that should cancel did not. Multiplying by `seen` keeps the two
/// apart.
#[cube]
fn scored(products: Vector<f32, Four>, scale: f32, seen: Vector<f32, Four>) -> Vector<f32, Four> {
    products * Vector::new(scale) * seen + (Vector::new(1.0f32) - seen) * Vector::new(NOTHING)
}
