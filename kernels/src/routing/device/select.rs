//! The best of a row: keys that order as scores do, groups of experts, ties.

use cubecl::prelude::*;

use super::Rule;

/// The least key of an expert that may be chosen: its score is not a number. 0 is none.
const NOT_A_NUMBER: u32 = 1;

/// An integer that is ordered as scores are; what is not a number comes last.
#[cube]
pub fn key_of(score: f32) -> u32 {
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
pub fn best_of_row(
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
pub fn limit_to_groups(
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
