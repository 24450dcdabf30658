//! Router losses, and the gradient of the logits from them and from the weights.

use cubecl::prelude::*;

use super::lanes::{max_lanes, sum_lanes};
use super::{Rule, UNITS};

/// The router losses of one decision: `values` are both terms, `objective` their weighted sum.
///
/// `sums` `[sequences, E + 2]`; `frequencies` `[sequences or 1, E]`, `rows` of them. `balance` and
/// `z` scale the terms, the other two weigh them. One workgroup.
#[cube(launch, launch_unchecked)]
pub fn terms(
    sums: &[f32],
    frequencies: &[i32],
    objective: &mut [f32],
    values: &mut [f32],
    sequences: u32,
    rows: u32,
    balance: f32,
    balance_weight: f32,
    z: f32,
    z_weight: f32,
    #[comptime] experts: usize,
) {
    let unit = UNIT_POS as usize;
    let columns = comptime!(experts + 2);
    let mut floats = Shared::<[f32]>::new_slice(UNITS);
    let mut balances = 0.0f32;
    let mut squares = 0.0f32;
    let mut at = unit;
    while at < sequences as usize * columns {
        let sequence = at / columns;
        let column = at % columns;
        if column < experts {
            let row = clamp_max(sequence, rows as usize - 1usize);
            balances += f32::cast_from(frequencies[row * experts + column]) * sums[at];
        }
        if column == comptime!(experts + 1) {
            squares += sums[at];
        }
        at += UNITS;
    }
    let balances = sum_lanes(&mut floats, balances, UNITS) * balance;
    let squares = sum_lanes(&mut floats, squares, UNITS) * z;
    if unit == 0usize {
        values[0] = balances;
        values[1] = squares;
        objective[0] = balance_weight * balances + z_weight * squares;
    }
}

/// The gradient of the logits.
///
/// `weight_gradients` `[T, k]` if `with_weights`; if `with_terms`, the gradient `[1]` of a
/// decision's objective, with `frequencies` `[rows, E]` as in [`terms`] and `balance` and `z` each
/// scale times weight. Scores are computed again from the logits. `span`: tokens of a sequence.
#[cube(launch, launch_unchecked)]
pub fn backward(
    logits: &[f32],
    indices: &[i32],
    weight_gradients: &[f32],
    objective_gradient: &[f32],
    frequencies: &[i32],
    logit_gradients: &mut [f32],
    tokens: u32,
    span: u32,
    rows: u32,
    scale: f32,
    balance: f32,
    z: f32,
    #[comptime] rule: Rule,
    #[comptime] with_weights: bool,
    #[comptime] with_terms: bool,
) {
    let lanes = comptime!(rule.lanes);
    let held = comptime!(rule.held);
    let experts = comptime!(rule.experts);
    let unit = UNIT_POS as usize;
    let lane = unit % lanes;
    let token = CUBE_POS * comptime!(UNITS / rule.lanes) + unit / lanes;
    let live = token < tokens as usize;
    let mut floats = Shared::<[f32]>::new_slice(UNITS);

    let mut logit = Array::<f32>::new(held);
    let mut present = Array::<u32>::new(held);
    let mut highest = f32::min_value();
    #[unroll]
    for j in 0..held {
        let expert = lane + comptime!(j * rule.lanes);
        present[j] = 0u32;
        logit[j] = 0.0f32;
        if live && expert < experts {
            present[j] = 1u32;
            logit[j] = logits[token * experts + expert];
            if logit[j] > highest {
                highest = logit[j];
            }
        }
    }
    let highest = max_lanes(&mut floats, highest, lanes);
    let mut softmax = Array::<f32>::new(held);
    let mut sum = 0.0f32;
    #[unroll]
    for j in 0..held {
        softmax[j] = 0.0f32;
        if present[j] == 1u32 {
            softmax[j] = (logit[j] - highest).exp();
            sum += softmax[j];
        }
    }
    let sum = sum_lanes(&mut floats, sum, lanes);
    let mut score = Array::<f32>::new(held);
    #[unroll]
    for j in 0..held {
        softmax[j] /= sum;
        score[j] = softmax[j];
        if comptime!(rule.sigmoid) {
            score[j] = 0.0f32;
            if present[j] == 1u32 {
                score[j] = 1.0f32 / (1.0f32 + (-logit[j]).exp());
            }
        }
    }

    // Gradient of each score.
    let mut gradient = Array::<f32>::new(held);
    #[unroll]
    for j in 0..held {
        gradient[j] = 0.0f32;
    }
    if comptime!(with_weights) {
        let mut chosen = Array::<u32>::new(held);
        #[unroll]
        for j in 0..held {
            chosen[j] = 0u32;
        }
        if live {
            for choice in 0..comptime!(rule.top_k) {
                let slot = token * comptime!(rule.top_k) + choice;
                let expert = indices[slot] as usize;
                let value = weight_gradients[slot] * scale;
                #[unroll]
                for j in 0..held {
                    if lane + comptime!(j * rule.lanes) == expert {
                        gradient[j] = value;
                        chosen[j] = 1u32;
                    }
                }
            }
        }
        if comptime!(rule.normalise) {
            let mut total = 0.0f32;
            let mut inner = 0.0f32;
            #[unroll]
            for j in 0..held {
                if chosen[j] == 1u32 {
                    total += score[j];
                    inner += gradient[j] * score[j];
                }
            }
            let total = sum_lanes(&mut floats, total, lanes) + 1e-20f32;
            let inner = sum_lanes(&mut floats, inner, lanes) / total;
            #[unroll]
            for j in 0..held {
                if chosen[j] == 1u32 {
                    gradient[j] = (gradient[j] - inner) / total;
                }
            }
        }
    }
    let mut slope = 0.0f32;
    if comptime!(with_terms) {
        let upstream = objective_gradient[0];
        slope = upstream * z * 2.0f32 * (highest + sum.ln());
        let row = clamp_max(token / span as usize, rows as usize - 1usize);
        let mut of_probability = Array::<f32>::new(held);
        let mut total = 0.0f32;
        let mut inner = 0.0f32;
        #[unroll]
        for j in 0..held {
            of_probability[j] = 0.0f32;
            if present[j] == 1u32 {
                let at = row * experts + lane + comptime!(j * rule.lanes);
                of_probability[j] = upstream * balance * f32::cast_from(frequencies[at]);
                total += score[j];
                inner += of_probability[j] * score[j];
            }
        }
        if comptime!(rule.sigmoid) {
            let total = sum_lanes(&mut floats, total, lanes) + 1e-20f32;
            let inner = sum_lanes(&mut floats, inner, lanes) / total;
            #[unroll]
            for j in 0..held {
                gradient[j] += (of_probability[j] - inner) / total;
            }
        } else {
            #[unroll]
            for j in 0..held {
                gradient[j] += of_probability[j];
            }
        }
    }
    let mut mean = 0.0f32;
    if comptime!(!rule.sigmoid) {
        let mut inner = 0.0f32;
        #[unroll]
        for j in 0..held {
            inner += gradient[j] * score[j];
        }
        mean = sum_lanes(&mut floats, inner, lanes);
    }
    #[unroll]
    for j in 0..held {
        if present[j] == 1u32 {
            let mut result = score[j] * (gradient[j] - mean);
            if comptime!(rule.sigmoid) {
                result = score[j] * (1.0f32 - score[j]) * gradient[j];
            }
            if comptime!(with_terms) {
                result += slope * softmax[j];
            }
            logit_gradients[token * experts + lane + comptime!(j * rule.lanes)] = result;
        }
    }
}
