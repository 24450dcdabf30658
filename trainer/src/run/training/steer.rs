//! What a command does to the training loop, between two steps.

use std::time::{Duration, Instant};

use bellows_engine::generate::Sampling;
use bellows_record::control::{Acknowledgement, Command, ControlError, ControlErrorKind, Status};
use bellows_record::{Event, EventKind, RunState, Sample};
use burn::module::Module;
use serde_json::{Value, json};

use super::{Loop, held};
use crate::control::{Pending, intervals_of};
use crate::error::Error;
use crate::run::continue_text;

/// Time between two looks at Ctrl-C during a pause.
const LOOK: Duration = Duration::from_millis(100);

type Answer = Result<Acknowledgement, ControlError>;

impl Loop<'_> {
    /// Does what clients asked for. Returns why the run ends, if one of them ended it; waits for as
    /// long as it is paused.
    pub(super) fn obey(&mut self) -> Result<Option<Option<String>>, Error> {
        let mut paused: Option<Instant> = None;
        loop {
            let pending = match paused {
                None => self.control.next(),
                Some(_) => self.control.wait(LOOK),
            };
            match pending {
                Some(pending) => self.take(pending)?,
                // What keeps the record from being written may come and go during a pause.
                None if self.paused => self.publish(),
                None => break,
            }
            match (self.paused, paused) {
                (true, None) => paused = Some(Instant::now()),
                (false, Some(since)) => {
                    self.forget_time(since);
                    paused = None;
                }
                _ => {}
            }
            if self.stop.requested() || self.told_to_stop {
                break;
            }
        }
        if let Some(since) = paused {
            self.forget_time(since);
        }
        Ok(self.ending())
    }

    /// A pause is no time of training.
    fn forget_time(&mut self, since: Instant) {
        self.started += since.elapsed();
    }

    fn take(&mut self, pending: Pending) -> Result<(), Error> {
        let command = pending.command.clone();
        let answer = self.carry_out(&command)?;
        let (reason, done) = match &answer {
            Ok(done) => (done.message.clone(), true),
            Err(error) => (format!("refused: {error}"), false),
        };
        let mut event = Event::new(self.state.step, EventKind::Command, reason)
            .elapsed(self.seconds())
            .with("done", done);
        if let Ok(Value::Object(fields)) = serde_json::to_value(&command) {
            event.data.extend(fields);
        }
        self.tell(event);
        self.publish();
        pending.answer(answer);
        Ok(())
    }

    fn carry_out(&mut self, command: &Command) -> Result<Answer, Error> {
        let step = self.state.step;
        let done = |message: String| {
            Ok(Acknowledgement {
                step,
                message,
                ..Acknowledgement::default()
            })
        };
        Ok(match command {
            // Answered by the socket's threads.
            Command::Status => done(String::new()),
            Command::Pause if self.paused => done("paused already".into()),
            Command::Pause => {
                self.set_paused(true);
                done("paused".into())
            }
            Command::Resume if !self.paused => done("running already".into()),
            Command::Resume => {
                self.set_paused(false);
                done("goes on".into())
            }
            Command::Checkpoint if self.saved == Some(step) => {
                done(format!("step {step} has its checkpoint already"))
            }
            Command::Checkpoint => {
                self.save();
                done(format!("the checkpoint of step {step} is being written"))
            }
            Command::Stop => {
                self.told_to_stop = true;
                done("stops after a checkpoint".into())
            }
            Command::Evaluate => self.evaluate_now()?,
            Command::LearningRateScale { scale } => {
                self.state.steering.learning_rate_scale = *scale;
                done(format!("the learning rate is scaled by {scale}"))
            }
            Command::Accumulation { micro_batches } => {
                self.state.steering.micro_batches = Some(*micro_batches);
                done(format!("a step has {micro_batches} micro-batches"))
            }
            Command::Intervals(intervals) => {
                self.state.steering.set_intervals(*intervals);
                self.state.steering.apply_to(&mut self.config.record);
                self.recorder.configure(self.config.record.clone());
                done("intervals changed".into())
            }
            Command::Sample {
                prompt,
                max_tokens,
                temperature,
            } => self.sample_now(prompt, *max_tokens, *temperature)?,
        })
    }

    fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
        let (state, kind) = match paused {
            true => (RunState::Paused, EventKind::Paused),
            false => (RunState::Running, EventKind::Resumed),
        };
        let step = self.state.step;
        self.ui.note(match paused {
            true => format!("paused after step {step} from outside"),
            false => format!("goes on after step {step}"),
        });
        let event = Event::new(step, kind, "from outside").elapsed(self.seconds());
        self.tell(event);
        if let Err(error) = self.recorder.writer().set_state(state) {
            self.ui.warn(format!("the record: {error}"));
        }
    }

    fn evaluate_now(&mut self) -> Result<Answer, Error> {
        if self.validation.is_none() {
            return Ok(Err(ControlError::new(
                ControlErrorKind::Unavailable,
                "the run holds no data out to validate on",
            )));
        }
        if self.state.validation_loss.is_none() {
            self.evaluate()?;
            // The step's row is written again, with what it lacked.
            if let Some(row) = &mut self.last_row {
                row.validation_loss = self.state.validation_loss;
                if let Err(error) = self.recorder.writer().metrics(row.clone()) {
                    self.ui.warn(format!("the record: {error}"));
                }
            }
        }
        let loss = self.state.validation_loss.unwrap_or(f64::NAN);
        Ok(Ok(Acknowledgement {
            step: self.state.step,
            message: format!("validation loss {loss:.4}"),
            validation_loss: loss.is_finite().then_some(loss),
            ..Acknowledgement::default()
        }))
    }

    fn sample_now(
        &mut self,
        prompt: &str,
        max_tokens: Option<usize>,
        temperature: Option<f64>,
    ) -> Result<Answer, Error> {
        let settings = &self.config.sample;
        let sampling = Sampling {
            max_tokens: max_tokens.unwrap_or(settings.max_tokens),
            temperature: temperature.unwrap_or(settings.temperature),
            top_k: (settings.top_k > 0).then_some(settings.top_k),
            top_p: (settings.top_p < 1.0).then_some(settings.top_p),
            seed: self.config.run.seed ^ self.state.step.rotate_left(32),
        };
        let model = held(&self.model).valid();
        let text = match continue_text(&model, &self.tokenizer, prompt, &sampling, &self.device) {
            Ok(text) => text,
            Err(error) => {
                let error = ControlError::new(ControlErrorKind::Failed, error.to_string());
                return Ok(Err(error));
            }
        };
        let mut sample = Sample {
            step: self.state.step,
            prompt: prompt.to_owned(),
            text: text.clone(),
            ..Sample::default()
        };
        for (key, value) in [
            ("temperature", json!(sampling.temperature)),
            ("top_k", json!(settings.top_k)),
            ("top_p", json!(settings.top_p)),
            ("seed", json!(sampling.seed)),
            ("max_new_tokens", json!(sampling.max_tokens)),
        ] {
            sample.settings.insert(key.to_owned(), value);
        }
        if let Err(error) = self.recorder.writer().sample(sample) {
            self.ui.warn(format!("the record: {error}"));
        }
        Ok(Ok(Acknowledgement {
            step: self.state.step,
            message: "continued the text".into(),
            text: Some(text),
            ..Acknowledgement::default()
        }))
    }

    /// Records an event. A full disk must not end a run that could go on: rows are retried.
    fn tell(&self, event: Event) {
        if let Err(error) = self.recorder.writer().event(event) {
            self.ui.warn(format!("the record: {error}"));
        }
    }

    /// What clients are told who ask for the status.
    pub(super) fn publish(&self) {
        let finite = |value: f64| value.is_finite().then_some(value);
        self.control.publish(Status {
            run: self.recorder.writer().name().to_owned(),
            state: if self.paused {
                RunState::Paused
            } else {
                RunState::Running
            },
            step: self.state.step,
            total_steps: self.config.train.steps,
            tokens: self.state.tokens,
            loss: finite(self.loss),
            validation_loss: self.last_validation.and_then(finite),
            tokens_per_second: self
                .last_row
                .as_ref()
                .and_then(|row| finite(row.tokens_per_second)),
            learning_rate_scale: self.state.steering.learning_rate_scale,
            micro_batches: self.state.steering.accumulation(&self.config.train),
            intervals: intervals_of(&self.config.record),
            trouble: self
                .recorder
                .writer()
                .trouble()
                .map(|error| error.to_string()),
        });
    }
}
