//! A model as a policy: log-probabilities of what is labelled, and objectives that are functions
//! of them.

use bellows_kernels::cross_entropy::{linear_cross_entropy, token_log_probabilities};
use bellows_kernels::host;
use burn::tensor::{Device, Int, Tensor};

use crate::model::{Decoder, Input};
use crate::objective::{Measures, Objective, Reported, Share, Weighed};
use crate::step::{
    Backpropagation, MicroBatch, cross_entropy, evaluate_with, head_settings, targets,
};
use crate::stream;

/// Log-probability of each label, in nat; 0 where there is none `[batch · time]`. `model` must come
/// from [`Module::valid`](burn::module::Module::valid). Waits for the device once.
pub fn log_probabilities(
    model: &Decoder,
    batch: &MicroBatch,
    device: &Device,
    backpropagation: Backpropagation,
) -> Vec<f32> {
    let (labels, _) = targets(&batch.labels, 1, device);
    let hidden = hidden(model, batch, device, backpropagation);
    host::floats(of_labels(model, hidden, labels))
}

/// What an objective is on some data, as sums: for a mean over more than one batch they are added,
/// and divided by the sum of `units`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Sum of the objective over its units.
    pub objective: f64,
    /// What it is a mean over: labels, pairs, completions.
    pub units: usize,
    /// Sum of what else is measured: over pairs, or labels.
    pub measures: Measures,
}

/// Evaluates `objective` on `batch`, without gradients. `model` must come from
/// [`Module::valid`](burn::module::Module::valid). Waits for the device once.
///
/// # Panics
/// If the batch's targets are not the objective's.
pub fn evaluate(
    model: &Decoder,
    batch: &MicroBatch,
    objective: &Objective,
    device: &Device,
    backpropagation: Backpropagation,
) -> Evaluation {
    if !objective.has_reference() {
        let (objective, units) = evaluate_with(model, batch, device, backpropagation);
        return Evaluation {
            objective,
            units,
            measures: Measures::None,
        };
    }
    let (labels, _) = targets(&batch.labels, 1, device);
    let hidden = hidden(model, batch, device, backpropagation);
    let known = of_labels(model, hidden, labels.clone());
    let weighed = Weighed::of(objective, batch, known, mask(labels), Share::SUMS);
    let numbers = host::floats(Tensor::cat(weighed.report, 0));
    let numbers: Vec<f64> = numbers.into_iter().map(f64::from).collect();
    let reported = Reported::of(objective, &numbers);
    Evaluation {
        objective: reported.objective,
        units: objective.units(batch),
        measures: reported.measures,
    }
}

/// The loss of hidden states `[batch · time, hidden]`: `[1]`, tracked, whose gradient is the
/// objective's, and what is reported, the objective first.
pub(crate) fn loss(
    model: &Decoder,
    hidden: Tensor<2>,
    batch: &MicroBatch,
    objective: &Objective,
    share: Share,
    loss_scale: f64,
) -> (Tensor<1>, Tensor<1>) {
    if !objective.has_reference() {
        let loss = cross_entropy(model, hidden, &batch.labels, share.labels, loss_scale).objective;
        return (loss.clone(), loss.without_autodiff());
    }
    let (labels, _) = targets(&batch.labels, 1, &hidden.device());
    let known = of_labels(model, hidden.clone().without_autodiff(), labels.clone());
    let weighed = Weighed::of(objective, batch, known, mask(labels.clone()), share);
    let settings = head_settings(model, loss_scale);
    let head = model.head();
    let loss = linear_cross_entropy(hidden, head, labels, weighed.weights, &settings).objective;
    (loss, Tensor::cat(weighed.report, 0))
}

/// Log-probabilities of `labels`, 0 where there is none, of hidden states without autodiff.
pub(crate) fn of_labels(model: &Decoder, hidden: Tensor<2>, labels: Tensor<1, Int>) -> Tensor<1> {
    let head = model.head().without_autodiff();
    token_log_probabilities(hidden, head, labels, &head_settings(model, 1.0))
}

/// 1 where there is a label, else 0.
pub(crate) fn mask(labels: Tensor<1, Int>) -> Tensor<1> {
    labels.greater_equal_scalar(0).float()
}

/// Final hidden states, without autodiff.
fn hidden(
    model: &Decoder,
    batch: &MicroBatch,
    device: &Device,
    backpropagation: Backpropagation,
) -> Tensor<2> {
    match backpropagation {
        Backpropagation::Plain => {
            let input = Input::new(model.config(), &batch.sequences, 0, device);
            model.forward(&input, None).hidden
        }
        Backpropagation::Streamed(settings) => stream::hidden(model, batch, &settings, device),
    }
}
