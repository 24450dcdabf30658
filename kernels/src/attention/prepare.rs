//! What the backward pass computes first: Σ dy · y of every row.
//!
//! `dy` is read as the products will read it, from a buffer in the compute type: slopes that cancel
//! then do. Rounded there and back in registers, the sum was left to the driver: NVIDIA's takes two
//! conversions that undo each other for none, and adds up what was never rounded.

use cubecl::ir::ElemType;
use cubecl::prelude::*;

use super::span::Four;

/// Units of a workgroup.
pub(super) const UNITS: usize = 256;
/// Units of a row.
const LANES: usize = 8;
/// Rows of a workgroup.
pub(super) const ROWS: usize = UNITS / LANES;

/// `dy` and `y` `[batch, time, heads, width]`, `inner` `[batch, heads, time]`; `width` counts
/// vectors.
#[cube(launch, launch_unchecked)]
pub fn prepare<E: Float>(
    dy: &[Vector<E, Four>],
    y: &[Vector<f32, Four>],
    inner: &mut [f32],
    rows: usize,
    time: usize,
    heads: usize,
    width: usize,
    #[define(E)] _element: ElemType,
) {
    let mut shared = Shared::<[f32]>::new_slice(UNITS);
    let lane = UNIT_POS as usize % LANES;
    let row = CUBE_POS * ROWS + UNIT_POS as usize / LANES;
    let mut sum = Vector::<f32, Four>::new(0.0f32);
    if row < rows {
        let mut at = lane;
        while at < width {
            sum += Vector::cast_from(dy[row * width + at]) * y[row * width + at];
            at += LANES;
        }
    }
    shared[UNIT_POS as usize] = sum.vector_sum();
    sync_cube();
    if lane == 0 && row < rows {
        let mut total = shared[UNIT_POS as usize];
        for other in 1..LANES {
            total += shared[UNIT_POS as usize + other];
        }
        let head = row % heads;
        let token = row / heads;
        inner[((token / time) * heads + head) * time + token % time] = total;
    }
}
