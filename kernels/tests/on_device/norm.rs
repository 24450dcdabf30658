use bellows_kernels::Kernels::{self, Fused, Reference};
use bellows_kernels::norm::{add_rms_norm, rms_norm};
use burn::tensor::Tensor;

use crate::device::test_device;
use crate::oracle::{Leaf, assert_close, assert_equal, host, leaf, noise, noisy, run, tensor};

const EPS: f64 = 1e-5;

fn plain<const D: usize>(x: Tensor<D>, weight: Tensor<1>) -> Tensor<D> {
    plain_with(x, weight, EPS)
}

fn plain_with<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    let mean = x.clone().powf_scalar(2.0).mean_dim(D - 1);
    x.div((mean + eps).sqrt()).mul(weight.unsqueeze())
}

/// A row of one element is its own norm: its gradient is a difference of equals, but for `eps`.
fn eps_for(width: usize) -> f64 {
    if width == 1 { 0.5 } else { EPS }
}

#[test]
fn norm_gradients_equal_autodiff_on_matrices_and_on_heads() {
    let Some(device) = test_device() else { return };
    assert_equal(
        &[noisy("x", &[5, 7]), noisy("weight", &[7])],
        &device,
        |leaves| rms_norm(leaves.at::<2>(0), leaves.at(1), EPS, Fused),
        |leaves| plain(leaves.at::<2>(0), leaves.at(1)),
    );
    // Queries and keys are normalised head by head, as non-contiguous views.
    assert_equal(
        &[noisy("x", &[2, 3, 5, 4]), noisy("weight", &[4])],
        &device,
        |leaves| rms_norm(leaves.at::<4>(0).swap_dims(1, 2), leaves.at(1), EPS, Fused),
        |leaves| plain(leaves.at::<4>(0).swap_dims(1, 2), leaves.at(1)),
    );
}

/// Widths that leave units idle, that no vector divides, that fill every unit several times over,
/// and numbers of rows that no workgroup's share divides.
#[test]
fn widths_and_rows_that_no_workgroup_divides_equal_autodiff() {
    let Some(device) = test_device() else { return };
    for [rows, width] in [
        [1, 1],
        [257, 1],
        [1, 8192],
        [3, 8191],
        [17, 12],
        [131, 33],
        [67, 1028],
        [1031, 20],
    ] {
        println!("{rows} rows of {width}");
        assert_equal(
            &[noisy("x", &[rows, width]), noisy("weight", &[width])],
            &device,
            |leaves| rms_norm(leaves.at::<2>(0), leaves.at(1), eps_for(width), Fused),
            |leaves| plain_with(leaves.at::<2>(0), leaves.at(1), eps_for(width)),
        );
    }
}

#[test]
fn hundreds_of_thousands_of_narrow_rows_are_all_normalised() {
    let Some(device) = test_device() else { return };
    let (rows, width) = (300_007, 5);
    let x = noise(1, rows * width);
    let weight = noise(2, width);
    let y = rms_norm::<2>(
        tensor(x.clone(), [rows, width], &device),
        tensor(weight.clone(), [width], &device),
        EPS,
        Fused,
    );
    let wanted = x.chunks(width).flat_map(|row| {
        let squares: f32 = row.iter().map(|value| value * value).sum();
        let scale = 1.0 / (squares / width as f32 + EPS as f32).sqrt();
        let weight = weight.clone();
        row.iter()
            .zip(weight)
            .map(move |(value, weight)| value * scale * weight)
            .collect::<Vec<f32>>()
    });
    assert_close("y", &host(y), &wanted.collect::<Vec<f32>>(), 1e-5);
}

#[test]
fn a_row_of_zeros_and_a_tiny_row_normalise_to_finite_numbers() {
    let Some(device) = test_device() else { return };
    let mut values = vec![0.0; 7];
    values.extend([1e-20; 7]);
    let leaves: [Leaf; 2] = [leaf("x", &[2, 7], values), noisy("weight", &[7])];
    let outcome = run(&leaves, &device, |leaves| {
        rms_norm(leaves.at::<2>(0), leaves.at(1), EPS, Fused)
    });
    assert!(outcome.result[..7].iter().all(|&value| value == 0.0));
    let mut gradients = outcome.gradients.iter().flatten();
    assert!(gradients.all(|gradient| gradient.is_finite()));
}

/// Both results of the residual's norm reach the loss, or one alone.
#[test]
fn the_sum_and_its_norm_both_pull_on_both_inputs() {
    let Some(device) = test_device() else { return };
    for [rows, width] in [[5, 7], [130, 36], [3, 1], [2, 2052]] {
        let leaves = [
            noisy("x", &[rows, width]),
            noisy("residual", &[rows, width]),
            noisy("weight", &[width]),
        ];
        for (through_sum, through_norm) in [(1.0, 1.0), (0.0, 1.0), (1.0, 0.0)] {
            let combine = |sum: Tensor<2>, y: Tensor<2>| match (through_sum, through_norm) {
                (1.0, 1.0) => sum.mul_scalar(0.5).add(y),
                (0.0, _) => y,
                _ => sum,
            };
            let fused = |kernels: Kernels| {
                move |leaves: &crate::oracle::Leaves| {
                    let (sum, y) = add_rms_norm::<2>(
                        leaves.at(0),
                        leaves.at(1),
                        leaves.at(2),
                        eps_for(width),
                        kernels,
                    );
                    combine(sum, y)
                }
            };
            let oracle = |leaves: &crate::oracle::Leaves| {
                let sum = leaves.at::<2>(0).add(leaves.at(1));
                let y = plain_with(sum.clone(), leaves.at(2), eps_for(width));
                // A weight that the loss does not see has a gradient of zero here too.
                combine(sum, y).add(leaves.at::<1>(2).sum().mul_scalar(0.0).unsqueeze())
            };
            for kernels in [Fused, Reference] {
                assert_equal(&leaves, &device, fused(kernels), oracle);
            }
        }
    }
}

/// The gradient that the norm adds to in place may still be needed by somebody else.
#[test]
fn a_gradient_that_somebody_else_holds_is_not_changed() {
    let Some(device) = test_device() else { return };
    let leaves = [
        noisy("x", &[9, 8]),
        noisy("residual", &[9, 8]),
        noisy("weight", &[8]),
    ];
    // Two such pairs in a row: the gradient of the first sum reaches `x` and the residual, of
    // which one is the second pair's own input.
    let stacked = |leaves: &crate::oracle::Leaves| {
        let (sum, y) = add_rms_norm::<2>(leaves.at(0), leaves.at(1), leaves.at(2), EPS, Fused);
        let (sum, z) = add_rms_norm::<2>(y.clone(), sum, leaves.at(2), EPS, Fused);
        sum.add(z).add(y)
    };
    let oracle = |leaves: &crate::oracle::Leaves| {
        let sum = leaves.at::<2>(0).add(leaves.at(1));
        let y = plain(sum.clone(), leaves.at(2));
        let sum = y.clone().add(sum);
        let z = plain(sum.clone(), leaves.at(2));
        sum.add(z).add(y)
    };
    assert_equal(&leaves, &device, stacked, oracle);
}

#[test]
fn the_gradient_of_the_weight_has_the_same_bits_every_time() {
    let Some(device) = test_device() else { return };
    let leaves = [noisy("x", &[4099, 24]), noisy("weight", &[24])];
    let gradient = || {
        let outcome = run(&leaves, &device, |leaves| {
            rms_norm(leaves.at::<2>(0), leaves.at(1), EPS, Fused)
        });
        outcome.gradients[1]
            .iter()
            .map(|value| value.to_bits())
            .collect::<Vec<u32>>()
    };
    assert_eq!(gradient(), gradient());
}
