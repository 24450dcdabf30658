use bellows_kernels::Kernels::Fused;
use bellows_kernels::rope::{Rotation, reference, rotate};
use burn::tensor::{Device, Tensor};

use crate::device::test_device;
use crate::oracle::{assert_close, assert_equal, host, noise, noisy, tensor};

const WIDTH: usize = 6;

/// Angles of `rows` sequences of four positions; factor 1.5 as YaRN puts on them.
fn angles(rows: usize) -> (Vec<f32>, Vec<f32>) {
    let angle = |i: usize| (i / 3 * 5 % 7) as f32 * 0.4f32.powi((i % 3) as i32);
    let count = rows * 4 * WIDTH / 2;
    (
        (0..count).map(|i| 1.5 * angle(i).cos()).collect(),
        (0..count).map(|i| 1.5 * angle(i).sin()).collect(),
    )
}

fn rotation(rows: usize, interleaved: bool, device: &Device) -> Rotation {
    let shape = [rows, 1, 4, WIDTH / 2];
    let (cos, sin) = angles(rows);
    Rotation {
        cos: tensor(cos, shape, device),
        sin: tensor(sin, shape, device),
        interleaved,
    }
}

/// `y = x ⊙ cos + (x R) ⊙ sin`, R the signed permutation that takes each member of a pair to the
/// other's place.
fn plain(x: Tensor<4>, rotation: &Rotation) -> Tensor<4> {
    let pair = |i: usize| match rotation.interleaved {
        true => (2 * i, 2 * i + 1),
        false => (i, i + WIDTH / 2),
    };
    let device = x.device().without_autodiff();
    let mut turn = vec![0.0; WIDTH * WIDTH];
    let mut spread = vec![0.0; WIDTH / 2 * WIDTH];
    for i in 0..WIDTH / 2 {
        let (a, b) = pair(i);
        turn[b * WIDTH + a] = -1.0;
        turn[a * WIDTH + b] = 1.0;
        spread[i * WIDTH + a] = 1.0;
        spread[i * WIDTH + b] = 1.0;
    }
    let turn: Tensor<4> = tensor(turn, [WIDTH, WIDTH], &device).unsqueeze();
    let spread: Tensor<4> = tensor(spread, [WIDTH / 2, WIDTH], &device).unsqueeze();
    let cos = rotation.cos.clone().matmul(spread.clone());
    let sin = rotation.sin.clone().matmul(spread);
    x.clone().mul(cos).add(x.matmul(turn).mul(sin))
}

#[test]
fn both_layouts_of_pairs_rotate_and_rotate_back() {
    let Some(device) = test_device() else { return };
    // One set of positions for all rows, and positions that restart within a packed row.
    for (rows, interleaved) in [(1, false), (1, true), (2, false), (2, true)] {
        assert_equal(
            &[noisy("x", &[2, 3, 4, WIDTH])],
            &device,
            |leaves| {
                rotate(
                    leaves.at(0),
                    &rotation(rows, interleaved, &leaves.device),
                    Fused,
                )
            },
            |leaves| plain(leaves.at(0), &rotation(rows, interleaved, &leaves.device)),
        );
    }
}

/// Multi-head latent attention rotates the last features of a head and leaves the rest.
#[test]
fn features_before_the_rotated_ones_stay_to_the_bit() {
    let Some(device) = test_device() else { return };
    const KEPT: usize = 5;
    for (rows, interleaved) in [(1, true), (2, false)] {
        let outcome = assert_equal(
            &[noisy("x", &[2, 3, 4, KEPT + WIDTH])],
            &device,
            |leaves| {
                let rotation = rotation(rows, interleaved, &leaves.device);
                rotate(leaves.at(0), &rotation, Fused)
            },
            |leaves| {
                let x = leaves.at::<4>(0);
                let kept = x.clone().narrow(3, 0, KEPT);
                let rotation = rotation(rows, interleaved, &leaves.device);
                Tensor::cat(vec![kept, plain(x.narrow(3, KEPT, WIDTH), &rotation)], 3)
            },
        );
        let x = noisy("x", &[2, 3, 4, KEPT + WIDTH]).into_values();
        for (found, given) in outcome
            .result
            .chunks(KEPT + WIDTH)
            .zip(x.chunks(KEPT + WIDTH))
        {
            assert_eq!(found[..KEPT], given[..KEPT]);
        }
    }
}

/// Heads come as a view of `[batch, time, heads, width]`, a slice of wider rows, or one head that
/// stands for many; the kernel reads them where they lie.
#[test]
fn views_rotate_like_their_copies() {
    let Some(device) = test_device() else { return };
    let copied = |x: Tensor<4>| {
        let dims = x.dims();
        let values = host(x);
        tensor::<4>(values, dims, &device)
    };
    let wide: Tensor<4> = tensor(noise(3, 2 * 4 * 3 * 16), [2, 4, 3, 16], &device);
    let views = [
        wide.clone().narrow(3, 0, WIDTH).swap_dims(1, 2),
        wide.clone().narrow(3, 7, WIDTH).swap_dims(1, 2),
        wide.clone()
            .narrow(2, 1, 1)
            .narrow(3, 2, WIDTH)
            .swap_dims(1, 2)
            .expand([2, 3, 4, WIDTH]),
    ];
    for (index, view) in views.into_iter().enumerate() {
        for (rows, interleaved) in [(1, false), (2, true)] {
            let rotation = rotation(rows, interleaved, &device);
            let found = host(rotate(view.clone(), &rotation, Fused));
            let wanted = host(reference::apply(copied(view.clone()), &rotation));
            assert_close(&format!("view {index}"), &found, &wanted, 1e-6);
        }
    }
}

#[test]
fn the_inverse_undoes_the_rotation() {
    let Some(device) = test_device() else { return };
    let tracked = device.clone().autodiff();
    let x = tensor::<4>(noise(5, 2 * 3 * 4 * WIDTH), [2, 3, 4, WIDTH], &tracked).require_grad();
    let rotation = rotation(2, false, &device);
    let y = rotate(x.clone(), &rotation, Fused);
    // The gradient of half the squared length is the rotated vector, turned back: times 1.5²,
    // the factor on cosines and sines.
    let gradients = y.clone().mul(y).sum().mul_scalar(0.5).backward();
    let gradient = host(x.grad(&gradients).expect("tracked"));
    let wanted: Vec<f32> = host(x).iter().map(|value| 2.25 * value).collect();
    assert_close("x", &gradient, &wanted, 1e-5);
}
