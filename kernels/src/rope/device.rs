//! Rotary embedding on the device: a unit turns one pair or copies one feature.

use cubecl::prelude::*;

/// Units of a workgroup.
pub const UNITS: usize = 256;

/// Where an element of a tensor `[batch, heads, time, width]` lies.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub struct Strides {
    /// Between sequences.
    pub batch: u32,
    /// Between heads.
    pub head: u32,
    /// Between tokens.
    pub time: u32,
    /// Between features.
    pub feature: u32,
}

/// Rotates the last `2 · pairs` features of every head and copies those before.
///
/// `x` lies as `strides` say, `y` `[batch, heads, time, width]` is contiguous, `cos` and `sin` are
/// `[batch or 1, time, pairs]` with `angle_batch` elements between sequences. With `inverse` it
/// rotates the other way.
#[cube(launch, launch_unchecked)]
pub fn rotate(
    x: &[f32],
    cos: &[f32],
    sin: &[f32],
    y: &mut [f32],
    strides: Strides,
    heads: u32,
    time: u32,
    width: u32,
    pairs: u32,
    angle_batch: u32,
    items: u32,
    #[comptime] interleaved: bool,
    #[comptime] inverse: bool,
) {
    let position = CUBE_POS * UNITS + UNIT_POS as usize;
    if position >= items as usize {
        terminate!();
    }
    let item = position as u32;
    let kept = width - 2 * pairs;
    let row = item / (kept + pairs);
    let part = item % (kept + pairs);
    let token = row % time;
    let head = row / time % heads;
    let batch = row / time / heads;
    let from = batch * strides.batch + head * strides.head + token * strides.time;
    let to = row * width;
    if part < kept {
        y[(to + part) as usize] = x[(from + part * strides.feature) as usize];
    } else {
        let pair = part - kept;
        let mut first = kept + pair;
        let mut second = kept + pair + pairs;
        if comptime!(interleaved) {
            first = kept + 2 * pair;
            second = kept + 2 * pair + 1;
        }
        let angle = (batch * angle_batch + token * pairs + pair) as usize;
        let cosine = cos[angle];
        let mut sine = sin[angle];
        if comptime!(inverse) {
            sine = -sine;
        }
        let a = x[(from + first * strides.feature) as usize];
        let b = x[(from + second * strides.feature) as usize];
        y[(to + first) as usize] = a * cosine - b * sine;
        y[(to + second) as usize] = b * cosine + a * sine;
    }
}
