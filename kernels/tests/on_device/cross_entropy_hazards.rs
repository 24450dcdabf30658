//! Linear cross-entropy by hazard, on the device under test, against all logits at once on the CPU.

use bellows_kernels::cross_entropy::{
    Gradients, IGNORE, Losses, Settings, Slopes, backward, forward, forward_backward,
    linear_cross_entropy, token_log_probabilities,
};
use bellows_kernels::{Compute, memcheck, tuning};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use half::{bf16, f16};

use crate::device::test_device;
use crate::oracle::{TOLERANCE, assert_close, host, noise, tensor};

/// One call.
#[derive(Clone)]
struct Case {
    tokens: usize,
    width: usize,
    vocabulary: usize,
    hidden: Vec<f32>,
    head: Vec<f32>,
    labels: Vec<i32>,
    weights: Vec<f32>,
    settings: Settings,
}

/// What a call gives: losses, log-sum-exps, objective, gradients of hidden states and head.
struct Found {
    losses: Vec<f32>,
    log_sum_exp: Vec<f32>,
    objective: Vec<f32>,
    hidden: Vec<f32>,
    head: Vec<f32>,
}

impl Case {
    /// Labels anywhere in the vocabulary, first and last column among them, every fifth ignored;
    /// weights of either size, every seventh 0.
    fn new(tokens: usize, width: usize, vocabulary: usize) -> Self {
        let factor = 3.0 / (width as f32).sqrt();
        let labels = (0..tokens).map(|token| match token {
            _ if token % 5 == 4 => IGNORE,
            0 => vocabulary as i32 - 1,
            1 => 0,
            _ => ((token * token + 3 * token) % vocabulary) as i32,
        });
        let weights = noise(5, tokens).into_iter().enumerate();
        Self {
            tokens,
            width,
            vocabulary,
            hidden: noise(1, tokens * width),
            head: noise(2, vocabulary * width)
                .iter()
                .map(|value| value * factor)
                .collect(),
            labels: labels.collect(),
            weights: weights
                .map(|(at, value)| if at % 7 == 3 { 0.0 } else { 1.5 + value })
                .collect(),
            settings: Settings::default(),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn hidden_on(&self, device: &Device) -> Tensor<2> {
        tensor(self.hidden.clone(), [self.tokens, self.width], device)
    }

    fn head_on(&self, device: &Device) -> Tensor<2> {
        tensor(self.head.clone(), [self.vocabulary, self.width], device)
    }

    fn labels_on(&self, device: &Device) -> Tensor<1, Int> {
        memcheck::watch();
        memcheck::place_integers(Tensor::from_data(
            TensorData::new(self.labels.clone(), [self.tokens]),
            &device.clone().without_autodiff(),
        ))
    }

    fn weights_on(&self, device: &Device) -> Tensor<1> {
        let device = device.clone().without_autodiff();
        tensor(self.weights.clone(), [self.tokens], &device)
    }

    /// All logits at once, and Burn's own gradients.
    fn oracle(&self) -> Found {
        let device = Device::flex().autodiff();
        let hidden = self.hidden_on(&device).require_grad();
        let head = self.head_on(&device).require_grad();
        let logits = hidden.clone().matmul(head.clone().transpose());
        let ignored = self.labels_on(&device).lower_scalar(0);
        let labels = self.labels_on(&device).clamp_min(0).unsqueeze_dim::<2>(1);
        let most = logits.clone().detach().max_dim(1);
        let log_sum_exp = logits
            .clone()
            .sub(most.clone())
            .exp()
            .sum_dim(1)
            .log()
            .add(most)
            .squeeze_dim::<1>(1);
        let losses = log_softmax(logits, 1)
            .gather(1, labels)
            .squeeze_dim::<1>(1)
            .neg()
            .mask_fill(ignored.clone(), 0.0);
        let z = log_sum_exp
            .clone()
            .square()
            .mul_scalar(self.settings.z_loss);
        let weights = self.weights_on(&device).mask_fill(ignored, 0.0);
        let objective = losses.clone().add(z).mul(Tensor::from_inner(weights)).sum();
        let gradients = objective
            .clone()
            .mul_scalar(self.settings.loss_scale)
            .backward();
        Found {
            losses: host(losses),
            log_sum_exp: host(log_sum_exp),
            objective: host(objective),
            hidden: host(hidden.grad(&gradients).expect("tracked")),
            head: host(head.grad(&gradients).expect("tracked")),
        }
    }

    /// The pass that makes gradients with the losses.
    fn found(&self, device: &Device) -> Found {
        let pass = forward_backward(
            self.hidden_on(device),
            self.head_on(device),
            self.labels_on(device),
            self.weights_on(device),
            None,
            &self.settings,
        );
        Found {
            losses: host(pass.losses.losses),
            log_sum_exp: host(pass.losses.log_sum_exp),
            objective: host(pass.objective),
            hidden: host(pass.gradients.hidden),
            head: host(pass.gradients.head),
        }
    }

    /// The pass that computes logits twice.
    fn in_two_passes(&self, device: &Device) -> (Losses, Gradients) {
        let (hidden, head) = (self.hidden_on(device), self.head_on(device));
        let labels = self.labels_on(device);
        let settings = &self.settings;
        let losses = forward(hidden.clone(), head.clone(), labels.clone(), settings);
        let weights = self.weights_on(device).mul_scalar(settings.loss_scale);
        let twice = losses.log_sum_exp.clone().mul_scalar(2.0 * settings.z_loss);
        let slopes = Slopes {
            log_sum_exp: Some(twice.mul(weights.clone())),
            losses: weights,
        };
        let log_sum_exp = losses.log_sum_exp.clone();
        let gradients = backward(hidden, head, labels, log_sum_exp, slopes, None, settings);
        (losses, gradients)
    }
}

fn assert_same(what: &str, found: &Found, wanted: &Found, gradients: f32) {
    let named = |part: &str| format!("{what}: {part}");
    assert_close(&named("losses"), &found.losses, &wanted.losses, TOLERANCE);
    assert_close(
        &named("log-sum-exps"),
        &found.log_sum_exp,
        &wanted.log_sum_exp,
        TOLERANCE,
    );
    assert_close(
        &named("objective"),
        &found.objective,
        &wanted.objective,
        TOLERANCE,
    );
    assert_close(&named("hidden"), &found.hidden, &wanted.hidden, gradients);
    assert_close(&named("head"), &found.head, &wanted.head, gradients);
}

/// Both ways to the gradients against the oracle, with the device's own tiles, and with those that
/// go through workgroup memory.
fn check(what: &str, case: &Case, device: &Device) {
    let wanted = case.oracle();
    assert_same(what, &case.found(device), &wanted, TOLERANCE);
    assert_same(
        &format!("{what}, through workgroup memory"),
        &tuning::with_tile(tuning::THROUGH_MEMORY, || case.found(device)),
        &wanted,
        TOLERANCE,
    );
    let (losses, gradients) = case.in_two_passes(device);
    let found = Found {
        losses: host(losses.losses),
        log_sum_exp: host(losses.log_sum_exp),
        objective: wanted.objective.clone(),
        hidden: host(gradients.hidden),
        head: host(gradients.head),
    };
    let what = format!("{what}, in two passes");
    assert_same(&what, &found, &wanted, TOLERANCE);
}

#[test]
fn a_vocabulary_one_off_a_tile_leaves_no_column_out() {
    let Some(device) = test_device() else { return };
    for vocabulary in [1, 2, 63, 64, 65, 127, 129, 257] {
        let case = Case::new(6, 16, vocabulary);
        check(&format!("vocabulary {vocabulary}"), &case, &device);
    }
}

#[test]
fn a_hidden_width_that_divides_nothing_is_read_whole() {
    let Some(device) = test_device() else { return };
    for width in [1, 7, 12, 33] {
        check(&format!("width {width}"), &Case::new(5, width, 70), &device);
    }
}

#[test]
fn one_token_is_a_chunk() {
    let Some(device) = test_device() else { return };
    check("one token", &Case::new(1, 16, 100), &device);
}

#[test]
fn a_label_at_the_last_column_of_a_tile_is_found() {
    let Some(device) = test_device() else { return };
    let case = Case::new(8, 8, 200).with(|case| {
        case.labels = vec![199, 127, 128, 63, 64, 0, 191, 192];
    });
    check("last columns", &case, &device);
}

#[test]
fn chunk_tails_and_tile_tails_change_nothing() {
    let Some(device) = test_device() else { return };
    for tokens in [64, 65, 128, 133, 259] {
        // Room for one tile of tokens, or for some on the CPU.
        let case = Case::new(tokens, 8, 90).with(|case| {
            case.settings.workspace = 40 * 3 * 90 * 4;
        });
        check(&format!("{tokens} tokens"), &case, &device);
    }
}

#[test]
fn a_sum_over_the_vocabulary_in_parts_is_the_whole_sum() {
    let Some(device) = test_device() else { return };
    // Three parts, the last one short.
    check("parts", &Case::new(3, 8, 1100), &device);
}

#[test]
fn ignored_labels_count_nothing_whatever_their_weight() {
    let Some(device) = test_device() else { return };
    let case = Case::new(9, 8, 50).with(|case| {
        case.settings.z_loss = 0.1;
    });
    let wanted = case.oracle();
    let case = case.with(|case| {
        for (label, weight) in case.labels.iter_mut().zip(&mut case.weights) {
            if *label < 0 {
                // Every negative label stands for none.
                *label = -1;
                *weight = f32::NAN;
            }
        }
    });
    assert_same("ignored", &case.found(&device), &wanted, TOLERANCE);
}

#[test]
fn a_batch_without_any_label_has_no_loss_and_no_gradient() {
    let Some(device) = test_device() else { return };
    let case = Case::new(5, 8, 50).with(|case| {
        case.labels.fill(IGNORE);
        case.settings.z_loss = 0.1;
    });
    let found = case.found(&device);
    assert_eq!(found.objective, [0.0]);
    assert_eq!(found.losses, [0.0; 5]);
    assert!(found.hidden.iter().chain(&found.head).all(|&g| g == 0.0));
}

#[test]
fn the_z_loss_pulls_every_logit() {
    let Some(device) = test_device() else { return };
    let case = Case::new(7, 16, 70).with(|case| case.settings.z_loss = 0.3);
    let without = Case::new(7, 16, 70).oracle();
    assert_ne!(case.oracle().objective, without.objective);
    check("z-loss", &case, &device);
}

#[test]
fn huge_logits_overflow_nothing() {
    let Some(device) = test_device() else { return };
    // Logits to ±2e5, and labels that are as unlikely: f32's exp ends at 88.
    let case = Case::new(6, 4, 100).with(|case| {
        for value in &mut case.head {
            *value *= 1e5;
        }
    });
    let (found, wanted) = (case.found(&device), case.oracle());
    assert_close("losses", &found.losses, &wanted.losses, TOLERANCE);
    assert!(
        found
            .hidden
            .iter()
            .chain(&found.head)
            .all(|g| g.is_finite())
    );
    assert_close("hidden", &found.hidden, &wanted.hidden, TOLERANCE);
}

#[test]
fn a_logit_that_is_no_number_is_seen_in_the_loss() {
    let Some(device) = test_device() else { return };
    for bad in [f32::NAN, f32::INFINITY] {
        let case = Case::new(3, 4, 70).with(|case| case.hidden[5] = bad);
        let found = case.found(&device);
        assert!(!found.losses[1].is_finite(), "{bad}");
        assert!(found.losses[0].is_finite(), "{bad}");
        assert!(!found.hidden[4].is_finite(), "{bad}");
    }
}

#[test]
fn the_head_gradient_adds_into_what_is_there() {
    let Some(device) = test_device() else { return };
    let case = Case::new(67, 8, 90).with(|case| {
        case.settings.loss_scale = 1024.0;
        case.settings.workspace = 0;
    });
    let before = noise(9, 90 * 8);
    let pass = forward_backward(
        case.hidden_on(&device),
        case.head_on(&device),
        case.labels_on(&device),
        case.weights_on(&device),
        Some(tensor(before.clone(), [90, 8], &device)),
        &case.settings,
    );
    let wanted = case.oracle();
    let sums: Vec<f32> = wanted
        .head
        .iter()
        .zip(&before)
        .map(|(gradient, before)| gradient + before)
        .collect();
    assert_close("sum", &host(pass.gradients.head), &sums, TOLERANCE);
    let found = host(pass.gradients.hidden);
    assert_close("hidden", &found, &wanted.hidden, TOLERANCE);
}

#[test]
fn a_held_sum_is_not_written_over() {
    let Some(device) = test_device() else { return };
    let case = Case::new(5, 8, 30);
    let held: Tensor<2> = tensor(noise(9, 30 * 8), [30, 8], &device);
    let pass = forward_backward(
        case.hidden_on(&device),
        case.head_on(&device),
        case.labels_on(&device),
        case.weights_on(&device),
        Some(held.clone()),
        &case.settings,
    );
    assert_eq!(host(held), noise(9, 30 * 8));
    assert_ne!(host(pass.gradients.head), noise(9, 30 * 8));
}

#[test]
fn backward_with_the_expected_factor_or_another_is_right() {
    let Some(device) = test_device() else { return };
    let case = Case::new(5, 8, 30).with(|case| case.settings.loss_scale = 64.0);
    let wanted = case.oracle();
    for factor in [64.0, 16.0] {
        let tracked = device.clone().autodiff();
        let hidden = case.hidden_on(&tracked).require_grad();
        let head = case.head_on(&tracked).require_grad();
        let result = linear_cross_entropy(
            hidden.clone(),
            head.clone(),
            case.labels_on(&tracked),
            case.weights_on(&tracked),
            &case.settings,
        );
        assert_close(
            "objective",
            &host(result.objective.clone()),
            &wanted.objective,
            TOLERANCE,
        );
        let gradients = result.objective.mul_scalar(factor).backward();
        for (name, leaf, wanted) in [
            ("hidden", &hidden, &wanted.hidden),
            ("head", &head, &wanted.head),
        ] {
            let wanted: Vec<f32> = wanted.iter().map(|g| g * factor as f32 / 64.0).collect();
            let found = host(leaf.grad(&gradients).expect("tracked"));
            assert_close(&format!("{name}, {factor}"), &found, &wanted, TOLERANCE);
        }
    }
}

#[test]
fn log_probabilities_are_tracked_each_for_itself() {
    let Some(device) = test_device() else { return };
    let case = Case::new(9, 8, 70);
    let slopes = noise(11, 9);
    // The oracle's weights are what its objective multiplies losses with.
    let wanted = case
        .clone()
        .with(|case| case.weights = slopes.iter().map(|slope| -slope).collect())
        .oracle();
    let tracked = device.clone().autodiff();
    let hidden = case.hidden_on(&tracked).require_grad();
    let head = case.head_on(&tracked).require_grad();
    let log_probabilities = token_log_probabilities(
        hidden.clone(),
        head.clone(),
        case.labels_on(&tracked),
        &case.settings,
    );
    let negated: Vec<f32> = wanted.losses.iter().map(|loss| -loss).collect();
    let found = host(log_probabilities.clone());
    assert_close("log-probabilities", &found, &negated, TOLERANCE);
    assert_eq!(found[4], 0.0, "ignored");
    let gradients = log_probabilities
        .mul(Tensor::from_inner(tensor(slopes, [9], &device)))
        .sum()
        .backward();
    for (name, leaf, wanted) in [
        ("hidden", &hidden, &wanted.hidden),
        ("head", &head, &wanted.head),
    ] {
        let found = host(leaf.grad(&gradients).expect("tracked"));
        assert_close(name, &found, wanted, TOLERANCE);
    }
}

#[test]
fn strided_operands_are_read_as_they_lie() {
    let Some(device) = test_device() else { return };
    let case = Case::new(6, 8, 40);
    let turned = |tensor: Tensor<2>| -> Tensor<2> {
        let values = host(tensor.clone().transpose());
        let [rows, columns] = tensor.dims();
        crate::oracle::tensor::<2>(values, [columns, rows], &device).transpose()
    };
    let pass = forward_backward(
        turned(case.hidden_on(&device)),
        turned(case.head_on(&device)),
        case.labels_on(&device),
        case.weights_on(&device),
        None,
        &case.settings,
    );
    let wanted = case.oracle();
    assert_close(
        "losses",
        &host(pass.losses.losses),
        &wanted.losses,
        TOLERANCE,
    );
    assert_close("head", &host(pass.gradients.head), &wanted.head, TOLERANCE);
}

#[test]
fn two_runs_give_the_same_bits() {
    let Some(device) = test_device() else { return };
    let case = Case::new(70, 12, 300).with(|case| case.settings.z_loss = 1e-3);
    let (first, second) = (case.found(&device), case.found(&device));
    assert_eq!(first.losses, second.losses);
    assert_eq!(first.hidden, second.hidden);
    assert_eq!(first.head, second.head);
}

/// What `compute` stores of `value`.
fn rounded(value: f32, compute: Compute) -> f32 {
    match compute {
        Compute::F32 => value,
        Compute::F16 => f16::from_f32(value).to_f32(),
        Compute::Bf16 => bf16::from_f32(value).to_f32(),
    }
}

#[test]
fn bounds_checks_find_nothing_to_stop() {
    let Some(device) = test_device() else { return };
    for (width, vocabulary) in [(12, 203), (7, 65)] {
        let case = Case::new(70, width, vocabulary).with(|case| case.settings.workspace = 0);
        let free = case.found(&device);
        let checked = memcheck::with_bounds_checks(|| case.found(&device));
        assert_eq!(free.losses, checked.losses, "{width} x {vocabulary}");
        assert_eq!(free.hidden, checked.hidden, "{width} x {vocabulary}");
        assert_eq!(free.head, checked.head, "{width} x {vocabulary}");
    }
}

/// A case whose operands are what `compute` stores: logits and all that is f32 are exact then. Where
/// the device has cooperative matrices, these multiply: widths are multiples of 8.
fn sixteen_bits(compute: Compute, tokens: usize, width: usize, vocabulary: usize) -> Case {
    Case::new(tokens, width, vocabulary).with(|case| {
        case.settings.compute = compute;
        case.settings.loss_scale = 256.0;
        case.settings.z_loss = 0.01;
        for value in case.hidden.iter_mut().chain(&mut case.head) {
            *value = rounded(*value, compute);
        }
    })
}

#[test]
fn sixteen_bits_round_the_gradients_and_not_the_losses() {
    let Some(device) = test_device() else { return };
    for compute in [Compute::F16, Compute::Bf16] {
        if !compute.stored_by(&device) {
            println!("SKIPPED {compute:?}: the device does not store it");
            continue;
        }
        // A logit's gradient is rounded twice, as exponential and as gradient, so a sum of them is
        // off by twice a rounding of the sum of their sizes. That sum is at most some eight times
        // the largest of the results.
        let bound = 16.0 * compute.rounding();
        // Several tiles; a vocabulary that is no whole piece; chunk tails; a sum in parts.
        for (tokens, width, vocabulary, workspace) in [
            (130, 24, 200, 144 << 20),
            (1, 8, 203, 144 << 20),
            (259, 16, 90, 0),
            (3, 8, 1100, 144 << 20),
        ] {
            let what = format!("{compute:?}, {tokens} x {width} x {vocabulary}");
            let case = sixteen_bits(compute, tokens, width, vocabulary)
                .with(|case| case.settings.workspace = workspace);
            let wanted = case.oracle();
            assert_same(&what, &case.found(&device), &wanted, bound);
            let (losses, gradients) = case.in_two_passes(&device);
            let (hidden, head) = (host(gradients.hidden), host(gradients.head));
            let what = format!("{what}, in two passes");
            assert_close(&what, &host(losses.losses), &wanted.losses, TOLERANCE);
            assert_close(&what, &hidden, &wanted.hidden, bound);
            assert_close(&what, &head, &wanted.head, bound);
        }
    }
}

#[test]
fn sixteen_bits_give_the_same_bits_twice() {
    let Some(device) = test_device() else { return };
    for compute in [Compute::F16, Compute::Bf16] {
        if !compute.stored_by(&device) {
            println!("SKIPPED {compute:?}: the device does not store it");
            continue;
        }
        let case = sixteen_bits(compute, 140, 16, 300);
        let (first, second) = (case.found(&device), case.found(&device));
        assert_eq!(first.losses, second.losses);
        assert_eq!(first.hidden, second.hidden);
        assert_eq!(first.head, second.head);
    }
}
