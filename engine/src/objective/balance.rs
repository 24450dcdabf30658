//! Load-balancing loss, router z-loss, loss-free balancing.

use bellows_kernels::host::{Read, Reading};
use bellows_kernels::routing::{Factors, Plan, Routing, Terms};
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
        for (decision, at) in routings.iter().enumerate() {
            self.add_decision(decision, &at.routing.plan);
        }
    }

    /// Adds the choices of some tokens in the decision of this number, counted in order of layer
    /// and iteration. Every decision gets the same tokens.
    pub fn add_decision(&mut self, decision: usize, plan: &Plan) {
        if decision == 0 {
            self.slots += plan.tokens * plan.top_k;
        }
        let new = plan.chosen.clone();
        match self.chosen.get_mut(decision) {
            Some(total) => *total = total.clone().add(new),
            None => self.chosen.push(new),
        }
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

/// What the routers chose in one micro-batch, as far as their objectives count it.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    /// Experts of a router.
    experts: usize,
    /// Choices of a token.
    top_k: usize,
    /// Choices of the micro-batch.
    counts: Counts,
    /// Choices of each sequence `[S, E]`, a decision each; empty unless the scope wants them.
    by_sequence: Vec<Tensor<2, Int>>,
}

impl Chosen {
    /// Adds the decision of this number about some tokens of the micro-batch, the sequences
    /// `first_sequence..` of `sequences`.
    pub fn add(
        &mut self,
        decision: usize,
        routing: &Routing,
        objective: &RouterObjective,
        first_sequence: usize,
        sequences: usize,
    ) {
        self.experts = routing.plan.experts;
        self.top_k = routing.plan.top_k;
        self.counts.add_decision(decision, &routing.plan);
        if objective.balance != BalanceScope::Sequence {
            return;
        }
        let own = routing.chosen_by_sequence();
        let [rows, experts] = own.dims();
        let whole = match rows == sequences {
            true => own,
            false => {
                // Rows of zeros around: a part knows nothing of the other sequences.
                let zeros = |rows| Tensor::<2, Int>::zeros([rows, experts], &own.device());
                let behind = sequences - first_sequence - rows;
                let parts = [
                    (first_sequence, None),
                    (rows, Some(own.clone())),
                    (behind, None),
                ];
                let parts = parts.into_iter().filter(|(rows, _)| *rows > 0);
                Tensor::cat(
                    parts
                        .map(|(rows, own)| own.unwrap_or_else(|| zeros(rows)))
                        .collect(),
                    0,
                )
            }
        };
        match self.by_sequence.get_mut(decision) {
            Some(sum) => *sum = sum.clone().add(whole),
            None => self.by_sequence.push(whole),
        }
    }

    /// The counts that every decision's router losses take, or `None` if there are no such losses.
    ///
    /// `sequences`: those of the micro-batch; `counted` as for [`router_terms`].
    pub fn weighing(
        &self,
        sequences: usize,
        counted: Option<&Counts>,
        step: StepSize,
        objective: &RouterObjective,
    ) -> Option<Weighing> {
        let with_balance =
            objective.balance != BalanceScope::None && objective.balance_coefficient != 0.0;
        let z_weight = objective.z_loss_coefficient;
        let decisions = self.counts.chosen.len();
        if decisions == 0 || (!with_balance && z_weight == 0.0) {
            return None;
        }
        let experts = self.experts as f64;
        let mut factors = Factors {
            z: 1.0 / step.tokens as f64,
            z_weight,
            ..Factors::default()
        };
        let frequencies: Vec<Tensor<2, Int>>;
        if with_balance && objective.balance == BalanceScope::Sequence {
            // E · mean over sequences of Σₑ f_{s,e} P_{s,e}.
            let time = (self.counts.slots / self.top_k / sequences) as f64;
            factors.balance = experts / (step.sequences as f64 * time * self.top_k as f64 * time);
            frequencies = self.by_sequence.clone();
        } else {
            // E · Σₑ fₑ Pₑ of each layer and iteration, summed, or once over all of them pooled.
            let counted = counted.unwrap_or(&self.counts);
            factors.balance = experts / (step.tokens as f64 * counted.slots as f64);
            let rows = counted.chosen.iter().cloned();
            let rows: Vec<Tensor<1, Int>> = if objective.pool_layers {
                factors.balance /= (decisions * decisions) as f64;
                let pooled = rows.reduce(|a, b| a.add(b));
                pooled.into_iter().cycle().take(decisions).collect()
            } else {
                rows.collect()
            };
            frequencies = rows
                .into_iter()
                .map(|row| row.reshape([1, self.experts]))
                .collect();
        }
        if with_balance {
            factors.balance_weight = objective.balance_coefficient;
        } else {
            factors.balance = 0.0;
        }
        Some(Weighing {
            factors,
            frequencies,
        })
    }
}

/// What the router losses of one micro-batch take as given: they are sums over its tokens, so any
/// part of them adds its share.
#[derive(Clone, Debug)]
pub struct Weighing {
    factors: Factors,
    /// `[S, E]` or `[1, E]`, a decision each.
    frequencies: Vec<Tensor<2, Int>>,
}

impl Weighing {
    /// Router losses of a decision's tokens, which are of the sequences `first_sequence..`.
    pub fn terms(&self, decision: usize, routing: &Routing, first_sequence: usize) -> Terms {
        let frequencies = self.frequencies[decision].clone();
        let sequences = routing.sequences();
        let frequencies = match frequencies.dims()[0] {
            1 => frequencies,
            _ => frequencies.narrow(0, first_sequence, sequences),
        };
        routing.terms(frequencies, &self.factors)
    }
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

impl RouterTerms {
    /// Adds those of one decision.
    pub fn add(&mut self, terms: Terms) {
        self.values.push(terms.values);
        self.objective = Some(match self.objective.take() {
            Some(sum) => sum.add(terms.objective),
            None => terms.objective,
        });
    }
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
    let mut chosen = Chosen::default();
    for (decision, at) in routings.iter().enumerate() {
        chosen.add(decision, &at.routing, objective, 0, sequences);
    }
    let mut result = RouterTerms::default();
    let Some(weighing) = chosen.weighing(sequences, counted, step, objective) else {
        return result;
    };
    for (decision, at) in routings.iter().enumerate() {
        result.add(weighing.terms(decision, &at.routing, 0));
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
