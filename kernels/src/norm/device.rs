//! RMS normalisation on the device: rows are shared by groups of units of one workgroup.

use cubecl::prelude::*;

/// Units of a workgroup.
pub const UNITS: usize = 256;

/// Columns of one workgroup of [`column_sums()`], and the units that share a column.
pub const COLUMNS: usize = 16;

/// Adds up what the `lanes` units (a power of two) of a row hold, always in the same order.
/// Returns the sum to each of them. Every unit of the workgroup has to call it.
#[cube]
fn row_sum(shared: &mut Shared<[f32]>, value: f32, #[comptime] lanes: usize) -> f32 {
    let unit = UNIT_POS as usize;
    let lane = unit % lanes;
    // What an earlier call left may still be being read.
    sync_cube();
    shared[unit] = value;
    sync_cube();
    #[unroll]
    for step in 0..comptime!(lanes.trailing_zeros() as usize) {
        let half = comptime!(lanes >> (step + 1));
        if lane < half {
            let other = shared[unit + half];
            shared[unit] += other;
        }
        sync_cube();
    }
    shared[unit - lane]
}

#[cube]
fn inverse_of(squares: f32, width: usize, eps: f32) -> f32 {
    1.0f32 / (squares / f32::cast_from(width as u32) + eps).sqrt()
}

/// `y = x · inverse_rms · weight`, and `inverse_rms` of every row.
#[cube(launch, launch_unchecked)]
pub fn forward<N: Size>(
    x: &[Vector<f32, N>],
    weight: &[Vector<f32, N>],
    y: &mut [Vector<f32, N>],
    inverse_rms: &mut [f32],
    rows: u32,
    width: u32,
    eps: f32,
    #[comptime] lanes: usize,
) {
    let mut shared = Shared::<[f32]>::new_slice(UNITS);
    let unit = UNIT_POS as usize;
    let lane = unit % lanes;
    let row = CUBE_POS * comptime!(UNITS / lanes) + unit / lanes;
    let vectors = weight.len();
    let base = row * vectors;
    let present = row < rows as usize;
    let mut squares = Vector::<f32, N>::new(0.0f32);
    if present {
        let mut at = lane;
        while at < vectors {
            let value = x[base + at];
            squares += value * value;
            at += lanes;
        }
    }
    let sum = row_sum(&mut shared, squares.vector_sum(), lanes);
    if present {
        let inverse = inverse_of(sum, width as usize, eps);
        let scale = Vector::<f32, N>::new(inverse);
        let mut at = lane;
        while at < vectors {
            y[base + at] = x[base + at] * scale * weight[at];
            at += lanes;
        }
        if lane == 0 {
            inverse_rms[row] = inverse;
        }
    }
}

/// `sum = x + residual`, and of it what [`forward()`] computes.
#[cube(launch, launch_unchecked)]
pub fn forward_add<N: Size>(
    x: &[Vector<f32, N>],
    residual: &[Vector<f32, N>],
    weight: &[Vector<f32, N>],
    sum: &mut [Vector<f32, N>],
    y: &mut [Vector<f32, N>],
    inverse_rms: &mut [f32],
    rows: u32,
    width: u32,
    eps: f32,
    #[comptime] lanes: usize,
) {
    let mut shared = Shared::<[f32]>::new_slice(UNITS);
    let unit = UNIT_POS as usize;
    let lane = unit % lanes;
    let row = CUBE_POS * comptime!(UNITS / lanes) + unit / lanes;
    let vectors = weight.len();
    let base = row * vectors;
    let present = row < rows as usize;
    let mut squares = Vector::<f32, N>::new(0.0f32);
    if present {
        let mut at = lane;
        while at < vectors {
            let value = x[base + at] + residual[base + at];
            sum[base + at] = value;
            squares += value * value;
            at += lanes;
        }
    }
    let total = row_sum(&mut shared, squares.vector_sum(), lanes);
    if present {
        let inverse = inverse_of(total, width as usize, eps);
        let scale = Vector::<f32, N>::new(inverse);
        let mut at = lane;
        while at < vectors {
            // The same unit wrote it.
            y[base + at] = sum[base + at] * scale * weight[at];
            at += lanes;
        }
        if lane == 0 {
            inverse_rms[row] = inverse;
        }
    }
}

/// Gradient of `x` in one pass over `dy` and `x`, and for each workgroup, which takes `block`
/// rows in `rounds` of as many as it holds at a time, its rows' share of the gradient of `weight`.
///
/// With `onto` the gradient of `x` is added to what `dx` holds. `tiles`: vectors of a row that
/// one unit takes.
#[cube(launch, launch_unchecked)]
pub fn backward<N: Size>(
    dy: &[Vector<f32, N>],
    x: &[Vector<f32, N>],
    weight: &[Vector<f32, N>],
    inverse_rms: &[f32],
    dx: &mut [Vector<f32, N>],
    partial: &mut [Vector<f32, N>],
    rows: u32,
    width: u32,
    block: u32,
    rounds: u32,
    #[comptime] lanes: usize,
    #[comptime] tiles: usize,
    #[comptime] onto: bool,
) {
    let slots = comptime!(UNITS / lanes);
    let unrolled = comptime!(tiles <= 8);
    let mut shared = Shared::<[f32]>::new_slice(UNITS);
    let mut shares = Shared::<[Vector<f32, N>]>::new_slice(UNITS);
    let unit = UNIT_POS as usize;
    let lane = unit % lanes;
    let slot = unit / lanes;
    let vectors = weight.len();
    let first = CUBE_POS * block as usize;
    let mut end = first + block as usize;
    if end > rows as usize {
        end = rows as usize;
    }
    let mut sums = Array::<Vector<f32, N>>::new(tiles);
    #[unroll(unrolled)]
    for tile in 0..tiles {
        sums[tile] = Vector::<f32, N>::new(0.0f32);
    }
    for round in 0..rounds as usize {
        let row = first + round * slots + slot;
        let base = row * vectors;
        let present = row < end;
        let mut dot = Vector::<f32, N>::new(0.0f32);
        if present {
            let mut at = lane;
            while at < vectors {
                dot += dy[base + at] * weight[at] * x[base + at];
                at += lanes;
            }
        }
        let dot = row_sum(&mut shared, dot.vector_sum(), lanes);
        if present {
            let inverse = inverse_rms[row];
            let scale = Vector::<f32, N>::new(inverse);
            let pull = dot * inverse * inverse * inverse / f32::cast_from(width);
            let pull = Vector::<f32, N>::new(pull);
            #[unroll(unrolled)]
            for tile in 0..tiles {
                let at = lane + tile * lanes;
                if at < vectors {
                    let gradient = dy[base + at];
                    let value = x[base + at];
                    sums[tile] += gradient * value * scale;
                    let mut result = gradient * weight[at] * scale - value * pull;
                    if comptime!(onto) {
                        result += dx[base + at];
                    }
                    dx[base + at] = result;
                }
            }
        }
    }
    #[unroll(unrolled)]
    for tile in 0..tiles {
        sync_cube();
        shares[unit] = sums[tile];
        sync_cube();
        let at = lane + tile * lanes;
        if slot == 0 && at < vectors {
            let mut total = shares[lane];
            for other in 1..slots {
                total += shares[other * lanes + lane];
            }
            partial[CUBE_POS * vectors + at] = total;
        }
    }
}

/// Sums of the columns of `partial` `[blocks, columns]`, always in the same order.
#[cube(launch, launch_unchecked)]
pub fn column_sums<N: Size>(partial: &[Vector<f32, N>], total: &mut [Vector<f32, N>], blocks: u32) {
    let mut shared = Shared::<[Vector<f32, N>]>::new_slice(UNITS);
    let unit = UNIT_POS as usize;
    let share = unit / COLUMNS;
    let column = CUBE_POS * COLUMNS + unit % COLUMNS;
    let columns = total.len();
    let mut sum = Vector::<f32, N>::new(0.0f32);
    if column < columns {
        let mut block = share;
        while block < blocks as usize {
            sum += partial[block * columns + column];
            block += comptime!(UNITS / COLUMNS);
        }
    }
    shared[unit] = sum;
    sync_cube();
    if share == 0 && column < columns {
        let mut sum = shared[unit];
        for other in 1..comptime!(UNITS / COLUMNS) {
            sum += shared[other * COLUMNS + unit];
        }
        total[column] = sum;
    }
}
