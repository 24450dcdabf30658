//! Token batches.

use bellows_engine::model::{Decoder, Input, Sequences};
use bellows_engine::objective::RouterObjective;
use bellows_engine::observer::NoObserver;
use bellows_engine::step::{IGNORE, MicroBatch, StepResult, run};
use burn::module::Module;
use burn::tensor::Device;

use crate::models::VOCABULARY;
use crate::numbers::{assert_close, assert_near, host};

/// Tokens of a row.
pub const TIME: usize = 5;

/// Labels of each of the four rows: 1 in the first, all in the last.
const LABELS: [usize; 4] = [1, 4, 2, TIME];

/// `count` token ids, the same on every machine.
pub fn ids(seed: usize, count: usize) -> Vec<i32> {
    (0..count)
        .map(|i| ((i * i * 7 + i * 5 + seed * 11 + i / 3) % VOCABULARY) as i32)
        .collect()
}

/// Rows `first..end` of the four rows that these tests train on.
pub fn rows(first: usize, end: usize) -> MicroBatch {
    let all = ids(1, 4 * TIME + 1);
    let mut labels = Vec::new();
    for row in first..end {
        labels.extend((0..TIME).map(|at| match at < LABELS[row] {
            true => all[row * TIME + at + 1],
            false => IGNORE,
        }));
    }
    let ids = all[first * TIME..end * TIME].to_vec();
    MicroBatch {
        sequences: Sequences::plain(end - first, TIME, ids),
        labels,
        ..MicroBatch::default()
    }
}

/// The four rows as one micro-batch.
pub fn whole() -> Vec<MicroBatch> {
    vec![rows(0, 4)]
}

/// The four rows as two micro-batches of unequal size and unequal numbers of labels.
pub fn divided() -> Vec<MicroBatch> {
    vec![rows(0, 1), rows(1, 4)]
}

/// A step that nobody observes.
pub fn step(
    model: &Decoder,
    batches: &[MicroBatch],
    objective: &RouterObjective,
    device: &Device,
) -> StepResult {
    run(model, batches, objective, device, &mut NoObserver)
}

/// Logits of every position of `sequences`, without autodiff, row by row.
pub fn logits(model: &Decoder, sequences: &Sequences, device: &Device) -> Vec<f32> {
    let model = model.valid();
    let input = Input::new(model.config(), sequences, 0, device);
    host(model.logits(model.forward(&input, None).hidden))
}

/// Asserts that two steps have the same losses and gradients up to rounding.
pub fn assert_same_step(found: &StepResult, wanted: &StepResult) {
    assert_eq!(found.size, wanted.size);
    assert_eq!(found.frequencies, wanted.frequencies);
    let losses = |step: &StepResult| {
        let losses = step.losses;
        [losses.total, losses.cross_entropy, losses.balance, losses.z]
    };
    for (found, wanted) in losses(found).into_iter().zip(losses(wanted)) {
        assert_near("a loss", found, wanted);
    }
    assert_eq!(
        found.gradients.by_name.keys().collect::<Vec<_>>(),
        wanted.gradients.by_name.keys().collect::<Vec<_>>()
    );
    for (name, gradient) in &wanted.gradients.by_name {
        let found = host(found.gradients.by_name[name].clone());
        let what = format!("gradient of {name}");
        assert_close(&what, &found, &host(gradient.clone()));
    }
}
