use bellows_kernels::convert::convert;
use bellows_kernels::embedding::{add_gradient, embedding};
use bellows_kernels::{Compute, Kernels};
use burn::tensor::{DType, Device, Int, Tensor};

use crate::device::test_device;
use crate::oracle::{host, noise, tensor};

fn ids(ids: &[i32], device: &Device) -> Tensor<1, Int> {
    Tensor::from_ints(ids, device)
}

/// The rows by hand.
fn rows(matrix: &[f32], width: usize, ids: &[i32]) -> Vec<f32> {
    let row = |&id: &i32| matrix[id as usize * width..][..width].to_vec();
    ids.iter().flat_map(row).collect()
}

#[test]
fn rows_of_any_width_and_type_are_the_matrixs_own_in_f32() {
    let Some(device) = test_device() else { return };
    // The first and the last row, one twice; a width that four divides and one that nothing does.
    let wanted_ids = [6, 0, 3, 3, 5];
    for width in [8, 7, 1] {
        let matrix: Tensor<2> = tensor(noise(3, 7 * width), [7, width], &device);
        for held in [Compute::F32, Compute::F16, Compute::Bf16] {
            if !held.stored_by(&device) && held != Compute::F32 {
                continue;
            }
            let matrix = convert(matrix.clone(), held);
            let values = host(convert(matrix.clone(), Compute::F32));
            let y = embedding(matrix, ids(&wanted_ids, &device), None, Kernels::Fused);
            assert_eq!(y.dtype(), DType::F32);
            assert_eq!(
                host(y),
                rows(&values, width, &wanted_ids),
                "{width}, {held:?}"
            );
        }
    }
}

#[test]
fn a_row_that_is_looked_up_twice_gets_both_gradients_and_others_none() {
    let Some(device) = test_device() else { return };
    let tracked = device.clone().autodiff();
    let looked_up = [2, 0, 2];
    let weight: Tensor<2> = tensor(noise(1, 4 * 3), [4, 3], &tracked).require_grad();
    let dy = noise(2, 9);
    let given: Tensor<2> = tensor(dy.clone(), [3, 3], &tracked);
    let y = embedding(
        weight.clone(),
        ids(&looked_up, &tracked),
        None,
        Kernels::Fused,
    );
    let gradients = y.mul(given).sum().backward();
    let found = host(weight.grad(&gradients).expect("it was looked up"));
    let mut wanted = vec![0.0; 12];
    for (row, &id) in dy.chunks(3).zip(&looked_up) {
        for (sum, value) in wanted[id as usize * 3..].iter_mut().zip(row) {
            *sum += value;
        }
    }
    assert_eq!(found, wanted);
}

#[test]
fn a_gradient_goes_into_the_sum_that_is_there_chunk_by_chunk_as_at_once() {
    let Some(device) = test_device() else { return };
    let all = [1, 3, 1, 0, 1];
    let dy: Tensor<2> = tensor(noise(5, 5 * 4), [5, 4], &device);
    let sum = || -> Tensor<2> { tensor(noise(6, 4 * 4), [4, 4], &device) };
    let at_once = add_gradient(sum(), ids(&all, &device), dy.clone(), None);
    let mut in_parts = sum();
    for part in [0..2, 2..5] {
        let own = dy.clone().narrow(0, part.start, part.len());
        in_parts = add_gradient(in_parts, ids(&all[part], &device), own, None);
    }
    assert_eq!(host(in_parts), host(at_once));
}

#[test]
fn the_padding_tokens_row_gets_no_gradient_at_once_or_in_parts() {
    let Some(device) = test_device() else { return };
    let tracked = device.clone().autodiff();
    let looked_up = [2, 0, 2, 1];
    let weight: Tensor<2> = tensor(noise(1, 4 * 3), [4, 3], &tracked).require_grad();
    let dy = noise(2, 12);
    let given: Tensor<2> = tensor(dy.clone(), [4, 3], &tracked);
    let (numbers, kernels) = (ids(&looked_up, &tracked), Kernels::Fused);
    let y = embedding(weight.clone(), numbers, Some(2), kernels);
    assert_eq!(host(y.clone()), rows(&host(weight.clone()), 3, &looked_up));
    let gradients = y.mul(given).sum().backward();
    let found = host(weight.grad(&gradients).expect("it was looked up"));
    let row = |at: usize| dy[at * 3..][..3].to_vec();
    let wanted = [row(1), row(3), vec![0.0; 6]].concat();
    assert_eq!(found, wanted);
    let sum = Tensor::<2>::zeros([4, 3], &device);
    let dy: Tensor<2> = tensor(dy, [4, 3], &device);
    let added = add_gradient(sum, ids(&looked_up, &device), dy, Some(2));
    assert_eq!(host(added), wanted);
}
