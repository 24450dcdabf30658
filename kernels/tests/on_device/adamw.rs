use bellows_kernels::adamw::{Moments, Settings, step};
use burn::tensor::Tensor;

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
