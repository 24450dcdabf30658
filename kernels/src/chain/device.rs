//! Sums of a token's rows that go on to the next router, and back from it.

use cubecl::prelude::*;

use crate::matmul::epilogue::{read, write};

/// Four lanes: the width in which tiles are moved.
type Four = Const<4>;

/// Units of a workgroup.
pub(super) const UNITS: usize = 256;
/// Tokens of a workgroup.
pub(super) const TOKENS: usize = 64;
/// Experts or columns that a workgroup has in registers at a time.
pub(super) const WIDTH: usize = 64;
/// Vectors of a row in workgroup memory: with two tiles of 64 rows, 16 KiB.
const PIECES: usize = 8;
/// Experts whose gradients are in workgroup memory at a time.
const DEPTH: usize = 16;

/// A token's rows at four columns: `Σ w · rows[position] (+ shared rows) (+ residual[token])`, in
/// the order of the choices.
#[cube]
fn sum_rows<E: Float, N: Size>(
    rows: &[Vector<E, N>],
    positions: &[u32],
    weights: &[f32],
    residual: &[Vector<f32, N>],
    token: usize,
    column: usize,
    tokens: usize,
    hidden: usize,
    #[comptime] top_k: usize,
    #[comptime] shared: usize,
    #[comptime] weighted: bool,
    #[comptime] residual_added: bool,
) -> Vector<f32, Four> {
    let routed = tokens * top_k;
    let mut sum = Vector::<f32, Four>::new(0.0f32);
    for choice in 0..top_k {
        let slot = token * top_k + choice;
        let row = positions[slot] as usize;
        // Dropped slots point past the rows.
        if row < routed {
            let values = read::<E, N>(rows, row * hidden, column, hidden);
            if comptime!(weighted) {
                sum += values * Vector::new(weights[slot]);
            } else {
                sum += values;
            }
        }
    }
    #[unroll]
    for expert in 0..shared {
        let row = routed + expert * tokens + token;
        sum += read::<E, N>(rows, row * hidden, column, hidden);
    }
    if comptime!(residual_added) {
        sum += read::<f32, N>(residual, token * hidden, column, hidden);
    }
    sum
}

/// Where vector `piece` of row `row` of a tile lies: turned, so that neighbouring rows lie in
/// different banks.
#[cube]
fn place(row: usize, piece: usize) -> usize {
    row * PIECES + (piece ^ (row % PIECES))
}

/// The next state `[T, H]` and its router's logits `[T, E]`: as each part of a token's sum is
/// made it is multiplied with that part of the router's weights `[E, H]`. Without rows
/// (`combined` false) the state is `residual` itself and not written.
#[cube(launch, launch_unchecked)]
pub(super) fn combine_logits<E: Float, N: Size>(
    rows: &[Vector<E, N>],
    positions: &[u32],
    weights: &[f32],
    residual: &[Vector<f32, N>],
    router: &[Vector<f32, N>],
    state: &mut [Vector<f32, N>],
    logits: &mut [f32],
    tokens: usize,
    hidden: usize,
    experts: usize,
    #[comptime] top_k: usize,
    #[comptime] shared: usize,
    #[comptime] residual_added: bool,
    #[comptime] combined: bool,
    #[comptime] tiles: usize,
    #[define(E)] _type: cubecl::ir::ElemType,
) {
    let first = CUBE_POS * TOKENS;
    if first >= tokens {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let (down, across) = (unit / 16, unit % 16);
    let mut left = Shared::<[Vector<f32, Four>]>::new_slice(comptime!(TOKENS * PIECES));
    let mut right = Shared::<[Vector<f32, Four>]>::new_slice(comptime!(WIDTH * PIECES));
    let mut sums = Array::<f32>::new(comptime!(16 * tiles));
    #[unroll]
    for i in 0..comptime!(16 * tiles) {
        sums[i] = 0.0f32;
    }
    for step in 0..hidden.div_ceil(comptime!(4 * PIECES)) {
        let begin = step * comptime!(4 * PIECES);
        #[unroll]
        for turn in 0..comptime!(TOKENS * PIECES / UNITS) {
            let index = unit + comptime!(turn * UNITS);
            let (inside, piece) = (index / PIECES, index % PIECES);
            let token = first + inside;
            let column = begin + piece * 4;
            let mut sum = Vector::<f32, Four>::new(0.0f32);
            if token < tokens && column < hidden {
                if comptime!(combined) {
                    sum = sum_rows::<E, N>(
                        rows,
                        positions,
                        weights,
                        residual,
                        token,
                        column,
                        tokens,
                        hidden,
                        top_k,
                        shared,
                        true,
                        residual_added,
                    );
                    write::<f32, N>(state, token, column, hidden, sum);
                } else {
                    sum = read::<f32, N>(residual, token * hidden, column, hidden);
                }
            }
            left[place(inside, piece)] = sum;
        }
        #[unroll]
        for tile in 0..tiles {
            #[unroll]
            for turn in 0..comptime!(WIDTH * PIECES / UNITS) {
                let index = unit + comptime!(turn * UNITS);
                let (inside, piece) = (index / PIECES, index % PIECES);
                let expert = inside + comptime!(tile * WIDTH);
                let mut values = Vector::<f32, Four>::new(0.0f32);
                if expert < experts {
                    values = read::<f32, N>(router, expert * hidden, begin + piece * 4, hidden);
                }
                right[place(inside, piece)] = values;
            }
            sync_cube();
            for piece in 0..PIECES {
                let mut tokens_at = Array::<Vector<f32, Four>>::new(4usize);
                #[unroll]
                for i in 0..4usize {
                    tokens_at[i] = left[place(down + comptime!(16 * i), piece)];
                }
                #[unroll]
                for j in 0..4usize {
                    let expert_at = right[place(across + comptime!(16 * j), piece)];
                    #[unroll]
                    for i in 0..4usize {
                        #[unroll]
                        for lane in 0..4usize {
                            sums[comptime!(tile * 16 + i * 4 + j)] +=
                                tokens_at[i].extract(lane) * expert_at.extract(lane);
                        }
                    }
                }
            }
            sync_cube();
        }
    }
    #[unroll]
    for tile in 0..tiles {
        #[unroll]
        for i in 0..4usize {
            let token = first + down + comptime!(16 * i);
            #[unroll]
            for j in 0..4usize {
                let expert = across + comptime!(tile * WIDTH + 16 * j);
                if token < tokens && expert < experts {
                    logits[token * experts + expert] = sums[comptime!(tile * 16 + i * 4 + j)];
                }
            }
        }
    }
}

/// The gradient of a state `[T, H]`: of its rows, of the residual, and through its router
/// (`dlogits · W`), in that order.
#[cube(launch, launch_unchecked)]
pub(super) fn combine_gradient<E: Float, N: Size>(
    rows: &[Vector<E, N>],
    positions: &[u32],
    residual: &[Vector<f32, N>],
    dlogits: &[f32],
    router: &[Vector<f32, N>],
    out: &mut [Vector<f32, N>],
    tokens: usize,
    hidden: usize,
    experts: usize,
    #[comptime] top_k: usize,
    #[comptime] shared: usize,
    #[comptime] residual_added: bool,
    #[define(E)] _type: cubecl::ir::ElemType,
) {
    let columns = hidden.div_ceil(WIDTH);
    let first = CUBE_POS / columns * TOKENS;
    if first >= tokens {
        terminate!();
    }
    let unit = UNIT_POS as usize;
    let (down, across) = (unit / 16, unit % 16);
    let begin = CUBE_POS % columns * WIDTH;
    // A row longer than the tile: its columns, read across, lie in different banks.
    let mut left = Shared::<[f32]>::new_slice(comptime!(TOKENS * (DEPTH + 1)));
    let mut right = Shared::<[Vector<f32, Four>]>::new_slice(comptime!(DEPTH * 16));
    let mut sums = Array::<Vector<f32, Four>>::new(4usize);
    #[unroll]
    for i in 0..4usize {
        sums[i] = Vector::new(0.0f32);
    }
    for step in 0..experts.div_ceil(DEPTH) {
        #[unroll]
        for turn in 0..comptime!(TOKENS * DEPTH / UNITS) {
            let index = unit + comptime!(turn * UNITS);
            let (inside, expert) = (index / DEPTH, index % DEPTH);
            let (token, at) = (first + inside, step * DEPTH + expert);
            let mut value = 0.0f32;
            if token < tokens && at < experts {
                value = dlogits[token * experts + at];
            }
            left[inside * comptime!(DEPTH + 1) + expert] = value;
        }
        let expert = step * DEPTH + down;
        let mut values = Vector::<f32, Four>::new(0.0f32);
        if expert < experts {
            values = read::<f32, N>(router, expert * hidden, begin + across * 4, hidden);
        }
        right[unit] = values;
        sync_cube();
        for expert in 0..DEPTH {
            let values = right[expert * 16 + across];
            #[unroll]
            for i in 0..4usize {
                let token = down + comptime!(16 * i);
                sums[i] += values * Vector::new(left[token * comptime!(DEPTH + 1) + expert]);
            }
        }
        sync_cube();
    }
    let column = begin + across * 4;
    #[unroll]
    for i in 0..4usize {
        let token = first + down + comptime!(16 * i);
        if token < tokens && column < hidden {
            let sum = sum_rows::<E, N>(
                rows,
                positions,
                dlogits,
                residual,
                token,
                column,
                tokens,
                hidden,
                top_k,
                shared,
                false,
                residual_added,
            );
            write::<f32, N>(out, token, column, hidden, sum + sums[i]);
        }
    }
}
