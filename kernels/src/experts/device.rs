//! What surrounds the experts' products: conversions, weights of rows, sums over a token's rows.

use cubecl::prelude::*;

/// The router's weight of every sorted row: 1 for shared experts, 0 for rows that nothing uses.
#[cube(launch, launch_unchecked)]
pub(super) fn row_weights(
    weights: &[f32],
    slots: &[u32],
    out: &mut [f32],
    routed: usize,
    rows: usize,
) {
    let row = ABSOLUTE_POS;
    if row < rows {
        let mut weight = 1.0f32;
        if row < routed {
            weight = 0.0f32;
            let slot = slots[row] as usize;
            if slot < routed {
                weight = weights[slot];
            }
        }
        out[row] = weight;
    }
}

/// Sums a token's rows: `out[t] = Σ w · rows[position] (+ shared rows) (+ residual[t])`, in the
/// order of the choices. Of all rows `rows` holds those from `from` to `until`; others add nothing.
#[cube(launch, launch_unchecked)]
pub(super) fn combine<E: Float, N: Size>(
    rows: &[Vector<E, N>],
    positions: &[u32],
    weights: &[f32],
    residual: &[Vector<f32, N>],
    out: &mut [Vector<f32, N>],
    tokens: usize,
    width: usize,
    routed: usize,
    from: usize,
    until: usize,
    #[comptime] top_k: usize,
    #[comptime] shared: usize,
    #[comptime] weighted: bool,
    #[comptime] residual_added: bool,
    #[define(E)] _type: cubecl::ir::ElemType,
) {
    let token = ABSOLUTE_POS / width;
    let column = ABSOLUTE_POS % width;
    if token < tokens {
        let mut sum = Vector::<f32, N>::new(0.0f32);
        for choice in 0..top_k {
            let slot = token * top_k + choice;
            let row = positions[slot] as usize;
            // Dropped slots point past the rows.
            if row < routed && row >= from && row < until {
                let values = Vector::<f32, N>::cast_from(rows[(row - from) * width + column]);
                if comptime!(weighted) {
                    sum += values * Vector::new(weights[slot]);
                } else {
                    sum += values;
                }
            }
        }
        #[unroll]
        for expert in 0..shared {
            let row = routed + expert * tokens + token;
            if row >= from && row < until {
                sum += Vector::<f32, N>::cast_from(rows[(row - from) * width + column]);
            }
        }
        if comptime!(residual_added) {
            sum += residual[token * width + column];
        }
        out[token * width + column] = sum;
    }
}

/// The gradient of each slot's weight from its shares, which lie in parts of `part` rows, `count`
/// shares of every row each; 0 for dropped slots.
#[cube(launch, launch_unchecked)]
pub(super) fn weight_gradient(
    shares: &[f32],
    positions: &[u32],
    out: &mut [f32],
    slots: usize,
    rows: usize,
    part: usize,
    #[comptime] count: usize,
) {
    let slot = ABSOLUTE_POS;
    if slot < slots {
        let row = positions[slot] as usize;
        let mut sum = 0.0f32;
        if row < slots {
            let first = row / part * part;
            let own = (rows - first).min(part);
            #[unroll]
            for share in 0..count {
                sum += shares[first * count + share * own + row - first];
            }
        }
        out[slot] = sum;
    }
}
