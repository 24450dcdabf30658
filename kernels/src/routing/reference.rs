//! Routing in plain tensor operations, the choice itself on the host.

use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::{Int, Tensor, TensorData};

use super::{GroupLimit, GroupScore, Plan, Router, Routing, ScoreFunction, capacity_of};

/// Routes the tokens whose logits are `[T, E]`.
///
/// `correction_bias` `[E]` takes part in the choice alone. The scores are read back to the host
/// once; gradients flow through `weights`, `probabilities` and `logits` of the result.
///
/// # Panics
/// If `top_k` is more than the experts within reach: configurations are checked before.
pub fn route(logits: Tensor<2>, correction_bias: Option<&[f32]>, router: &Router) -> Routing {
    let [tokens, experts] = logits.dims();
    let scores = match router.scores {
        ScoreFunction::Softmax => softmax(logits.clone(), 1),
        ScoreFunction::Sigmoid => sigmoid(logits.clone()),
    };
    let probabilities = match router.scores {
        ScoreFunction::Softmax => scores.clone(),
        ScoreFunction::Sigmoid => scores
            .clone()
            .div(scores.clone().sum_dim(1).add_scalar(1e-20)),
    };
    let host = scores
        .clone()
        .without_autodiff()
        .into_data()
        .convert::<f32>();
    let host = host.as_slice::<f32>().expect("scores are f32");
    let chosen = choose(host, experts, correction_bias, router);

    let device = logits.device().without_autodiff();
    let data: Vec<i32> = chosen.iter().map(|&expert| expert as i32).collect();
    let indices =
        Tensor::<2, Int>::from_data(TensorData::new(data, [tokens, router.top_k]), &device);
    let mut weights = scores.gather(1, indices.clone());
    if router.normalise {
        // The epsilon is DeepSeek's; under f32 it changes nothing where a score is above 1e-13.
        weights = weights.clone().div(weights.sum_dim(1).add_scalar(1e-20));
    }
    if router.scale != 1.0 {
        weights = weights.mul_scalar(router.scale);
    }
    let capacity = router
        .capacity_factor
        .map(|factor| capacity_of(factor, tokens, router.top_k, experts));
    Routing {
        logits,
        probabilities,
        weights,
        indices,
        plan: Plan::new(chosen, router.top_k, experts, capacity),
    }
}

/// The experts of each token, best first, ties by the lower index.
///
/// `scores`: `[T, E]` row by row. Returns `[T, k]` row by row.
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
        // NaN compares false: a row of NaN falls to the first allowed expert, and the loss, NaN
        // as well, is what the trainer acts on.
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
}
