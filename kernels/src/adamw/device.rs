//! The optimizer on the device. A launch takes several tensors: each owns a run of workgroups,
//! and every workgroup [`CHUNK`] elements.

use cubecl::prelude::*;

/// Units of a workgroup.
pub const UNITS: usize = 256;

/// Elements of a workgroup.
pub const CHUNK: usize = 16 * UNITS;

/// Words of the step's outcome: the factor on gradients, whether the step is applied (1 or 0),
/// the global norm.
pub const OUTCOME: usize = 3;

/// Whether a number is infinite or none at all, by its bits: shaders may assume that neither
/// exists and leave a comparison out.
#[cube]
fn not_finite(value: f32) -> bool {
    (u32::reinterpret(value) & 0x7f80_0000u32) == 0x7f80_0000u32
}

/// Adds up what the units of a workgroup hold, always in the same order; the sum is unit 0's.
#[cube]
fn workgroup_sum(value: f32) -> f32 {
    let mut shared = Shared::<[f32]>::new_slice(UNITS);
    let unit = UNIT_POS as usize;
    shared[unit] = value;
    sync_cube();
    #[unroll]
    for step in 0..comptime!(UNITS.trailing_zeros() as usize) {
        let half = comptime!(UNITS >> (step + 1));
        if unit < half {
            let other = shared[unit + half];
            shared[unit] += other;
        }
        sync_cube();
    }
    shared[unit]
}

/// Of every chunk the sum of squares of `scale · gradient`, and how many elements are not finite:
/// two words from `2 · offset` on. `starts`: first workgroup of each tensor, and their number.
#[cube(launch, launch_unchecked)]
pub fn squares(
    gradients: &Sequence<Box<[f32]>>,
    starts: &Sequence<u32>,
    partial: &mut [f32],
    offset: u32,
    scale: f32,
) {
    let cube = CUBE_POS as u32;
    let unit = UNIT_POS as usize;
    let mut sum = 0.0f32;
    let mut bad = 0.0f32;
    #[unroll]
    for i in 0..gradients.len() {
        let gradient = gradients.index(i);
        let first = *starts.index(i);
        let end = *starts.index(comptime!(i + 1));
        if cube >= first && cube < end {
            let base = (cube - first) as usize * CHUNK + unit;
            for round in 0..comptime!(CHUNK / UNITS) {
                let at = base + round * UNITS;
                if at < gradient.len() {
                    let value = gradient[at];
                    if not_finite(value) {
                        bad += 1.0f32;
                    }
                    let value = value * scale;
                    sum += value * value;
                }
            }
        }
    }
    let sum = workgroup_sum(sum);
    let bad = workgroup_sum(bad);
    let all = *starts.index(gradients.len());
    if unit == 0 && cube < all {
        let at = 2 * (offset + cube) as usize;
        partial[at] = sum;
        partial[at + 1] = bad;
    }
}

/// The step's outcome of all chunks' sums; one workgroup. `limit`: the norm that gradients are
/// scaled down to, with `clip`. `scale`: as for [`squares()`].
#[cube(launch, launch_unchecked)]
pub fn conclude(
    partial: &[f32],
    outcome: &mut [f32],
    scale: f32,
    limit: f32,
    #[comptime] clip: bool,
) {
    let unit = UNIT_POS as usize;
    let chunks = partial.len() / 2;
    let mut sum = 0.0f32;
    let mut bad = 0.0f32;
    let mut chunk = unit;
    while chunk < chunks {
        sum += partial[2 * chunk];
        bad += partial[2 * chunk + 1];
        chunk += UNITS;
    }
    let sum = workgroup_sum(sum);
    let bad = workgroup_sum(bad);
    if unit == 0 {
        let norm = sum.sqrt();
        let mut factor = scale;
        if comptime!(clip) {
            // torch's clip_grad_norm_, epsilon included.
            let share = limit / (norm + 1e-6f32);
            if share < 1.0f32 {
                factor = scale * share;
            }
        }
        let mut applied = 1.0f32;
        if bad > 0.0f32 || not_finite(norm) {
            applied = 0.0f32;
        }
        outcome[0] = factor;
        outcome[1] = applied;
        outcome[2] = norm;
    }
}

/// One AdamW update in place, or nothing where the step is not applied. `decays`: factor on each
/// parameter before its update.
#[cube(launch, launch_unchecked)]
pub fn update(
    parameters: &mut Sequence<Box<[f32]>>,
    gradients: &Sequence<Box<[f32]>>,
    firsts: &mut Sequence<Box<[f32]>>,
    seconds: &mut Sequence<Box<[f32]>>,
    starts: &Sequence<u32>,
    decays: &Sequence<f32>,
    outcome: &[f32],
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    eps: f32,
    step_size: f32,
    root_correction: f32,
) {
    if outcome[1] == 0.0f32 {
        terminate!();
    }
    let factor = outcome[0];
    let cube = CUBE_POS as u32;
    let unit = UNIT_POS as usize;
    #[unroll]
    for i in 0..gradients.len() {
        let gradient = gradients.index(i);
        let first = *starts.index(i);
        let end = *starts.index(comptime!(i + 1));
        if cube >= first && cube < end {
            let base = (cube - first) as usize * CHUNK + unit;
            for round in 0..comptime!(CHUNK / UNITS) {
                let at = base + round * UNITS;
                if at < gradient.len() {
                    let scaled = gradient[at] * factor;
                    let m = firsts.index(i)[at] * beta1 + scaled * one_minus_beta1;
                    let v = seconds.index(i)[at] * beta2 + scaled * scaled * one_minus_beta2;
                    let change = m / (v.sqrt() / root_correction + eps) * step_size;
                    let value = parameters.index(i)[at] * *decays.index(i) - change;
                    firsts.index_mut(i)[at] = m;
                    seconds.index_mut(i)[at] = v;
                    parameters.index_mut(i)[at] = value;
                }
            }
        }
    }
}
