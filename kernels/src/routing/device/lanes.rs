//! Sums over the units of a row or a workgroup, through workgroup memory.

use cubecl::prelude::*;

use super::UNITS;

/// Sum over the lanes of a row, in one order, to each of them. All units have to call it.
#[cube]
pub fn sum_lanes(shared: &mut Shared<[f32]>, value: f32, #[comptime] lanes: usize) -> f32 {
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
pub fn max_lanes(shared: &mut Shared<[f32]>, value: f32, #[comptime] lanes: usize) -> f32 {
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
pub fn sum_before(shared: &mut Shared<[u32]>, value: u32) -> u32 {
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
