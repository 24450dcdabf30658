//! Direct preference optimisation (arXiv 2305.18290), sigmoid loss.
//!
//! With the reward of a completion y, r(y) = β · (log π(y) − log π_ref(y)), a pair's loss is
//! −log σ(h), h = r(chosen) − r(rejected); the objective is its mean over the pairs of the step.
//! So the loss falls by β · σ(−h) for each nat that a chosen token gains or a rejected one loses:
//! one number a pair.

use burn::tensor::activation::{log_sigmoid, sigmoid};
use burn::tensor::{Tensor, TensorData};

use super::Weighed;

/// Weighs the tokens of pairs.
///
/// `log_probabilities` and `mask` `[2 · pairs · time]`: of each token, 0 and 0 where it has no label;
/// `reference` `[2 · pairs]`; `present`: which pairs count; `divisor`: pairs of the step.
pub fn weigh(
    log_probabilities: Tensor<1>,
    mask: Tensor<1>,
    reference: &[f32],
    present: &[bool],
    beta: f64,
    divisor: usize,
) -> Weighed {
    let device = mask.device();
    let pairs = present.len();
    let tokens = mask.dims()[0];
    let time = tokens / (2 * pairs).max(1);
    let share = 1.0 / divisor.max(1) as f32;
    let shares = present
        .iter()
        .map(|&there| f32::from(u8::from(there)) * share);
    let shares = Tensor::<2>::from_data(
        TensorData::new(shares.collect::<Vec<f32>>(), [pairs, 1]),
        &device,
    );
    let reference =
        Tensor::<2>::from_data(TensorData::new(reference.to_vec(), [pairs, 2]), &device);
    let policy = log_probabilities
        .reshape([pairs, 2, time])
        .sum_dim(2)
        .reshape([pairs, 2]);
    let rewards = policy.sub(reference).mul_scalar(beta);
    let chosen = rewards.clone().narrow(1, 0, 1);
    let rejected = rewards.narrow(1, 1, 1);
    let margin = chosen.clone().sub(rejected.clone());

    // Each chosen token up, each rejected one down, by the same.
    let pull = sigmoid(margin.clone().neg())
        .mul(shares.clone())
        .mul_scalar(beta);
    let signs = Tensor::cat(vec![pull.clone(), pull.neg()], 1);
    let weights = signs
        .reshape([pairs, 2, 1])
        .mul(mask.reshape([pairs, 2, time]))
        .reshape([tokens]);

    let mean = |values: Tensor<2>| values.mul(shares.clone()).sum();
    let better = margin.clone().greater_scalar(0.0).float();
    Weighed {
        weights,
        report: vec![
            mean(log_sigmoid(margin.clone()).neg()),
            mean(chosen),
            mean(rejected),
            mean(better),
            mean(margin),
        ],
    }
}
