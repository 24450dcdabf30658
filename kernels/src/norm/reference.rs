//! RMS normalisation in plain tensor operations.

use burn::tensor::Tensor;

/// `x`: `[rows, width]`, `weight`: `[width]`. Returns the result and `rsqrt(mean(x²) + eps)`,
/// `[rows, 1]`.
pub fn forward(x: Tensor<2>, weight: Tensor<1>, eps: f64) -> (Tensor<2>, Tensor<2>) {
    let inverse_rms = x
        .clone()
        .square()
        .mean_dim(1)
        .add_scalar(eps)
        .sqrt()
        .recip();
    let y = x.mul(inverse_rms.clone()).mul(weight.unsqueeze());
    (y, inverse_rms)
}

/// Gradients of `x` `[rows, width]` and `weight` `[width]`.
pub fn backward(
    dy: Tensor<2>,
    x: Tensor<2>,
    weight: Tensor<1>,
    inverse_rms: Tensor<2>,
) -> (Tensor<2>, Tensor<1>) {
    let normed = x.mul(inverse_rms.clone());
    let dweight = dy.clone().mul(normed.clone()).sum_dim(0).squeeze_dim(0);
    let dnormed = dy.mul(weight.unsqueeze());
    let mean = dnormed.clone().mul(normed.clone()).mean_dim(1);
    let dx = dnormed.sub(normed.mul(mean)).mul(inverse_rms);
    (dx, dweight)
}
