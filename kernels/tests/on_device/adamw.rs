use bellows_kernels::Kernels::{self, Fused, Reference};
use bellows_kernels::adamw::{Moments, Parameter, Settings, Step, global_norm, step, update};
use bellows_kernels::memory;
use burn::tensor::{Device, Tensor};

use crate::device::test_device;
use crate::oracle::{assert_close, host, noise, tensor};

const COUNT: usize = 33;

fn settings(step: u64) -> Settings {
    Settings {
        learning_rate: 0.01,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        clip: 0.25,
        step,
    }
}

#[test]
fn five_updates_equal_the_formula_in_double_precision() {
    let Some(device) = test_device() else { return };
    let mut parameter: Tensor<1> = tensor(noise(1, COUNT), [COUNT], &device);
    let mut moments = None;
    let mut wanted: Vec<f64> = noise(1, COUNT).into_iter().map(f64::from).collect();
    let (mut first, mut second) = (vec![0f64; COUNT], vec![0f64; COUNT]);
    for update in 1..=5 {
        let gradient = noise(10 + update, COUNT);
        let s = settings(update);
        let (next, kept) = step(
            parameter,
            tensor(gradient.clone(), [COUNT], &device),
            moments,
            &s,
        );
        (parameter, moments) = (next, Some(kept));
        for i in 0..COUNT {
            let g = f64::from(gradient[i]) * s.clip;
            first[i] = s.beta1 * first[i] + (1.0 - s.beta1) * g;
            second[i] = s.beta2 * second[i] + (1.0 - s.beta2) * g * g;
            let m = first[i] / (1.0 - s.beta1.powi(update as i32));
            let v = second[i] / (1.0 - s.beta2.powi(update as i32));
            wanted[i] -= s.learning_rate * s.weight_decay * wanted[i];
            wanted[i] -= s.learning_rate * m / (v.sqrt() + s.eps);
        }
    }
    let single = |values: Vec<f64>| -> Vec<f32> { values.iter().map(|&v| v as f32).collect() };
    let moments = moments.expect("after five updates");
    assert_close("parameter", &host(parameter), &single(wanted), 2e-6);
    assert_close("first", &host(moments.first), &single(first), 1e-5);
    // `assert_close` is relative to values of at least 1e-3; these are about that large.
    assert_close("second", &host(moments.second), &single(second), 1e-5);
}

#[test]
fn absent_moments_are_zero_moments_to_the_bit() {
    let Some(device) = test_device() else { return };
    let zeros = || Tensor::<1>::zeros([COUNT], &device);
    let start = Moments {
        first: zeros(),
        second: zeros(),
    };
    let run = |moments| {
        let parameter = tensor(noise(1, COUNT), [COUNT], &device);
        let gradient = tensor(noise(2, COUNT), [COUNT], &device);
        let (parameter, moments) = step(parameter, gradient, moments, &settings(1));
        [host(parameter), host(moments.first), host(moments.second)]
    };
    assert_eq!(run(None), run(Some(start)));
}

#[test]
fn a_zero_gradient_only_decays_and_without_decay_changes_no_bit() {
    let Some(device) = test_device() else { return };
    let run = |weight_decay| {
        let parameter: Tensor<1> = tensor(noise(1, COUNT), [COUNT], &device);
        let settings = Settings {
            weight_decay,
            ..settings(1)
        };
        host(step(parameter, Tensor::zeros([COUNT], &device), None, &settings).0)
    };
    assert_eq!(run(0.0), noise(1, COUNT));
    let decayed: Vec<f32> = noise(1, COUNT).iter().map(|value| value * 0.999).collect();
    assert_close("decayed", &run(0.1), &decayed, 1e-6);
}

/// Lengths around a workgroup's share of 4096, more tensors than one launch binds, and one that
/// takes several workgroups.
const LENGTHS: [usize; 11] = [1, 4095, 4096, 4097, 7, 33, 20_000, 2, 64, 255, 3];

fn whole(number: u64) -> Step {
    Step {
        learning_rate: 0.01,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        max_norm: Some(0.5),
        loss_scale: 1.0,
        number,
    }
}

/// What an update leaves: of each parameter its values and moments, then norm and whether it was
/// applied.
type After = (Vec<[Vec<f32>; 3]>, f64, bool);

struct Model {
    values: Vec<Tensor<1>>,
    moments: Vec<Option<Moments<1>>>,
    device: Device,
}

impl Model {
    fn new(device: &Device) -> Self {
        Self {
            values: LENGTHS
                .iter()
                .map(|&length| tensor(noise(length as u64, length), [length], device))
                .collect(),
            moments: vec![None; LENGTHS.len()],
            device: device.clone(),
        }
    }

    /// Gradients of update `number`, each times `scale`; `spoil` may change them.
    fn update(
        &mut self,
        step: &Step,
        kernels: Kernels,
        spoil: impl Fn(usize, &mut Vec<f32>),
    ) -> After {
        let parameters = std::mem::take(&mut self.values)
            .into_iter()
            .zip(std::mem::take(&mut self.moments))
            .enumerate()
            .map(|(index, (value, moments))| {
                let length = LENGTHS[index];
                let mut gradient = noise(100 * step.number + index as u64, length);
                for value in &mut gradient {
                    *value *= step.loss_scale as f32;
                }
                spoil(index, &mut gradient);
                Parameter {
                    value,
                    gradient: tensor(gradient, [length], &self.device),
                    moments,
                    weight_decay: if index % 2 == 0 { 0.1 } else { 0.0 },
                }
            });
        let (updated, outcome) = update(parameters.collect(), step, kernels);
        let (norm, applied) = outcome.read();
        let mut after = Vec::new();
        for (value, moments) in updated {
            let [first, second] = [&moments.first, &moments.second].map(|m| host(m.clone()));
            after.push([host(value.clone()), first, second]);
            self.values.push(value);
            self.moments.push(Some(moments));
        }
        (after, norm, applied)
    }
}

fn assert_same(found: &After, wanted: &After) {
    assert_eq!(found.2, wanted.2);
    assert!((found.1 - wanted.1).abs() <= 1e-5 * wanted.1, "norm");
    for (index, (found, wanted)) in found.0.iter().zip(&wanted.0).enumerate() {
        for (what, (found, wanted)) in ["value", "first", "second"]
            .iter()
            .zip(found.iter().zip(wanted))
        {
            assert_close(&format!("{what} of {index}"), found, wanted, 1e-5);
        }
    }
}

fn untouched(_: usize, _: &mut Vec<f32>) {}

#[test]
fn many_tensors_of_awkward_lengths_update_like_one_at_a_time() {
    let Some(device) = test_device() else { return };
    for (max_norm, loss_scale) in [(Some(0.5), 1.0), (None, 1.0), (Some(1e9), 1024.0)] {
        let (mut fused, mut reference) = (Model::new(&device), Model::new(&device));
        for number in 1..=3 {
            let step = Step {
                max_norm,
                loss_scale,
                ..whole(number)
            };
            let found = fused.update(&step, Fused, untouched);
            let wanted = reference.update(&step, Reference, untouched);
            assert!(found.2);
            assert_same(&found, &wanted);
        }
    }
}

/// Squares of scaled gradients overflow long before the gradients do.
#[test]
fn the_loss_scale_is_divided_out_before_squares_are_taken() {
    let Some(device) = test_device() else { return };
    for kernels in [Fused, Reference] {
        let scaled = |loss_scale| {
            let step = Step {
                loss_scale,
                ..whole(1)
            };
            Model::new(&device).update(&step, kernels, untouched)
        };
        // A power of two changes no digit.
        let (plain, huge) = (scaled(1.0), scaled(2f64.powi(100)));
        assert_same(&huge, &plain);
    }
}

#[test]
fn one_gradient_that_is_not_finite_changes_nothing_anywhere() {
    let Some(device) = test_device() else { return };
    for kernels in [Fused, Reference] {
        let mut model = Model::new(&device);
        let before = model.update(&whole(1), kernels, untouched);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            // The last element of a tensor, in the last workgroup and in the first.
            for spoiled in [0, 3, 6, LENGTHS.len() - 1] {
                let after = model.update(&whole(2), kernels, |index, gradient| {
                    if index == spoiled {
                        *gradient.last_mut().expect("not empty") = bad;
                    }
                });
                assert!(!after.2 && !after.1.is_finite(), "{bad} in {spoiled}");
                assert_eq!(after.0, before.0, "{bad} in {spoiled}");
            }
        }
        // Squares that overflow, of gradients that do not.
        let after = model.update(&whole(2), kernels, |_, gradient| gradient.fill(1e30));
        assert!(!after.2 && after.0 == before.0);
        assert!(model.update(&whole(2), kernels, untouched).2);
    }
}

#[test]
fn a_first_update_that_is_skipped_leaves_moments_of_zero() {
    let Some(device) = test_device() else { return };
    for kernels in [Fused, Reference] {
        let mut model = Model::new(&device);
        let start: Vec<Vec<f32>> = model.values.iter().cloned().map(host).collect();
        let (after, _, applied) =
            model.update(&whole(1), kernels, |_, gradient| gradient[0] = f32::NAN);
        assert!(!applied);
        for ([value, first, second], start) in after.iter().zip(&start) {
            assert_eq!(value, start);
            assert!(first.iter().chain(second).all(|&moment| moment == 0.0));
        }
    }
}

/// A checkpoint that is being written holds handles to the weights of its step.
#[test]
fn weights_that_somebody_else_holds_are_not_changed_under_them() {
    let Some(device) = test_device() else { return };
    let mut model = Model::new(&device);
    model.update(&whole(1), Fused, untouched);
    let held: Vec<Tensor<1>> = model.values.clone();
    let moments: Vec<Option<Moments<1>>> = model.moments.clone();
    let read = |held: &[Tensor<1>]| -> Vec<Vec<f32>> { held.iter().cloned().map(host).collect() };
    let before = read(&held);
    let firsts = || -> Vec<Vec<f32>> {
        let moments = moments.iter().flatten();
        moments.map(|m| host(m.first.clone())).collect()
    };
    let first_before = firsts();
    let after = model.update(&whole(2), Fused, untouched);
    assert_eq!(read(&held), before);
    assert_eq!(firsts(), first_before);
    assert_ne!(after.0[0][0], before[0]);
}

#[test]
fn what_nobody_else_holds_stays_in_its_memory_and_what_somebody_does_moves() {
    let Some(device) = test_device() else { return };
    let mut model = Model::new(&device);
    model.update(&whole(1), Fused, untouched);
    let places = |model: &Model| -> Vec<Option<usize>> {
        let moments = model.moments.iter().flatten();
        let moments = moments.flat_map(|moments| [&moments.first, &moments.second]);
        model
            .values
            .iter()
            .chain(moments)
            .map(memory::address)
            .collect()
    };
    let before = places(&model);
    if before.iter().any(Option::is_none) {
        let test = std::thread::current();
        let name = test.name().unwrap_or("unnamed");
        println!("SKIPPED {name}: the backend has no kernels of its own");
        return;
    }
    model.update(&whole(2), Fused, untouched);
    assert_eq!(places(&model), before);
    let held = model.values[3].clone();
    model.update(&whole(3), Fused, untouched);
    let after = places(&model);
    for index in 0..before.len() {
        assert_eq!(after[index] == before[index], index != 3, "{index}");
    }
    drop(held);
}

#[test]
fn the_global_norm_has_the_same_bits_every_time_and_is_the_references() {
    let Some(device) = test_device() else { return };
    let gradients: Vec<Tensor<1>> = LENGTHS
        .iter()
        .map(|&length| tensor(noise(length as u64, length), [length], &device))
        .collect();
    let norm = || global_norm(&gradients, 2.0, Fused);
    assert_eq!(norm().to_bits(), norm().to_bits());
    let wanted = global_norm(&gradients, 2.0, Reference);
    assert!((norm() - wanted).abs() <= 1e-5 * wanted);
    assert_eq!(global_norm(&[], 1.0, Fused), 0.0);
}
