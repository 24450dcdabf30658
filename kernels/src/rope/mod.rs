//! Rotary position embedding (arXiv 2104.09864).
//!
//! Each pair `(a, b)` of a head becomes `(a·cos − b·sin, b·cos + a·sin)`. Pairs are halves
//! `(i, i + d/2)` or, interleaved, neighbours `(2i, 2i + 1)`.
//!
//! Kept for backward: the cosines and sines, shared by every call of a step. The backward is the
//! rotation by the opposite angle.

pub mod reference;

use burn::tensor::Tensor;

use crate::vjp::custom_vjp;

/// Cosines and sines of a batch, each `[batch or 1, 1, time, head width / 2]`.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// Cosines, attention factor included.
    pub cos: Tensor<4>,
    /// Sines, attention factor included.
    pub sin: Tensor<4>,
    /// Pairs are neighbours instead of halves.
    pub interleaved: bool,
}

impl Rotation {
    fn inverse(&self) -> Self {
        Self {
            cos: self.cos.clone(),
            sin: self.sin.clone().neg(),
            interleaved: self.interleaved,
        }
    }
}

/// Rotates every head of `x` `[batch, heads, time, width]`.
pub fn rotate(x: Tensor<4>, rotation: &Rotation) -> Tensor<4> {
    let y = reference::apply(x.clone().without_autodiff(), rotation);
    let rotation = rotation.clone();
    custom_vjp([x.into()], y, move |dy, _| {
        [Some(reference::apply(dy, &rotation.inverse()).into())]
    })
}
