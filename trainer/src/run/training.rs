//! The training loop.

mod evaluate;
mod memory;
mod steer;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bellows_data::{Batch, Loader, Split, Tokenizer, ValidationSet};
use bellows_engine::kernels::Compute;
use bellows_engine::kernels::memory::in_use;
use bellows_engine::model::Decoder;
use bellows_engine::objective::{Frequencies, Measures, StepSize, update_correction_bias};
use bellows_engine::optim::{AdamW, LossScale};
use bellows_engine::step::{self, MicroBatch};
use bellows_record::{
    Event, EventKind, RunReader, RunState, RunWriter, StepMetrics, list_checkpoints,
};
use burn::tensor::Device;

use super::recorder::due;
use super::{Checkpoints, Recorder, Reference, Session, State, Stop, micro_batch};
use crate::config::RunConfig;
use crate::control::{Control, Steering};
use crate::error::Error;
use crate::models::{best_checkpoint, checkpoint_state};
use crate::plan::{Attempt, Guard, attempt, ways};
use crate::ui::{StepReport, TrainingPlan, TrainingProgress, Ui};

/// Tokens a second are told over this many steps.
const PACE_STEPS: usize = 20;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Last step done.
    pub step: u64,
    /// Steps planned.
    pub steps: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Seconds trained.
    pub seconds: f64,
    /// Training loss of the last good step.
    pub loss: f64,
    /// Validation loss at the end, in nat a token.
    pub validation_loss: Option<f64>,
    /// Entropy of the validation labels' own unigram distribution, in nat a token.
    pub unigram_entropy: Option<f64>,
    /// Whether losses are nat a token.
    pub per_token: bool,
    /// Text sampled at the end: prompt and continuation.
    pub samples: Vec<(String, String)>,
    /// Why it ended before its last step.
    pub stopped: Option<String>,
}

/// Trains `session` to its end and closes `writer`.
///
/// # Errors
/// If the last checkpoint cannot be written, or too many steps in a row have no finite loss. What
/// was written before stays.
pub fn train(
    session: Session,
    writer: RunWriter,
    stop: &Stop,
    ui: &Ui,
    json: bool,
) -> Result<Outcome, Error> {
    let writer = Arc::new(writer);
    let (mut step, mut seconds) = (0, 0.0);
    let outcome =
        Loop::new(session, writer.clone(), stop.clone(), ui, json).and_then(|mut training| {
            let outcome = training.run();
            // A checkpoint begun before a failure is still good: let it end.
            if let Err(error) = training.checkpoints.wait() {
                training.warn_checkpoint(&error);
            }
            (step, seconds) = (training.state.step, training.seconds());
            outcome
        });
    let (state, kind, reason) = match &outcome {
        Ok(outcome) => match &outcome.stopped {
            None => (RunState::Finished, EventKind::Finished, String::new()),
            Some(why) => (RunState::Stopped, EventKind::Stopped, why.clone()),
        },
        Err(error) => (RunState::Failed, EventKind::Failed, error.to_string()),
    };
    // The record tells of its own trouble below; a lost closing event is not worth a second error.
    let _ = writer.event(Event::new(step, kind, reason).elapsed(seconds));
    let closed = match Arc::try_unwrap(writer) {
        Ok(writer) => writer.finish(state).map_err(Error::from),
        Err(shared) => shared.flush().map_err(Error::from),
    };
    match (outcome, closed) {
        (Ok(_), Err(error)) => Err(error),
        (outcome, _) => outcome,
    }
}

struct Loop<'a> {
    config: RunConfig,
    device: Device,
    /// Absent only while the optimizer has it.
    model: Option<Decoder>,
    optimizer: AdamW,
    reference: Option<Reference>,
    loader: Loader,
    validation: Option<ValidationSet>,
    tokenizer: Arc<Tokenizer>,
    state: State,
    recorder: Recorder,
    checkpoints: Checkpoints,
    stop: Stop,
    ui: &'a Ui,
    live: Option<TrainingProgress>,
    started: Instant,
    seconds_before: f64,
    /// Tokens and seconds of recent steps, without evaluations and samples.
    pace: VecDeque<(u64, f64)>,
    loss: f64,
    last_validation: Option<f64>,
    best_validation: Option<f64>,
    peak_memory: u64,
    saved: Option<u64>,
    control: Control,
    paused: bool,
    told_to_stop: bool,
    guard: Guard,
    /// Why no step can follow, for want of memory.
    out_of_memory: Option<String>,
    /// The last step's row, which an evaluation asked for from outside completes.
    last_row: Option<StepMetrics>,
}

impl<'a> Loop<'a> {
    fn new(
        session: Session,
        writer: Arc<RunWriter>,
        stop: Stop,
        ui: &'a Ui,
        json: bool,
    ) -> Result<Self, Error> {
        let Session {
            mut config,
            device,
            dataset,
            loader,
            validation,
            model,
            optimizer,
            reference,
            state,
            precision,
            guard,
            ..
        } = session;
        let resumed = state.is_some();
        let mut state = state.unwrap_or_else(|| State {
            step: 0,
            updates: 0,
            tokens: 0,
            seconds: 0.0,
            skipped_in_a_row: 0,
            validation_loss: None,
            loss_scale: None,
            loader: loader.state(),
            dataset: dataset.id().clone(),
            reference: reference.as_ref().map(|reference| reference.id().clone()),
            steering: Steering::default(),
        });
        state.steering.apply_to(&mut config.record);
        if let Some(words) = state.steering.words() {
            ui.note(format!("steered as before: {words}"));
        }
        let control = Control::listen(writer.path()).unwrap_or_else(|error| {
            ui.warn(format!("the run cannot be steered from outside: {error}"));
            Control::deaf()
        });
        // Only f16 has a range so small that gradients vanish below it.
        state.loss_scale = (precision.compute == Compute::F16).then(|| {
            state
                .loss_scale
                .unwrap_or(LossScale::new(&config.loss_scale))
        });
        let checkpoints = list_checkpoints(writer.path())?;
        let best_validation = best_checkpoint(&checkpoints)
            .and_then(|(_, best)| checkpoint_state(&best).ok()?.validation_loss);
        let length = config.train.sequence_length;
        let sequences = config.record.probe_tokens.div_ceil(length);
        let probe = (sequences > 0 && dataset.tokens(Split::Validation) > 0)
            .then(|| dataset.probe(length.min(config.record.probe_tokens), sequences))
            .transpose()?;
        let recorder = Recorder::new(
            writer.clone(),
            config.record.clone(),
            probe,
            config.train.measure_memory,
        );
        let kind = if resumed {
            EventKind::Resumed
        } else {
            EventKind::Started
        };
        // A branch goes on from a checkpoint too, in a directory that has none yet.
        if RunReader::open(writer.path())?.probe()?.is_empty() {
            recorder.write_probe()?;
        }
        let began = Event::new(state.step, kind, "")
            .elapsed(state.seconds)
            .with("precision", precision.name())
            .with("precision_reason", precision.reason.as_str())
            .with("memory", ways(guard.way()))
            .with("memory_limit", guard.limit())
            .with("objective", config.objective.as_str());
        writer.event(began)?;
        let time_limit = config
            .train
            .max_minutes
            .map(|minutes| Duration::from_secs_f64(minutes * 60.0));
        let live = ui.training(TrainingPlan {
            done: state.step,
            steps: config.train.steps,
            time_limit,
            json,
        });
        let tokenizer = dataset.tokenizer().clone();
        Ok(Self {
            checkpoints: Checkpoints::new(writer, tokenizer.clone(), config.checkpoint.clone()),
            config,
            device,
            model: Some(model),
            optimizer,
            reference,
            loader,
            validation,
            tokenizer,
            recorder,
            stop,
            ui,
            live: Some(live),
            started: Instant::now(),
            seconds_before: state.seconds,
            pace: VecDeque::new(),
            loss: f64::NAN,
            last_validation: state.validation_loss,
            best_validation,
            peak_memory: 0,
            saved: resumed.then_some(state.step),
            control,
            paused: false,
            told_to_stop: false,
            guard,
            out_of_memory: None,
            last_row: None,
            state,
        })
    }

    fn run(&mut self) -> Result<Outcome, Error> {
        // A run resumed at its last step has nothing left to do but its end.
        let mut ending = self.ending();
        self.publish();
        let stopped = loop {
            if ending.is_none() {
                ending = self.obey()?;
            }
            if ending.is_none() {
                self.check_memory()?;
                ending = self.ending();
            }
            match ending {
                Some(stopped) => break stopped,
                None => ending = self.step()?,
            }
            self.publish();
        };
        self.finish(stopped)
    }

    /// Seconds trained, in this process and before.
    fn seconds(&self) -> f64 {
        self.seconds_before + self.started.elapsed().as_secs_f64()
    }

    /// One optimizer step and what is due after it. Returns why it was the last, if it was.
    fn step(&mut self) -> Result<Option<Option<String>>, Error> {
        let began = Instant::now();
        let step = self.state.step + 1;
        let batches: Vec<Batch> = (0..self.state.steering.accumulation(&self.config.train))
            .map(|_| self.loader.next_batch())
            .collect();
        let micro = batches.iter();
        let micro: Vec<MicroBatch> = micro
            .map(|batch| self.micro_batch(Split::Train, batch))
            .collect();
        let total = self.config.train.steps;
        let learning_rate = self.config.optimizer.learning_rate
            * self.config.schedule.factor(step, total)
            * self.state.steering.learning_rate_scale;

        let loss_scale = self.state.loss_scale.map(|state| state.scale);
        let settings = step::Settings {
            loss_scale: loss_scale.unwrap_or(1.0),
            backpropagation: self.guard.way(),
            objective: self.config.objective,
        };
        let Taken {
            losses,
            measures,
            size,
            frequencies,
            dropped,
            gradient_norm,
            applied,
        } = match attempt(|| self.take_step(step, &micro, &settings, learning_rate)) {
            Attempt::Done(taken) => taken,
            Attempt::Refused(what) => return Err(self.refused(step, &what)),
        };
        let objective = &self.config.router;
        if applied && objective.bias_update_speed > 0.0 {
            let speed = objective.bias_update_speed;
            let model = self.model.as_mut().expect(HELD);
            update_correction_bias(model, &frequencies, speed);
        }
        self.state.step = step;
        self.state.updates = self.optimizer.updates;
        self.state.tokens += size.tokens as u64;
        self.state.loader = self.loader.state();
        self.state.validation_loss = None;
        let mut gave_up = None;
        if applied {
            self.loss = losses.total;
            self.state.skipped_in_a_row = 0;
            if let Some(loss_scale) = &mut self.state.loss_scale {
                loss_scale.applied(&self.config.loss_scale);
            }
        } else if !(losses.total.is_finite() && self.overflow(step)?) {
            gave_up = self.skip(step, &batches, losses.total, gradient_norm)?;
        }

        let step_seconds = began.elapsed().as_secs_f64();
        let ending = self.ending();
        let last = ending.is_some() && !self.stop.requested();
        if gave_up.is_none() && (last || due_at(self.config.evaluate.every, step)) {
            self.evaluate()?;
        }
        let mut metrics = StepMetrics {
            step,
            time: self.seconds(),
            tokens: self.state.tokens,
            loss: losses.total,
            cross_entropy: losses.cross_entropy,
            aux_loss: (losses.balance != 0.0).then_some(losses.balance),
            z_loss: (losses.z != 0.0).then_some(losses.z),
            validation_loss: self.state.validation_loss,
            grad_norm: Some(gradient_norm),
            learning_rate,
            step_seconds,
            dropped,
            skipped: !applied,
            skipped_steps: Some(step - self.optimizer.updates),
            loss_scale,
            ..StepMetrics::default()
        };
        write_measures(&mut metrics, measures);
        if let Some(reference) = &self.reference
            && let Some((reward, advantage)) = reference.rewards(Split::Train, &batches)
        {
            metrics.reward = Some(reward);
            metrics.advantage = Some(advantage);
        }
        self.report(metrics, size.tokens as u64, applied)?;
        if let Some(error) = gave_up {
            return Err(error);
        }
        if due_at(self.config.sample.every, step) && ending.is_none() {
            self.sample()?;
        }
        // A checkpoint of skipped steps would push out one whose weights are known to be good.
        let due = applied && due_at(self.config.checkpoint.every, step);
        if due && self.saved != Some(step) {
            self.save();
        }
        Ok(ending)
    }

    /// Forward, backward and the update.
    fn take_step(
        &mut self,
        step: u64,
        micro: &[MicroBatch],
        settings: &step::Settings,
        learning_rate: f64,
    ) -> Taken {
        self.recorder
            .begin(step, held(&self.model), &self.optimizer, &self.device);
        let result = step::run_with(
            held(&self.model),
            micro,
            &self.config.router,
            &self.device,
            &mut self.recorder,
            settings,
        );
        let mut taken = Taken {
            losses: result.losses,
            measures: result.measures,
            size: result.size,
            frequencies: result.frequencies,
            dropped: result.dropped,
            gradient_norm: f64::NAN,
            applied: false,
        };
        if taken.losses.total.is_finite() {
            // Handed over whole: a second handle to the weights would mean a second copy.
            let model = self.model.take().expect(HELD);
            let optimizer = &mut self.optimizer;
            self.model = Some(optimizer.apply(model, result.gradients, learning_rate));
            if let Some(update) = optimizer.outcome() {
                taken.gradient_norm = update.gradient_norm;
                taken.applied = update.applied;
            }
        }
        self.recorder.end_of_step();
        taken
    }

    /// A batch with what the objective knows of it.
    fn micro_batch(&self, split: Split, batch: &Batch) -> MicroBatch {
        let mut micro = micro_batch(batch);
        if let Some(reference) = &self.reference {
            micro.targets = reference.targets(split, batch);
        }
        micro
    }

    /// Why no further step follows; `Some(None)`: the last one is done.
    fn ending(&self) -> Option<Option<String>> {
        if self.state.step >= self.config.train.steps {
            return Some(None);
        }
        if self.stop.requested() {
            return Some(Some("interrupted".to_owned()));
        }
        if self.told_to_stop {
            return Some(Some("stopped from outside".to_owned()));
        }
        if let Some(reason) = &self.out_of_memory {
            return Some(Some(reason.clone()));
        }
        let minutes = self.config.train.max_minutes?;
        (self.started.elapsed().as_secs_f64() >= minutes * 60.0)
            .then(|| Some(format!("time limit of {minutes} minutes")))
    }

    /// Lowers the loss scale after a gradient overflowed; false where there is none to lower, so
    /// that the overflow has another cause.
    fn overflow(&mut self, step: u64) -> Result<bool, Error> {
        let Some(loss_scale) = &mut self.state.loss_scale else {
            return Ok(false);
        };
        let before = loss_scale.scale;
        if !loss_scale.overflowed() {
            return Ok(false);
        }
        let what = format!("a gradient overflowed with the loss times {before}");
        let event = Event::new(step, EventKind::Overflow, what)
            .with("loss_scale", loss_scale.scale)
            .elapsed(self.seconds());
        self.recorder.writer().event(event)?;
        Ok(true)
    }

    /// Counts a step without a finite loss. After too many in a row, returns the run's error.
    fn skip(
        &mut self,
        step: u64,
        batches: &[Batch],
        loss: f64,
        norm: f64,
    ) -> Result<Option<Error>, Error> {
        self.state.skipped_in_a_row += 1;
        let what = if loss.is_finite() {
            format!("the gradient norm is {norm}")
        } else {
            format!("the loss is {loss}")
        };
        let origin: Vec<String> = batches
            .iter()
            .map(|batch| self.loader.describe(batch))
            .collect();
        let origin = origin.join("; ");
        self.ui.warn(format!(
            "step {step} skipped: {what}; its batch comes from {origin}"
        ));
        let event = Event::new(step, EventKind::Skipped, &what)
            .elapsed(self.seconds())
            .with("origin", origin.clone());
        self.recorder.writer().event(event)?;
        let given_up = self.state.skipped_in_a_row >= self.config.train.skip_limit.max(1);
        Ok(given_up.then(|| {
            // The data or the settings are at fault, not the program: exit code 2.
            Error::input(format!(
                "{} steps in a row had no finite loss; the last batch came from {origin}",
                self.state.skipped_in_a_row
            ))
            .help("lower optimizer.learning_rate, or resume from an earlier checkpoint with --from STEP")
        }))
    }

    fn report(
        &mut self,
        mut metrics: StepMetrics,
        tokens: u64,
        applied: bool,
    ) -> Result<(), Error> {
        let memory = in_use(&self.device).map(|reading| reading.in_use);
        let peak = self.recorder.peak().max(memory);
        self.peak_memory = self.peak_memory.max(peak.unwrap_or(0));
        self.pace.push_back((tokens, metrics.step_seconds));
        if self.pace.len() > PACE_STEPS {
            self.pace.pop_front();
        }
        let (tokens, seconds) = self.pace.iter().fold((0, 0.0), |(tokens, seconds), step| {
            (tokens + step.0, seconds + step.1)
        });
        metrics.tokens_per_second = tokens as f64 / f64::max(seconds, 1e-9);
        metrics.memory_bytes = memory;
        metrics.peak_memory_bytes = (self.peak_memory > 0).then_some(self.peak_memory);
        let report = StepReport {
            step: metrics.step,
            loss: metrics.loss,
            validation_loss: self.last_validation,
            learning_rate: metrics.learning_rate,
            tokens_per_second: metrics.tokens_per_second,
            memory_bytes: memory,
        };
        if let Some(live) = &mut self.live {
            live.step(report);
        }
        self.last_row = Some(metrics.clone());
        let wanted = due(self.config.record.metrics_every, metrics.step)
            || metrics.step == self.config.train.steps
            || metrics.validation_loss.is_some()
            || metrics.skipped;
        let mut outcome = Ok(());
        if wanted {
            outcome = self.recorder.writer().metrics(metrics).map_err(Error::from);
        }
        if applied {
            let rows = self.recorder.commit(held(&self.model), &self.device);
            outcome = outcome.and(rows);
        }
        // A full disk must not end a run that could go on: say so, rows are retried.
        if let Err(error) = outcome {
            self.ui.warn(format!("the record: {error}"));
        }
        Ok(())
    }

    /// Begins a checkpoint. Trouble with the one before is told, and training goes on: the last
    /// good one stays.
    fn save(&mut self) {
        self.saved = Some(self.state.step);
        self.state.seconds = self.seconds();
        let state = self.state.clone();
        let saved = self
            .checkpoints
            .save(held(&self.model), &self.optimizer, state);
        if let Err(error) = saved {
            self.warn_checkpoint(&error);
        }
    }

    fn warn_checkpoint(&self, error: &Error) {
        self.ui.warn(chain(error));
        let event = Event::new(self.state.step, EventKind::Warning, chain(error));
        // The same full disk may refuse the event; the warning above has told it.
        let _ = self.recorder.writer().event(event.elapsed(self.seconds()));
    }

    fn finish(&mut self, stopped: Option<String>) -> Result<Outcome, Error> {
        if let Some(live) = self.live.take() {
            live.finish();
        }
        let interrupted =
            self.stop.requested() || self.told_to_stop || self.out_of_memory.is_some();
        let mut samples = Vec::new();
        if !interrupted {
            if self.state.validation_loss.is_none() {
                let _spinner = self.ui.spinner("validating");
                self.evaluate()?;
            }
            samples = self.sample()?;
        }
        if self.saved != Some(self.state.step) {
            self.save();
        }
        {
            let _spinner = self.ui.spinner("writing the checkpoint");
            self.checkpoints.wait()?;
        }
        Ok(Outcome {
            step: self.state.step,
            steps: self.config.train.steps,
            tokens: self.state.tokens,
            seconds: self.seconds(),
            loss: self.loss,
            validation_loss: self.state.validation_loss,
            unigram_entropy: self
                .validation
                .as_ref()
                .filter(|_| self.reference.is_none())
                .map(|validation| validation.unigram_entropy()),
            per_token: self.reference.is_none(),
            samples,
            stopped,
        })
    }
}

fn write_measures(metrics: &mut StepMetrics, measures: Measures) {
    match measures {
        Measures::None => {}
        Measures::Pairs {
            chosen,
            rejected,
            accuracy,
            margin,
        } => {
            metrics.rewards_chosen = Some(chosen);
            metrics.rewards_rejected = Some(rejected);
            metrics.rewards_accuracies = Some(accuracy);
            metrics.rewards_margins = Some(margin);
        }
        Measures::Groups { kl, clip_fraction } => {
            metrics.kl = kl;
            metrics.clip_fraction = Some(clip_fraction);
        }
    }
}

const HELD: &str = "the optimizer gives the model back";

/// The model of the loop.
fn held(model: &Option<Decoder>) -> &Decoder {
    model.as_ref().expect(HELD)
}

/// The error and what is underneath, in one line.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    for cause in error.causes() {
        text += ": ";
        text += &cause;
    }
    text
}

/// Whether something done every `every` steps (0: never) is due at `step`.
fn due_at(every: u64, step: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// What a step came to.
struct Taken {
    losses: step::Losses,
    measures: Measures,
    size: StepSize,
    frequencies: Frequencies,
    dropped: u64,
    gradient_norm: f64,
    applied: bool,
}
