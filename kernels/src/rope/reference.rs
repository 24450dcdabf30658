//! Rotary embedding in plain tensor operations.

use burn::tensor::Tensor;

use super::Rotation;

/// Rotates `x` `[batch, heads, time, width]`; the layout of pairs stays as it was.
pub fn apply(x: Tensor<4>, rotation: &Rotation) -> Tensor<4> {
    let [batch, heads, time, width] = x.dims();
    let half = width / 2;
    let (cos, sin) = (rotation.cos.clone(), rotation.sin.clone());
    let (a, b) = if rotation.interleaved {
        let pairs = x.reshape([batch, heads, time, half, 2]);
        (
            pairs.clone().narrow(4, 0, 1).squeeze_dim::<4>(4),
            pairs.narrow(4, 1, 1).squeeze_dim::<4>(4),
        )
    } else {
        (x.clone().narrow(3, 0, half), x.narrow(3, half, half))
    };
    let first = a.clone().mul(cos.clone()).sub(b.clone().mul(sin.clone()));
    let second = b.mul(cos).add(a.mul(sin));
    if rotation.interleaved {
        Tensor::stack::<5>(vec![first, second], 4).reshape([batch, heads, time, width])
    } else {
        Tensor::cat(vec![first, second], 3)
    }
}
