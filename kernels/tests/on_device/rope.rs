use bellows_kernels::rope::{Rotation, rotate};
use burn::tensor::{Device, Tensor};

use crate::device::test_device;
use crate::oracle::{assert_equal, noisy, tensor};

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
            |leaves| rotate(leaves.at(0), &rotation(rows, interleaved, &leaves.device)),
            |leaves| plain(leaves.at(0), &rotation(rows, interleaved, &leaves.device)),
        );
    }
}
