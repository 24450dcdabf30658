//! What the backward pass computes first: Σ dy · y of every row, and `dy` in the compute type.

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
/// vectors. `converted` is written with `convert` alone.
#[cube(launch_unchecked)]
pub fn prepare<E: Float>(
    dy: &[Vector<f32, Four>],
    y: &[Vector<f32, Four>],
    inner: &mut [f32],
    converted: &mut [Vector<E, Four>],
    rows: usize,
    time: usize,
    heads: usize,
    width: usize,
    #[comptime] convert: bool,
    #[define(E)] _element: ElemType,
) {
    let mut shared = Shared::<[f32]>::new_slice(UNITS);
    let lane = UNIT_POS as usize % LANES;
    let row = CUBE_POS * ROWS + UNIT_POS as usize / LANES;
    let mut sum = Vector::<f32, Four>::new(0.0f32);
    if row < rows {
        let mut at = lane;
        while at < width {
            let mut value = dy[row * width + at];
            if comptime!(convert) {
                // The sum is of what the products will see, so that slopes that cancel do.
                let rounded = Vector::<E, Four>::cast_from(value);
                converted[row * width + at] = rounded;
                value = Vector::cast_from(rounded);
            }
            sum += value * y[row * width + at];
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
