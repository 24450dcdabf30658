//! A tile whose operands pass through workgroup memory.
//!
//! It is `edge`×`edge`, a unit's part 8×8 of it: rows and columns `4i..4i+4` and the same half a
//! tile further, which keeps reads of workgroup memory free of conflicts. Operands lie there 16
//! deep (16 KiB at edge 128), moved in 4×4 blocks that are turned where memory runs along the sum.

use cubecl::prelude::*;

use super::super::{Access, Four, Panel};

/// Depth of a tile along the sum.
const DEPTH: usize = 16;

/// Four elements of a row from `column` on, as f32; zero where `column` passes `columns` or the
/// row is not `valid`.
#[cube]
fn four<E: Float, N: Size>(
    source: &[Vector<E, N>],
    row: usize,
    column: usize,
    columns: usize,
    valid: bool,
) -> Vector<f32, Four> {
    let mut values = Vector::<f32, Four>::new(0.0f32);
    let lanes = N::value();
    if comptime!(lanes == 4) {
        if valid && column < columns {
            values = Vector::cast_from(source[(row + column) / 4]);
        }
    } else if valid {
        #[unroll]
        for i in 0..4usize {
            if column + i < columns {
                values.insert(i, f32::cast_from(source[row + column + i].extract(0usize)));
            }
        }
    }
    values
}

/// The 4×4 block number `index` of an operand's tile: four vectors along the result, one for each
/// step of the sum.
#[cube]
fn block<E: Float, N: Size>(
    source: &[Vector<E, N>],
    tokens: &[u32],
    panel: &Panel,
    index: usize,
    k: usize,
    k_end: usize,
    #[comptime] access: Access,
    #[comptime] edge: usize,
) -> Array<Vector<f32, Four>> {
    let mut out = Array::<Vector<f32, Four>>::new(4usize);
    if comptime!(access.k_rows) {
        let column = panel.first + (index % comptime!(edge / 4)) * 4;
        let first = k + (index / comptime!(edge / 4)) * 4;
        #[unroll]
        for j in 0..4usize {
            let at = first + j;
            let valid = at < k_end;
            let mut row = at;
            if comptime!(access.gather) {
                if valid {
                    row = tokens[at] as usize;
                }
            }
            out[j] = four::<E, N>(
                source,
                panel.base + row * panel.stride,
                column,
                panel.end,
                valid,
            );
        }
    } else {
        let column = k + (index % comptime!(DEPTH / 4)) * 4;
        let inside = (index / comptime!(DEPTH / 4)) * 4;
        let mut rows = Array::<Vector<f32, Four>>::new(4usize);
        #[unroll]
        for i in 0..4usize {
            let mut at = panel.first + inside + i;
            let mut shift = 0usize;
            if comptime!(access.split) {
                if inside >= comptime!(edge / 2) {
                    at -= comptime!(edge / 2);
                    shift = panel.half;
                }
            }
            let valid = at < panel.end;
            let mut row = at + shift;
            if comptime!(access.gather) {
                if valid {
                    row = tokens[at] as usize;
                }
            }
            rows[i] = four::<E, N>(
                source,
                panel.base + row * panel.stride,
                column,
                k_end,
                valid,
            );
        }
        #[unroll]
        for j in 0..4usize {
            let mut turned = Vector::<f32, Four>::new(0.0f32);
            #[unroll]
            for i in 0..4usize {
                turned.insert(i, rows[i].extract(j));
            }
            out[j] = turned;
        }
    }
    out
}

/// Where a block goes in workgroup memory `[DEPTH, edge / 4]`.
#[cube]
fn place(
    memory: &mut Shared<[Vector<f32, Four>]>,
    block: &Array<Vector<f32, Four>>,
    index: usize,
    #[comptime] access: Access,
    #[comptime] edge: usize,
) {
    let width = comptime!(edge / 4);
    let mut depth = (index % comptime!(DEPTH / 4)) * 4;
    let mut column = index / comptime!(DEPTH / 4);
    if comptime!(access.k_rows) {
        depth = (index / width) * 4;
        column = index % width;
    }
    #[unroll]
    for j in 0..4usize {
        memory[(depth + j) * width + column] = block[j];
    }
}

/// Adds the product to a unit's 8×8 sums.
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
    #[comptime] edge: usize,
) {
    let width = comptime!(edge / 4);
    let units = comptime!(edge * edge / 64);
    let blocks = comptime!(edge / units.min(edge));
    let mut left = Shared::<[Vector<f32, Four>]>::new_slice(comptime!(DEPTH * width));
    let mut right = Shared::<[Vector<f32, Four>]>::new_slice(comptime!(DEPTH * width));
    let unit = UNIT_POS as usize;
    let down = unit / comptime!(edge / 8);
    let across = unit % comptime!(edge / 8);
    let steps = (k_end - k_begin).div_ceil(DEPTH);
    for step in 0..steps {
        let k = k_begin + step * DEPTH;
        // With more units than blocks, the first half moves one operand and the rest the other.
        if comptime!(units > edge) {
            if unit < edge {
                let moved = block::<A, NA>(a, tokens, a_panel, unit, k, k_end, a_access, edge);
                place(&mut left, &moved, unit, a_access, edge);
            } else {
                let index = unit - edge;
                let moved = block::<B, NB>(b, tokens, b_panel, index, k, k_end, b_access, edge);
                place(&mut right, &moved, index, b_access, edge);
            }
        } else {
            #[unroll]
            for i in 0..blocks {
                let index = unit + comptime!(i * units);
                let moved = block::<A, NA>(a, tokens, a_panel, index, k, k_end, a_access, edge);
                place(&mut left, &moved, index, a_access, edge);
                let moved = block::<B, NB>(b, tokens, b_panel, index, k, k_end, b_access, edge);
                place(&mut right, &moved, index, b_access, edge);
            }
        }
        sync_cube();
        // Left to the driver to unroll: written out sixteen times it took lavapipe a minute to
        // compile.
        for depth in 0..DEPTH {
            let start = depth * width;
            let upper = left[start + down];
            let lower = left[start + comptime!(width / 2) + down];
            let near = right[start + across];
            let far = right[start + comptime!(width / 2) + across];
            #[unroll]
            for i in 0..4usize {
                let value = Vector::<f32, Four>::new(upper.extract(i));
                sums[comptime!(i * 2)] += value * near;
                sums[comptime!(i * 2 + 1)] += value * far;
                let value = Vector::<f32, Four>::new(lower.extract(i));
                sums[comptime!(i * 2 + 8)] += value * near;
                sums[comptime!(i * 2 + 9)] += value * far;
            }
        }
        sync_cube();
    }
}
