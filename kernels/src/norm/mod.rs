//! RMS normalisation (arXiv 1910.07467), alone and with the residual stream's sum before it.
//!
//! `y = x · inverse_rms · weight` with `inverse_rms = 1 / √(mean(x²) + eps)` over the last axis.
//! Everything is f32.
//!
//! Kept for backward: the normalised input (shared with the caller) and one f32 a row. The
//! backward passes over a row once for the gradient of `x`; that of `weight` is summed over
//! blocks of rows and then over the blocks, in a fixed order.

mod device;
mod launch;
pub mod reference;

use burn::backend::Dispatch;
use burn::tensor::{DType, Tensor};

pub use launch::NormBackend;

use crate::Kernels;
use crate::calls::{Path, note};
use crate::gpu;
use crate::vjp::{Joint, custom_vjp};

/// Normalises the last axis of `x` and scales it.
///
/// `x`: `[…, width]`, `weight`: `[width]`; returns the shape of `x`.
pub fn rms_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    eps: f64,
    kernels: Kernels,
) -> Tensor<D> {
    let (value, scale) = (
        x.clone().without_autodiff(),
        weight.clone().without_autodiff(),
    );
    let fused = runs_fused(&value, &scale, kernels);
    note("norm", Path::of(fused));
    let (y, inverse_rms) = if fused {
        let (y, inverse_rms) = Dispatch::rms_norm_forward(
            value.clone().into_dispatch(),
            scale.clone().into_dispatch(),
            eps,
        );
        (Tensor::from_dispatch(y), Tensor::from_dispatch(inverse_rms))
    } else {
        let (y, inverse_rms) = reference::forward(rows(value.clone()), scale.clone(), eps);
        (y.reshape(value.dims()), inverse_rms.flatten(0, 1))
    };
    custom_vjp([x.into(), weight.into()], y, move |dy, needs| {
        let saved = Saved {
            x: value,
            weight: scale,
            inverse_rms,
            fused,
        };
        let (dx, dweight) = saved.backward(dy, None);
        [
            needs[0].then(|| dx.into()),
            needs[1].then(|| dweight.into()),
        ]
    })
}

/// `(x + residual, rms_norm(x + residual))`: a layer's output joins the residual stream, and the
/// next layer reads it normalised.
///
/// `x` and `residual` have one shape, `[…, width]`; `weight`: `[width]`. Backward adds the
/// gradients of both results in the pass that makes that of the norm.
pub fn add_rms_norm<const D: usize>(
    x: Tensor<D>,
    residual: Tensor<D>,
    weight: Tensor<1>,
    eps: f64,
    kernels: Kernels,
) -> (Tensor<D>, Tensor<D>) {
    let (value, scale) = (
        x.clone().without_autodiff(),
        weight.clone().without_autodiff(),
    );
    let other = residual.clone().without_autodiff();
    let fused = runs_fused(&value, &scale, kernels);
    note("norm", Path::of(fused));
    let (sum, y, inverse_rms) = if fused {
        let (sum, y, inverse_rms) = Dispatch::add_rms_norm_forward(
            value.into_dispatch(),
            other.into_dispatch(),
            scale.clone().into_dispatch(),
            eps,
        );
        (
            Tensor::from_dispatch(sum),
            Tensor::from_dispatch(y),
            Tensor::from_dispatch(inverse_rms),
        )
    } else {
        let sum = value.add(other);
        let (y, inverse_rms) = reference::forward(rows(sum.clone()), scale.clone(), eps);
        let y = y.reshape(sum.dims());
        (sum, y, inverse_rms.flatten(0, 1))
    };
    let saved = Saved {
        x: sum.clone(),
        weight: scale,
        inverse_rms,
        fused,
    };
    let device = sum.device();
    let inputs = [x.into(), residual.into(), weight.into()];
    let joint = Joint::new(&device, inputs, move |messages, needs| {
        let (mut dsum, mut dy) = (None, None);
        for message in messages {
            match message {
                Arriving::Sum(gradient) => dsum = Some(gradient),
                Arriving::Norm(gradient) => dy = Some(gradient),
            }
        }
        let (dx, dweight) = match (dy, dsum) {
            (Some(dy), dsum) => saved.backward(dy, dsum),
            (None, dsum) => (
                dsum.expect("a step runs for the gradient of one of its results"),
                saved.weight.zeros_like(),
            ),
        };
        [
            needs[0].then(|| dx.clone().into()),
            needs[1].then(|| dx.into()),
            needs[2].then(|| dweight.into()),
        ]
    });
    (
        joint.attach(sum, Arriving::Sum),
        joint.attach(y, Arriving::Norm),
    )
}

/// The gradient of a result of [`add_rms_norm`].
enum Arriving<const D: usize> {
    Sum(Tensor<D>),
    Norm(Tensor<D>),
}

/// What the norm keeps for backward.
struct Saved<const D: usize> {
    x: Tensor<D>,
    weight: Tensor<1>,
    /// `[rows]`.
    inverse_rms: Tensor<1>,
    fused: bool,
}

impl<const D: usize> Saved<D> {
    /// Gradients of `x`, with `onto` added, and of `weight`.
    fn backward(self, dy: Tensor<D>, onto: Option<Tensor<D>>) -> (Tensor<D>, Tensor<1>) {
        let dims = self.x.dims();
        if self.fused {
            let (dy, x) = (dy.into_dispatch(), self.x.into_dispatch());
            let weight = self.weight.into_dispatch();
            let inverse_rms = self.inverse_rms.into_dispatch();
            let (dx, dweight) = match onto {
                None => Dispatch::rms_norm_backward(dy, x, weight, inverse_rms),
                Some(onto) => Dispatch::rms_norm_backward_onto(
                    dy,
                    x,
                    weight,
                    inverse_rms,
                    onto.into_dispatch(),
                ),
            };
            return (Tensor::from_dispatch(dx), Tensor::from_dispatch(dweight));
        }
        let inverse_rms = self.inverse_rms.unsqueeze_dim(1);
        let (dx, dweight) = reference::backward(rows(dy), rows(self.x), self.weight, inverse_rms);
        let dx = dx.reshape(dims);
        match onto {
            None => (dx, dweight),
            Some(onto) => (dx.add(onto), dweight),
        }
    }
}

/// `[…, width]` to `[rows, width]`.
fn rows<const D: usize>(x: Tensor<D>) -> Tensor<2> {
    let dims = x.dims();
    let width = dims[D - 1];
    let rows = dims.iter().product::<usize>() / width.max(1);
    x.reshape([rows, width])
}

/// Whether the device's own kernels compute it: they take f32 and at least one element.
fn runs_fused<const D: usize>(x: &Tensor<D>, weight: &Tensor<1>, kernels: Kernels) -> bool {
    kernels == Kernels::Fused
        && gpu::on_cube(x)
        && x.dtype() == DType::F32
        && weight.dtype() == DType::F32
        && !x.dims().contains(&0)
}
