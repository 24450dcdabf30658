//! Routing: from router logits to chosen experts.
//!
//! Scores are a softmax over the experts or a sigmoid of each; the `top_k` best, by score plus an
//! optional correction bias and within an optional limit of groups, are chosen, ties broken by
//! the lower index. Their weights are the scores without the bias, optionally divided by their
//! sum, then scaled. Sources: Switch (arXiv 2101.03961), DeepSeek-V2 (2405.04434), DeepSeek-V3
//! (2412.19437).
//!
//! Gradients reach the logits through the weights and the probabilities, never through the
//! choice. Kept for backward: scores and chosen indices.

mod plan;
pub mod reference;

pub use plan::{Plan, capacity_of};
pub use reference::route;

use burn::tensor::{Int, Tensor};

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
    /// Scores normalised over the experts `[T, E]`: the probabilities of balance losses.
    pub probabilities: Tensor<2>,
    /// Weights of the chosen experts `[T, k]`.
    pub weights: Tensor<2>,
    /// Chosen experts `[T, k]`.
    pub indices: Tensor<2, Int>,
    /// The same on the host, with the order that sorts slots by expert.
    pub plan: Plan,
}
