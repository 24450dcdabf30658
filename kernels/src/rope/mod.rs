//! Rotary position embedding (arXiv 2104.09864).
//!
//! Each pair `(a, b)` of a head becomes `(a·cos − b·sin, b·cos + a·sin)`. Pairs are halves
//! `(i, i + d/2)` or, interleaved, neighbours `(2i, 2i + 1)`. Where a head is wider than the
//! rotation, its last features turn and those before stay, as multi-head latent attention lays
//! its queries out.
//!
//! Kept for backward: the cosines and sines, shared by every call of a step. The backward is the
//! rotation by the opposite angle.

mod device;
mod launch;
pub mod reference;

use burn::backend::Dispatch;
use burn::tensor::{DType, Tensor};

pub use launch::RopeBackend;

use crate::Kernels;
use crate::calls::{Path, note};
use crate::gpu;
use crate::vjp::custom_vjp;

/// Cosines and sines of a batch, each `[batch or 1, 1, time, rotated width / 2]`.
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

/// Rotates the last features of every head of `x` `[batch, heads, time, width]`: all of them, or
/// as many as `rotation` has. `x` may lie in memory as it likes; the result is contiguous.
pub fn rotate(x: Tensor<4>, rotation: &Rotation, kernels: Kernels) -> Tensor<4> {
    let value = x.clone().without_autodiff();
    let fused = runs_fused(&value, rotation, kernels);
    note("rope", Path::of(fused));
    let y = turn(value, rotation, false, fused);
    let rotation = rotation.clone();
    custom_vjp([x.into()], y, move |dy, _| {
        [Some(turn(dy, &rotation, true, fused).into())]
    })
}

fn turn(x: Tensor<4>, rotation: &Rotation, inverse: bool, fused: bool) -> Tensor<4> {
    if fused {
        return Tensor::from_dispatch(Dispatch::rope_rotate(
            x.into_dispatch(),
            rotation.cos.clone().into_dispatch(),
            rotation.sin.clone().into_dispatch(),
            rotation.interleaved,
            inverse,
        ));
    }
    if inverse {
        reference::apply(x, &rotation.inverse())
    } else {
        reference::apply(x, rotation)
    }
}

/// Whether the device's own kernel computes it: it takes f32, at least one element, and indices
/// of 32 bits.
fn runs_fused(x: &Tensor<4>, rotation: &Rotation, kernels: Kernels) -> bool {
    let elements = x.dims().iter().product::<usize>();
    kernels == Kernels::Fused
        && gpu::on_cube(x)
        && x.dtype() == DType::F32
        && rotation.cos.dtype() == DType::F32
        && (1..u32::MAX as usize).contains(&elements)
}
