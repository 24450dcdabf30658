//! What surrounds the products: rows' statistics from those of parts, gradients of logits in the
//! place of their exponentials, sums.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use crate::routing::lanes::{max_lanes, sum_lanes};

/// Units of a workgroup.
pub(super) const UNITS: usize = 256;

/// Labels from here on are negative ones, which stand for none.
const NEGATIVE: u32 = 0x8000_0000;

/// Loss and log-sum-exp of each row, a workgroup a row; with `with_slopes` also the gradients of
/// the objective with respect to loss, and to loss and log-sum-exp together, `slopes` `[2, tokens]`.
/// A label that is neither in the vocabulary nor negative has no loss that is a number.
#[cube(launch, launch_unchecked)]
pub(super) fn row_statistics(
    partials: &[f32],
    targets: &[f32],
    labels: &[u32],
    weights: &[f32],
    losses: &mut [f32],
    log_sum_exp: &mut [f32],
    slopes: &mut [f32],
    first: usize,
    rows: usize,
    vocabulary: usize,
    parts: usize,
    scale: f32,
    z: f32,
    #[comptime] with_slopes: bool,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let mut shared = Shared::<[f32]>::new_slice(UNITS);
    let mut most = f32::min_value();
    let mut part = unit;
    while part < parts {
        let found = partials[row * parts + part];
        if found > most {
            most = found;
        }
        part += UNITS;
    }
    let most = max_lanes(&mut shared, most, UNITS);
    let mut sum = 0.0f32;
    let mut part = unit;
    while part < parts {
        let found = (partials[row * parts + part] - most).exp();
        sum += partials[(rows + row) * parts + part] * found;
        part += UNITS;
    }
    let sum = sum_lanes(&mut shared, sum, UNITS);
    if unit == 0 {
        let token = first + row;
        let label = labels[token];
        let logs = most + sum.ln();
        log_sum_exp[token] = logs;
        let mut loss = logs - targets[row];
        if label as usize >= vocabulary {
            // Not a number, which a constant of the shader could not be.
            loss = f32::reinterpret(label | 0x7FC0_0000u32);
        }
        if label >= NEGATIVE {
            loss = 0.0f32;
        }
        losses[token] = loss;
        if comptime!(with_slopes) {
            let mut slope = 0.0f32;
            if label < NEGATIVE {
                slope = weights[token] * scale;
            }
            slopes[token] = slope;
            slopes[labels.len() + token] = slope * (1.0f32 + 2.0f32 * z * logs);
        }
    }
}

/// Turns the exponentials `[rows, width]` of the logits' distances to their part's largest into
/// the logits' gradients; `width` in vectors, `slopes` as in [`row_statistics`].
#[cube(launch, launch_unchecked)]
pub(super) fn slopes_in_place<E: Float, N: Size>(
    values: &mut [Vector<E, N>],
    partials: &[f32],
    labels: &[u32],
    log_sum_exp: &[f32],
    slopes: &[f32],
    first: usize,
    rows: usize,
    width: usize,
    parts: usize,
    #[comptime] part_width: usize,
    #[define(E)] _type: ElemType,
) {
    let row = ABSOLUTE_POS / width;
    if row < rows {
        let lanes = N::value();
        let column = (ABSOLUTE_POS % width) * lanes;
        let token = first + row;
        let most = partials[row * parts + column / part_width];
        let factor = slopes[labels.len() + token] * (most - log_sum_exp[token]).exp();
        let mut result =
            Vector::<f32, N>::cast_from(values[ABSOLUTE_POS]) * Vector::<f32, N>::new(factor);
        let label = labels[token];
        #[unroll]
        for lane in 0..lanes {
            if label == (column + lane) as u32 {
                result.insert(lane, result.extract(lane) - slopes[token]);
            }
        }
        values[ABSOLUTE_POS] = Vector::cast_from(result);
    }
}

/// `to` begins with `from` and is zero after it.
#[cube(launch, launch_unchecked)]
pub(super) fn copy_padded<E: Float, N: Size>(
    from: &[Vector<E, N>],
    to: &mut [Vector<E, N>],
    held: usize,
    count: usize,
    #[define(E)] _type: ElemType,
) {
    if ABSOLUTE_POS < count {
        let mut value = Vector::<E, N>::new(E::from_int(0));
        if ABSOLUTE_POS < held {
            value = from[ABSOLUTE_POS];
        }
        to[ABSOLUTE_POS] = value;
    }
}

/// `out[first ..] = Σ parts[part]` of `count` vectors each, always in the same order.
#[cube(launch, launch_unchecked)]
pub(super) fn sum_parts<N: Size>(
    partial: &[Vector<f32, N>],
    out: &mut [Vector<f32, N>],
    first: usize,
    count: usize,
    parts: usize,
) {
    if ABSOLUTE_POS < count {
        let mut sum = partial[ABSOLUTE_POS];
        for part in 1..parts {
            sum += partial[part * count + ABSOLUTE_POS];
        }
        out[first + ABSOLUTE_POS] = sum;
    }
}

/// `values ·= factor / divisor`; touches nothing where that is 1.
#[cube(launch, launch_unchecked)]
pub(super) fn scale_in_place<N: Size>(
    values: &mut [Vector<f32, N>],
    factor: &[f32],
    divisor: f32,
    stride: usize,
) {
    let scale = factor[0] / divisor;
    if scale != 1.0f32 {
        let mut at = ABSOLUTE_POS;
        while at < values.len() {
            values[at] *= Vector::new(scale);
            at += stride;
        }
    }
}
