//! Streamed backpropagation (StreamBP, arXiv 2506.03077): exact gradients in chunks along the
//! sequence.
//!
//! Forward runs layer by layer without autodiff, a chunk of tokens at a time against the keys so
//! far, and keeps the input of every layer `[tokens, hidden]`, what its routers chose and, where asked
//! for, the results of attention, nothing else. Backward takes the layers from last to first. Of each
//! it computes the keys and values of a sequence again, and then goes through its chunks: queries, attention over the keys up to the
//! chunk's end, feed-forward, and at once back through all of them.
//!
//! Chunks go from last to first, because a key is read by its own chunk and later ones alone. When
//! a chunk is done, the gradients of its keys and values are complete: the small graph that makes
//! them from the layer's input runs back at once, while that input is at hand, and what is left to
//! add to, the keys before, shrinks with every chunk.
//!
//! So besides the layers' inputs, what is as long as the sequence is one layer's keys and values,
//! their gradients, and one gradient of the residual stream. With a chunk that is the whole batch
//! it is gradient checkpointing: each layer is recomputed whole.
//!
//! A repeated pass replays the choices and drops of the first, so rounding flips none, and it
//! counts nothing. Frequencies of load-balancing losses come from the forward pass and are
//! constants of the backward pass; the losses are sums over tokens, of which each chunk adds its
//! share.

mod backward;
mod forward;
pub(crate) mod head;
mod kept;
mod memory;
pub(crate) mod parts;

pub use kept::Keep;
pub use memory::{KeepAttention, Memory};

use bellows_kernels::host;
use bellows_kernels::memory::{Stage, enter_part, enter_stage, note};
use burn::tensor::{Device, Tensor};

use crate::model::{Decoder, Input};
use crate::objective::{Chosen, Counts, Objective, RouterObjective, Share, StepSize};
use crate::observer::Observer;
use crate::optim::Gradients;
use crate::step::{MicroBatch, counted, cross_entropy};
use crate::tally::Tally;
use parts::Parts;

/// How a micro-batch is streamed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Tokens of a chunk: some of one sequence, or several whole sequences where as many fit.
    /// `None`: the whole micro-batch, which is gradient checkpointing.
    pub chunk: Option<usize>,
    /// Where and how the layers' inputs are kept.
    pub keep: Keep,
    /// Whether the results of attention, `heads · value width` numbers a token and layer, and its
    /// log-sum-exps are kept in the same way: backward then computes attention's gradients alone,
    /// not attention again, which long sequences spend most of their time on.
    pub keep_attention: bool,
}

impl Settings {
    /// The division of `batch`, and each part's input on the device.
    fn divide(&self, model: &Decoder, batch: &MicroBatch, device: &Device) -> (Parts, Vec<Input>) {
        let sequences = &batch.sequences;
        let parts = Parts::new(sequences.batch, sequences.time, self.chunk);
        let inputs = parts
            .iter()
            .map(|part| Input::part(model.config(), sequences, part, device))
            .collect();
        (parts, inputs)
    }
}

/// One micro-batch of a step, and what it needs to know of the step.
pub(crate) struct MicroStep<'a> {
    pub model: &'a Decoder,
    /// The same without autodiff.
    pub plain: &'a Decoder,
    pub batch: &'a MicroBatch,
    pub objective: &'a RouterObjective,
    /// Choices of the whole step, where the objective takes them and they are known.
    pub whole_step: Option<&'a Counts>,
    /// What is minimised beside the router losses.
    pub goal: &'a Objective,
    pub share: Share,
    pub size: StepSize,
    pub loss_scale: f64,
    pub device: &'a Device,
}

/// Forward and backward over one micro-batch; adds to `tally` and `gradients`.
pub(crate) fn run(
    step: &MicroStep<'_>,
    settings: &Settings,
    tally: &mut Tally,
    observer: &dyn Observer,
    gradients: &mut Gradients,
) {
    let forward = enter_stage(Stage::Forward);
    let (parts, inputs) = settings.divide(step.model, step.batch, step.device);
    let sequences = step.batch.sequences.batch;
    let kernels = step.model.config().kernels;
    let mut chosen = Chosen::default();
    let pass = forward::run(step.plain, &parts, &inputs, Some(settings), |seen| {
        let first = seen.part.rows.start;
        chosen.add(
            seen.decision,
            seen.routing,
            step.objective,
            first,
            sequences,
        );
        let place = (seen.layer, seen.iteration);
        tally.add_decision(
            seen.decision,
            place,
            seen.routing,
            seen.before,
            kernels,
            observer,
        );
    });
    let counted = counted(step.objective.balance, step.whole_step, tally);
    let weighing = chosen.weighing(sequences, counted, step.size, step.objective);
    drop(forward);
    let _backward = enter_stage(Stage::Backward);
    let part = enter_part("head");
    let (report, dlast) = head::run(step, &parts, pass.last, gradients);
    drop(part);
    let terms = backward::run(
        step,
        &parts,
        &inputs,
        pass.kept,
        pass.attended,
        &pass.plans,
        dlast,
        weighing.as_ref(),
        gradients,
    );
    tally.add_losses(report, terms);
}

/// Final hidden states of `batch` `[batch · time, hidden]`, by a streamed forward pass without
/// gradients. `plain` has no autodiff.
pub(crate) fn hidden(
    plain: &Decoder,
    batch: &MicroBatch,
    settings: &Settings,
    device: &Device,
) -> Tensor<2> {
    let (parts, inputs) = settings.divide(plain, batch, device);
    let pass = forward::run(plain, &parts, &inputs, None, |_| {});
    let normed = pass.last.into_iter().map(|x| plain.norm.forward(x));
    let hidden = Tensor::cat(normed.collect(), 0);
    note(&hidden);
    hidden
}

/// Counts the choices of `batch` by a forward pass without gradients. `plain` has no autodiff.
pub(crate) fn count(
    plain: &Decoder,
    batch: &MicroBatch,
    settings: &Settings,
    device: &Device,
    counts: &mut Counts,
) {
    let (parts, inputs) = settings.divide(plain, batch, device);
    forward::run(plain, &parts, &inputs, None, |seen| {
        counts.add_decision(seen.decision, &seen.routing.plan);
    });
}

/// Sum of the losses of `batch`'s labels, by a streamed forward pass without gradients.
pub(crate) fn evaluate(
    plain: &Decoder,
    batch: &MicroBatch,
    settings: &Settings,
    device: &Device,
) -> f64 {
    let (parts, inputs) = settings.divide(plain, batch, device);
    let pass = forward::run(plain, &parts, &inputs, None, |_| {});
    let sums = parts.ranges().zip(pass.last).map(|(rows, x)| {
        let labels = &batch.labels[rows];
        cross_entropy(plain, plain.norm.forward(x), labels, 1, 1.0)
            .losses
            .sum()
    });
    let sums: Vec<Tensor<1>> = sums.collect();
    let sums = host::floats(Tensor::cat(sums, 0));
    sums.into_iter().map(f64::from).sum()
}
