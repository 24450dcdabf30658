//! Routing on the device.
//!
//! A row of units shares a token: lane `l` of `lanes` holds experts `l`, `l + lanes`, … in
//! registers. Tokens are taken in tiles, never across two sequences, so that what a tile counted
//! says where its slots go: [`choose`] or [`count`] count, [`scan`] adds up over tiles and
//! [`scatter`] places.

use cubecl::prelude::*;

/// Units of a workgroup.
pub const UNITS: usize = 256;

/// Most experts that one lane holds.
pub const HELD: usize = 8;

/// Most experts of a router: a lane for each [`HELD`] of them, and a row in one workgroup; sums
/// over all of them have four to a unit.
pub const MAX_EXPERTS: usize = 1024;

/// The least key of an expert that may be chosen: its score is not a number. 0 is none.
const NOT_A_NUMBER: u32 = 1;

/// What is the same for all tokens of a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Experts.
    pub experts: usize,
    /// Choices of a token.
    pub top_k: usize,
    /// Units of a row, a power of two.
    pub lanes: usize,
    /// Experts of a lane.
    pub held: usize,
    /// Scores are sigmoids, not a softmax.
    pub sigmoid: bool,
    /// A bias takes part in the choice.
    pub biased: bool,
    /// Divide weights by their sum.
    pub normalise: bool,
    /// Groups of experts; 0: no limit.
    pub groups: usize,
    /// Groups that a token chooses from.
    pub chosen_groups: usize,
    /// A group is ranked by the sum of its two best.
    pub best_two: bool,
}

/// Sum over the lanes of a row, in one order, to each of them. All units have to call it.
#[cube]
fn sum_lanes(shared: &mut Shared<[f32]>, value: f32, #[comptime] lanes: usize) -> f32 {
    let unit = UNIT_POS as usize;
    let lane = unit % lanes;
    // An earlier result may still be being read.
    sync_cube();
    shared[unit] = value;
    sync_cube();
    #[unroll]
    for level in 0..comptime!(lanes.trailing_zeros() as usize) {
        let half = comptime!(lanes >> (level + 1));
        if lane < half {
            let other = shared[unit + half];
            shared[unit] += other;
        }
        sync_cube();
    }
    shared[unit - lane]
}

/// As [`sum_lanes`], the largest.
#[cube]
fn max_lanes(shared: &mut Shared<[f32]>, value: f32, #[comptime] lanes: usize) -> f32 {
    let unit = UNIT_POS as usize;
    let lane = unit % lanes;
    sync_cube();
    shared[unit] = value;
    sync_cube();
    #[unroll]
    for level in 0..comptime!(lanes.trailing_zeros() as usize) {
        let half = comptime!(lanes >> (level + 1));
        if lane < half {
            let other = shared[unit + half];
            if other > shared[unit] {
                shared[unit] = other;
            }
        }
        sync_cube();
    }
    shared[unit - lane]
}

/// Sum of what the units before this one hold. All units have to call it.
#[cube]
fn sum_before(shared: &mut Shared<[u32]>, value: u32) -> u32 {
    let unit = UNIT_POS as usize;
    sync_cube();
    shared[unit] = value;
    sync_cube();
    #[unroll]
    for level in 0..comptime!(UNITS.trailing_zeros() as usize) {
        let reach = comptime!(1usize << level);
        let mut earlier = 0u32;
        if unit >= reach {
            earlier = shared[unit - reach];
        }
        sync_cube();
        shared[unit] += earlier;
        sync_cube();
    }
    shared[unit] - value
}

/// An integer that is ordered as scores are; what is not a number comes last.
#[cube]
fn key_of(score: f32) -> u32 {
    let bits = u32::reinterpret(score);
    let mut key = bits | 0x8000_0000u32;
    if bits >= 0x8000_0000u32 {
        key = !bits;
    }
    if (bits & 0x7fff_ffffu32) > 0x7f80_0000u32 {
        key = NOT_A_NUMBER;
    }
    key
}

/// Index of the largest of a row's keys, the lowest of equal ones, to each of its lanes. Key `j`
/// of a lane has index `lane + j · lanes`. All units have to call it.
#[cube]
fn best_of_row(
    keys: &Array<u32>,
    shared_keys: &mut Shared<[u32]>,
    shared_indices: &mut Shared<[u32]>,
    #[comptime] held: usize,
    #[comptime] lanes: usize,
) -> u32 {
    let unit = UNIT_POS as usize;
    let lane = unit % lanes;
    let mut key = 0u32;
    let mut index = lane as u32;
    #[unroll]
    for j in 0..held {
        if keys[j] > key {
            key = keys[j];
            index = (lane + comptime!(j * lanes)) as u32;
        }
    }
    sync_cube();
    shared_keys[unit] = key;
    shared_indices[unit] = index;
    sync_cube();
    #[unroll]
    for level in 0..comptime!(lanes.trailing_zeros() as usize) {
        let half = comptime!(lanes >> (level + 1));
        if lane < half {
            let other_key = shared_keys[unit + half];
            let other = shared_indices[unit + half];
            let own_key = shared_keys[unit];
            let own = shared_indices[unit];
            if other_key > own_key || (other_key == own_key && other < own) {
                shared_keys[unit] = other_key;
                shared_indices[unit] = other;
            }
        }
        sync_cube();
    }
    shared_indices[unit - lane]
}

/// Leaves of a row's keys those of experts in the best groups, and sets the others to 0.
#[cube]
fn limit_to_groups(
    keys: &mut Array<u32>,
    staged: &mut Shared<[u32]>,
    shared_keys: &mut Shared<[u32]>,
    shared_indices: &mut Shared<[u32]>,
    ranked: &Array<f32>,
    #[comptime] rule: Rule,
) {
    let unit = UNIT_POS as usize;
    let lane = unit % rule.lanes;
    let row = comptime!(rule.lanes * rule.held) * (unit / rule.lanes);
    let size = comptime!(rule.experts / rule.groups);
    sync_cube();
    #[unroll]
    for j in 0..comptime!(rule.held) {
        staged[row + lane + comptime!(j * rule.lanes)] = u32::reinterpret(ranked[j]);
    }
    sync_cube();
    let mut groups = Array::<u32>::new(comptime!(rule.held));
    #[unroll]
    for j in 0..comptime!(rule.held) {
        let group = lane + comptime!(j * rule.lanes);
        groups[j] = 0u32;
        if group < rule.groups {
            // Of scores that are not numbers none is ever above another.
            let mut first = f32::min_value();
            let mut second = f32::min_value();
            let mut seen = 0u32;
            for member in 0..size {
                let value = f32::reinterpret(staged[row + group * size + member]);
                if key_of(value) > NOT_A_NUMBER {
                    if seen == 0u32 || value > first {
                        second = first;
                        first = value;
                    } else if seen == 1u32 || value > second {
                        second = value;
                    }
                    seen += 1u32;
                }
            }
            let mut rank = key_of(first);
            if comptime!(rule.best_two && rule.experts > rule.groups) {
                rank = key_of(first + second);
                if seen < 2u32 {
                    rank = NOT_A_NUMBER;
                }
            }
            if seen == 0u32 {
                rank = NOT_A_NUMBER;
            }
            groups[j] = rank;
        }
    }
    let mut open = Array::<u32>::new(comptime!(rule.held));
    #[unroll]
    for j in 0..comptime!(rule.held) {
        open[j] = 0u32;
    }
    for _ in 0..comptime!(rule.chosen_groups) {
        let best = best_of_row(
            &groups,
            shared_keys,
            shared_indices,
            comptime!(rule.held),
            comptime!(rule.lanes),
        ) as usize;
        #[unroll]
        for j in 0..comptime!(rule.held) {
            let index = lane + comptime!(j * rule.lanes);
            if index == best {
                groups[j] = 0u32;
            }
            if index / size == best {
                open[j] = keys[j];
            }
        }
    }
    #[unroll]
    for j in 0..comptime!(rule.held) {
        keys[j] = open[j];
    }
}

/// Scores, choice, weights and what a tile counts, of all tokens.
///
/// `logits` `[T, E]`, `bias` `[E]` (anything where the rule has none); out: `indices` and `weights`
/// `[T, k]`, `counts` `[tiles, E]`, `partials` `[tiles, E + 2]`: over the tile's tokens the sum of
/// each expert's probability, of entropies, of squared log-sum-exps. `span`: tokens of a sequence,
/// which `per_sequence` tiles of `tile` tokens cover.
#[cube(launch_unchecked)]
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

/// Counts the experts of each tile of given `indices` `[T, k]`: `counts` `[tiles, E]`.
#[cube(launch_unchecked)]
pub fn count(
    indices: &[i32],
    counts: &mut [u32],
    tokens: u32,
    tile: u32,
    tiles: u32,
    #[comptime] top_k: usize,
    #[comptime] experts: usize,
) {
    let number = CUBE_POS;
    if number >= tiles as usize {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let histogram = Shared::<[Atomic<u32>]>::new_slice(experts);
    let mut expert = unit;
    while expert < experts {
        histogram[expert].store(0u32);
        expert += UNITS;
    }
    sync_cube();
    let first = number * tile as usize;
    let last = clamp_max(first + tile as usize, tokens as usize);
    let mut slot = first * top_k + unit;
    while slot < last * top_k {
        let chosen = indices[slot] as usize;
        if chosen < experts {
            histogram[chosen].fetch_add(1u32);
        }
        slot += UNITS;
    }
    sync_cube();
    let mut expert = unit;
    while expert < experts {
        counts[number * experts + expert] = histogram[expert].load();
        expert += UNITS;
    }
}

/// Adds up over tiles, a workgroup a column.
///
/// `counts` `[tiles, E]` becomes what earlier tiles counted; `chosen` `[E]` is the whole. With
/// `sums`: `partials` `[tiles, E + 2]` summed over the tiles of each sequence give `sums`
/// `[sequences, E + 2]`, and `chosen_by_sequence` `[sequences, E]` is the like of the counts.
#[cube(launch_unchecked)]
pub fn scan(
    counts: &mut [u32],
    partials: &[f32],
    chosen: &mut [i32],
    sums: &mut [f32],
    chosen_by_sequence: &mut [i32],
    tiles: u32,
    per_sequence: u32,
    sequences: u32,
    // Power of two: the units that share a sequence.
    shares: u32,
    #[comptime] experts: usize,
    #[comptime] with_sums: bool,
) {
    let column = CUBE_POS;
    let columns = comptime!(experts + 2);
    if column >= columns {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let mut whole = Shared::<[u32]>::new_slice(UNITS);
    let mut floats = Shared::<[f32]>::new_slice(UNITS);
    if comptime!(with_sums) {
        let share = unit % shares as usize;
        let mut start = 0usize;
        while start < sequences as usize {
            let sequence = start + unit / shares as usize;
            let mut sum = 0.0f32;
            let mut own = 0u32;
            if sequence < sequences as usize {
                let mut at = share;
                while at < per_sequence as usize {
                    let number = sequence * per_sequence as usize + at;
                    sum += partials[number * columns + column];
                    if column < experts {
                        own += counts[number * experts + column];
                    }
                    at += shares as usize;
                }
            }
            sync_cube();
            floats[unit] = sum;
            whole[unit] = own;
            sync_cube();
            let mut half = shares as usize / 2usize;
            while half > 0usize {
                if share < half {
                    let other = floats[unit + half];
                    floats[unit] += other;
                    let other = whole[unit + half];
                    whole[unit] += other;
                }
                sync_cube();
                half /= 2usize;
            }
            if share == 0usize && sequence < sequences as usize {
                sums[sequence * columns + column] = floats[unit];
                if column < experts {
                    chosen_by_sequence[sequence * experts + column] = whole[unit] as i32;
                }
            }
            start += UNITS / shares as usize;
        }
    }
    // What follows writes over the counts that the loop above reads.
    sync_cube();
    let each = (tiles as usize + comptime!(UNITS - 1)) / UNITS;
    let first = unit * each;
    let last = clamp_max(first + each, tiles as usize);
    let mut own = 0u32;
    if column < experts {
        let mut number = first;
        while number < last {
            own += counts[number * experts + column];
            number += 1usize;
        }
    }
    let mut before = sum_before(&mut whole, own);
    if column < experts {
        if unit == comptime!(UNITS - 1) {
            chosen[column] = (before + own) as i32;
        }
        let mut number = first;
        while number < last {
            let here = counts[number * experts + column];
            counts[number * experts + column] = before;
            before += here;
            number += 1usize;
        }
    }
}

/// Sorts slots by expert, those of one expert by number.
///
/// `before` `[tiles, E]` and `chosen` `[E]` as [`scan`] left them; `capacity` is the most that an
/// expert keeps. Out: `offsets` `[E + 1]`, `slots` and `positions` `[T · k]`, where `T · k` stands
/// for none.
#[cube(launch_unchecked)]
pub fn scatter(
    indices: &[i32],
    before: &[u32],
    chosen: &[i32],
    offsets: &mut [i32],
    slots: &mut [i32],
    positions: &mut [i32],
    tokens: u32,
    span: u32,
    tile: u32,
    per_sequence: u32,
    tiles: u32,
    capacity: u32,
    #[comptime] top_k: usize,
    #[comptime] experts: usize,
) {
    let number = CUBE_POS;
    if number >= tiles as usize {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let mut starts = Shared::<[u32]>::new_slice(comptime!(experts + 1));
    let next = Shared::<[Atomic<u32>]>::new_slice(experts);
    let mut scratch = Shared::<[u32]>::new_slice(UNITS);

    let each = comptime!(experts.div_ceil(UNITS));
    let mut own = 0u32;
    #[unroll]
    for j in 0..each {
        let expert = unit * each + j;
        if expert < experts {
            own += clamp_max(chosen[expert] as u32, capacity);
        }
    }
    let mut start = sum_before(&mut scratch, own);
    #[unroll]
    for j in 0..each {
        let expert = unit * each + j;
        if expert < experts {
            starts[expert] = start;
            start += clamp_max(chosen[expert] as u32, capacity);
            next[expert].store(before[number * experts + expert]);
            if expert == comptime!(experts - 1) {
                starts[experts] = start;
            }
        }
    }
    sync_cube();
    if number == 0usize {
        let mut expert = unit;
        while expert <= experts {
            offsets[expert] = starts[expert] as i32;
            expert += UNITS;
        }
    }

    let none = tokens * comptime!(top_k as u32);
    let kept = starts[experts] as usize;
    let sequence = number / per_sequence as usize;
    let token = sequence * span as usize + (number % per_sequence as usize) * tile as usize;
    let first = token * top_k;
    let last = clamp_max(token + tile as usize, (sequence + 1usize) * span as usize) * top_k;
    let mut begin = first;
    while begin < last {
        let slot = begin + unit;
        let mut expert = comptime!(experts as u32).runtime();
        if slot < last {
            expert = indices[slot] as u32;
        }
        scratch[unit] = expert;
        sync_cube();
        let valid = slot < last && expert < comptime!(experts as u32);
        if valid {
            let mut rank = next[expert as usize].load();
            for earlier in 0..unit {
                if scratch[earlier] == expert {
                    rank += 1u32;
                }
            }
            let mut position = none;
            if rank < capacity {
                position = starts[expert as usize] + rank;
                slots[position as usize] = slot as i32;
            }
            positions[slot] = position as i32;
        }
        if slot < last && slot >= kept {
            slots[slot] = none as i32;
        }
        sync_cube();
        if valid {
            next[expert as usize].fetch_add(1u32);
        }
        sync_cube();
        begin += UNITS;
    }
}

/// The router losses of one decision: `values` are both terms, `objective` their weighted sum.
///
/// `sums` `[sequences, E + 2]`; `frequencies` `[sequences or 1, E]`, `rows` of them. `balance` and
/// `z` scale the terms, the other two weigh them. One workgroup.
#[cube(launch_unchecked)]
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
#[cube(launch_unchecked)]
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

/// Adds to `counts` `[from experts, to experts]` each pair of choices that a token made in two
/// decisions. Whole numbers add up to the same in any order.
#[cube(launch_unchecked)]
pub fn transitions(
    from: &[i32],
    to: &[i32],
    counts: &[Atomic<u32>],
    length: u32,
    to_experts: u32,
    #[comptime] from_k: usize,
    #[comptime] to_k: usize,
) {
    let slot = CUBE_POS * UNITS + UNIT_POS as usize;
    if slot < length as usize {
        let token = slot / from_k;
        let base = from[slot] as usize * to_experts as usize;
        for choice in 0..to_k {
            let target = to[token * to_k + choice] as usize;
            counts[base + target].fetch_add(1u32);
        }
    }
}
