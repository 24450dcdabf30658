//! From the log-probabilities of a micro-batch to the weights of its cross-entropy.
//!
//! Once the log-probabilities of all tokens are known, so is the objective's gradient with respect
//! to each of them. A cross-entropy with these numbers as constant weights has the same gradient
//! with respect to everything else. So there is one backward pass for all objectives, whole or in
//! chunks, and the log-probabilities cost a pass through the head alone.

use burn::tensor::Tensor;

use super::goal::{Share, misfit, present_pairs, row_labels};
use super::{Mean, Objective, Targets, dpo, grpo};
use crate::step::{IGNORE, MicroBatch};

/// The weights of tokens.
#[derive(Clone, Debug)]
pub struct Weighed {
    /// What minus the objective gains by a nat of each token's log-probability; 0 without a label
    /// `[tokens]`.
    pub weights: Tensor<1>,
    /// The objective, and what else is reported, each `[1]`.
    pub report: Vec<Tensor<1>>,
}

impl Weighed {
    /// Weighs the tokens of `batch`, divided by the counts of the step. `log_probabilities` and
    /// `mask` are 0 where there is no label.
    pub(crate) fn of(
        objective: &Objective,
        batch: &MicroBatch,
        log_probabilities: Tensor<1>,
        mask: Tensor<1>,
        share: Share,
    ) -> Self {
        let entropy = log_probabilities
            .clone()
            .sum()
            .div_scalar(-(share.labels.max(1) as f32));
        let time = batch.sequences.time;
        let mut weighed = match (objective, &batch.targets) {
            (Objective::Dpo { beta }, Targets::Pairs { reference }) => {
                let present = present_pairs(batch);
                let divisor = share.units;
                dpo::weigh(log_probabilities, mask, reference, &present, *beta, divisor)
            }
            (
                Objective::Grpo {
                    beta,
                    epsilon,
                    mean,
                },
                Targets::Groups {
                    advantages,
                    old,
                    reference,
                },
            ) => {
                let spread = |rows: &[f32]| -> Vec<f32> {
                    let rows = rows.iter();
                    rows.flat_map(|&value| std::iter::repeat_n(value, time))
                        .collect()
                };
                let units = share.units.max(1) as f32;
                let of_rows: Vec<f32> = match mean {
                    Mean::Token => vec![1.0 / units; batch.sequences.batch],
                    Mean::Sequence => row_labels(batch)
                        .into_iter()
                        .map(|labels| 1.0 / (units * labels.max(1) as f32))
                        .collect(),
                };
                let mut shares = spread(&of_rows);
                for (share, label) in shares.iter_mut().zip(&batch.labels) {
                    if *label == IGNORE {
                        *share = 0.0;
                    }
                }
                let tokens = grpo::Tokens {
                    advantages: &spread(advantages),
                    shares: &shares,
                    old,
                    reference: if *beta == 0.0 { &[] } else { reference },
                };
                grpo::weigh(
                    log_probabilities,
                    mask,
                    tokens,
                    *beta,
                    *epsilon,
                    share.labels,
                )
            }
            (objective, targets) => misfit(objective, targets),
        };
        weighed.report.push(entropy);
        weighed
    }
}

/// What a step measured beside its losses, as means over the step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Measures {
    /// Nothing: the objective is the cross-entropy.
    #[default]
    None,
    /// Of pairs.
    Pairs {
        /// Reward of the chosen completion, β · (log π − log π_ref), in nat.
        chosen: f64,
        /// Reward of the rejected completion.
        rejected: f64,
        /// Share of pairs whose chosen completion has the larger reward.
        accuracy: f64,
        /// Reward of the chosen one less that of the rejected one.
        margin: f64,
    },
    /// Of groups.
    Groups {
        /// Divergence from the reference by the estimate k3, in nat a token; `None` without one.
        kl: Option<f64>,
        /// Share of tokens whose ratio was clipped.
        clip_fraction: f64,
    },
}

/// A report in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Reported {
    /// The objective.
    pub objective: f64,
    /// Mean cross-entropy of the labels, in nat.
    pub cross_entropy: f64,
    pub measures: Measures,
}

impl Reported {
    /// Reads the numbers of [`Weighed::report`], or of a cross-entropy alone.
    pub fn of(objective: &Objective, numbers: &[f64]) -> Self {
        match (objective, numbers) {
            (Objective::Dpo { .. }, &[loss, chosen, rejected, accuracy, margin, entropy]) => Self {
                objective: loss,
                cross_entropy: entropy,
                measures: Measures::Pairs {
                    chosen,
                    rejected,
                    accuracy,
                    margin,
                },
            },
            (Objective::Grpo { beta, .. }, &[loss, kl, clip_fraction, entropy]) => Self {
                objective: loss,
                cross_entropy: entropy,
                measures: Measures::Groups {
                    kl: (*beta != 0.0).then_some(kl),
                    clip_fraction,
                },
            },
            (_, numbers) => {
                let entropy = numbers.iter().sum();
                Self {
                    objective: entropy,
                    cross_entropy: entropy,
                    measures: Measures::None,
                }
            }
        }
    }
}
