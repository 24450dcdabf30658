//! Updates of a whole model.

use bellows_engine::kernels::memory::address;
use bellows_engine::model::Decoder;
use bellows_engine::objective::{BalanceScope, RouterObjective, update_correction_bias};
use bellows_engine::optim::{AdamW, AdamWConfig, Gradients, ParameterKind, parameter_kind};
use bellows_engine::weights::parameters;
use burn::tensor::{Device, Tensor, TensorData};

use crate::batches::{divided, step, whole};
use crate::device::test_device;
use crate::models::{build, deepseek_v3, qwen2};
use crate::numbers::{assert_close, bits, host};

type Named<T> = Vec<(String, T)>;

fn snapshot(model: &Decoder) -> Named<Vec<f32>> {
    parameters(model)
        .into_iter()
        .map(|(name, _, values)| (name, host(values)))
        .collect()
}

fn to_bits(model: &Decoder) -> Named<Vec<u32>> {
    let named = snapshot(model).into_iter();
    named.map(|(name, values)| (name, bits(&values))).collect()
}

fn moments(optimizer: &AdamW) -> Vec<(String, TensorData, TensorData)> {
    let state = optimizer.state();
    state
        .map(|(name, moments)| {
            let (first, second) = (moments.first.to_data(), moments.second.to_data());
            (name.to_owned(), first, second)
        })
        .collect()
}

fn objective() -> RouterObjective {
    RouterObjective {
        balance: BalanceScope::Global,
        balance_coefficient: 0.01,
        z_loss_coefficient: 0.001,
        bias_update_speed: 0.01,
        ..RouterObjective::default()
    }
}

fn train(mut model: Decoder, optimizer: &mut AdamW, device: &Device) -> (Decoder, f64) {
    let objective = objective();
    let result = step(&model, &divided(), &objective, device);
    update_correction_bias(&mut model, &result.frequencies, objective.bias_update_speed);
    let (model, update) = optimizer.update(model, result.gradients, 0.01);
    assert!(update.applied);
    (model, result.losses.total)
}

#[test]
fn the_same_seed_gives_the_same_bits_and_training_lowers_the_loss() {
    let Some(device) = test_device() else { return };
    let run = || {
        let mut model = build(&deepseek_v3(), &device);
        let mut optimizer = AdamW::new(&AdamWConfig::default());
        let mut losses = Vec::new();
        for _ in 0..3 {
            let (next, loss) = train(model, &mut optimizer, &device);
            model = next;
            losses.push(loss);
        }
        (losses, to_bits(&model))
    };
    let (losses, weights) = run();
    assert_eq!(run(), (losses.clone(), weights));
    assert!(losses[2] < losses[0]);
}

#[test]
fn restored_moments_continue_bit_for_bit() {
    let Some(device) = test_device() else { return };
    let mut optimizer = AdamW::new(&AdamWConfig::default());
    let mut model = build(&deepseek_v3(), &device);
    for _ in 0..2 {
        model = train(model, &mut optimizer, &device).0;
    }
    let mut restored = AdamW::new(&AdamWConfig::default());
    restored.restore(optimizer.updates, moments(&optimizer).into_iter(), &device);
    let (went_on, _) = train(model.clone(), &mut optimizer, &device);
    let (resumed, _) = train(model.clone(), &mut restored, &device);
    assert_eq!(to_bits(&resumed), to_bits(&went_on));
    assert_eq!(moments(&restored), moments(&optimizer));
    // Without the moments it goes elsewhere, the count of updates being the same.
    let mut forgetful = AdamW::new(&AdamWConfig::default());
    forgetful.restore(restored.updates - 1, std::iter::empty(), &device);
    let (forgetful, _) = train(model, &mut forgetful, &device);
    assert_ne!(to_bits(&forgetful), to_bits(&went_on));
}

#[test]
fn a_gradient_that_is_not_a_number_changes_neither_weights_nor_moments() {
    let Some(device) = test_device() else { return };
    let mut optimizer = AdamW::new(&AdamWConfig::default());
    let (mut model, _) = train(build(&qwen2(), &device), &mut optimizer, &device);
    let (weights, state) = (to_bits(&model), moments(&optimizer));
    for bad in [f32::NAN, f32::INFINITY] {
        let mut gradients = step(&model, &whole(), &objective(), &device).gradients;
        let norm = gradients
            .by_name
            .get_mut("norm.weight")
            .expect("it is there");
        *norm = norm.clone().mul_scalar(bad);
        let (next, update) = optimizer.update(model, gradients, 0.01);
        model = next;
        assert!(!update.applied && !update.gradient_norm.is_finite());
        assert_eq!(optimizer.updates, 1);
        assert_eq!(to_bits(&model), weights);
        assert_eq!(moments(&optimizer), state);
    }
    // And the next good step counts as the second.
    train(model, &mut optimizer, &device);
    assert_eq!(optimizer.updates, 2);
}

#[test]
fn only_the_groups_that_decay_decay() {
    let Some(device) = test_device() else { return };
    let config = AdamWConfig {
        weight_decay: 0.5,
        ..AdamWConfig::default()
    };
    // One real step first: biases start at zero, which would not show a decay.
    let (model, _) = train(
        build(&qwen2(), &device),
        &mut AdamW::new(&AdamWConfig::default()),
        &device,
    );
    let before = snapshot(&model);
    let zeros = before.iter().map(|(name, values)| {
        let zeros = Tensor::zeros([values.len()], &device);
        (name.clone(), zeros)
    });
    let gradients = Gradients {
        by_name: zeros.collect(),
        ..Gradients::default()
    };
    let (model, _) = AdamW::new(&config).update(model, gradients, 0.1);
    let mut kinds = Vec::new();
    for ((name, old), (_, new)) in before.iter().zip(snapshot(&model)) {
        let kind = parameter_kind(name);
        if config.no_decay.contains(&kind) {
            assert_eq!(bits(&new), bits(old), "{name}");
        } else {
            let decayed: Vec<f32> = old.iter().map(|value| value * 0.95).collect();
            assert_close(name, &new, &decayed);
        }
        kinds.push(kind);
    }
    for kind in [
        ParameterKind::Norm,
        ParameterKind::Bias,
        ParameterKind::Embedding,
        ParameterKind::Head,
        ParameterKind::Matrix,
    ] {
        assert!(kinds.contains(&kind), "{kind:?} is not tested");
    }
}

#[test]
fn clipping_scales_all_gradients_to_one_norm_and_never_up() {
    let Some(device) = test_device() else { return };
    let model = build(&qwen2(), &device);
    let gradients = step(&model, &whole(), &objective(), &device).gradients;
    let norm = gradients.global_norm();
    let squares = gradients
        .by_name
        .values()
        .flat_map(|gradient| host(gradient.clone()));
    let wanted: f64 = squares.map(|value| f64::from(value).powi(2)).sum();
    assert!((norm - wanted.sqrt()).abs() < 1e-4 * norm);
    for (limit, factor) in [
        (Some(norm / 4.0), 0.25),
        (Some(norm * 4.0), 1.0),
        (None, 1.0),
    ] {
        let mut optimizer = AdamW::new(&AdamWConfig {
            max_grad_norm: limit,
            ..AdamWConfig::default()
        });
        let (_, update) = optimizer.update(model.clone(), gradients.clone(), 0.01);
        assert_eq!(update.gradient_norm, norm, "reported before clipping");
        for (name, first, _) in moments(&optimizer) {
            let first = first.try_into_vec::<f32>().expect("f32");
            let gradient = host(gradients.by_name[&name].clone());
            let scaled: Vec<f32> = gradient.iter().map(|g| g * 0.1 * factor).collect();
            assert_close(&name, &first, &scaled);
        }
    }
}

#[test]
fn a_step_of_training_leaves_every_weight_and_moment_where_it_lay() {
    let Some(device) = test_device() else { return };
    let mut optimizer = AdamW::new(&AdamWConfig::default());
    let (model, _) = train(build(&deepseek_v3(), &device), &mut optimizer, &device);
    let places = |model: &Decoder, optimizer: &AdamW| -> Vec<Option<usize>> {
        let weights = parameters(model).into_iter().map(|(.., values)| values);
        let moments = optimizer
            .state()
            .flat_map(|(_, moments)| [moments.first.clone(), moments.second.clone()]);
        weights
            .chain(moments)
            .map(|tensor| address(&tensor))
            .collect()
    };
    let before = places(&model, &optimizer);
    if before.iter().any(Option::is_none) {
        let test = std::thread::current();
        let name = test.name().unwrap_or("unnamed");
        println!("SKIPPED {name}: the backend has no kernels of its own");
        return;
    }
    let (model, _) = train(model, &mut optimizer, &device);
    assert_eq!(places(&model, &optimizer), before);
}

#[test]
fn an_update_spares_a_clone_of_the_model() {
    let Some(device) = test_device() else { return };
    let mut optimizer = AdamW::new(&AdamWConfig::default());
    let (model, _) = train(build(&qwen2(), &device), &mut optimizer, &device);
    let clone = model.clone();
    let before = to_bits(&clone);
    let (model, _) = train(model, &mut optimizer, &device);
    assert_eq!(to_bits(&clone), before);
    assert_ne!(to_bits(&model), before);
}

#[test]
fn a_loss_scale_changes_neither_losses_nor_the_update() {
    let Some(device) = test_device() else { return };
    let run = |loss_scale: f64| {
        let model = build(&deepseek_v3(), &device);
        let mut optimizer = AdamW::new(&AdamWConfig::default());
        let result = bellows_engine::step::run_with(
            &model,
            &whole(),
            &objective(),
            &device.clone().autodiff(),
            &mut bellows_engine::observer::NoObserver,
            &bellows_engine::step::Settings {
                loss_scale,
                ..Default::default()
            },
        );
        let norm = result.gradients.global_norm();
        let (model, update) = optimizer.update(model, result.gradients, 0.01);
        assert!(update.applied);
        (result.losses, norm, snapshot(&model))
    };
    let (losses, norm, weights) = run(1.0);
    // A power of two: nothing is rounded.
    let (scaled_losses, scaled_norm, scaled_weights) = run(65_536.0);
    assert_eq!(losses, scaled_losses);
    assert!((norm - scaled_norm).abs() <= 1e-6 * norm);
    for ((name, wanted), (_, found)) in weights.iter().zip(&scaled_weights) {
        assert_close(name, found, wanted);
    }
}

/// An overflow of one micro-batch, seen only by the device, and the number of the next update.
#[test]
fn an_overflowed_step_counts_as_no_update() {
    let Some(device) = test_device() else { return };
    let mut optimizer = AdamW::new(&AdamWConfig::default());
    let model = build(&qwen2(), &device);
    let before = to_bits(&model);
    let mut gradients = step(&model, &whole(), &objective(), &device).gradients;
    for gradient in gradients.by_name.values_mut() {
        *gradient = gradient.clone().mul_scalar(f32::MAX);
    }
    gradients.loss_scale = f64::from(f32::MAX);
    let model = optimizer.apply(model, gradients, 0.01);
    // Nobody asked what became of it; the next update finds out.
    let good = step(&model, &whole(), &objective(), &device).gradients;
    assert_eq!(to_bits(&model), before);
    let (model, update) = optimizer.update(model, good, 0.01);
    assert!(update.applied);
    assert_eq!(optimizer.updates, 1);
    assert_ne!(to_bits(&model), before);
}
