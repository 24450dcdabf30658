//! Scores and choice of every token.

use cubecl::prelude::*;

use super::lanes::{max_lanes, sum_lanes};
use super::select::{best_of_row, key_of, limit_to_groups};
use super::{Rule, UNITS};

/// Scores, choice, weights and what a tile counts, of all tokens.
///
/// `logits` `[T, E]`, `bias` `[E]` (anything where the rule has none); out: `indices` and `weights`
/// `[T, k]`, `counts` `[tiles, E]`, `partials` `[tiles, E + 2]`: over the tile's tokens the sum of
/// each expert's probability, of entropies, of squared log-sum-exps. `span`: tokens of a sequence,
/// which `per_sequence` tiles of `tile` tokens cover.
#[cube(launch, launch_unchecked)]
pub fn choose(
    logits: &[f32],
    bias: &[f32],
    indices: &mut [i32],
    weights: &mut [f32],
    counts: &mut [u32],
    partials: &mut [f32],
    span: u32,
    tile: u32,
    per_sequence: u32,
    tiles: u32,
    scale: f32,
    #[comptime] rule: Rule,
) {
    let number = CUBE_POS;
    if number >= tiles as usize {
        terminate!();
    }
    let lanes = comptime!(rule.lanes);
    let held = comptime!(rule.held);
    let experts = comptime!(rule.experts);
    let rows = comptime!(UNITS / rule.lanes);
    let unit = UNIT_POS as usize;
    let lane = unit % lanes;
    let row = unit / lanes;
    let sequence = number / per_sequence as usize;
    let first = sequence * span as usize + (number % per_sequence as usize) * tile as usize;
    let last = clamp_max(first + tile as usize, (sequence + 1usize) * span as usize);

    let histogram = Shared::<[Atomic<u32>]>::new_slice(experts);
    let mut floats = Shared::<[f32]>::new_slice(UNITS);
    let mut shared_keys = Shared::<[u32]>::new_slice(UNITS);
    let mut shared_indices = Shared::<[u32]>::new_slice(UNITS);
    let mut staged = Shared::<[u32]>::new_slice(comptime!(UNITS * rule.held));
    let mut expert = unit;
    while expert < experts {
        histogram[expert].store(0u32);
        expert += UNITS;
    }
    sync_cube();

    let mut masses = Array::<f32>::new(held);
    #[unroll]
    for j in 0..held {
        masses[j] = 0.0f32;
    }
    let mut entropies = 0.0f32;
    let mut squares = 0.0f32;
    let mut start = first;
    while start < last {
        let token = start + row;
        let live = token < last;
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
        let mut score = Array::<f32>::new(held);
        let mut sum = 0.0f32;
        #[unroll]
        for j in 0..held {
            score[j] = 0.0f32;
            if present[j] == 1u32 {
                score[j] = (logit[j] - highest).exp();
                sum += score[j];
            }
        }
        let sum = sum_lanes(&mut floats, sum, lanes);
        let log_sum = highest + sum.ln();
        if live && lane == 0usize {
            squares += log_sum * log_sum;
        }
        let mut total = 1.0f32;
        if comptime!(rule.sigmoid) {
            let mut own = 0.0f32;
            #[unroll]
            for j in 0..held {
                if present[j] == 1u32 {
                    score[j] = 1.0f32 / (1.0f32 + (-logit[j]).exp());
                    own += score[j];
                }
            }
            total = sum_lanes(&mut floats, own, lanes) + 1e-20f32;
        } else {
            #[unroll]
            for j in 0..held {
                score[j] /= sum;
            }
        }
        let mut ranked = Array::<f32>::new(held);
        let mut keys = Array::<u32>::new(held);
        #[unroll]
        for j in 0..held {
            ranked[j] = score[j];
            keys[j] = 0u32;
            if present[j] == 1u32 {
                let probability = score[j] / total;
                masses[j] += probability;
                if probability > 0.0f32 {
                    entropies -= probability * probability.ln();
                }
                if comptime!(rule.biased) {
                    ranked[j] = score[j] + bias[lane + comptime!(j * rule.lanes)];
                }
                keys[j] = key_of(ranked[j]);
            }
        }
        if comptime!(rule.groups > 0) {
            limit_to_groups(
                &mut keys,
                &mut staged,
                &mut shared_keys,
                &mut shared_indices,
                &ranked,
                rule,
            );
        }
        let mut ranks = Array::<u32>::new(held);
        #[unroll]
        for j in 0..held {
            ranks[j] = comptime!(rule.top_k as u32).runtime();
        }
        let mut weight_sum = 0.0f32;
        for choice in 0..comptime!(rule.top_k as u32) {
            let best = best_of_row(&keys, &mut shared_keys, &mut shared_indices, held, lanes);
            #[unroll]
            for j in 0..held {
                if (lane + comptime!(j * rule.lanes)) as u32 == best {
                    keys[j] = 0u32;
                    ranks[j] = choice;
                    weight_sum += score[j];
                }
            }
        }
        let mut factor = scale;
        if comptime!(rule.normalise) {
            factor = scale / (sum_lanes(&mut floats, weight_sum, lanes) + 1e-20f32);
        }
        #[unroll]
        for j in 0..held {
            if present[j] == 1u32 && ranks[j] < comptime!(rule.top_k as u32) {
                let expert = lane + comptime!(j * rule.lanes);
                let slot = token * comptime!(rule.top_k) + ranks[j] as usize;
                indices[slot] = expert as i32;
                weights[slot] = score[j] * factor;
                histogram[expert].fetch_add(1u32);
            }
        }
        start += rows;
    }

    sync_cube();
    let mut expert = unit;
    while expert < experts {
        counts[number * experts + expert] = histogram[expert].load();
        expert += UNITS;
    }
    let width = comptime!(rule.lanes * rule.held);
    #[unroll]
    for j in 0..held {
        staged[row * width + lane + comptime!(j * rule.lanes)] = u32::reinterpret(masses[j]);
    }
    sync_cube();
    let columns = comptime!(rule.experts + 2);
    let mut expert = unit;
    while expert < experts {
        let mut mass = 0.0f32;
        for row in 0..rows {
            mass += f32::reinterpret(staged[row * width + expert]);
        }
        partials[number * columns + expert] = mass;
        expert += UNITS;
    }
    let entropies = sum_lanes(&mut floats, entropies, UNITS);
    let squares = sum_lanes(&mut floats, squares, UNITS);
    if unit == 0usize {
        partials[number * columns + experts] = entropies;
        partials[number * columns + experts + 1usize] = squares;
    }
}
