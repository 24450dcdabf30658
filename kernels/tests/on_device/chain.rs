//! Chains of experts against their steps taken one by one on the CPU, by hazard.

use bellows_kernels::chain::{Inputs, Rule, backward, chain, forward};
use bellows_kernels::experts::{Bank, Settings};
use bellows_kernels::routing::{Factors, Router, ScoreFunction};
use bellows_kernels::{Compute, Kernels, memcheck};
use burn::tensor::{Device, Tensor};

use crate::device::test_device;
use crate::oracle::{
    Leaf, Leaves, TOLERANCE, assert_close, assert_equal, host, leaf, noise, noisy,
};

#[derive(Clone, Copy)]
struct Case {
    tokens: usize,
    hidden: usize,
    inner: usize,
    experts: usize,
    shared: usize,
    routers: usize,
    rule: Rule,
}

const CASE: Case = Case {
    tokens: 70,
    hidden: 40,
    inner: 12,
    experts: 6,
    shared: 0,
    routers: 2,
    rule: Rule {
        router: Router {
            scores: ScoreFunction::Softmax,
            top_k: 2,
            group_limit: None,
            normalise: true,
            scale: 1.0,
            capacity_factor: None,
        },
        iterations: 2,
        residual: true,
        sequences: 2,
        settings: Settings {
            kernels: Kernels::Fused,
            compute: Compute::F32,
            recompute: false,
        },
    },
};

impl Case {
    fn leaves(&self) -> Vec<Leaf> {
        let blocks = self.experts + self.shared;
        let scaled = |name: &'static str, shape: &[usize], fan: usize| {
            let factor = (3.0 / fan as f32).sqrt();
            let values = noisy(name, shape).into_values();
            leaf(name, shape, values.iter().map(|v| v * factor).collect())
        };
        vec![
            noisy("x", &[self.tokens, self.hidden]),
            scaled(
                "routers",
                &[self.routers, self.experts, self.hidden],
                self.hidden / 4,
            ),
            scaled(
                "gate_up",
                &[blocks, 2 * self.inner, self.hidden],
                self.hidden,
            ),
            scaled("down", &[blocks, self.hidden, self.inner], self.inner),
        ]
    }

    fn inputs(leaves: &Leaves) -> Inputs {
        Inputs {
            x: leaves.at(0),
            routers: leaves.at(1),
            experts: Bank::whole(leaves.at(2), leaves.at(3)),
        }
    }

    /// The last state, with every decision's losses added to it so that their gradients count.
    fn run(&self, leaves: &Leaves, kernels: Kernels, losses: bool) -> Tensor<2> {
        let mut rule = self.rule;
        rule.settings.kernels = kernels;
        let (y, routings) = chain(Self::inputs(leaves), &[], &rule);
        assert_eq!(routings.len(), rule.iterations);
        if !losses {
            return y;
        }
        let factors = Factors {
            balance: 0.1,
            balance_weight: 0.7,
            z: 0.02,
            z_weight: 0.3,
        };
        routings.into_iter().fold(y, |y, routing| {
            let frequencies = routing.chosen_by_sequence();
            let objective = routing.terms(frequencies, &factors).objective;
            y.add(objective.unsqueeze())
        })
    }

    fn check(&self) {
        let Some(device) = test_device() else { return };
        for losses in [false, true] {
            assert_equal(
                &self.leaves(),
                &device,
                |leaves| self.run(leaves, Kernels::Fused, losses),
                |leaves| self.run(leaves, Kernels::Reference, losses),
            );
        }
    }
}

fn with(change: impl Fn(&mut Case)) -> Case {
    let mut case = CASE;
    change(&mut case);
    case
}

#[test]
fn two_iterations_with_a_router_each() {
    CASE.check();
}

#[test]
fn one_iteration_is_a_mixture() {
    with(|case| {
        case.routers = 1;
        case.rule.iterations = 1;
        case.rule.residual = false;
    })
    .check();
}

#[test]
fn three_iterations_that_share_a_router_add_up_its_gradients() {
    with(|case| {
        case.routers = 1;
        case.rule.iterations = 3;
    })
    .check();
}

#[test]
fn a_chain_without_residual() {
    with(|case| case.rule.residual = false).check();
}

#[test]
fn shared_experts_take_part_in_every_iteration() {
    with(|case| case.shared = 2).check();
}

#[test]
fn shared_experts_beside_dropped_slots() {
    with(|case| {
        case.shared = 1;
        case.rule.router.capacity_factor = Some(0.6);
    })
    .check();
}

#[test]
fn widths_that_no_vector_divides_and_more_experts_than_a_tile() {
    with(|case| {
        case.hidden = 37;
        case.inner = 7;
        case.experts = 70;
        case.tokens = 65;
        case.rule.sequences = 1;
        case.rule.router.scores = ScoreFunction::Sigmoid;
    })
    .check();
}

#[test]
fn experts_beyond_the_fused_logits() {
    with(|case| {
        case.experts = 300;
        case.inner = 4;
        case.tokens = 30;
    })
    .check();
}

#[test]
fn a_single_token_and_a_single_expert() {
    with(|case| {
        case.tokens = 1;
        case.experts = 1;
        case.rule.sequences = 1;
        case.rule.router.top_k = 1;
        // Divided by their sum the weights would be 1, without gradient.
        case.rule.router.normalise = false;
    })
    .check();
}

#[test]
fn many_tokens_sum_a_routers_gradient_in_parts() {
    with(|case| {
        case.tokens = 1030;
        case.hidden = 16;
    })
    .check();
}

#[test]
fn pre_activations_computed_again_change_nothing() {
    with(|case| {
        case.rule.settings.recompute = true;
        case.shared = 1;
    })
    .check();
}

/// Half precision moves logits between iterations, and with them choices: what must hold is that
/// the result stays near where no choice flips, so every expert is chosen.
#[test]
fn half_precision_stays_near() {
    let Some(device) = gpu() else { return };
    let case = with(|case| {
        case.rule.router.top_k = case.experts;
        case.shared = 1;
    });
    let wanted = {
        let leaves = case.leaves();
        crate::oracle::run(&leaves, &Device::flex(), |leaves| {
            case.run(leaves, Kernels::Reference, false)
        })
    };
    for compute in [Compute::F16, Compute::Bf16] {
        if !compute.stored_by(&device) {
            println!("SKIPPED half_precision_stays_near: the device does not store {compute:?}");
            continue;
        }
        let mut case = case;
        case.rule.settings.compute = compute;
        let found = crate::oracle::run(&case.leaves(), &device, |leaves| {
            case.run(leaves, Kernels::Fused, false)
        });
        // Two iterations: twice the roundings of one.
        let tolerance = 24.0 * compute.rounding();
        assert_close("y", &found.result, &wanted.result, tolerance);
        for (found, wanted) in found.gradients.iter().zip(&wanted.gradients) {
            assert_close("gradient", found, wanted, tolerance);
        }
    }
}

fn gpu() -> Option<Device> {
    test_device().filter(|device| *device != Device::flex())
}

#[test]
fn two_runs_give_the_same_bits() {
    let Some(device) = gpu() else { return };
    let case = with(|case| case.shared = 1);
    let run = || {
        crate::oracle::run(&case.leaves(), &device, |leaves| {
            case.run(leaves, Kernels::Fused, true)
        })
    };
    let bits = |values: &[f32]| -> Vec<u32> { values.iter().map(|v| v.to_bits()).collect() };
    let (first, second) = (run(), run());
    assert_eq!(bits(&first.result), bits(&second.result));
    for (first, second) in first.gradients.iter().zip(&second.gradients) {
        assert_eq!(bits(first), bits(second));
    }
}

#[test]
fn bounds_checks_change_no_bit() {
    let Some(device) = gpu() else { return };
    let case = with(|case| {
        case.shared = 1;
        case.hidden = 37;
        case.inner = 7;
        case.rule.router.capacity_factor = Some(0.8);
    });
    let run = || {
        crate::oracle::run(&case.leaves(), &device, |leaves| {
            case.run(leaves, Kernels::Fused, true)
        })
    };
    let (unchecked, checked) = (run(), memcheck::with_bounds_checks(run));
    assert_eq!(unchecked.result, checked.result);
    assert_eq!(unchecked.gradients, checked.gradients);
}

#[test]
fn passes_without_autodiff_add_into_given_sums() {
    let Some(device) = gpu() else { return };
    let case = with(|case| case.shared = 1);
    let values: Vec<_> = case.leaves().into_iter().map(Leaf::into_values).collect();
    let blocks = case.experts + case.shared;
    let shapes = [
        vec![case.tokens, case.hidden],
        vec![case.routers, case.experts, case.hidden],
        vec![blocks, 2 * case.inner, case.hidden],
        vec![blocks, case.hidden, case.inner],
    ];
    let flat =
        |index: usize| crate::oracle::tensor(values[index].clone(), [values[index].len()], &device);
    let inputs = Inputs {
        x: flat(0).reshape([shapes[0][0], shapes[0][1]]),
        routers: flat(1).reshape([shapes[1][0], shapes[1][1], shapes[1][2]]),
        experts: Bank::whole(
            flat(2).reshape([shapes[2][0], shapes[2][1], shapes[2][2]]),
            flat(3).reshape([shapes[3][0], shapes[3][1], shapes[3][2]]),
        ),
    };
    let dy = || {
        crate::oracle::tensor(
            noise(99, case.tokens * case.hidden),
            [case.tokens, case.hidden],
            &device,
        )
    };
    let fresh = backward(
        dy(),
        &inputs,
        forward(&inputs, &[], &case.rule),
        None,
        &case.rule,
    );
    let sums = inputs
        .experts
        .map(|tensor| tensor.mul_scalar(0.0).add_scalar(0.25));
    let pass = forward(&inputs, &[], &case.rule);
    assert_eq!(pass.plans().count(), case.rule.iterations);
    let added = backward(dy(), &inputs, pass, Some(sums), &case.rule);
    let expect = |what: &str, found: Tensor<3>, fresh: Tensor<3>| {
        let wanted: Vec<f32> = host(fresh).iter().map(|v| v + 0.25).collect();
        assert_close(what, &host(found), &wanted, TOLERANCE);
    };
    expect("gate_up", added.experts.gate_up(), fresh.experts.gate_up());
    expect("down", added.experts.down(), fresh.experts.down());
    assert_close("x", &host(added.x), &host(fresh.x), 0.0);
}
