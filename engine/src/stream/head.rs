//! Final normalisation, head and loss, forward and backward.

use bellows_kernels::vjp::seed;
use burn::tensor::Tensor;

use super::MicroStep;
use super::parts::Parts;
use crate::optim::Gradients;
use crate::step::cross_entropy;

/// Returns the micro-batch's share of the cross-entropy `[1]` and the gradient of the last layer's
/// output, by chunk; adds to `gradients`.
///
/// The head sees all tokens in one call: it never holds more logits than its own workspace, and a
/// call for each chunk would need a second gradient of the head, which is larger than the hidden
/// states up to a length of as many tokens as the vocabulary has.
pub fn run(
    step: &MicroStep<'_>,
    parts: &Parts,
    last: Vec<Tensor<2>>,
    gradients: &mut Gradients,
) -> (Tensor<1>, Vec<Tensor<2>>) {
    let model = step.model;
    let normed = last.iter().map(|x| step.plain.norm.forward(x.clone()));
    let normed = Tensor::cat(normed.collect(), 0);
    let hidden = Tensor::from_inner(normed).require_grad();
    let loss = cross_entropy(model, hidden.clone(), &step.batch.labels, step.size.labels);
    let value = loss.objective.clone().without_autodiff();
    let mut raw = loss.objective.mul_scalar(step.loss_scale).backward();
    let dhidden = hidden
        .grad_remove(&mut raw)
        .expect("the head was computed from it");
    drop(hidden);
    match &model.lm_head {
        Some(head) => gradients.accumulate_part(&["lm_head"], head, &mut raw),
        None => gradients.accumulate_part(&["embed_tokens"], &model.embed_tokens, &mut raw),
    }
    let chunks = parts.ranges().zip(last).map(|(rows, x)| {
        let x = Tensor::from_inner(x).require_grad();
        let dy = dhidden.clone().narrow(0, rows.start, rows.len());
        let mut raw = seed(model.norm.forward(x.clone()), dy).backward();
        gradients.accumulate_part(&["norm"], &model.norm, &mut raw);
        x.grad_remove(&mut raw)
            .expect("the normalisation was computed from it")
    });
    let chunks = chunks.collect();
    (value, chunks)
}
