use bellows_kernels::Kernels;
use bellows_kernels::experts::{Bank, Settings, experts, swiglu};
use bellows_kernels::memcheck;
use bellows_kernels::routing::{HostPlan, Plan};
use burn::tensor::activation::sigmoid;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::device::test_device;
use crate::oracle::{Leaf, Outcome, assert_equal, leaf, noisy, tensor};

const HIDDEN: usize = 6;
const INNER: usize = 5;

fn leaves(tokens: usize, top_k: usize, count: usize) -> [Leaf; 4] {
    [
        noisy("x", &[tokens, HIDDEN]),
        noisy("weights", &[tokens, top_k]),
        noisy("gate_up", &[count, 2 * INNER, HIDDEN]),
        noisy("down", &[count, HIDDEN, INNER]),
    ]
}

/// Every expert on every token; the result weighted by a dense `[T, E]` matrix that is zero where a
/// token did not choose an expert or was dropped.
fn dense(
    x: Tensor<2>,
    weights: Tensor<2>,
    plan: &HostPlan,
    gate_up: Tensor<3>,
    down: Tensor<3>,
) -> Tensor<2> {
    let [tokens, top_k] = weights.dims();
    let count = gate_up.dims()[0];
    let mut kept = vec![0.0; tokens * top_k * count];
    for &slot in &plan.slots {
        kept[slot as usize * count + plan.experts[slot as usize] as usize] = 1.0;
    }
    let device = x.device().without_autodiff();
    let weights = weights
        .unsqueeze_dim::<3>(2)
        .mul(tensor(kept, [tokens, top_k, count], &device))
        .sum_dim(1)
        .reshape([tokens, count]);
    (0..count)
        .map(|expert| {
            let both: Tensor<2> = gate_up.clone().narrow(0, expert, 1).squeeze_dim(0);
            let down: Tensor<2> = down.clone().narrow(0, expert, 1).squeeze_dim(0);
            let gate = x
                .clone()
                .matmul(both.clone().narrow(0, 0, INNER).transpose());
            let up = x.clone().matmul(both.narrow(0, INNER, INNER).transpose());
            let inner = gate.clone().mul(sigmoid(gate)).mul(up);
            let weight = weights.clone().narrow(1, expert, 1);
            inner.matmul(down.transpose()).mul(weight)
        })
        .reduce(|sum, output| sum.add(output))
        .expect("at least one expert")
}

fn plan(
    device: &Device,
    choices: &[u32],
    top_k: usize,
    count: usize,
    capacity: Option<usize>,
) -> Plan {
    let choices: Vec<i32> = choices.iter().map(|&expert| expert as i32).collect();
    let shape = [choices.len() / top_k, top_k];
    let indices = Tensor::<2, Int>::from_data(TensorData::new(choices, shape), device);
    memcheck::watch();
    let indices = memcheck::place_integers(indices);
    Plan::from_indices(indices, count, capacity)
}

fn check(
    device: &Device,
    choices: &[u32],
    top_k: usize,
    count: usize,
    capacity: Option<usize>,
) -> Outcome {
    let plan = plan(device, choices, top_k, count, capacity);
    assert_equal(
        &leaves(choices.len() / top_k, top_k, count),
        device,
        |leaves| {
            experts(
                leaves.at(0),
                leaves.at(1),
                &plan,
                &Bank::whole(leaves.at(2), leaves.at(3)),
                Settings::default(),
            )
        },
        |leaves| {
            dense(
                leaves.at(0),
                leaves.at(1),
                plan.host(),
                leaves.at(2),
                leaves.at(3),
            )
        },
    )
}

#[test]
fn experts_with_an_odd_number_of_tokens_and_an_idle_expert_equal_the_dense_mixture() {
    let Some(device) = test_device() else { return };
    let choices = [0, 4, 1, 0, 4, 2, 2, 0, 1, 4, 0, 2, 4, 1];
    let outcome = check(&device, &choices, 2, 5, None);
    // Expert 3 has no tokens: its gradient is there, and zero.
    let size = 2 * INNER * HIDDEN;
    assert!(
        outcome.gradients[2][3 * size..4 * size]
            .iter()
            .all(|&g| g == 0.0)
    );
}

#[test]
fn one_expert_that_takes_every_token_equals_the_dense_mixture() {
    let Some(device) = test_device() else { return };
    check(&device, &[2; 7], 1, 4, None);
}

#[test]
fn choosing_every_expert_equals_the_dense_mixture() {
    let Some(device) = test_device() else { return };
    check(&device, &[2, 0, 1, 0, 1, 2, 1, 2, 0], 3, 3, None);
}

#[test]
fn a_single_expert_and_a_single_token_equal_the_dense_mixture() {
    let Some(device) = test_device() else { return };
    check(&device, &[0; 3], 1, 1, None);
    check(&device, &[3, 1], 2, 5, None);
}

#[test]
fn a_dropped_slot_adds_nothing_and_its_weight_gets_no_gradient() {
    let Some(device) = test_device() else { return };
    let choices = [0, 1, 0, 2, 0, 1, 0, 2, 0, 1, 3, 2, 0, 1];
    let outcome = check(&device, &choices, 2, 4, Some(2));
    let plan = HostPlan::new(choices.to_vec(), 2, 4, Some(2));
    assert!(plan.dropped() > 0);
    for (slot, &gradient) in outcome.gradients[1].iter().enumerate() {
        assert_eq!(
            gradient == 0.0,
            !plan.slots.contains(&(slot as u32)),
            "slot {slot}"
        );
    }
    // The last token lost both of its slots: nothing goes in or comes out.
    assert!(outcome.result[6 * HIDDEN..].iter().all(|&y| y == 0.0));
    assert!(outcome.gradients[0][6 * HIDDEN..].iter().all(|&g| g == 0.0));
}

#[test]
fn a_plan_that_keeps_nothing_gives_zeros() {
    let Some(device) = test_device() else { return };
    let outcome = check(&device, &[0, 1, 1], 1, 2, Some(0));
    let all = outcome.gradients.iter().flatten().chain(&outcome.result);
    assert!(all.copied().all(|value| value == 0.0));
}

#[test]
fn swiglu_gradients_equal_autodiff_and_stay_finite_far_out() {
    let Some(device) = test_device() else { return };
    let function = |gate: Tensor<2>, up: Tensor<2>| gate.clone().mul(sigmoid(gate)).mul(up);
    let mut gates = vec![-200.0, -30.0, 0.0, 30.0, 200.0];
    gates.extend([-1.3, -0.2, 0.4, 1.1, 2.7, 0.9, -3.5]);
    // The kernel takes fours of elements.
    for columns in [5, 6] {
        let gates = gates[..2 * columns].to_vec();
        assert_equal(
            &[
                leaf("gate", &[2, columns], gates),
                noisy("up", &[2, columns]),
            ],
            &device,
            |leaves| swiglu(leaves.at::<2>(0), leaves.at(1), Kernels::Fused),
            |leaves| function(leaves.at(0), leaves.at(1)),
        );
    }
}
