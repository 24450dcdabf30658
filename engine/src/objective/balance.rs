//! Load-balancing loss, router z-loss, loss-free balancing.

use burn::tensor::{Device, Tensor, TensorData};

use super::{BalanceScope, RouterObjective};
use crate::model::{Decoder, RoutingAt};

/// How often each expert was chosen, for every router decision of a model in order of layer and
/// iteration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frequencies {
    /// Choices of each expert, a row for each layer and iteration.
    pub chosen: Vec<Vec<u64>>,
}

impl Frequencies {
    /// Adds the choices of one micro-batch.
    pub fn add(&mut self, routings: &[RoutingAt]) {
        if self.chosen.is_empty() {
            self.chosen = routings
                .iter()
                .map(|at| vec![0; at.routing.plan.expert_count()])
                .collect();
        }
        for (row, at) in self.chosen.iter_mut().zip(routings) {
            for (total, &count) in row.iter_mut().zip(&at.routing.plan.chosen) {
                *total += u64::from(count);
            }
        }
    }

    /// The counts of `routings` alone.
    pub fn of(routings: &[RoutingAt]) -> Self {
        let mut frequencies = Self::default();
        frequencies.add(routings);
        frequencies
    }
}

/// Sizes of one optimizer step, all micro-batches together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepSize {
    /// Tokens routed.
    pub tokens: usize,
    /// Sequences.
    pub sequences: usize,
    /// Tokens with a label, weighted ones counted once.
    pub labels: usize,
}

/// A micro-batch's share of the step's router objectives, without their coefficients.
#[derive(Clone, Debug)]
pub struct RouterTerms {
    /// Load-balancing loss, `[1]`, tracked; `None` without one.
    pub balance: Option<Tensor<1>>,
    /// Mean squared log-sum-exp of router logits, `[1]`, tracked.
    pub z: Option<Tensor<1>>,
}

/// The router objectives of one micro-batch of `sequences` sequences.
///
/// `frequencies`: what the scope counts — the whole step for `global`, the step so far (this
/// micro-batch included) for `global-running`; other scopes count from `routings`. Summed over the
/// micro-batches of a step, the terms are those of the step.
pub fn router_terms(
    routings: &[RoutingAt],
    sequences: usize,
    frequencies: Option<&Frequencies>,
    step: StepSize,
    objective: &RouterObjective,
) -> RouterTerms {
    if routings.is_empty() {
        return RouterTerms {
            balance: None,
            z: None,
        };
    }
    let with_balance =
        objective.balance != BalanceScope::None && objective.balance_coefficient != 0.0;
    let balance = with_balance.then(|| {
        if objective.balance == BalanceScope::Sequence {
            sum(routings
                .iter()
                .map(|at| sequence_balance(at, sequences, step)))
        } else {
            let own;
            let frequencies = match frequencies {
                Some(given) => given,
                None => {
                    own = Frequencies::of(routings);
                    &own
                }
            };
            batch_balance(routings, frequencies, step, objective.pool_layers)
        }
    });
    let z = (objective.z_loss_coefficient != 0.0).then(|| {
        sum(routings.iter().map(|at| {
            let logits = at.routing.logits.clone();
            let max = logits.clone().without_autodiff().max_dim(1);
            let sum = logits.sub(max.clone()).exp().sum_dim(1).log().add(max);
            sum.square().sum().div_scalar(step.tokens as f64)
        }))
    });
    RouterTerms { balance, z }
}

fn sum(terms: impl Iterator<Item = Tensor<1>>) -> Tensor<1> {
    terms
        .reduce(|a, b| a.add(b))
        .expect("called with at least one routing")
}

/// `E · mean over sequences of Σₑ f_{s,e} P_{s,e}`, this micro-batch's share.
fn sequence_balance(at: &RoutingAt, sequences: usize, step: StepSize) -> Tensor<1> {
    let plan = &at.routing.plan;
    let experts = plan.expert_count();
    let slots = plan.experts.len() / sequences;
    let mut share = vec![0f32; sequences * experts];
    for (slot, &expert) in plan.experts.iter().enumerate() {
        share[slot / slots * experts + expert as usize] += 1.0 / slots as f32;
    }
    let probabilities = at.routing.probabilities.clone();
    let time = plan.tokens() / sequences;
    let mean = probabilities
        .reshape([sequences, time, experts])
        .mean_dim(1)
        .reshape([sequences, experts]);
    let share = constant(share, [sequences, experts], &mean.device());
    mean.mul(share)
        .sum()
        .mul_scalar(experts as f64 / step.sequences as f64)
}

/// `E · Σₑ fₑ Pₑ` of each layer and iteration, summed, or once over all of them pooled.
fn batch_balance(
    routings: &[RoutingAt],
    frequencies: &Frequencies,
    step: StepSize,
    pool_layers: bool,
) -> Tensor<1> {
    let experts = routings[0].routing.plan.expert_count();
    let token_sum = |at: &RoutingAt| at.routing.probabilities.clone().sum_dim(0);
    let shares = |counts: &[u64]| -> Vec<f32> {
        let total = counts.iter().sum::<u64>().max(1) as f32;
        counts.iter().map(|&count| count as f32 / total).collect()
    };
    let device = routings[0].routing.logits.device();
    let scale = experts as f64 / step.tokens as f64;
    if !pool_layers {
        return sum(routings
            .iter()
            .zip(&frequencies.chosen)
            .map(|(at, counts)| {
                let share = constant(shares(counts), [1, experts], &device);
                token_sum(at).mul(share).sum().mul_scalar(scale)
            }));
    }
    let mut pooled = vec![0u64; experts];
    for counts in &frequencies.chosen {
        for (total, count) in pooled.iter_mut().zip(counts) {
            *total += count;
        }
    }
    let probabilities = routings
        .iter()
        .map(token_sum)
        .reduce(|a, b| a.add(b))
        .expect("at least one routing");
    let share = constant(shares(&pooled), [1, experts], &device);
    probabilities
        .mul(share)
        .sum()
        .mul_scalar(scale / routings.len() as f64)
}

fn constant(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(
        TensorData::new(values, shape),
        &device.clone().without_autodiff(),
    )
}

/// Loss-free balancing: moves each router's correction bias by `speed` towards even load, once an
/// optimizer step (arXiv 2408.15664, DeepSeek-V3). Experts exactly at the mean stay.
///
/// `frequencies` are the whole step's. Iterations that share a router add their counts.
pub fn update_correction_bias(model: &mut Decoder, frequencies: &Frequencies, speed: f64) {
    let iterations = model.config().inner_iter;
    for (mixture, rows) in model
        .mixtures_mut()
        .map(|(_, mixture)| mixture)
        .zip(frequencies.chosen.chunks(iterations))
    {
        let routers = mixture.correction_bias.len();
        for (router, bias) in mixture.correction_bias.iter_mut().enumerate() {
            let mut counts = vec![0u64; bias.len()];
            for (iteration, row) in rows.iter().enumerate() {
                if iteration.min(routers - 1) == router {
                    for (total, count) in counts.iter_mut().zip(row) {
                        *total += count;
                    }
                }
            }
            let mean = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
            for (bias, &count) in bias.iter_mut().zip(&counts) {
                let gap = mean - count as f64;
                if gap != 0.0 {
                    *bias += (speed * gap.signum()) as f32;
                }
            }
        }
    }
}
