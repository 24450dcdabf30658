//! Routing against its reference: the device under test on the one side, the reference on the CPU
//! on the other.

use bellows_kernels::Kernels;
use bellows_kernels::routing::{
    Factors, GroupLimit, GroupScore, HostPlan, Plan, Router, Routing, ScoreFunction, reference,
    route, transitions,
};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::device::test_device;
use crate::oracle::{TOLERANCE, assert_close, host, noise, tensor};

/// Scores nearer to each other than this may be ranked either way: exponentials on a GPU may be
/// off by some units in the last place.
const ROUNDING: f32 = 1e-6;

struct Case {
    tokens: usize,
    experts: usize,
    sequences: usize,
    router: Router,
    bias: Option<Vec<f32>>,
    logits: Vec<f32>,
}

fn router(scores: ScoreFunction, top_k: usize) -> Router {
    Router {
        scores,
        top_k,
        group_limit: None,
        normalise: false,
        scale: 1.0,
        capacity_factor: None,
    }
}

fn case(tokens: usize, experts: usize, top_k: usize) -> Case {
    let logits = noise(11, tokens * experts);
    Case {
        tokens,
        experts,
        sequences: 1,
        router: router(ScoreFunction::Softmax, top_k),
        bias: None,
        logits: logits.iter().map(|value| value * 2.0).collect(),
    }
}

fn sigmoid(case: Case) -> Case {
    let router = Router {
        scores: ScoreFunction::Sigmoid,
        normalise: true,
        scale: 2.5,
        ..case.router
    };
    Case { router, ..case }
}

fn grouped(case: Case, groups: usize, chosen: usize, score: GroupScore) -> Case {
    let limit = GroupLimit {
        groups,
        chosen,
        score,
    };
    let router = Router {
        group_limit: Some(limit),
        ..case.router
    };
    Case { router, ..case }
}

fn with_bias(case: Case) -> Case {
    let bias = noise(5, case.experts);
    Case {
        bias: Some(bias.iter().map(|value| value * 0.3).collect()),
        ..case
    }
}

fn with_capacity(case: Case, factor: f64) -> Case {
    let router = Router {
        capacity_factor: Some(factor),
        ..case.router
    };
    Case { router, ..case }
}

impl Case {
    fn logits(&self, device: &Device) -> Tensor<2> {
        tensor(self.logits.clone(), [self.tokens, self.experts], device)
    }

    fn route(&self, logits: Tensor<2>, kernels: Kernels) -> Routing {
        route(
            logits,
            self.bias.as_deref(),
            &self.router,
            self.sequences,
            kernels,
        )
    }

    /// The reference's decision, on the CPU.
    fn wanted(&self) -> Routing {
        self.route(self.logits(&Device::flex()), Kernels::Reference)
    }
}

fn integers<const D: usize>(tensor: &Tensor<D, Int>) -> Vec<i64> {
    tensor.clone().into_data().iter::<i64>().collect()
}

/// The device's plan holds what sorting its choices on the host gives.
fn assert_sorted(plan: &Plan) {
    let choices = integers(&plan.indices).iter().map(|&e| e as u32).collect();
    let wanted = HostPlan::new(choices, plan.top_k, plan.experts, plan.capacity);
    let signed = |values: &[u32]| -> Vec<i64> { values.iter().map(|&v| v.into()).collect() };
    let slots_count = plan.tokens * plan.top_k;
    let none = slots_count as i64;
    assert_eq!(integers(&plan.chosen), signed(&wanted.chosen), "chosen");
    let offsets: Vec<i64> = wanted.offsets.iter().map(|&offset| offset as i64).collect();
    assert_eq!(integers(&plan.offsets), offsets, "offsets");
    let mut slots = signed(&wanted.slots);
    let mut positions = vec![none; slots_count];
    for (position, &slot) in slots.iter().enumerate() {
        positions[slot as usize] = position as i64;
    }
    slots.resize(slots_count, none);
    assert_eq!(integers(&plan.slots), slots, "slots");
    assert_eq!(integers(&plan.positions), positions, "positions");
    assert_eq!(plan.host(), &wanted);
}

/// The choices of the device are those of the reference, save where scores are within rounding.
fn assert_chosen(case: &Case, found: &Plan, wanted: &Plan) {
    let (found, wanted) = (&found.host().experts, &wanted.host().experts);
    assert_eq!(found.len(), case.tokens * case.router.top_k);
    if found == wanted {
        return;
    }
    let ranked = match case.router.scores {
        ScoreFunction::Softmax => {
            burn::tensor::activation::softmax(case.logits(&Device::flex()), 1)
        }
        ScoreFunction::Sigmoid => burn::tensor::activation::sigmoid(case.logits(&Device::flex())),
    };
    let ranked = host(ranked);
    let rank = |slot: usize, expert: u32| {
        let bias = case.bias.as_ref().map_or(0.0, |bias| bias[expert as usize]);
        ranked[slot / case.router.top_k * case.experts + expert as usize] + bias
    };
    for (slot, (&found, &wanted)) in found.iter().zip(wanted).enumerate() {
        let gap = (rank(slot, found) - rank(slot, wanted)).abs();
        assert!(
            gap <= ROUNDING,
            "slot {slot} chose {found}, not {wanted}: scores differ by {gap}"
        );
    }
}

/// Everything about a case: plan, weights, statistics, router terms and the logits' gradient.
fn check(device: &Device, case: &Case) -> Routing {
    let wanted = case.wanted();
    let found = case.route(case.logits(device), Kernels::Fused);
    assert_sorted(&found.plan);
    assert_chosen(case, &found.plan, &wanted.plan);
    let same_choice = found.plan.host() == wanted.plan.host();
    assert_close(
        "weights",
        &host(found.weights.clone()),
        &host(wanted.weights.clone()),
        TOLERANCE,
    );
    assert_close(
        "statistics",
        &host(found.statistics()),
        &host(wanted.statistics()),
        TOLERANCE,
    );
    if same_choice {
        assert_eq!(
            integers(&found.chosen_by_sequence()),
            integers(&wanted.chosen_by_sequence())
        );
        for by_sequence in [false, true] {
            check_gradients(device, case, by_sequence);
        }
    }
    found
}

/// Values of the terms, and gradients from weights alone, terms alone, and both.
fn check_gradients(device: &Device, case: &Case, by_sequence: bool) {
    let factors = Factors {
        balance: 1.0 / (case.tokens * case.tokens) as f64,
        balance_weight: 0.7,
        z: 1.0 / case.tokens as f64,
        z_weight: 0.3,
    };
    let rows = if by_sequence { case.sequences } else { 1 };
    let run = |device: &Device, kernels: Kernels, weights: bool, terms: bool| {
        let logits = case.logits(&device.clone().autodiff()).require_grad();
        let routing = case.route(logits.clone(), kernels);
        let frequencies: Vec<i32> = (0..rows * case.experts)
            .map(|i| (i * 7 % 5) as i32 * case.tokens as i32)
            .collect();
        let shape = [rows, case.experts];
        let frequencies = Tensor::<2, Int>::from_data(TensorData::new(frequencies, shape), device);
        let found = routing.terms(frequencies, &factors);
        let mut losses = Vec::new();
        if weights {
            let count = case.tokens * case.router.top_k;
            let upstream = tensor(noise(99, count), [case.tokens, case.router.top_k], device);
            losses.push(routing.weights.mul(upstream).sum());
        }
        if terms {
            losses.push(found.objective.clone().mul_scalar(1.5));
        }
        let loss = losses.into_iter().reduce(Tensor::add).expect("one of them");
        let gradients = loss.backward();
        let gradient = logits.grad(&gradients).expect("the logits are tracked");
        (host(found.values), host(found.objective), host(gradient))
    };
    for (weights, terms) in [(true, false), (false, true), (true, true)] {
        let found = run(device, Kernels::Fused, weights, terms);
        let wanted = run(&Device::flex(), Kernels::Reference, weights, terms);
        assert_close("terms", &found.0, &wanted.0, TOLERANCE);
        assert_close("objective", &found.1, &wanted.1, TOLERANCE);
        let what = format!("gradient (weights {weights}, terms {terms})");
        assert_close(&what, &found.2, &wanted.2, TOLERANCE);
    }
}

#[test]
fn a_token_alone_and_a_prime_number_of_tokens_leave_no_tail_behind() {
    let Some(device) = test_device() else { return };
    for tokens in [1, 67, 131] {
        check(&device, &case(tokens, 6, 2));
        check(&device, &sigmoid(case(tokens, 6, 2)));
    }
}

#[test]
fn every_way_to_make_weights_has_its_gradient() {
    let Some(device) = test_device() else { return };
    for scores in [ScoreFunction::Softmax, ScoreFunction::Sigmoid] {
        for (normalise, scale) in [(false, 1.0), (true, 1.0), (false, 2.5), (true, 2.5)] {
            let router = Router {
                normalise,
                scale,
                ..router(scores, 3)
            };
            check(
                &device,
                &Case {
                    router,
                    ..case(70, 20, 3)
                },
            );
        }
    }
}

#[test]
fn one_expert_takes_every_token_with_weight_one() {
    let Some(device) = test_device() else { return };
    let routing = check(&device, &case(67, 1, 1));
    assert!(host(routing.weights).iter().all(|&weight| weight == 1.0));
}

#[test]
fn choosing_every_expert_orders_them_by_score() {
    let Some(device) = test_device() else { return };
    check(&device, &case(37, 9, 9));
    check(&device, &sigmoid(case(37, 32, 32)));
}

#[test]
fn a_thousand_experts_and_thirty_two_choices_fit() {
    let Some(device) = test_device() else { return };
    check(&device, &case(67, 1024, 32));
    check(&device, &sigmoid(with_bias(case(5, 1000, 32))));
}

#[test]
fn more_experts_than_the_kernels_take_fall_back() {
    let Some(device) = test_device() else { return };
    check(&device, &case(3, 1025, 2));
}

#[test]
fn all_tokens_on_one_expert_keep_their_order() {
    let Some(device) = test_device() else { return };
    let mut one = case(300, 8, 2);
    for row in one.logits.chunks_exact_mut(8) {
        row[5] = 9.0;
        row[2] = 8.0;
    }
    let plan = check(&device, &one).plan;
    // The others have none, and their runs are empty.
    assert_eq!(plan.host().chosen, [0, 0, 300, 0, 0, 300, 0, 0]);
}

#[test]
fn more_slots_than_a_tile_and_more_tiles_than_units_stay_in_order() {
    let Some(device) = test_device() else { return };
    // 274 tiles of 64 tokens, the last one of a single token.
    check(&device, &case(273 * 64 + 1, 4, 1));
}

#[test]
fn ties_go_to_the_lower_index() {
    let Some(device) = test_device() else { return };
    for experts in [6, 100] {
        let mut tied = case(67, experts, 3);
        tied.logits.fill(0.5);
        let plan = check(&device, &tied).plan;
        assert_eq!(plan.host().experts, [0, 1, 2].repeat(67));
        let plan = check(&device, &sigmoid(tied)).plan;
        assert_eq!(plan.host().experts, [0, 1, 2].repeat(67));
    }
}

#[test]
fn scores_so_small_that_they_are_zero_are_ties() {
    let Some(device) = test_device() else { return };
    let mut far = case(5, 6, 3);
    for row in far.logits.chunks_exact_mut(6) {
        row.copy_from_slice(&[-500.0, -400.0, 0.0, -600.0, -450.0, -700.0]);
    }
    let plan = check(&device, &far).plan;
    assert_eq!(plan.host().experts, [2, 0, 1].repeat(5));
}

#[test]
fn the_correction_bias_moves_the_choice_and_no_weight() {
    let Some(device) = test_device() else { return };
    let plain = sigmoid(case(67, 6, 2));
    let moved = with_bias(sigmoid(case(67, 6, 2)));
    assert_ne!(
        plain.wanted().plan.host(),
        moved.wanted().plan.host(),
        "the case must test something"
    );
    check(&device, &moved);
    check(&device, &with_bias(case(67, 6, 2)));
}

#[test]
fn groups_limit_the_choice_by_their_best_or_best_two() {
    let Some(device) = test_device() else { return };
    for score in [GroupScore::Best, GroupScore::BestTwo] {
        let limited = grouped(sigmoid(with_bias(case(67, 24, 3))), 6, 2, score);
        let free = sigmoid(with_bias(case(67, 24, 3)));
        assert_ne!(limited.wanted().plan.host(), free.wanted().plan.host());
        check(&device, &limited);
        check(&device, &grouped(case(67, 24, 3), 8, 3, score));
        // Groups of one expert, and one group of all.
        check(&device, &grouped(case(67, 10, 3), 10, 4, score));
        check(&device, &grouped(case(67, 10, 3), 1, 1, score));
        check(&device, &grouped(sigmoid(case(9, 256, 8)), 8, 4, score));
    }
    let best = grouped(case(67, 24, 3), 6, 2, GroupScore::Best);
    let two = grouped(case(67, 24, 3), 6, 2, GroupScore::BestTwo);
    assert_ne!(best.wanted().plan.host(), two.wanted().plan.host());
}

#[test]
fn a_full_expert_drops_its_last_tokens_and_still_counts_them() {
    let Some(device) = test_device() else { return };
    for factor in [1.0, 0.3, 1e-9] {
        let plan = check(&device, &with_capacity(case(133, 6, 2), factor)).plan;
        assert!(plan.host().dropped() > 0, "the case must drop something");
        assert_eq!(plan.host().chosen.iter().sum::<u32>(), 266);
    }
    let plan = check(&device, &with_capacity(case(133, 6, 2), 6.0)).plan;
    assert_eq!(plan.host().dropped(), 0);
}

#[test]
fn nothing_is_kept_where_the_capacity_is_zero() {
    let Some(device) = test_device() else { return };
    let choices = TensorData::new(vec![0i32, 1, 1, 0, 2, 1], [3, 2]);
    let plan = Plan::from_indices(Tensor::from_data(choices, &device), 4, Some(0));
    assert_sorted(&plan);
    assert!(plan.host().slots.is_empty());
}

#[test]
fn rows_that_are_not_numbers_choose_experts_that_exist_and_show_it() {
    let Some(device) = test_device() else { return };
    let choose = |case: &Case| case.route(case.logits(&device), Kernels::Fused);
    let mut broken = case(5, 6, 2);
    broken.logits[6..12].fill(f32::NAN);
    broken.logits[20] = f32::NAN;
    for case in [broken, grouped(case(5, 6, 2), 3, 1, GroupScore::BestTwo)] {
        let mut case = case;
        case.logits[6..12].fill(f32::NAN);
        let routing = choose(&case);
        assert_sorted(&routing.plan);
        assert_eq!(routing.plan.host().experts[2..4], [0, 1]);
        // The loss must show it, or the trainer could not act on it.
        assert!(
            host(routing.weights.clone())[2..4]
                .iter()
                .all(|w| w.is_nan())
        );
        assert!(host(routing.probabilities())[6].is_nan());
    }
    // One bad score among sigmoids ranks behind the good ones.
    let mut one = sigmoid(case_of_row(&[1.0, f32::NAN, 2.0, 0.5]));
    one.router.top_k = 4;
    assert_eq!(choose(&one).plan.host().experts, [2, 0, 3, 1]);
}

fn case_of_row(row: &[f32]) -> Case {
    Case {
        logits: row.to_vec(),
        ..case(1, row.len(), 1)
    }
}

#[test]
fn logits_that_lie_across_memory_are_read_by_their_strides() {
    let Some(device) = test_device() else { return };
    let straight = case(67, 6, 2);
    let across = straight.logits(&device).transpose();
    let data = across.into_data();
    let across = Tensor::<2>::from_data(data, &device).transpose();
    let found = straight.route(across, Kernels::Fused);
    let wanted = straight.route(straight.logits(&device), Kernels::Fused);
    assert_eq!(found.plan.host(), wanted.plan.host());
    assert_eq!(host(found.weights), host(wanted.weights));
}

#[test]
fn sequences_are_counted_apart_whatever_their_length() {
    let Some(device) = test_device() else { return };
    // Shorter than a tile, longer than one, more than units.
    for (sequences, time) in [(5, 13), (3, 131), (300, 1)] {
        for base in [
            case(sequences * time, 6, 2),
            sigmoid(case(sequences * time, 6, 2)),
        ] {
            check(&device, &Case { sequences, ..base });
        }
    }
}

#[test]
fn replayed_choices_give_the_plan_again_duplicates_included() {
    let Some(device) = test_device() else { return };
    for capacity in [None, Some(20)] {
        let choices: Vec<i32> = (0..201i32).map(|i| i * i % 7).collect();
        let indices = TensorData::new(choices, [67, 3]);
        assert_sorted(&Plan::from_indices(
            Tensor::from_data(indices, &device),
            9,
            capacity,
        ));
    }
    let routing = check(&device, &with_capacity(case(67, 6, 2), 1.0));
    let (plan, capacity) = (&routing.plan, routing.plan.capacity);
    let again = Plan::from_indices(plan.indices.clone(), 6, capacity);
    assert_eq!(integers(&again.slots), integers(&plan.slots));
    assert_eq!(integers(&again.positions), integers(&plan.positions));
}

#[test]
fn transitions_count_every_pair_of_a_tokens_choices() {
    let Some(device) = test_device() else { return };
    let (from, to) = (case(67, 6, 2), sigmoid(case(67, 9, 3)));
    let [from, to] = [from, to].map(|case| case.route(case.logits(&device), Kernels::Fused).plan);
    let found = integers(&transitions(&from, &to, Kernels::Fused));
    assert_eq!(found, integers(&reference::transitions(&from, &to)));
    assert_eq!(found.iter().sum::<i64>(), 67 * 2 * 3);
}

/// Bits of all that a decision and its backward pass give.
fn bits(device: &Device, case: &Case) -> (Vec<i64>, Vec<u32>) {
    let logits = case.logits(&device.clone().autodiff()).require_grad();
    let routing = case.route(logits.clone(), Kernels::Fused);
    let plan = &routing.plan;
    let frequencies = plan.chosen.clone().reshape([1, case.experts]);
    let factors = Factors {
        balance: 1e-3,
        balance_weight: 1.0,
        z: 1e-3,
        z_weight: 1.0,
    };
    let terms = routing.terms(frequencies, &factors);
    let whole = [&plan.slots, &plan.positions, &plan.offsets, &plan.chosen]
        .into_iter()
        .flat_map(integers)
        .chain(integers(&plan.indices))
        .collect();
    let loss = routing.weights.clone().sum().add(terms.objective.clone());
    let gradients = loss.backward();
    let floats = [
        host(routing.weights.clone()),
        host(routing.statistics()),
        host(terms.values),
        host(terms.objective),
        host(logits.grad(&gradients).expect("tracked")),
    ];
    let floats = floats.iter().flatten().map(|value| value.to_bits());
    (whole, floats.collect())
}

#[test]
fn two_runs_give_the_same_bits_whatever_memory_held_before() {
    let Some(device) = test_device() else { return };
    for case in [
        with_capacity(case(1000, 64, 8), 1.0),
        sigmoid(with_bias(case(331, 100, 4))),
    ] {
        // Buffers of every size in use are filled and given back, so that fresh ones hold this.
        let poison = |value: f32| {
            let filled: Vec<Tensor<1>> = (0..18)
                .flat_map(|size| (0..4).map(move |_| size))
                .map(|size| Tensor::full([1usize << size], value, &device))
                .collect();
            drop(filled);
        };
        let first = bits(&device, &case);
        for value in [f32::NAN, -1e30, f32::from_bits(0x0101_0101)] {
            poison(value);
            assert_eq!(bits(&device, &case), first);
        }
    }
}

#[test]
fn an_objective_taken_twice_gives_both_gradients() {
    let Some(device) = test_device() else { return };
    let case = case(67, 6, 2);
    let gradient = |twice: bool| {
        let logits = case.logits(&device.clone().autodiff()).require_grad();
        let routing = case.route(logits.clone(), Kernels::Fused);
        let frequencies = routing.plan.chosen.clone().reshape([1, 6]);
        let factors = |weight: f64| Factors {
            balance: 1e-2,
            balance_weight: weight,
            z: 1e-2,
            z_weight: weight,
        };
        let objective = |weight| {
            routing
                .terms(frequencies.clone(), &factors(weight))
                .objective
        };
        let loss = match twice {
            true => objective(1.0).add(objective(0.5)),
            false => objective(1.5),
        };
        host(logits.grad(&loss.backward()).expect("tracked"))
    };
    assert_close("gradient", &gradient(true), &gradient(false), TOLERANCE);
}
