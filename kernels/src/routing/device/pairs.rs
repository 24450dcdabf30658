//! Pairs of choices in two decisions.

use cubecl::prelude::*;

use super::UNITS;

/// Adds to `counts` `[from experts, to experts]` each pair of choices that a token made in two
/// decisions. Whole numbers add up to the same in any order.
#[cube(launch, launch_unchecked)]
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
