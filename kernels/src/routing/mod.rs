//! Routing: from router logits to chosen experts.
//!
//! Scores are a softmax over the experts or a sigmoid of each; the `top_k` best, by score plus an
//! optional correction bias and within an optional limit of groups, are chosen, ties broken by
//! the lower index. Their weights are the scores without the bias, optionally divided by their
//! sum, then scaled. Sources: Switch (arXiv 2101.03961), DeepSeek-V2 (2405.04434), DeepSeek-V3
//! (2412.19437).
//!
//! | tensor | shape |
//! | --- | --- |
//! | logits | `[T, E]`, f32 |
//! | weights | `[T, k]` |
//! | plan | see [`Plan`] |
//! | frequencies of a router loss | `[S, E]` or `[1, E]`, S sequences |
//!
//! Gradients reach the logits through the weights and the router losses, never through the
//! choice. Kept for backward: the logits (shared with the caller), the chosen indices, and
//! `[S, E]` frequencies where a loss was taken. Backward computes the scores again and is one
//! kernel for weights and losses together.
//!
//! On a device that runs CubeCL a decision is three launches, none of which waits for the host:
//! scores and choice with counts of each tile of tokens, a scan of the counts over tiles, and a
//! stable scatter. Their workspace is some `2 · E · min(T / 64, 2048)` numbers. Sums are taken in
//! an order that depends on the shape alone; only whole numbers are added atomically. More than
//! 1024 experts, and every other device, take the [reference](mod@reference).

mod device;
pub(crate) use device::lanes;
pub(crate) mod fused;
mod host_plan;
mod launch;
mod plan;
pub mod reference;

pub use host_plan::HostPlan;
pub use plan::{Plan, capacity_of};

use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::{Int, Tensor};

use crate::Kernels;
use crate::calls::{Path, note};
use crate::vjp::Joint;

/// How scores are made from logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreFunction {
    /// Softmax over all experts.
    Softmax,
    /// Sigmoid of each logit.
    Sigmoid,
}

/// What ranks a group of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupScore {
    /// Its best expert (DeepSeek-V2).
    Best,
    /// The sum of its two best experts (DeepSeek-V3).
    BestTwo,
}

/// A limit on the groups that one token chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLimit {
    /// Equal groups that the experts fall into, in order of index.
    pub groups: usize,
    /// Groups that a token may choose from.
    pub chosen: usize,
    /// What ranks a group.
    pub score: GroupScore,
}

/// The rule of one router.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Router {
    /// Score function.
    pub scores: ScoreFunction,
    /// Experts chosen for a token.
    pub top_k: usize,
    /// Limit on groups, if any.
    pub group_limit: Option<GroupLimit>,
    /// Divide the weights by their sum.
    pub normalise: bool,
    /// Factor on the weights.
    pub scale: f64,
    /// Slots that an expert may take as a multiple of the even share; `None`: dropless.
    pub capacity_factor: Option<f64>,
}

/// What one router decided for a batch of T tokens and E experts.
#[derive(Clone, Debug)]
pub struct Routing {
    /// Logits `[T, E]`.
    pub logits: Tensor<2>,
    /// Weights of the chosen experts `[T, k]`. In a fused chain they are untracked.
    pub weights: Tensor<2>,
    /// The chosen experts, and the order that sorts slots by expert.
    pub plan: Plan,
    scores: ScoreFunction,
    sequences: usize,
    /// Absent where the reference computed.
    fused: Option<fused::Decision>,
}

/// Scales and weights of a decision's router losses; a weight of 0 leaves its loss out.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Factors {
    /// Scale of the balance term.
    pub balance: f64,
    /// Its weight in the objective.
    pub balance_weight: f64,
    /// Scale of the z term.
    pub z: f64,
    /// Its weight in the objective.
    pub z_weight: f64,
}

/// Router losses of one decision.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Their weighted sum `[1]`, tracked.
    pub objective: Tensor<1>,
    /// The balance term and the z term without weights `[2]`, untracked.
    pub values: Tensor<1>,
}

/// Routes the tokens whose logits are `[T, E]`.
///
/// `correction_bias` `[E]` takes part in the choice alone. `sequences`: equal runs of tokens, by
/// which router losses can be counted; they must divide T. A score that is not a number ranks
/// behind all others: every token has experts that exist.
///
/// # Panics
/// If `top_k` is more than the experts within reach, or `sequences` does not divide T:
/// configurations are checked before.
pub fn route(
    logits: Tensor<2>,
    correction_bias: Option<&[f32]>,
    router: &Router,
    sequences: usize,
    kernels: Kernels,
) -> Routing {
    let [tokens, experts] = logits.dims();
    assert!(
        tokens.is_multiple_of(sequences),
        "{tokens} tokens are not {sequences} equal sequences"
    );
    assert!(
        router.top_k <= experts,
        "a token cannot choose {} of {experts} experts",
        router.top_k
    );
    let computes = fused::computes(&logits, experts, kernels);
    note("routing", Path::of(computes));
    let (weights, plan, fused) = if computes {
        let (weights, plan, decision) =
            fused::route(logits.clone(), correction_bias, router, sequences);
        (weights, plan, Some(decision))
    } else {
        let (weights, plan) = reference::route(logits.clone(), correction_bias, router);
        (weights, plan, None)
    };
    Routing {
        logits,
        weights,
        plan,
        scores: router.scores,
        sequences,
        fused,
    }
}

/// Routes the tokens whose logits are `[T, E]` as `plan` did before, so that rounding flips no
/// choice: a pass that is repeated. Weights and router losses are tracked; nothing is counted or
/// read. A few plain operations on every device.
pub fn replay(logits: Tensor<2>, plan: &Plan, router: &Router, sequences: usize) -> Routing {
    Routing {
        weights: reference::weights_of(logits.clone(), plan.indices.clone(), router),
        logits,
        plan: plan.clone(),
        scores: router.scores,
        sequences,
        fused: None,
    }
}

impl Routing {
    /// The decision with number `number` of a chain, whose gradients `joint` makes. Its logits and
    /// weights take no part in autodiff themselves: their gradients are the chain's.
    pub(crate) fn of_chain(
        logits: Tensor<2>,
        choice: &fused::Choice,
        router: &Router,
        sequences: usize,
        joint: &Joint<fused::Message>,
        number: usize,
    ) -> Self {
        Self {
            logits,
            weights: choice.weights.clone(),
            plan: choice.plan.clone(),
            scores: router.scores,
            sequences,
            fused: Some(choice.decision(joint, number)),
        }
    }

    /// Scores normalised over the experts `[T, E]`, tracked: the probabilities of balance losses.
    pub fn probabilities(&self) -> Tensor<2> {
        match self.scores {
            ScoreFunction::Softmax => softmax(self.logits.clone(), 1),
            ScoreFunction::Sigmoid => {
                let scores = sigmoid(self.logits.clone());
                scores.clone().div(scores.sum_dim(1).add_scalar(1e-20))
            }
        }
    }

    /// Equal runs of tokens by which router losses can be counted, S.
    pub fn sequences(&self) -> usize {
        self.sequences
    }

    /// How often each expert was chosen in each sequence `[S, E]`.
    pub fn chosen_by_sequence(&self) -> Tensor<2, Int> {
        match &self.fused {
            Some(decision) => decision.chosen_by_sequence.clone(),
            None => reference::chosen_by_sequence(&self.plan, self.sequences),
        }
    }

    /// Router losses of this decision.
    ///
    /// The balance term is `Σ frequency · probability` over tokens and experts, where
    /// `frequencies` has a row for each sequence or one for all, and carries no gradient. The z
    /// term is the sum of the tokens' squared log-sum-exps of logits.
    pub fn terms(&self, frequencies: Tensor<2, Int>, factors: &Factors) -> Terms {
        match &self.fused {
            Some(decision) => decision.terms(frequencies, factors),
            None => reference::terms(self, frequencies, factors),
        }
    }

    /// Over all tokens: the sum of each expert's probability, then that of the entropies of the
    /// tokens' probabilities, in nat `[E + 1]`. Untracked.
    pub fn statistics(&self) -> Tensor<1> {
        let experts = self.plan.experts;
        match &self.fused {
            Some(decision) => {
                let sums = match self.sequences {
                    1 => decision.sums.clone(),
                    _ => decision.sums.clone().sum_dim(0),
                };
                sums.narrow(1, 0, experts + 1).reshape([experts + 1])
            }
            None => reference::statistics(self),
        }
    }
}

/// How often a token that chose one expert in `from` chose another in `to`, row by row
/// `[from experts · to experts]`: each pair of a token's choices counts once. Both decisions are
/// of the same tokens.
pub fn transitions(from: &Plan, to: &Plan, kernels: Kernels) -> Tensor<1, Int> {
    assert_eq!(from.tokens, to.tokens, "decisions of the same tokens");
    if fused::computes(&from.indices, from.experts.max(to.experts), kernels) {
        fused::transitions(from, to)
    } else {
        reference::transitions(from, to)
    }
}
