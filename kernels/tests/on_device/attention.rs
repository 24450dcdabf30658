use bellows_kernels::attention::reference::BLOCK;
use bellows_kernels::attention::{HIDDEN, attention};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor};

use crate::device::test_device;
use crate::oracle::{Leaf, Leaves, assert_close, assert_equal, leaf, noise, noisy, run, tensor};

const SCALE: f64 = 0.7;

/// A mask `[rows, 1, time, length]` that lets query `q` of row `r` see key `k` where `sees(r, q, k)`.
fn mask(
    [rows, time, length]: [usize; 3],
    device: &Device,
    sees: impl Fn(usize, usize, usize) -> bool,
) -> Tensor<4> {
    let mut values = Vec::new();
    for row in 0..rows {
        for query in 0..time {
            values.extend((0..length).map(|key| if sees(row, query, key) { 0.0 } else { HIDDEN }));
        }
    }
    tensor(values, [rows, 1, time, length], device)
}

/// Head by head, no grouping tricks.
fn plain(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>, mask: Tensor<4>) -> Tensor<4> {
    let (heads, groups) = (query.dims()[1], key.dims()[1]);
    let outputs = (0..heads)
        .map(|head| {
            let group = head / (heads / groups);
            let query = query.clone().narrow(1, head, 1);
            let key = key.clone().narrow(1, group, 1).swap_dims(2, 3);
            let scores = query.matmul(key) * SCALE + mask.clone();
            softmax(scores, 3).matmul(value.clone().narrow(1, group, 1))
        })
        .collect();
    Tensor::cat(outputs, 1)
}

struct Case {
    heads: usize,
    groups: usize,
    time: usize,
    length: usize,
    value_width: usize,
}

impl Case {
    fn leaves(&self) -> [Leaf; 3] {
        [
            noisy("query", &[2, self.heads, self.time, 6]),
            noisy("key", &[2, self.groups, self.length, 6]),
            noisy("value", &[2, self.groups, self.length, self.value_width]),
        ]
    }

    fn check(&self, device: &Device, rows: usize, sees: impl Fn(usize, usize, usize) -> bool) {
        let shape = [rows, self.time, self.length];
        let mask = |leaves: &Leaves| mask(shape, &leaves.device, &sees);
        assert_equal(
            &self.leaves(),
            device,
            |leaves| {
                let (query, key, value) = (leaves.at(0), leaves.at(1), leaves.at(2));
                attention(query, key, value, mask(leaves), SCALE)
            },
            |leaves| plain(leaves.at(0), leaves.at(1), leaves.at(2), mask(leaves)),
        );
    }
}

#[test]
fn grouped_heads_and_unequal_value_width_equal_head_by_head_attention() {
    let Some(device) = test_device() else { return };
    // Grouped, one head a group, one group for all.
    for (heads, groups, value_width) in [(4, 2, 5), (2, 2, 6), (3, 1, 5)] {
        let case = Case {
            heads,
            groups,
            time: 5,
            length: 5,
            value_width,
        };
        case.check(&device, 1, |_, query, key| key <= query);
    }
}

#[test]
fn a_block_of_queries_that_ends_midway_changes_nothing() {
    let Some(device) = test_device() else { return };
    // More queries than one block, a last block that is not full, and a past of three tokens.
    let case = Case {
        heads: 2,
        groups: 1,
        time: BLOCK + 3,
        length: BLOCK + 6,
        value_width: 5,
    };
    case.check(&device, 1, |_, query, key| key <= query + 3);
}

#[test]
fn document_and_sliding_masks_and_a_cached_past_equal_plain_attention() {
    let Some(device) = test_device() else { return };
    let case = |time| Case {
        heads: 4,
        groups: 2,
        time,
        length: 5,
        value_width: 5,
    };
    let documents = [[0, 0, 1, 1, 1], [0, 1, 1, 1, 2]];
    case(5).check(&device, 2, |row, query, key| {
        key <= query && documents[row][key] == documents[row][query]
    });
    case(5).check(&device, 1, |_, query, key| key <= query && key + 2 > query);
    case(2).check(&device, 1, |_, query, key| key <= query + 3);
}

#[test]
fn a_hidden_key_has_no_effect_and_no_gradient_even_with_large_scores() {
    let Some(device) = test_device() else { return };
    // Scores of some hundreds: exponentials of them alone overflow f32.
    let values = |seed, count| -> Vec<f32> {
        noise(seed, count)
            .iter()
            .map(|value| value * 20.0)
            .collect()
    };
    let outcome = |hidden_value: f32| {
        let mut keys = values(2, 2 * 3 * 4);
        keys[2 * 4..3 * 4].fill(hidden_value);
        let leaves = [
            leaf("query", &[1, 2, 3, 4], values(1, 24)),
            leaf("key", &[1, 2, 3, 4], keys),
            leaf("value", &[1, 2, 3, 4], values(3, 24)),
        ];
        run(&leaves, &device, |leaves| {
            // Nobody sees the last key.
            let mask = mask([1, 3, 3], &leaves.device, |_, query, key| {
                key <= query && key < 2
            });
            attention(leaves.at(0), leaves.at(1), leaves.at(2), mask, SCALE)
        })
    };
    let (small, large) = (outcome(0.0), outcome(50.0));
    assert_eq!(small.result, large.result);
    assert_close("query", &small.gradients[0], &large.gradients[0], 0.0);
    for gradient in &large.gradients[1..] {
        assert!(gradient.iter().all(|value| value.is_finite()));
        assert_eq!(gradient[8..12], [0.0; 4]);
    }
}
