//! Load-balancing loss, router z-loss, loss-free balancing.

use bellows_kernels::host::{Read, Reading};
use bellows_kernels::routing::Factors;
use burn::tensor::{Int, Tensor};

use super::{BalanceScope, RouterObjective};
use crate::model::{Decoder, RoutingAt};

/// How often each expert was chosen, for every router decision of a model in order of layer and
/// iteration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frequencies {
    /// Choices of each expert, a row for each layer and iteration.
    pub chosen: Vec<Vec<u64>>,
}

/// The same on the device, while a step runs.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Choices of each expert `[E]`, an entry for each layer and iteration.
    chosen: Vec<Tensor<1, Int>>,
    /// Choices of one layer and iteration together, T · k.
    slots: usize,
}

impl Counts {
    /// Adds the choices of one micro-batch.
    pub fn add(&mut self, routings: &[RoutingAt]) {
        let Some(first) = routings.first() else {
            return;
        };
        self.slots += first.routing.plan.tokens * first.routing.plan.top_k;
        let new = routings.iter().map(|at| at.routing.plan.chosen.clone());
        if self.chosen.is_empty() {
            self.chosen = new.collect();
        } else {
            for (total, new) in self.chosen.iter_mut().zip(new) {
                *total = total.clone().add(new);
            }
        }
    }

    /// The counts of `routings` alone.
    pub fn of(routings: &[RoutingAt]) -> Self {
        let mut counts = Self::default();
        counts.add(routings);
        counts
    }

    /// Has the counts read; returns their places.
    pub fn register(&self, reading: &mut Reading) -> Vec<usize> {
        let rows = self.chosen.iter();
        rows.map(|row| reading.integers(row.clone())).collect()
    }
}

impl Frequencies {
    /// Counts from where [`Counts::register`] put them.
    pub fn from_read(read: &Read, places: &[usize]) -> Self {
        let rows = places.iter().map(|&place| {
            let row = read.integers(place).into_iter();
            row.map(|count| count as u64).collect()
        });
        Self {
            chosen: rows.collect(),
        }
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

/// A micro-batch's share of the step's router objectives.
#[derive(Clone, Debug, Default)]
pub struct RouterTerms {
    /// All of them, each times its coefficient, `[1]`, tracked; `None` without any.
    pub objective: Option<Tensor<1>>,
    /// Of each layer and iteration the load-balancing loss and the mean squared log-sum-exp of
    /// router logits, without their coefficients `[2]`, untracked.
    pub values: Vec<Tensor<1>>,
}

/// The router objectives of one micro-batch of `sequences` sequences.
///
/// `counted`: what the scope counts — the whole step for `global`, the step so far (this
/// micro-batch included) for `global-running`; other scopes count from `routings`. Summed over the
/// micro-batches of a step, the terms are those of the step. Nothing waits for the device.
pub fn router_terms(
    routings: &[RoutingAt],
    sequences: usize,
    counted: Option<&Counts>,
    step: StepSize,
    objective: &RouterObjective,
) -> RouterTerms {
    let with_balance =
        objective.balance != BalanceScope::None && objective.balance_coefficient != 0.0;
    let z_weight = objective.z_loss_coefficient;
    let Some(first) = routings.first() else {
        return RouterTerms::default();
    };
    if !with_balance && z_weight == 0.0 {
        return RouterTerms::default();
    }
    let plan = &first.routing.plan;
    let experts = plan.experts as f64;
    let mut factors = Factors {
        z: 1.0 / step.tokens as f64,
        z_weight,
        ..Factors::default()
    };
    let frequencies: Vec<Tensor<2, Int>>;
    if with_balance && objective.balance == BalanceScope::Sequence {
        // E · mean over sequences of Σₑ f_{s,e} P_{s,e}.
        let time = (plan.tokens / sequences) as f64;
        factors.balance = experts / (step.sequences as f64 * time * plan.top_k as f64 * time);
        frequencies = routings
            .iter()
            .map(|at| at.routing.chosen_by_sequence())
            .collect();
    } else {
        // E · Σₑ fₑ Pₑ of each layer and iteration, summed, or once over all of them pooled.
        let own;
        let counted = match counted {
            Some(given) => given,
            None => {
                own = Counts::of(routings);
                &own
            }
        };
        factors.balance = experts / (step.tokens as f64 * counted.slots as f64);
        let rows = counted.chosen.iter().cloned();
        let rows: Vec<Tensor<1, Int>> = if objective.pool_layers {
            let layers = routings.len();
            factors.balance /= (layers * layers) as f64;
            let pooled = rows.reduce(|a, b| a.add(b));
            pooled.into_iter().cycle().take(layers).collect()
        } else {
            rows.collect()
        };
        frequencies = rows
            .into_iter()
            .map(|row| row.reshape([1, plan.experts]))
            .collect();
    }
    if with_balance {
        factors.balance_weight = objective.balance_coefficient;
    } else {
        factors.balance = 0.0;
    }
    let mut result = RouterTerms::default();
    for (at, frequencies) in routings.iter().zip(frequencies) {
        let terms = at.routing.terms(frequencies, &factors);
        result.values.push(terms.values);
        result.objective = Some(match result.objective.take() {
            Some(sum) => sum.add(terms.objective),
            None => terms.objective,
        });
    }
    result
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
