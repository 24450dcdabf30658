//! Sorts slots by expert: counts of tiles, a scan over tiles, a stable scatter.

use cubecl::prelude::*;

use super::UNITS;
use super::lanes::sum_before;

/// Counts the experts of each tile of given `indices` `[T, k]`: `counts` `[tiles, E]`.
#[cube(launch, launch_unchecked)]
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
#[cube(launch, launch_unchecked)]
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
#[cube(launch, launch_unchecked)]
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
