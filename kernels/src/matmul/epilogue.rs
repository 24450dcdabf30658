//! What happens to a tile's sums before they leave the registers, four columns at a time.

use cubecl::prelude::*;

use super::Four;

/// Writes four columns of a row `[.., width]`; columns past `width` are left out.
#[cube]
pub(crate) fn write<E: Float, N: Size>(
    out: &mut [Vector<E, N>],
    row: usize,
    column: usize,
    width: usize,
    values: Vector<f32, Four>,
) {
    let at = row * width + column;
    let lanes = N::value();
    if comptime!(lanes == 4) {
        if column < width {
            out[at / 4] = Vector::cast_from(values);
        }
    } else {
        #[unroll]
        for i in 0..4usize {
            if column + i < width {
                out[at + i] = Vector::new(E::cast_from(values.extract(i)));
            }
        }
    }
}

/// Writes gate and up columns of a row `[2 · inner]`.
#[cube]
pub(crate) fn write_halves<O: Float, N: Size>(
    out: &mut [Vector<O, N>],
    row: usize,
    column: usize,
    inner: usize,
    gate: Vector<f32, Four>,
    up: Vector<f32, Four>,
) {
    // Two rows of width `inner` for one row of the tile.
    write::<O, N>(out, 2 * row, column, inner, gate);
    write::<O, N>(out, 2 * row + 1, column, inner, up);
}

/// Adds to four columns of a row, or writes them.
#[cube]
pub(crate) fn write_sum<N: Size>(
    out: &mut [Vector<f32, N>],
    start: usize,
    row: usize,
    column: usize,
    width: usize,
    values: Vector<f32, Four>,
    #[comptime] accumulate: bool,
) {
    let at = start + row * width + column;
    let lanes = N::value();
    if comptime!(lanes == 4) {
        if column < width {
            let mut sum = values;
            if comptime!(accumulate) {
                sum += Vector::cast_from(out[at / 4]);
            }
            out[at / 4] = Vector::cast_from(sum);
        }
    } else {
        #[unroll]
        for i in 0..4usize {
            if column + i < width {
                let mut sum = values.extract(i);
                if comptime!(accumulate) {
                    sum += out[at + i].extract(0usize);
                }
                out[at + i] = Vector::new(sum);
            }
        }
    }
}

/// Reads four columns of a row; zeros past `columns`.
#[cube]
pub(crate) fn read<E: Float, N: Size>(
    source: &[Vector<E, N>],
    start: usize,
    column: usize,
    columns: usize,
) -> Vector<f32, Four> {
    let mut values = Vector::<f32, Four>::new(0.0f32);
    let lanes = N::value();
    if comptime!(lanes == 4) {
        if column < columns {
            values = Vector::cast_from(source[(start + column) / 4]);
        }
    } else {
        #[unroll]
        for i in 0..4usize {
            if column + i < columns {
                values.insert(
                    i,
                    f32::cast_from(source[start + column + i].extract(0usize)),
                );
            }
        }
    }
    values
}

/// `σ(v)`, finite for every finite `v`.
#[cube]
fn sigmoid(v: Vector<f32, Four>) -> Vector<f32, Four> {
    let one = Vector::<f32, Four>::new(1.0f32);
    // exp(80) is the last power of e that f32 holds with room; σ is 0 to f32 below it.
    let bounded = clamp_min(v, Vector::new(-80.0f32));
    one / (one + Vector::exp(bounded * Vector::new(-1.0f32)))
}

/// `silu(gate) ⊙ up`.
#[cube]
pub(crate) fn swiglu(gate: Vector<f32, Four>, up: Vector<f32, Four>) -> Vector<f32, Four> {
    gate * sigmoid(gate) * up
}

/// Gradients through [`swiglu`].
#[derive(CubeType, Clone, Copy)]
pub(crate) struct SwigluGradient {
    /// The activation itself.
    pub activation: Vector<f32, Four>,
    /// Of the gate, before the factor of the output's gradient.
    pub gate: Vector<f32, Four>,
    /// Of the up projection, likewise.
    pub up: Vector<f32, Four>,
}

/// [`swiglu`] and its slopes.
#[cube]
pub(crate) fn swiglu_slopes(gate: Vector<f32, Four>, up: Vector<f32, Four>) -> SwigluGradient {
    let one = Vector::<f32, Four>::new(1.0f32);
    let sigma = sigmoid(gate);
    let silu = gate * sigma;
    SwigluGradient {
        activation: silu * up,
        gate: up * (sigma + silu * (one - sigma)),
        up: silu,
    }
}
