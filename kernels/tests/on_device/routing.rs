use bellows_kernels::routing::{Router, Routing, ScoreFunction, route};
use burn::tensor::{Device, Tensor};

use crate::device::test_device;
use crate::oracle::{Leaf, assert_equal, host, leaf, noise, tensor};

const TOKENS: usize = 5;
const EXPERTS: usize = 6;

fn router(scores: ScoreFunction, normalise: bool, scale: f64) -> Router {
    Router {
        scores,
        top_k: 2,
        group_limit: None,
        normalise,
        scale,
        capacity_factor: None,
    }
}

fn logits() -> Vec<f32> {
    noise(11, TOKENS * EXPERTS)
        .iter()
        .map(|value| value * 2.0)
        .collect()
}

/// The two largest of each row of logits plus `bias`, best first. Scores rise with the logits, so
/// without a bias the order is that of the scores.
fn two_best(values: &[f32]) -> Vec<u32> {
    values
        .chunks_exact(EXPERTS)
        .flat_map(|row| {
            let mut order: Vec<usize> = (0..EXPERTS).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            [order[0] as u32, order[1] as u32]
        })
        .collect()
}

/// Everything that gradients flow through: weights, probabilities, logits.
fn outputs(weights: Tensor<2>, probabilities: Tensor<2>, logits: Tensor<2>) -> Tensor<2> {
    Tensor::cat(vec![weights, probabilities, logits], 1)
}

/// The rule in plain operations with the choice given, as a product with a constant.
fn plain(logits: Tensor<2>, chosen: &[u32], router: &Router) -> Tensor<2> {
    let exponentials = logits.clone().exp();
    let (scores, probabilities) = match router.scores {
        ScoreFunction::Softmax => {
            let scores = exponentials.clone().div(exponentials.sum_dim(1));
            (scores.clone(), scores)
        }
        ScoreFunction::Sigmoid => {
            let scores = exponentials.clone().div(exponentials + 1.0);
            (scores.clone(), scores.clone().div(scores.sum_dim(1)))
        }
    };
    let mut pick = vec![0.0; TOKENS * 2 * EXPERTS];
    for (slot, &expert) in chosen.iter().enumerate() {
        pick[slot * EXPERTS + expert as usize] = 1.0;
    }
    let device = logits.device().without_autodiff();
    let pick = tensor(pick, [TOKENS, 2, EXPERTS], &device);
    let weights: Tensor<2> = scores
        .unsqueeze_dim::<3>(1)
        .mul(pick)
        .sum_dim(2)
        .squeeze_dim(2);
    let weights = match router.normalise {
        true => weights.clone().div(weights.sum_dim(1)),
        false => weights,
    };
    outputs(weights * router.scale, probabilities, logits)
}

fn routed(routing: Routing) -> Tensor<2> {
    let indices = routing.indices.into_data().convert::<i32>();
    let indices: Vec<u32> = indices.iter::<i32>().map(|index| index as u32).collect();
    assert_eq!(
        indices, routing.plan.experts,
        "device and host agree on the choice"
    );
    outputs(routing.weights, routing.probabilities, routing.logits)
}

fn leaves() -> [Leaf; 1] {
    [leaf("logits", &[TOKENS, EXPERTS], logits())]
}

#[test]
fn gradients_reach_the_logits_through_weights_and_probabilities() {
    let Some(device) = test_device() else { return };
    for router in [
        router(ScoreFunction::Softmax, false, 1.0),
        router(ScoreFunction::Softmax, true, 1.0),
        router(ScoreFunction::Softmax, false, 2.5),
        router(ScoreFunction::Sigmoid, false, 1.0),
        router(ScoreFunction::Sigmoid, true, 2.5),
    ] {
        assert_equal(
            &leaves(),
            &device,
            |leaves| routed(route(leaves.at(0), None, &router)),
            |leaves| plain(leaves.at(0), &two_best(&logits()), &router),
        );
    }
}

#[test]
fn the_correction_bias_moves_the_choice_and_nothing_else() {
    let Some(device) = test_device() else { return };
    let router = router(ScoreFunction::Sigmoid, true, 1.0);
    let bias = [0.0, 0.0, 0.9, 0.0, -0.9, 0.1];
    let corrected: Vec<f32> = logits()
        .iter()
        .enumerate()
        .map(|(i, logit)| 1.0 / (1.0 + (-logit).exp()) + bias[i % EXPERTS])
        .collect();
    let chosen = two_best(&corrected);
    assert_ne!(chosen, two_best(&logits()), "the case must test something");
    assert_equal(
        &leaves(),
        &device,
        |leaves| {
            let routing = route(leaves.at(0), Some(&bias), &router);
            assert_eq!(routing.plan.experts, chosen);
            routed(routing)
        },
        |leaves| plain(leaves.at(0), &chosen, &router),
    );
}

#[test]
fn tied_logits_choose_the_lower_index_on_every_device() {
    let Some(device) = test_device() else { return };
    let logits = tensor(vec![0.5; TOKENS * EXPERTS], [TOKENS, EXPERTS], &device);
    let routing = route(logits, None, &router(ScoreFunction::Softmax, false, 1.0));
    assert_eq!(routing.plan.experts, [0, 1].repeat(TOKENS));
}

#[test]
fn logits_that_are_not_numbers_still_choose_experts_that_exist() {
    let Some(device) = test_device() else { return };
    let choose = |device: &Device, value: f32| {
        let logits = tensor(vec![value; TOKENS * EXPERTS], [TOKENS, EXPERTS], device);
        route(logits, None, &router(ScoreFunction::Softmax, true, 1.0))
    };
    let routing = choose(&device, f32::NAN);
    assert_eq!(routing.plan.chosen.iter().sum::<u32>(), 2 * TOKENS as u32);
    // The loss must show it, or the trainer could not act on it.
    assert!(host(routing.weights).iter().all(|weight| weight.is_nan()));
}
