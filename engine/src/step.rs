//! Forward and backward over the micro-batches of one optimizer step.

use bellows_kernels::cross_entropy::{self, linear_cross_entropy};
use bellows_kernels::host;
use bellows_kernels::memory::{Stage, enter_part, enter_stage};
use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::model::{Decoder, Forward, Input, Sequences};
use crate::objective::{
    BalanceScope, Counts, Frequencies, Measures, Objective, Reported, RouterObjective, Share,
    StepSize, Targets, router_terms,
};
use crate::observer::Observer;
use crate::optim::Gradients;
use crate::policy;
use crate::stream::{self, MicroStep};
use crate::tally::{Tally, Totals};

pub use bellows_kernels::cross_entropy::IGNORE;

/// Sequences with their labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MicroBatch {
    /// The tokens.
    pub sequences: Sequences,
    /// The token after each position, or [`IGNORE`] `[batch · time]`.
    pub labels: Vec<i32>,
    /// What the objective knows beside the labels.
    pub targets: Targets,
}

impl MicroBatch {
    /// Positions that have a label.
    pub fn label_count(&self) -> usize {
        self.labels.iter().filter(|&&label| label != IGNORE).count()
    }
}

/// Values of one step's objective.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// All that is minimised: the objective plus the weighted router terms.
    pub total: f64,
    /// The objective; for most it is the cross-entropy.
    pub objective: f64,
    /// Mean cross-entropy of the labels, in nat.
    pub cross_entropy: f64,
    /// Load-balancing loss before its coefficient.
    pub balance: f64,
    /// Router z-loss before its coefficient.
    pub z: f64,
}

/// What [`run`] returns.
#[derive(Debug)]
pub struct StepResult {
    /// Values of the objective.
    pub losses: Losses,
    /// What else the objective measures.
    pub measures: Measures,
    /// Gradients of the objective over all micro-batches.
    pub gradients: Gradients,
    /// Choices of the whole step.
    pub frequencies: Frequencies,
    /// Sizes of the step.
    pub size: StepSize,
    /// Slots left out because an expert was full.
    pub dropped: u64,
}

/// Sizes of a step of `batches`.
pub fn size_of(batches: &[MicroBatch]) -> StepSize {
    StepSize {
        tokens: batches
            .iter()
            .map(|batch| batch.sequences.batch * batch.sequences.time)
            .sum(),
        sequences: batches.iter().map(|batch| batch.sequences.batch).sum(),
        labels: batches.iter().map(MicroBatch::label_count).sum(),
    }
}

/// Cross-entropy of one batch.
#[derive(Debug)]
pub struct BatchLoss {
    /// Sum of the labels' losses divided by `divisor`, `[1]`, tracked.
    pub objective: Tensor<1>,
    /// Loss of every position, 0 without a label `[batch · time]`.
    pub losses: Tensor<1>,
}

/// Cross-entropy of the hidden states `[batch · time, hidden]` against `labels`, divided by
/// `divisor` (the labels of the step). `loss_scale` is what the objective will be multiplied by
/// before its backward pass.
pub fn cross_entropy(
    model: &Decoder,
    hidden: Tensor<2>,
    labels: &[i32],
    divisor: usize,
    loss_scale: f64,
) -> BatchLoss {
    let (labels, weights) = targets(labels, divisor, &hidden.device());
    let settings = head_settings(model, loss_scale);
    let result = linear_cross_entropy(hidden, model.head(), labels, weights, &settings);
    BatchLoss {
        objective: result.objective,
        losses: result.losses,
    }
}

/// Labels on the device, and what each counts in a mean over `divisor` of them `[count]`.
pub(crate) fn targets(
    labels: &[i32],
    divisor: usize,
    device: &Device,
) -> (Tensor<1, Int>, Tensor<1>) {
    let device = device.clone().without_autodiff();
    let count = labels.len();
    let weights = Tensor::full([count], 1.0 / divisor.max(1) as f32, &device);
    let labels = Tensor::from_data(TensorData::new(labels.to_vec(), [count]), &device);
    (labels, weights)
}

/// How `model` computes its head.
pub(crate) fn head_settings(model: &Decoder, loss_scale: f64) -> cross_entropy::Settings {
    let numerics = model.numerics();
    cross_entropy::Settings {
        kernels: numerics.kernels,
        compute: numerics.compute,
        loss_scale,
        workspace: numerics.head_workspace,
        ..cross_entropy::Settings::default()
    }
}

/// How gradients are made. All ways make the same ones, up to rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backpropagation {
    /// One graph for each micro-batch, with all its activations.
    #[default]
    Plain,
    /// In chunks, from the layers' inputs.
    Streamed(stream::Settings),
}

/// How [`run_with`] makes gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// What the objective is multiplied by before its backward pass, so that small gradients
    /// survive f16. The losses returned are not scaled; the gradients are, and say so.
    pub loss_scale: f64,
    /// Which activations are kept, and which computed again.
    pub backpropagation: Backpropagation,
    /// What is minimised beside the router losses.
    pub objective: Objective,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            loss_scale: 1.0,
            backpropagation: Backpropagation::Plain,
            objective: Objective::default(),
        }
    }
}

/// Runs forward and backward over `batches` and sums the gradients.
///
/// With `global` balancing over more than one micro-batch, a forward pass without gradients over
/// all of them comes first, to count how often each expert is chosen in the whole step. `model`
/// must be on an autodiff device. The host waits for the device once, at the end, for all that is
/// reported together.
pub fn run(
    model: &Decoder,
    batches: &[MicroBatch],
    objective: &RouterObjective,
    device: &Device,
    observer: &mut dyn Observer,
) -> StepResult {
    let settings = Settings::default();
    run_with(model, batches, objective, device, observer, &settings)
}

/// [`run`] as `settings` says.
///
/// # Panics
/// If a micro-batch's targets are not those of the settings' objective.
pub fn run_with(
    model: &Decoder,
    batches: &[MicroBatch],
    objective: &RouterObjective,
    device: &Device,
    observer: &mut dyn Observer,
    settings: &Settings,
) -> StepResult {
    let Settings {
        loss_scale,
        backpropagation,
        objective: goal,
    } = *settings;
    let size = size_of(batches);
    let share = Share::of(&goal, batches);
    let mixtures = model.config().moe_layers() > 0;
    let whole_step = (mixtures && objective.balance == BalanceScope::Global && batches.len() > 1)
        .then(|| count_choices(model, batches, backpropagation, device));
    let mut gradients = Gradients::scaled(loss_scale);
    let mut tally = Tally::default();
    let plain = match backpropagation {
        Backpropagation::Plain => None,
        Backpropagation::Streamed(settings) => Some((settings, model.valid())),
    };
    for batch in batches {
        if let Some((settings, plain)) = &plain {
            let step = MicroStep {
                model,
                plain,
                batch,
                objective,
                whole_step: whole_step.as_ref(),
                goal: &goal,
                share,
                size,
                loss_scale,
                device,
            };
            stream::run(&step, settings, &mut tally, observer, &mut gradients);
            continue;
        }
        let forward = enter_stage(Stage::Forward);
        let input = Input::new(model.config(), &batch.sequences, 0, device);
        let Forward { hidden, routings } = model.forward(&input, None);
        tally.add(model, &routings, observer);
        let counted = counted(objective.balance, whole_step.as_ref(), &tally);
        // A micro-batch is its share of the step: sums over its tokens, divided by the step's
        // counts. Only the frequencies of `micro-batch` balancing are its own.
        let terms = router_terms(&routings, batch.sequences.batch, counted, size, objective);
        let part = enter_part("head");
        let (loss, report) = policy::loss(model, hidden, batch, &goal, share, loss_scale);
        drop(part);
        let mut total = match &terms.objective {
            Some(routers) => loss.add(routers.clone()),
            None => loss,
        };
        tally.add_losses(report, terms);
        drop(routings);
        if loss_scale != 1.0 {
            total = total.mul_scalar(loss_scale);
        }
        drop(forward);
        let _backward = enter_stage(Stage::Backward);
        gradients.accumulate(model, total.backward());
    }
    let Totals {
        frequencies,
        report,
        balance,
        z,
        dropped,
        routing,
        transitions,
    } = tally.read();
    if !routing.is_empty() {
        observer.routing(routing);
    }
    if !transitions.is_empty() {
        observer.transitions(transitions);
    }
    let Reported {
        objective: reached,
        cross_entropy,
        measures,
    } = Reported::of(&goal, &report);
    let total =
        reached + objective.balance_coefficient * balance + objective.z_loss_coefficient * z;
    StepResult {
        losses: Losses {
            total,
            objective: reached,
            cross_entropy,
            balance,
            z,
        },
        measures,
        gradients,
        frequencies,
        size,
        dropped,
    }
}

/// The choices that a balance loss of this scope counts beyond a micro-batch's own: those of
/// `whole_step`, or of the step so far.
pub(crate) fn counted<'a>(
    scope: BalanceScope,
    whole_step: Option<&'a Counts>,
    tally: &'a Tally,
) -> Option<&'a Counts> {
    match scope {
        BalanceScope::Global => whole_step,
        BalanceScope::GlobalRunning => Some(&tally.counts),
        _ => None,
    }
}

/// Choices of every expert over all of `batches`, by forward passes without gradients.
fn count_choices(
    model: &Decoder,
    batches: &[MicroBatch],
    backpropagation: Backpropagation,
    device: &Device,
) -> Counts {
    let _forward = enter_stage(Stage::Forward);
    let model = model.valid();
    let mut counts = Counts::default();
    for batch in batches {
        match backpropagation {
            Backpropagation::Plain => {
                let input = Input::new(model.config(), &batch.sequences, 0, device);
                counts.add(&model.forward(&input, None).routings);
            }
            Backpropagation::Streamed(settings) => {
                stream::count(&model, batch, &settings, device, &mut counts);
            }
        }
    }
    counts
}

/// Sum of the losses of `batch`'s labels and their number, without gradients. `model` must come
/// from [`Module::valid`].
pub fn evaluate(model: &Decoder, batch: &MicroBatch, device: &Device) -> (f64, usize) {
    evaluate_with(model, batch, device, Backpropagation::Plain)
}

/// [`evaluate`] in the chunks of `backpropagation`, where it has any.
pub fn evaluate_with(
    model: &Decoder,
    batch: &MicroBatch,
    device: &Device,
    backpropagation: Backpropagation,
) -> (f64, usize) {
    if let Backpropagation::Streamed(settings) = backpropagation {
        let sum = stream::evaluate(model, batch, &settings, device);
        return (sum, batch.label_count());
    }
    let input = Input::new(model.config(), &batch.sequences, 0, device);
    let hidden = model.forward(&input, None).hidden;
    let losses = cross_entropy(model, hidden, &batch.labels, 1, 1.0).losses;
    let sum = host::floats(losses).into_iter().map(f64::from).sum();
    (sum, batch.label_count())
}
