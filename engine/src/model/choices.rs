//! Where the routers' choices of a pass come from.

use bellows_kernels::Kernels;
use bellows_kernels::experts::WeightAccumulator;
use bellows_kernels::routing::{Plan, Router, Routing, capacity_of, replay, route};
use burn::tensor::{Int, Tensor};

/// Where the choices of one layer come from.
#[derive(Debug)]
pub enum Choices<'a> {
    /// From the routers, over all tokens of the pass.
    Fresh,
    /// From the routers, for a part of a batch: a capacity is that of the whole batch.
    Part(&'a mut Filled),
    /// From an earlier pass over the same tokens, which is repeated for its gradients.
    Replay {
        /// What was chosen, an iteration each.
        plans: &'a [Plan],
        /// Where the gradients of the experts' weights are added up.
        sums: &'a WeightAccumulator,
    },
}

/// What the parts of a batch so far chose in one layer.
#[derive(Clone, Debug)]
pub struct Filled {
    /// Tokens of the whole batch.
    tokens: usize,
    /// Choices of each expert `[E]`, an iteration each. Empty without a capacity.
    chosen: Vec<Tensor<1, Int>>,
}

impl Filled {
    /// Nothing yet of a batch of `tokens` tokens.
    pub fn new(tokens: usize) -> Self {
        Self {
            tokens,
            chosen: Vec::new(),
        }
    }
}

impl Choices<'_> {
    /// The decision of `iteration`, as [`route`] takes it.
    pub(super) fn route(
        &mut self,
        iteration: usize,
        logits: Tensor<2>,
        correction_bias: Option<&[f32]>,
        rule: &Router,
        sequences: usize,
        kernels: Kernels,
    ) -> Routing {
        match self {
            Choices::Replay { plans, .. } => replay(logits, &plans[iteration], rule, sequences),
            Choices::Part(filled) => {
                let dropless = Router {
                    capacity_factor: None,
                    ..*rule
                };
                let mut routing = route(logits, correction_bias, &dropless, sequences, kernels);
                if let Some(factor) = rule.capacity_factor {
                    let plan = &routing.plan;
                    let capacity = capacity_of(factor, filled.tokens, plan.top_k, plan.experts);
                    let chosen = plan.chosen.clone();
                    match filled.chosen.get_mut(iteration) {
                        Some(before) => {
                            routing.plan = plan.limited(before.clone(), capacity);
                            *before = before.clone().add(chosen);
                        }
                        None => {
                            routing.plan = plan.limited(chosen.zeros_like(), capacity);
                            filled.chosen.push(chosen);
                        }
                    }
                }
                routing
            }
            Choices::Fresh => route(logits, correction_bias, rule, sequences, kernels),
        }
    }

    /// Where gradients of the experts' weights are added up, if not by autodiff.
    pub(super) fn weight_sums(&self) -> Option<&WeightAccumulator> {
        match self {
            Choices::Replay { sums, .. } => Some(sums),
            _ => None,
        }
    }
}
