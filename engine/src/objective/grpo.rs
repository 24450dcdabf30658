//! Group-relative policy optimisation (arXiv 2402.03300).
//!
//! With the ratio ρ = π / π_old of a token, its completion's advantage A, and
//! k3 = e^d − d − 1, d = log π_ref − log π (an estimate of the divergence from the reference that is
//! never negative), a token's loss is
//!
//! −min(ρ · A, clip(ρ, 1 − ε, 1 + ε) · A) + β · k3.
//!
//! Its slope over log π is −ρ · A where the ratio is not clipped, else 0, plus β · (1 − e^d).

use burn::tensor::{Tensor, TensorData};

use super::Weighed;

/// Logarithms of ratios are held within this: e⁶⁰ is far beyond any policy that is still the
/// other's, and its products stay finite in f32.
const LARGEST_LOG: f64 = 60.0;

/// What GRPO is told of the tokens of a micro-batch, each `[tokens]`.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// Advantage of the completion.
    pub advantages: &'a [f32],
    /// Share of the objective: 0 without a label, else 1 over labels of the step, or over its
    /// completions and the labels of this one.
    pub shares: &'a [f32],
    /// Log-probability under the policy that wrote the completion.
    pub old: &'a [f32],
    /// Log-probability under the reference; empty where β is 0.
    pub reference: &'a [f32],
}

/// Weighs tokens. `log_probabilities` and `mask` `[tokens]`: 0 and 0 where there is no label;
/// `labels`: those of the step.
pub fn weigh(
    log_probabilities: Tensor<1>,
    mask: Tensor<1>,
    of: Tokens<'_>,
    beta: f64,
    epsilon: f64,
    labels: usize,
) -> Weighed {
    let device = mask.device();
    let upload = |values: &[f32]| {
        Tensor::<1>::from_data(TensorData::new(values.to_vec(), [values.len()]), &device)
    };
    let within = |log: Tensor<1>| log.clamp(-LARGEST_LOG, LARGEST_LOG);
    let (advantages, shares) = (upload(of.advantages), upload(of.shares));
    let each = mask.clone().div_scalar(labels.max(1) as f32);

    let ratio = within(log_probabilities.clone().sub(upload(of.old))).exp();
    let gain = ratio.clone().mul(advantages.clone());
    let clipped = ratio.clamp(1.0 - epsilon, 1.0 + epsilon).mul(advantages);
    let bound = gain.clone().greater(clipped.clone());
    let clip_fraction = bound.clone().float().mul(each.clone()).sum();
    let lower = clipped.mask_where(bound.clone().bool_not(), gain.clone());
    let mut weights = gain.mask_fill(bound, 0.0);
    let mut losses = lower.neg();
    let mut divergence = Tensor::zeros([1], &device);
    if !of.reference.is_empty() {
        let apart = within(upload(of.reference).sub(log_probabilities));
        let grown = apart.clone().exp();
        let k3 = grown.clone().sub(apart).sub_scalar(1.0);
        divergence = k3.clone().mul(each).sum();
        losses = losses.add(k3.mul_scalar(beta));
        weights = weights.add(grown.sub_scalar(1.0).mul_scalar(beta));
    }
    Weighed {
        weights: weights.mul(shares.clone()),
        report: vec![losses.mul(shares).sum(), divergence, clip_fraction],
    }
}
