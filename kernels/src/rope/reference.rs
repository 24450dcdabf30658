//! Rotary embedding in plain tensor operations.

use burn::tensor::Tensor;

use super::Rotation;

/// Rotates the last features of `x` `[batch, heads, time, width]`; the layout of pairs stays as
/// it was, and so do the features before.
pub fn apply(x: Tensor<4>, rotation: &Rotation) -> Tensor<4> {
    let width = x.dims()[3];
    let rotated = 2 * rotation.cos.dims()[3];
    let kept = width - rotated;
    if kept == 0 {
        return apply_to_all(x, rotation);
    }
    let before = x.clone().narrow(3, 0, kept);
    let turned = apply_to_all(x.narrow(3, kept, rotated), rotation);
    Tensor::cat(vec![before, turned], 3)
}

fn apply_to_all(x: Tensor<4>, rotation: &Rotation) -> Tensor<4> {
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
