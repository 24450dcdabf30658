use bellows_kernels::cross_entropy::{IGNORE, Settings, linear_cross_entropy};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::device::test_device;
use crate::oracle::{
    Leaf, Leaves, assert_close, assert_equal, host, leaf, noise, noisy, run, tensor,
};

const VOCABULARY: usize = 7;

struct Batch {
    labels: Vec<i32>,
    weights: Vec<f32>,
}

impl Batch {
    /// Every third token has weight 0, the others differ.
    fn new(tokens: usize) -> Self {
        Self {
            labels: (0..tokens).map(|i| (i * i % VOCABULARY) as i32).collect(),
            weights: noise(5, tokens)
                .iter()
                .enumerate()
                .map(|(i, value)| if i % 3 == 1 { 0.0 } else { 1.5 + value })
                .collect(),
        }
    }

    fn labels(&self, device: &Device) -> Tensor<1, Int> {
        Tensor::from_data(
            TensorData::new(self.labels.clone(), [self.labels.len()]),
            device,
        )
    }

    fn weights(&self, device: &Device) -> Tensor<1> {
        tensor(self.weights.clone(), [self.weights.len()], device)
    }

    fn objective(&self, leaves: &Leaves) -> Tensor<1> {
        self.objective_with(leaves, &Settings::default())
    }

    fn objective_with(&self, leaves: &Leaves, settings: &Settings) -> Tensor<1> {
        let (labels, weights) = (self.labels(&leaves.device), self.weights(&leaves.device));
        linear_cross_entropy(leaves.at(0), leaves.at(1), labels, weights, settings).objective
    }

    /// All logits at once.
    fn plain_losses(&self, leaves: &Leaves) -> Tensor<1> {
        let logits = leaves.at::<2>(0).matmul(leaves.at::<2>(1).transpose());
        let labels = self.labels(&leaves.device).unsqueeze_dim::<2>(1);
        log_softmax(logits, 1)
            .gather(1, labels)
            .squeeze_dim::<1>(1)
            .neg()
    }
}

fn leaves(tokens: usize) -> [Leaf; 2] {
    let wide: Vec<f32> = noise(3, VOCABULARY * 4)
        .iter()
        .map(|value| value * 3.0)
        .collect();
    [
        noisy("hidden", &[tokens, 4]),
        leaf("head", &[VOCABULARY, 4], wide),
    ]
}

#[test]
fn a_chunk_boundary_inside_the_batch_changes_nothing() {
    let Some(device) = test_device() else { return };
    // Room for 128 tokens at a time.
    let settings = Settings {
        workspace: 128 * 3 * VOCABULARY * 4,
        ..Settings::default()
    };
    for tokens in [128 + 5, 128, 3] {
        let batch = Batch::new(tokens);
        let outcome = assert_equal(
            &leaves(tokens),
            &device,
            |leaves| batch.objective_with(leaves, &settings),
            |leaves| {
                let losses = batch.plain_losses(leaves);
                losses.mul(batch.weights(&leaves.device)).sum()
            },
        );
        for token in (1..tokens).step_by(3) {
            let row = &outcome.gradients[0][token * 4..(token + 1) * 4];
            assert_eq!(row, [0.0; 4], "token {token} has weight 0");
        }
    }
}

#[test]
fn the_loss_of_a_token_does_not_depend_on_its_weight() {
    let Some(device) = test_device() else { return };
    let batch = Batch::new(9);
    let losses = |device: &Device, plain: bool| {
        run(&leaves(9), device, |leaves| {
            let losses = if plain {
                batch.plain_losses(leaves)
            } else {
                let (labels, weights) = (batch.labels(device), batch.weights(device));
                linear_cross_entropy(
                    leaves.at(0),
                    leaves.at(1),
                    labels,
                    weights,
                    &Settings::default(),
                )
                .losses
            };
            // `run` needs something to differentiate.
            losses.add(leaves.at::<2>(0).sum().add(leaves.at::<2>(1).sum()) * 0.0)
        })
        .result
    };
    let wanted = losses(&Device::flex(), true);
    assert_close("losses", &losses(&device, false), &wanted, 1e-5);
}

#[test]
fn logits_far_apart_give_a_finite_loss_and_gradient() {
    let Some(device) = test_device() else { return };
    let batch = Batch {
        labels: vec![0, 1],
        weights: vec![1.0, 1.0],
    };
    let leaves = [
        leaf("hidden", &[2, 1], vec![1e4, 1e4]),
        leaf("head", &[3, 1], vec![1.0, -1.0, 0.5]),
    ];
    let outcome = run(&leaves, &device, |leaves| batch.objective(leaves));
    // Label 0 is certain, label 1 is 20,000 nat away.
    assert_close("objective", &outcome.result, &[2e4], 1e-6);
    assert!(outcome.gradients.iter().flatten().all(|g| g.is_finite()));
}

#[test]
fn evaluation_without_autodiff_gives_the_same_objective() {
    let Some(device) = test_device() else { return };
    let batch = Batch::new(9);
    let tracked = run(&leaves(9), &device, |leaves| batch.objective(leaves));
    let [hidden, head] = leaves(9).map(Leaf::into_values);
    let result = linear_cross_entropy(
        tensor(hidden, [9, 4], &device),
        tensor(head, [VOCABULARY, 4], &device),
        batch.labels(&device),
        batch.weights(&device),
        &Settings::default(),
    );
    assert!(!result.objective.is_autodiff());
    assert_eq!(host(result.objective), tracked.result);
}

#[test]
fn a_mean_over_labels_by_hand() {
    let Some(device) = test_device() else { return };
    // Logits (0, h · ln 3): the second of two words is 3ʰ times as likely as the first. The second
    // token has no label, as a prompt's have none; each of the others counts a third.
    let leaves = [
        leaf("hidden", &[4, 1], vec![1.0, 2.0, 0.0, 3.0]),
        leaf("head", &[2, 1], vec![0.0, 3f32.ln()]),
    ];
    let third = 1.0 / 3.0;
    let found = run(&leaves, &device, |leaves| {
        let labels = TensorData::new(vec![0, IGNORE, 1, 1], [4]);
        let labels = Tensor::<1, Int>::from_data(labels, &leaves.device);
        let weights = tensor(vec![third; 4], [4], &leaves.device);
        let settings = Settings::default();
        linear_cross_entropy(leaves.at(0), leaves.at(1), labels, weights, &settings).objective
    });
    // −ln 1/4, −ln 1/2 and −ln 27/28.
    let mean = (4f32.ln() + 2f32.ln() + (28f32 / 27.0).ln()) / 3.0;
    assert!((mean - 0.705_27).abs() < 1e-5);
    assert_close("mean", &found.result, &[mean], 1e-5);
    // Of a logit: probability, less 1 at the label; `run` multiplies by a number of its own.
    let slope = noise(99, 1)[0] * third;
    let (first, third, fourth) = (3.0 / 4.0, -1.0 / 2.0, -1.0 / 28.0);
    let hidden = [first, 0.0, third, fourth].map(|second| slope * second * 3f32.ln());
    assert_close("slopes of hidden", &found.gradients[0], &hidden, 1e-5);
    let second = slope * (first + 3.0 * fourth);
    assert_close(
        "slopes of head",
        &found.gradients[1],
        &[-second, second],
        1e-5,
    );
}
