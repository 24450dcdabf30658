//! Final normalisation, head and loss, forward and backward.

use std::ops::Range;

use bellows_kernels::cross_entropy::forward_backward;
use bellows_kernels::memory::note;
use bellows_kernels::vjp::seed;
use burn::tensor::{Device, Tensor};

use super::MicroStep;
use super::parts::Parts;
use crate::model::Decoder;
use crate::objective::Weighed;
use crate::optim::Gradients;
use crate::policy;
use crate::step::{head_settings, targets};

/// Tokens of one call on a GPU, if the chunks of the stream are smaller. Each call goes through the
/// head's whole gradient to add to it, which few tokens would not be worth: with 4,096 it moves 8
/// bytes for 24,576 operations. The CPU does some hundredths of the operations in the same time that
/// a byte takes, and is content with 256.
const TOKENS: usize = 4096;
const TOKENS_ON_CPU: usize = 256;

/// Returns the micro-batch's share of what the objective reports and the gradient of the last
/// layer's output, by chunk; adds to `gradients`.
///
/// The head's gradient is added where the step's sum of it lies: there is no second one.
pub fn run(
    step: &MicroStep<'_>,
    parts: &Parts,
    last: Vec<Tensor<2>>,
    gradients: &mut Gradients,
) -> (Tensor<1>, Vec<Tensor<2>>) {
    let (model, device) = (step.model, step.device);
    let head = model.head().without_autodiff();
    let settings = head_settings(model, step.loss_scale);
    let name = match model.lm_head {
        Some(_) => "lm_head.weight",
        None => "embed_tokens.weight",
    };
    let mut sum = gradients.take(name, head.dims());
    let mut value: Option<Tensor<1>> = None;
    let ranges: Vec<Range<usize>> = parts.ranges().collect();
    let weighed = step
        .goal
        .has_reference()
        .then(|| weigh(step, &ranges, &last));
    let mut last = last.into_iter();
    let mut dlast = Vec::with_capacity(ranges.len());
    for chunks in calls(&ranges, least_tokens(model, device)) {
        let rows = ranges[chunks.start].start..ranges[chunks.end - 1].end;
        let own = last.by_ref().take(chunks.len()).collect();
        let x = Tensor::cat(own, 0);
        note(&x);
        let x = Tensor::from_inner(x).require_grad();
        let normed = model.norm.forward(x.clone());
        let (labels, mut weights) =
            targets(&step.batch.labels[rows.clone()], step.size.labels, device);
        if let Some(weighed) = &weighed {
            weights = weighed.weights.clone().narrow(0, rows.start, rows.len());
            note(&weights);
        }
        let pass = forward_backward(
            normed.clone().without_autodiff(),
            head.clone(),
            labels,
            weights,
            sum.take(),
            &settings,
        );
        sum = Some(pass.gradients.head);
        value = Some(match value {
            Some(value) => value.add(pass.objective),
            None => pass.objective,
        });
        let mut raw = seed(normed, pass.gradients.hidden).backward();
        gradients.accumulate_part(&["norm"], &model.norm, &mut raw);
        let dx = x
            .grad_remove(&mut raw)
            .expect("the normalisation was computed from it");
        for chunk in chunks {
            let own = &ranges[chunk];
            let own = dx.clone().narrow(0, own.start - rows.start, own.len());
            note(&own);
            dlast.push(own);
        }
    }
    if let Some(sum) = sum {
        gradients.put(name, sum);
    }
    let report = match (weighed, value) {
        (Some(weighed), _) => Tensor::cat(weighed.report, 0),
        (None, Some(value)) => value,
        (None, None) => Tensor::zeros([1], &device.clone().without_autodiff()),
    };
    (report, dlast)
}

/// Weighs all tokens of the micro-batch: their log-probabilities have to be known before any
/// gradient is, so each call goes through the head twice.
fn weigh(step: &MicroStep<'_>, ranges: &[Range<usize>], last: &[Tensor<2>]) -> Weighed {
    let calls = calls(ranges, least_tokens(step.model, step.device));
    let known = calls.into_iter().map(|chunks| {
        let rows = ranges[chunks.start].start..ranges[chunks.end - 1].end;
        let own = last[chunks]
            .iter()
            .map(|x| step.plain.norm.forward(x.clone()));
        let normed = Tensor::cat(own.collect(), 0);
        note(&normed);
        let (labels, _) = targets(&step.batch.labels[rows], 1, step.device);
        policy::of_labels(step.plain, normed, labels)
    });
    let known = Tensor::cat(known.collect(), 0);
    let (labels, _) = targets(&step.batch.labels, 1, step.device);
    let mask = policy::mask(labels);
    Weighed::of(step.goal, step.batch, known, mask, step.share)
}

/// Tokens that a call takes together, if a chunk does not have as many itself.
pub(crate) fn least_tokens(model: &Decoder, device: &Device) -> usize {
    let gpu = device.clone().without_autodiff() != Device::flex();
    tokens_of_a_call(gpu, model.numerics().head_workspace)
}

/// The same by the kind of device and the bytes that logits may take.
pub(crate) fn tokens_of_a_call(gpu: bool, head_workspace: usize) -> usize {
    match (head_workspace, gpu) {
        (usize::MAX, _) => usize::MAX,
        (_, true) => TOKENS,
        (_, false) => TOKENS_ON_CPU,
    }
}

/// Neighbouring chunks that share a call: as many as have `tokens` rows together, at least one.
fn calls(ranges: &[Range<usize>], tokens: usize) -> Vec<Range<usize>> {
    let mut calls: Vec<Range<usize>> = Vec::new();
    for (index, rows) in ranges.iter().enumerate() {
        match calls.last_mut() {
            Some(call) if rows.end - ranges[call.start].start <= tokens => call.end = index + 1,
            _ => calls.push(index..index + 1),
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_chunks_share_a_call_and_large_ones_have_their_own() {
        let even = |size: usize, count: usize| -> Vec<_> {
            (0..count).map(|i| i * size..(i + 1) * size).collect()
        };
        let calls = |ranges: &[Range<usize>]| calls(ranges, TOKENS);
        assert_eq!(calls(&even(1500, 5)), [0..2, 2..4, 4..5]);
        assert_eq!(calls(&even(TOKENS, 2)), [0..1, 1..2]);
        assert_eq!(calls(&even(TOKENS + 1, 2)), [0..1, 1..2]);
        let one = std::iter::once(0..3);
        assert!(calls(&even(1, 3)).into_iter().eq(one));
    }
}
