//! One AdamW update (arXiv 1711.05101), decay decoupled, in f32.
//!
//! `p ← p (1 − lr·decay); m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g²;`
//! `p ← p − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)`, with `g` the gradient times `clip`.

pub mod reference;

pub use reference::step;

use burn::tensor::Tensor;

/// Scalars of one update.
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
