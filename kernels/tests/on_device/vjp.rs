use std::sync::{Arc, Mutex};

use bellows_kernels::Kernels;
use bellows_kernels::cross_entropy::{Settings, linear_cross_entropy};
use bellows_kernels::norm::rms_norm;
use bellows_kernels::vjp::{Joint, custom_vjp};
use burn::tensor::{Device, Int, Tensor};

use crate::device::test_device;
use crate::oracle::{host, tensor};

fn constant(values: [f32; 2], device: &Device) -> Tensor<1> {
    tensor(values.to_vec(), [2], device)
}

fn tracked(values: [f32; 2], device: &Device) -> Tensor<1> {
    constant(values, &device.clone().autodiff()).require_grad()
}

/// `a · b · c` with a backward of its own; `seen` gets which inputs needed a gradient, and lives
/// as long as the closure.
fn product([a, b, c]: [Tensor<1>; 3], seen: &Arc<Mutex<Vec<[bool; 3]>>>) -> Tensor<1> {
    let [x, y, z] = [&a, &b, &c].map(|tensor| tensor.clone().without_autodiff());
    let output = x.clone().mul(y.clone()).mul(z.clone());
    let seen = seen.clone();
    custom_vjp([a.into(), b.into(), c.into()], output, move |dy, needs| {
        seen.lock().expect("not poisoned").push(needs);
        let through =
            |p: &Tensor<1>, q: &Tensor<1>| Some(dy.clone().mul(p.clone()).mul(q.clone()).into());
        // A gradient that nobody needs must do no harm.
        [through(&y, &z), through(&x, &z), through(&x, &y)]
    })
}

#[test]
fn constants_and_frozen_inputs_beside_a_tracked_one_get_no_gradient() {
    let Some(device) = test_device() else { return };
    let seen = Arc::default();
    let a = tracked([2.0, 3.0], &device);
    let plain = constant([5.0, 7.0], &device);
    let frozen = constant([11.0, 13.0], &device.clone().autodiff());
    for (inputs, needs) in [
        (
            [a.clone(), plain.clone(), frozen.clone()],
            [true, false, false],
        ),
        (
            [frozen.clone(), plain.clone(), a.clone()],
            [false, false, true],
        ),
    ] {
        let gradients = (product(inputs, &seen) * 2.0).sum().backward();
        assert_eq!(seen.lock().expect("not poisoned").pop(), Some(needs));
        assert_eq!(host(a.grad(&gradients).expect("tracked")), [110.0, 182.0]);
        assert!(frozen.grad(&gradients).is_none() && plain.grad(&gradients).is_none());
    }
}

#[test]
fn one_tensor_as_several_inputs_gets_the_sum_of_their_gradients() {
    let Some(device) = test_device() else { return };
    let a = tracked([2.0, 3.0], &device);
    let cube = product([a.clone(), a.clone(), a.clone()], &Arc::default());
    // And again through a plain operation beside it.
    let gradients = cube.add(a.clone()).sum().backward();
    assert_eq!(host(a.grad(&gradients).expect("tracked")), [13.0, 28.0]);
}

#[test]
fn an_output_used_twice_and_fed_to_another_step_passes_on_the_whole_gradient() {
    let Some(device) = test_device() else { return };
    let seen = Arc::default();
    let (a, b) = (tracked([2.0, 3.0], &device), tracked([5.0, 7.0], &device));
    let one = constant([1.0, 1.0], &device);
    // (a b)² b = a² b³
    let inner = product([a.clone(), b.clone(), one], &seen);
    let outer = product([inner.clone(), inner, b.clone()], &seen);
    let gradients = outer.sum().backward();
    assert_eq!(host(a.grad(&gradients).expect("tracked")), [500.0, 2058.0]);
    assert_eq!(host(b.grad(&gradients).expect("tracked")), [300.0, 1323.0]);
    assert_eq!(
        seen.lock().expect("not poisoned").len(),
        2,
        "each backward runs once"
    );
}

#[test]
fn without_a_tracked_input_nothing_is_kept_for_backward() {
    let Some(device) = test_device() else { return };
    let seen = Arc::default();
    let plain = constant([2.0, 3.0], &device);
    let output = product([plain.clone(), plain.clone(), plain.clone()], &seen);
    assert!(!output.is_autodiff());
    assert_eq!(Arc::strong_count(&seen), 1, "the closure is gone");

    let frozen = constant([2.0, 3.0], &device.clone().autodiff());
    let output = product([frozen.clone(), plain, frozen], &seen);
    assert!(!output.is_tracked());
    assert_eq!(Arc::strong_count(&seen), 1, "the closure is gone");
    // It still takes part in what is tracked.
    let a = tracked([5.0, 7.0], &device);
    let gradients = output.mul(a.clone()).sum().backward();
    assert_eq!(host(a.grad(&gradients).expect("tracked")), [8.0, 27.0]);
}

#[test]
fn what_is_kept_goes_when_the_graph_goes() {
    let Some(device) = test_device() else { return };
    let seen = Arc::default();
    let a = tracked([2.0, 3.0], &device);
    let output = product([a.clone(), a.clone(), a.clone()], &seen);
    assert_eq!(Arc::strong_count(&seen), 2);
    let gradients = output.sum().backward();
    assert_eq!(Arc::strong_count(&seen), 1, "backward frees it");
    drop(gradients);
}

#[test]
fn a_family_with_one_frozen_input_still_moves_the_other() {
    let Some(device) = test_device() else { return };
    let graph = device.clone().autodiff();
    let x = || tensor::<2>(vec![1.0, 2.0, -3.0, 0.5], [2, 2], &graph);
    let labels = || Tensor::<1, Int>::from_data([0, 1], &device);
    let ones = || constant([1.0, 1.0], &device);

    let weight = tracked([1.0, 2.0], &device);
    let gradients = rms_norm(x(), weight.clone(), 1e-6, Kernels::Fused)
        .sum()
        .backward();
    assert!(weight.grad(&gradients).is_some());

    let (frozen, moving) = (x(), x().require_grad());
    for (hidden, head) in [
        (frozen.clone(), moving.clone()),
        (moving.clone(), frozen.clone()),
    ] {
        let result = linear_cross_entropy(hidden, head, labels(), ones(), &Settings::default());
        let gradients = result.objective.backward();
        assert!(moving.grad(&gradients).is_some());
        assert!(frozen.grad(&gradients).is_none());
    }
}

/// `[a + b, a · b]` with one backward for both; `seen` gets which of the two pulled.
fn sum_and_product([a, b]: [Tensor<1>; 2], seen: &Arc<Mutex<Vec<[bool; 2]>>>) -> [Tensor<1>; 2] {
    let [x, y] = [&a, &b].map(|tensor| tensor.clone().without_autodiff());
    let [sum, product] = [x.clone().add(y.clone()), x.clone().mul(y.clone())];
    let (device, seen) = (x.device(), seen.clone());
    let joint = Joint::new(&device, [a.into(), b.into()], move |messages, _| {
        let mut pulls: [Option<Tensor<1>>; 2] = [None, None];
        for (result, gradient) in messages {
            let result: usize = result;
            assert!(pulls[result].replace(gradient).is_none(), "once a result");
        }
        let present = pulls.each_ref().map(Option::is_some);
        seen.lock().expect("not poisoned").push(present);
        let [of_sum, of_product] = pulls.map(|pull| pull.unwrap_or_else(|| x.zeros_like()));
        let through = |other: &Tensor<1>| {
            let product = of_product.clone().mul(other.clone());
            Some(of_sum.clone().add(product).into())
        };
        [through(&y), through(&x)]
    });
    [
        joint.attach(sum, |gradient| (0, gradient)),
        joint.attach(product, |gradient| (1, gradient)),
    ]
}

#[test]
fn both_results_of_a_pair_pull_once_together_wherever_they_are_used() {
    let Some(device) = test_device() else { return };
    let seen = Arc::default();
    let a = tracked([2.0, 3.0], &device);
    let b = tracked([5.0, 7.0], &device);
    let pair = || sum_and_product([a.clone(), b.clone()], &seen);
    let gradient = |loss: Tensor<1>| host(a.grad(&loss.sum().backward()).expect("tracked"));
    // The sum is used again far above the product.
    let [sum, product] = pair();
    let far = sum.clone().mul_scalar(2.0).add_scalar(1.0).mul_scalar(3.0);
    assert_eq!(gradient(product.add(far).add(sum)), [5.0 + 7.0, 7.0 + 7.0]);
    assert_eq!(seen.lock().expect("not poisoned").pop(), Some([true, true]));
    let [sum, _] = pair();
    assert_eq!(gradient(sum), [1.0, 1.0]);
    assert_eq!(
        seen.lock().expect("not poisoned").pop(),
        Some([true, false])
    );
    let [_, product] = pair();
    assert_eq!(gradient(product), [5.0, 7.0]);
    assert_eq!(
        seen.lock().expect("not poisoned").pop(),
        Some([false, true])
    );
    assert!(seen.lock().expect("not poisoned").is_empty(), "once each");
}

#[test]
fn what_a_pair_keeps_goes_with_its_results_and_is_not_kept_for_constants() {
    let Some(device) = test_device() else { return };
    let seen = Arc::default();
    let a = tracked([2.0, 3.0], &device);
    let plain = constant([5.0, 7.0], &device);
    let constants = sum_and_product([plain.clone(), plain.clone()], &seen);
    assert_eq!(Arc::strong_count(&seen), 1);
    drop(constants);
    let [sum, product] = sum_and_product([a, plain], &seen);
    assert_eq!(Arc::strong_count(&seen), 2);
    drop(sum);
    assert_eq!(Arc::strong_count(&seen), 2, "the product still needs it");
    drop(product);
    // Burn frees an abandoned graph when the next one is recorded or run.
    let other = tracked([1.0, 1.0], &device);
    let _ = other.clone().mul(other).sum().backward();
    assert_eq!(Arc::strong_count(&seen), 1);
}

/// `2 a` and `3 a` as two results of one function, whose backward runs once for both; `seen` gets
/// how many of them took part in the loss.
fn twice_and_thrice(a: &Tensor<1>, seen: &Arc<Mutex<Vec<usize>>>) -> [Tensor<1>; 2] {
    let seen = seen.clone();
    let joint = Joint::new(&a.device(), [a.clone().into()], move |messages, _| {
        seen.lock().expect("not poisoned").push(messages.len());
        let gradients = messages
            .into_iter()
            .map(|(factor, dy): (f32, Tensor<1>)| dy.mul_scalar(factor));
        [gradients.reduce(Tensor::add).map(Into::into)]
    });
    let plain = a.clone().without_autodiff();
    [2.0, 3.0].map(|factor| {
        let output = plain.clone().mul_scalar(factor);
        joint.attach(output, move |dy| (factor, dy))
    })
}

#[test]
fn the_backward_of_several_results_runs_once_with_those_that_the_loss_used() {
    let Some(device) = test_device() else { return };
    let a = tracked([2.0, 5.0], &device);
    for (of_two, of_three) in [(true, false), (false, true), (true, true)] {
        let seen = Arc::default();
        let [two, three] = twice_and_thrice(&a, &seen);
        assert_eq!(host(two.clone()), [4.0, 10.0]);
        let (mut parts, mut wanted) = (Vec::new(), 0.0);
        if of_two {
            parts.push(two);
            wanted += 2.0;
        }
        if of_three {
            parts.push(three.mul_scalar(10.0));
            wanted += 30.0;
        }
        let used = parts.len();
        let loss = parts.into_iter().reduce(Tensor::add).expect("one");
        let gradients = loss.sum().backward();
        assert_eq!(host(a.grad(&gradients).expect("tracked")), [wanted; 2]);
        assert_eq!(*seen.lock().expect("not poisoned"), [used]);
    }
}

#[test]
fn several_results_of_untracked_inputs_keep_nothing_for_backward() {
    let Some(device) = test_device() else { return };
    let seen = Arc::default();
    let results = twice_and_thrice(&constant([2.0, 5.0], &device), &seen);
    assert_eq!(Arc::strong_count(&seen), 1);
    assert_eq!(host(results[1].clone()), [6.0, 15.0]);
}
