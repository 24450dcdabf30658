//! AdamW (arXiv 1711.05101), decay decoupled, with clipping by the global norm, in f32.
//!
//! `p ← p (1 − lr·decay); m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g²;`
//! `p ← p − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)`, with `g` the gradient times `clip`.
//!
//! [`update`] takes all parameters of a model. The norm of their gradients and the factor that
//! follows from it stay on the device, where the update reads them: the host does not wait.
//! Parameters and moments are updated in place; one of which somebody else holds a handle, a
//! checkpoint being written for instance, is copied first. A gradient that is not finite leaves
//! every parameter and moment as it was.
//!
//! On the device an update is one launch for some eight tensors, another for the norm of as many
//! gradients, and one that concludes; beside them it takes 8 bytes for 4096 elements.

mod device;
mod launch;
pub mod reference;

use burn::tensor::{DType, Tensor};

pub use reference::step;

use crate::calls::{Path, note};
use crate::host;
use crate::{Kernels, gpu};

/// Scalars of one parameter's update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Weight decay; 0 for parameters that are not decayed.
    pub weight_decay: f64,
    /// Factor on the gradient.
    pub clip: f64,
    /// Number of this update, from 1.
    pub step: u64,
}

/// Moments of one parameter, in its shape.
#[derive(Clone, Debug)]
pub struct Moments<const D: usize> {
    /// First moment.
    pub first: Tensor<D>,
    /// Second moment.
    pub second: Tensor<D>,
}

/// Scalars of a model's update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Gradients are scaled down to this global L2 norm; absent: never.
    pub max_norm: Option<f64>,
    /// What the loss was multiplied by before its backward pass: gradients are divided by it.
    pub loss_scale: f64,
    /// Number of this update, from 1.
    pub number: u64,
}

impl Step {
    /// `1 − β₁ᵗ` and `1 − β₂ᵗ`.
    fn corrections(&self) -> (f64, f64) {
        let number = self.number as f64;
        (1.0 - self.beta1.powf(number), 1.0 - self.beta2.powf(number))
    }

    /// The scalars of a parameter that decays by `weight_decay`.
    fn settings(&self, weight_decay: f64, clip: f64) -> Settings {
        Settings {
            learning_rate: self.learning_rate,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            weight_decay,
            clip,
            step: self.number,
        }
    }
}

/// One parameter, flattened, with what its update needs; all of one length, without autodiff.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// The weights.
    pub value: Tensor<1>,
    /// The gradient, times the loss scale.
    pub gradient: Tensor<1>,
    /// Moments; absent: zero.
    pub moments: Option<Moments<1>>,
    /// Weight decay.
    pub weight_decay: f64,
}

/// What became of an update, perhaps still to be computed by the device.
#[derive(Clone, Debug)]
pub struct Outcome(Found);

#[derive(Clone, Debug)]
enum Found {
    /// The norm.
    Host(f64),
    /// Factor, applied, norm.
    Device(Box<Tensor<1>>),
}

impl Outcome {
    /// The global L2 norm of the gradients before clipping, without the loss scale, and whether
    /// the update was applied: not where a gradient, or the norm, is not finite. Waits for the
    /// device.
    pub fn read(self) -> (f64, bool) {
        let values = match self.0 {
            Found::Host(norm) => return (norm, norm.is_finite()),
            Found::Device(tensor) => host::floats(*tensor),
        };
        let (applied, norm) = (values[1] != 0.0, f64::from(values[2]));
        // The sum may have lost what a single gradient showed.
        let norm = if applied || !norm.is_finite() {
            norm
        } else {
            f64::NAN
        };
        (norm, applied)
    }
}

/// Updates every parameter. Returns weights and moments in the order of `parameters`, and the
/// outcome to be read whenever it suits.
pub fn update(
    parameters: Vec<Parameter>,
    step: &Step,
    kernels: Kernels,
) -> (Vec<(Tensor<1>, Moments<1>)>, Outcome) {
    let fused = !parameters.is_empty()
        && parameters.iter().all(|parameter| {
            let Parameter {
                value, gradient, ..
            } = parameter;
            runs_fused(value, kernels) && runs_fused(gradient, kernels)
        });
    note("adamw", Path::of(fused));
    if fused {
        let (updated, outcome) = launch::update(parameters, step);
        (updated, Outcome(Found::Device(Box::new(outcome))))
    } else {
        let (updated, norm) = reference::update(parameters, step);
        (updated, Outcome(Found::Host(norm)))
    }
}

/// L2 norm of all `gradients` together, each divided by `loss_scale`. Waits for the device.
pub fn global_norm(gradients: &[Tensor<1>], loss_scale: f64, kernels: Kernels) -> f64 {
    let fused = !gradients.is_empty()
        && gradients
            .iter()
            .all(|gradient| runs_fused(gradient, kernels));
    if fused {
        let outcome = launch::outcome(gradients, loss_scale, None);
        Outcome(Found::Device(Box::new(outcome))).read().0
    } else {
        reference::global_norm(gradients, loss_scale)
    }
}

/// Whether the device's own kernels take it: f32 and not empty.
fn runs_fused(tensor: &Tensor<1>, kernels: Kernels) -> bool {
    kernels == Kernels::Fused
        && gpu::on_cube(tensor)
        && tensor.dtype() == DType::F32
        && tensor.dims()[0] > 0
}
