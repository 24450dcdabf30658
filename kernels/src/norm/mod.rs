//! RMS normalisation (arXiv 1910.07467).
//!
//! `y = x · rsqrt(mean(x²) + eps) · weight` over the last axis, computed in f32.
//!
//! Kept for backward: `x` (shared with the caller) and one f32 a row.

pub mod reference;

use burn::tensor::Tensor;

use crate::vjp::custom_vjp;

/// Normalises the last axis of `x` and scales it.
///
/// `x`: `[…, width]`, `weight`: `[width]`; returns the shape of `x`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let dims = x.dims();
    let width = dims[D - 1];
    let rows = dims.iter().product::<usize>() / width.max(1);
    let inner = x.clone().without_autodiff().reshape([rows, width]);
    let scale = weight.clone().without_autodiff();
    let (y, inverse_rms) = reference::forward(inner.clone(), scale.clone(), eps);
    custom_vjp(
        [x.into(), weight.into()],
        y.reshape(dims),
        move |dy, needs| {
            let dy = dy.reshape([rows, width]);
            let (dx, dweight) = reference::backward(dy, inner, scale, inverse_rms);
            [
                needs[0].then(|| dx.reshape(dims).into()),
                needs[1].then(|| dweight.into()),
            ]
        },
    )
}
