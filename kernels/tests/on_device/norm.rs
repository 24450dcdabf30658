use bellows_kernels::norm::rms_norm;
use burn::tensor::Tensor;

use crate::device::test_device;
use crate::oracle::{Leaf, assert_equal, leaf, noisy, run};

const EPS: f64 = 1e-5;

fn plain<const D: usize>(x: Tensor<D>, weight: Tensor<1>) -> Tensor<D> {
    let mean = x.clone().powf_scalar(2.0).mean_dim(D - 1);
    x.div((mean + EPS).sqrt()).mul(weight.unsqueeze())
}

#[test]
fn norm_gradients_equal_autodiff_on_matrices_and_on_heads() {
    let Some(device) = test_device() else { return };
    assert_equal(
        &[noisy("x", &[5, 7]), noisy("weight", &[7])],
        &device,
        |leaves| rms_norm(leaves.at::<2>(0), leaves.at(1), EPS),
        |leaves| plain(leaves.at::<2>(0), leaves.at(1)),
    );
    // Queries and keys are normalised head by head, as non-contiguous views.
    assert_equal(
        &[noisy("x", &[2, 3, 5, 4]), noisy("weight", &[4])],
        &device,
        |leaves| rms_norm(leaves.at::<4>(0).swap_dims(1, 2), leaves.at(1), EPS),
        |leaves| plain(leaves.at::<4>(0).swap_dims(1, 2), leaves.at(1)),
    );
}

#[test]
fn a_row_of_zeros_and_a_tiny_row_normalise_to_finite_numbers() {
    let Some(device) = test_device() else { return };
    let mut values = vec![0.0; 7];
    values.extend([1e-20; 7]);
    let leaves: [Leaf; 2] = [leaf("x", &[2, 7], values), noisy("weight", &[7])];
    let outcome = run(&leaves, &device, |leaves| {
        rms_norm(leaves.at::<2>(0), leaves.at(1), EPS)
    });
    assert!(outcome.result[..7].iter().all(|&value| value == 0.0));
    let mut gradients = outcome.gradients.iter().flatten();
    assert!(gradients.all(|gradient| gradient.is_finite()));
}
