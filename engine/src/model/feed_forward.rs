//! Feed-forward layers: dense SwiGLU, mixture of experts, chain of experts.

use bellows_kernels::chain::{Inputs, Rule, chain};
use bellows_kernels::experts::{Bank, Block, Settings, experts, experts_into, lengths, swiglu};
use bellows_kernels::memory::note;
use bellows_kernels::routing::{GroupLimit, GroupScore, Router, Routing, ScoreFunction};
use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::{Choices, Init, Linear, Numerics};
use crate::config::{ModelConfig, ScoringFunc, TopkMethod};

/// Feed-forward part of one layer.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "one a layer; a box would hide the module tree"
)]
pub enum FeedForward {
    /// Every token through the same weights.
    Dense(DenseFeedForward),
    /// Routed experts, once or in a chain.
    Mixture(MixtureOfExperts),
}

/// `W_down (silu(W_gate x) ⊙ W_up x)`.
#[derive(Module, Debug)]
pub struct DenseFeedForward {
    /// Gate projection.
    pub gate_proj: Linear,
    /// Up projection.
    pub up_proj: Linear,
    /// Down projection.
    pub down_proj: Linear,
}

impl DenseFeedForward {
    /// A feed-forward layer of inner width `inner`.
    pub fn new(init: &mut Init, hidden: usize, inner: usize, bias: bool) -> Self {
        Self {
            gate_proj: Linear::new(init, hidden, inner, bias),
            up_proj: Linear::new(init, hidden, inner, bias),
            down_proj: Linear::new(init, inner, hidden, bias),
        }
    }

    /// `x`: `[rows, hidden]`; returns the same shape.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let gate = self.gate_proj.forward(x.clone());
        let up = self.up_proj.forward(x);
        let kernels = self.down_proj.numerics.kernels;
        self.down_proj.forward(swiglu(gate, up, kernels))
    }
}

/// Weights of all experts of a layer: routed ones, then shared ones. One block of each, or several
/// of whole experts where the device has no buffer for all: the fewest that fit in f32, which an
/// optimizer and gradients want whatever the weights are held in.
#[derive(Module, Debug)]
pub struct ExpertWeights {
    /// `[experts, 2 · inner, hidden]`: gate rows, then up rows.
    pub gate_up_proj: Vec<Param<Tensor<3>>>,
    /// `[experts, hidden, inner]`, as many experts a block as `gate_up_proj` has.
    pub down_proj: Vec<Param<Tensor<3>>>,
}

impl ExpertWeights {
    /// The weights of `experts` experts of inner width `inner`; the same numbers in any number of
    /// blocks.
    pub fn new(init: &mut Init, experts: usize, hidden: usize, inner: usize) -> Self {
        let bytes = (4 * 2 * inner * hidden) as u64;
        let lengths = lengths(experts, bytes, init.largest_buffer());
        let mut blocks = |rows: usize, columns: usize| {
            let lengths = lengths.iter();
            lengths
                .map(|&own| init.normal([own, rows, columns]))
                .collect()
        };
        Self {
            gate_up_proj: blocks(2 * inner, hidden),
            down_proj: blocks(hidden, inner),
        }
    }

    /// The weights as the kernels take them.
    pub fn bank(&self) -> Bank {
        let both = self.gate_up_proj.iter().zip(&self.down_proj);
        let block = |(gate_up, down): (&Param<Tensor<3>>, &Param<Tensor<3>>)| Block {
            gate_up: gate_up.val(),
            down: down.val(),
        };
        Bank::new(both.map(block).collect())
    }
}

/// A mixture of experts; with more than one iteration a chain of experts (arXiv 2506.18945): the
/// output of one pass over the experts is the input of the next.
#[derive(Module, Debug)]
pub struct MixtureOfExperts {
    /// Routers `[experts, hidden]`: one an iteration, or one for all.
    pub gate: Vec<Linear>,
    /// Experts, the same in every iteration. Shared ones see every token, in each iteration that
    /// iteration's input.
    pub experts: ExpertWeights,
    /// Shared experts with biases, which `experts` has no place for.
    pub shared_experts: Option<DenseFeedForward>,
    /// Bias on the scores for the choice of experts, one `[experts]` a router; empty: none.
    #[module(skip)]
    pub correction_bias: Vec<Vec<f32>>,
    #[module(skip)]
    rule: Router,
    #[module(skip)]
    iterations: usize,
    #[module(skip)]
    inner_residual: bool,
    /// How it computes.
    #[module(skip)]
    pub numerics: Numerics,
}

impl MixtureOfExperts {
    /// The mixture that `config` asks for.
    pub fn new(init: &mut Init, config: &ModelConfig) -> Self {
        let (hidden, inner) = (config.hidden_size, config.moe_intermediate_size);
        let experts = config.n_routed_experts;
        let gate = (0..config.routers())
            .map(|_| Linear::in_f32(init, hidden, experts))
            .collect();
        let shared = config.n_shared_experts;
        let shared_experts = (shared > 0 && config.mlp_bias)
            .then(|| DenseFeedForward::new(init, hidden, shared * inner, true));
        let stacked = match shared_experts {
            Some(_) => experts,
            None => experts + shared,
        };
        Self {
            gate,
            experts: ExpertWeights::new(init, stacked, hidden, inner),
            shared_experts,
            correction_bias: if config.score_correction_bias {
                vec![vec![0.0; experts]; config.routers()]
            } else {
                Vec::new()
            },
            rule: router_rule(config),
            iterations: config.inner_iter,
            inner_residual: config.inner_residual,
            numerics: init.numerics(),
        }
    }

    /// `x`: `[rows, hidden]`, normalised, of `sequences` equal sequences. Returns the last
    /// iteration's output in the same shape, without the layer's outer residual, and each
    /// iteration's routing, which is as `choices` says.
    pub fn forward(
        &self,
        x: Tensor<2>,
        sequences: usize,
        choices: &mut Choices<'_>,
    ) -> (Tensor<2>, Vec<Routing>) {
        if self.shared_experts.is_some() || !matches!(choices, Choices::Fresh) {
            return self.step_by_step(x, sequences, choices);
        }
        let routers = self.gate.iter().map(|gate| gate.weight.val()).collect();
        let inputs = Inputs {
            x,
            routers: Tensor::stack(routers, 0),
            experts: self.experts.bank(),
        };
        let rule = Rule {
            router: self.rule,
            iterations: self.iterations,
            residual: self.inner_residual,
            sequences,
            settings: self.settings(),
        };
        chain(inputs, &self.correction_bias, &rule)
    }

    fn settings(&self) -> Settings {
        Settings {
            kernels: self.numerics.kernels,
            compute: self.numerics.compute,
            recompute: self.numerics.recompute_experts,
        }
    }

    /// The chain one iteration at a time: for choices that are not all made here, and for shared
    /// experts beside it.
    fn step_by_step(
        &self,
        x: Tensor<2>,
        sequences: usize,
        choices: &mut Choices<'_>,
    ) -> (Tensor<2>, Vec<Routing>) {
        let settings = self.settings();
        let mut state = x;
        let mut routings = Vec::with_capacity(self.iterations);
        for iteration in 0..self.iterations {
            let router = iteration.min(self.gate.len() - 1);
            let logits = self.gate[router].forward(state.clone());
            let bias = self.correction_bias.get(router).map(Vec::as_slice);
            let kernels = settings.kernels;
            let routing = choices.route(iteration, logits, bias, &self.rule, sequences, kernels);
            let (x, weights) = (state.clone(), routing.weights.clone());
            let bank = self.experts.bank();
            let mut y = match choices.weight_sums() {
                Some(sums) => experts_into(x, weights, &routing.plan, &bank, settings, sums),
                None => experts(x, weights, &routing.plan, &bank, settings),
            };
            if let Some(shared) = &self.shared_experts {
                y = y.add(shared.forward(state.clone()));
            }
            state = if self.inner_residual { y.add(state) } else { y };
            note(&state);
            routings.push(routing);
        }
        (state, routings)
    }
}

/// The routing rule of `config`.
fn router_rule(config: &ModelConfig) -> Router {
    let limit = |score| GroupLimit {
        groups: config.n_group,
        chosen: config.topk_group,
        score,
    };
    Router {
        scores: match config.scoring_func {
            ScoringFunc::Softmax => ScoreFunction::Softmax,
            ScoringFunc::Sigmoid => ScoreFunction::Sigmoid,
        },
        top_k: config.num_experts_per_tok,
        group_limit: match config.topk_method {
            TopkMethod::Greedy => None,
            TopkMethod::GroupLimitedGreedy => Some(limit(GroupScore::Best)),
            TopkMethod::NoauxTc => Some(limit(GroupScore::BestTwo)),
        },
        normalise: config.norm_topk_prob,
        scale: config.routed_scaling_factor,
        capacity_factor: config.capacity_factor,
    }
}
