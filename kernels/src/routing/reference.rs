//! Routing in plain tensor operations, the choice itself on the host.

use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::{Int, Tensor, TensorData};

use super::{
    Factors, GroupLimit, GroupScore, HostPlan, Plan, Router, Routing, ScoreFunction, Terms,
    capacity_of,
};
use crate::host;

/// Weights `[T, k]`, tracked, and the plan, as [`super::route`] says. The scores are read back to
/// the host once.
pub fn route(
    logits: Tensor<2>,
    correction_bias: Option<&[f32]>,
    router: &Router,
) -> (Tensor<2>, Plan) {
    let [tokens, experts] = logits.dims();
    let device = logits.device().without_autodiff();
    let scores = scores(logits, router);
    let chosen = choose(
        &host::floats(scores.clone()),
        experts,
        correction_bias,
        router,
    );
    let capacity = router
        .capacity_factor
        .map(|factor| capacity_of(factor, tokens, router.top_k, experts));
    let plan = HostPlan::new(chosen, router.top_k, experts, capacity);
    let plan = Plan::upload(plan, capacity, &device);
    (weights(scores, plan.indices.clone(), router), plan)
}

/// Weights `[T, k]` of the experts `indices` `[T, k]` from logits `[T, E]`, both tracked.
pub fn weights_of(logits: Tensor<2>, indices: Tensor<2, Int>, router: &Router) -> Tensor<2> {
    weights(scores(logits, router), indices, router)
}

fn scores(logits: Tensor<2>, router: &Router) -> Tensor<2> {
    match router.scores {
        ScoreFunction::Softmax => softmax(logits, 1),
        ScoreFunction::Sigmoid => sigmoid(logits),
    }
}

fn weights(scores: Tensor<2>, indices: Tensor<2, Int>, router: &Router) -> Tensor<2> {
    let mut weights = scores.gather(1, indices);
    if router.normalise {
        // The epsilon is DeepSeek's; under f32 it changes nothing where a score is above 1e-13.
        weights = weights.clone().div(weights.sum_dim(1).add_scalar(1e-20));
    }
    if router.scale != 1.0 {
        weights = weights.mul_scalar(router.scale);
    }
    weights
}

/// The plan of given choices, sorted on the host.
pub fn plan(indices: Tensor<2, Int>, experts: usize, capacity: Option<usize>) -> Plan {
    let [_, top_k] = indices.dims();
    let device = indices.device();
    let chosen = host::integers(indices);
    let chosen = chosen.iter().map(|&expert| expert as u32).collect();
    let plan = HostPlan::new(chosen, top_k, experts, capacity);
    Plan::upload(plan, capacity, &device)
}

/// How often each expert was chosen in each of `sequences` equal runs of tokens.
pub fn chosen_by_sequence(plan: &Plan, sequences: usize) -> Tensor<2, Int> {
    let host = plan.host();
    let slots = host.experts.len() / sequences;
    let mut counts = vec![0i32; sequences * plan.experts];
    for (slot, &expert) in host.experts.iter().enumerate() {
        counts[slot / slots * plan.experts + expert as usize] += 1;
    }
    let data = TensorData::new(counts, [sequences, plan.experts]);
    Tensor::from_data(data, &plan.indices.device())
}

/// Router losses of one decision, as [`Routing::terms`] says.
pub fn terms(routing: &Routing, frequencies: Tensor<2, Int>, factors: &Factors) -> Terms {
    let zero = || Tensor::<1>::zeros([1], &routing.logits.device().without_autodiff());
    let (mut objective, mut values) = (None, [zero(), zero()]);
    if factors.balance_weight != 0.0 {
        let [rows, experts] = frequencies.dims();
        let mass = match rows {
            1 => routing.probabilities().sum_dim(0),
            _ => routing
                .probabilities()
                .reshape([rows, routing.plan.tokens / rows, experts])
                .sum_dim(1)
                .reshape([rows, experts]),
        };
        let term = mass
            .mul(frequencies.float())
            .sum()
            .mul_scalar(factors.balance);
        values[0] = term.clone().without_autodiff();
        objective = Some(term.mul_scalar(factors.balance_weight));
    }
    if factors.z_weight != 0.0 {
        let logits = routing.logits.clone();
        let max = logits.clone().without_autodiff().max_dim(1);
        let log_sum = logits.sub(max.clone()).exp().sum_dim(1).log().add(max);
        let term = log_sum.square().sum().mul_scalar(factors.z);
        values[1] = term.clone().without_autodiff();
        let term = term.mul_scalar(factors.z_weight);
        objective = Some(match objective {
            Some(balance) => balance.add(term),
            None => term,
        });
    }
    Terms {
        objective: objective.unwrap_or_else(zero),
        values: Tensor::cat(values.into(), 0),
    }
}

/// Sums over the tokens of one decision, as [`Routing::statistics`] says.
pub fn statistics(routing: &Routing) -> Tensor<1> {
    let experts = routing.plan.experts;
    let probabilities = routing.probabilities().without_autodiff();
    let mass = probabilities.clone().sum_dim(0).reshape([experts]);
    // Of a probability of 0 the share of the entropy is 0, not 0 · ln 0.
    let logarithms = probabilities.clone().clamp_min(f32::MIN_POSITIVE).log();
    let entropy = probabilities.mul(logarithms).sum().neg();
    Tensor::cat(vec![mass, entropy], 0)
}

/// Pairs of choices `[from experts · to experts]`, counted on the host.
pub fn transitions(from: &Plan, to: &Plan) -> Tensor<1, Int> {
    let (sources, targets) = (from.host(), to.host());
    let mut counts = vec![0i32; from.experts * to.experts];
    let tokens = sources
        .experts
        .chunks_exact(from.top_k)
        .zip(targets.experts.chunks_exact(to.top_k));
    for (sources, targets) in tokens {
        for &source in sources {
            for &target in targets {
                counts[source as usize * to.experts + target as usize] += 1;
            }
        }
    }
    let length = counts.len();
    let data = TensorData::new(counts, [length]);
    Tensor::from_data(data, &from.indices.device())
}

/// The experts of each token, best first, ties by the lower index.
///
/// `scores`: `[T, E]` row by row; one that is not a number ranks behind all others. Returns `[T, k]`
/// row by row.
///
/// # Panics
/// If fewer experts than `top_k` are within reach.
pub fn choose(
    scores: &[f32],
    experts: usize,
    correction_bias: Option<&[f32]>,
    router: &Router,
) -> Vec<u32> {
    let mut chosen = Vec::with_capacity(scores.len() / experts * router.top_k);
    let mut row = vec![0f32; experts];
    let mut allowed = vec![true; experts];
    for scores in scores.chunks_exact(experts) {
        row.copy_from_slice(scores);
        if let Some(bias) = correction_bias {
            for (value, bias) in row.iter_mut().zip(bias) {
                *value += bias;
            }
        }
        match router.group_limit {
            Some(limit) => allow_best_groups(&row, limit, &mut allowed),
            None => allowed.fill(true),
        }
        for value in &mut row {
            if value.is_nan() {
                *value = f32::NEG_INFINITY;
            }
        }
        for _ in 0..router.top_k {
            let best = best_allowed(&row, &allowed);
            allowed[best] = false;
            chosen.push(best as u32);
        }
    }
    chosen
}

fn best_allowed(row: &[f32], allowed: &[bool]) -> usize {
    let mut best: Option<usize> = None;
    for (index, (&value, &allowed)) in row.iter().zip(allowed).enumerate() {
        if allowed && best.is_none_or(|best| value > row[best]) {
            best = Some(index);
        }
    }
    best.expect("fewer experts within reach than top_k")
}

fn allow_best_groups(row: &[f32], limit: GroupLimit, allowed: &mut [bool]) {
    let size = row.len() / limit.groups;
    let rank: Vec<f32> = row
        .chunks_exact(size)
        .map(|group| {
            let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
            for &value in group {
                if value > first {
                    (first, second) = (value, first);
                } else if value > second {
                    second = value;
                }
            }
            match limit.score {
                GroupScore::BestTwo if size > 1 => first + second,
                _ => first,
            }
        })
        .collect();
    allowed.fill(false);
    let mut open = vec![true; limit.groups];
    for _ in 0..limit.chosen {
        let group = best_allowed(&rank, &open);
        open[group] = false;
        allowed[group * size..(group + 1) * size].fill(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(top_k: usize) -> Router {
        Router {
            scores: ScoreFunction::Softmax,
            top_k,
            group_limit: None,
            normalise: false,
            scale: 1.0,
            capacity_factor: None,
        }
    }

    #[test]
    fn ties_go_to_the_lower_index() {
        assert_eq!(choose(&[0.25; 4], 4, None, &router(2)), [0, 1]);
    }

    #[test]
    fn every_expert_is_chosen_once_when_k_is_e() {
        assert_eq!(
            choose(&[0.1, 0.4, 0.2, 0.3], 4, None, &router(4)),
            [1, 3, 2, 0]
        );
    }

    #[test]
    fn one_expert_alone_is_chosen() {
        assert_eq!(choose(&[1.0, 1.0], 1, None, &router(1)), [0, 0]);
    }

    #[test]
    fn the_bias_moves_the_choice() {
        let bias = [0.0, 0.0, 1.0, 0.0];
        assert_eq!(
            choose(&[0.4, 0.3, 0.1, 0.2], 4, Some(&bias), &router(2)),
            [2, 0]
        );
    }

    #[test]
    fn groups_limit_the_choice_by_their_best_or_best_two() {
        let scores = [0.50, 0.01, 0.30, 0.29];
        let mut router = router(2);
        let mut limit = GroupLimit {
            groups: 2,
            chosen: 1,
            score: GroupScore::Best,
        };
        router.group_limit = Some(limit);
        assert_eq!(choose(&scores, 4, None, &router), [0, 1]);
        limit.score = GroupScore::BestTwo;
        router.group_limit = Some(limit);
        assert_eq!(choose(&scores, 4, None, &router), [2, 3]);
    }

    #[test]
    fn not_a_number_chooses_valid_experts() {
        assert_eq!(choose(&[f32::NAN; 3], 3, None, &router(2)), [0, 1]);
    }

    #[test]
    fn a_score_that_is_not_a_number_ranks_behind_all_others() {
        let scores = [f32::NAN, 0.1, f32::NAN, 0.3];
        assert_eq!(choose(&scores, 4, None, &router(3)), [3, 1, 0]);
    }
}
