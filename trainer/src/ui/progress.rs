//! Live progress: one line that is redrawn on a terminal, a plain line now and then elsewhere.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::OwoColorize;
use serde::Serialize;

use super::{Ui, bytes, duration, rate};

/// Time between two plain lines where there is no terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// A live line for work of unknown length; dropping it clears it.
#[derive(Debug)]
pub struct Spinner {
    bar: ProgressBar,
}

impl Spinner {
    pub(super) fn new(ui: &Ui, message: String) -> Self {
        let bar = ui.live().add(ProgressBar::new_spinner());
        bar.set_style(style("{spinner} {msg}"));
        bar.set_message(message);
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar }
    }

    /// Changes what it says.
    pub fn message(&self, message: impl Into<String>) {
        self.bar.set_message(message.into());
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// What a training run is going to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrainingPlan {
    /// Steps done before this process began.
    pub done: u64,
    /// Steps of the whole run.
    pub steps: u64,
    /// Training time after which the run stops early.
    pub time_limit: Option<Duration>,
    /// Report as JSON lines on standard output.
    pub json: bool,
}

/// What is known after a step.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct StepReport {
    /// The step, from 1.
    pub step: u64,
    /// Training loss, in nat.
    pub loss: f64,
    /// The last validation loss, in nat.
    pub validation_loss: Option<f64>,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Tokens a second, recently.
    pub tokens_per_second: f64,
    /// Memory in use, in bytes.
    pub memory_bytes: Option<u64>,
}

/// The live line of a training run: step, losses, tokens a second, time to go, memory.
#[derive(Debug)]
pub struct TrainingProgress {
    ui: Ui,
    plan: TrainingPlan,
    bar: ProgressBar,
    started: Instant,
    pace: Pace,
    last_plain: Option<Instant>,
    last: Option<StepReport>,
    last_shown: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    #[serde(flatten)]
    report: &'a StepReport,
    steps: u64,
    remaining_seconds: Option<f64>,
}

impl TrainingProgress {
    pub(super) fn new(ui: Ui, plan: TrainingPlan) -> Self {
        let bar = ui.live().add(ProgressBar::new(plan.steps));
        bar.set_style(style("{spinner} [{bar:12}] {wide_msg}").progress_chars("=> "));
        bar.set_position(plan.done);
        bar.set_message(format!("step {}/{}", plan.done, plan.steps));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self {
            ui,
            plan,
            bar,
            started: Instant::now(),
            pace: Pace::default(),
            last_plain: None,
            last: None,
            last_shown: 0,
        }
    }

    /// Tells of a finished step. Cheap: call it for each.
    pub fn step(&mut self, report: StepReport) {
        self.pace.step(self.started.elapsed());
        self.bar.set_position(report.step);
        if !self.bar.is_hidden() {
            self.bar.set_message(self.describe(&report));
        }
        let due = self
            .last_plain
            .is_none_or(|last| last.elapsed() >= PLAIN_EVERY);
        self.last = Some(report);
        if due || report.step == self.plan.steps {
            self.plain(&report);
        }
    }

    /// Estimated time to the end of the run or to its time limit.
    pub fn remaining(&self) -> Option<Duration> {
        let step = self.last.as_ref()?.step;
        let left = self.plan.steps.saturating_sub(step);
        let by_steps = self
            .pace
            .per_step()?
            .checked_mul(u32::try_from(left).ok()?)?;
        let by_time = self
            .plan
            .time_limit
            .map(|limit| limit.saturating_sub(self.started.elapsed()));
        Some(by_time.map_or(by_steps, |by_time| by_steps.min(by_time)))
    }

    /// Clears the live line; where there is none, the last step is told if it was not yet.
    pub fn finish(mut self) {
        if let Some(report) = self.last {
            self.plain(&report);
        }
    }

    fn describe(&self, report: &StepReport) -> String {
        let mut parts = vec![
            format!("step {}/{}", report.step, self.plan.steps),
            format!("loss {:.3}", report.loss),
        ];
        if let Some(loss) = report.validation_loss {
            parts.push(format!("val {loss:.3}"));
        }
        parts.push(rate(report.tokens_per_second, "tokens"));
        if let Some(remaining) = self.remaining() {
            parts.push(format!("{} left", duration(remaining)));
        }
        if let Some(memory) = report.memory_bytes {
            parts.push(bytes(memory));
        }
        parts.join("  ")
    }

    fn plain(&mut self, report: &StepReport) {
        if self.last_shown == report.step {
            return;
        }
        self.last_plain = Some(Instant::now());
        self.last_shown = report.step;
        if self.plan.json {
            self.ui.json_line(&Line {
                event: "step",
                report,
                steps: self.plan.steps,
                remaining_seconds: self.remaining().map(|time| time.as_secs_f64()),
            });
        } else if self.bar.is_hidden() {
            self.ui.status("Training", self.describe(report));
        }
    }
}

impl Drop for TrainingProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Time of a step, smoothed so that the estimate follows a change within some twenty steps.
#[derive(Debug, Default)]
struct Pace {
    last: Option<Duration>,
    per_step: Option<f64>,
}

impl Pace {
    fn step(&mut self, now: Duration) {
        let taken = now
            .saturating_sub(self.last.unwrap_or_default())
            .as_secs_f64();
        self.per_step = Some(match self.per_step {
            Some(mean) => mean + 0.1 * (taken - mean),
            None => taken,
        });
        self.last = Some(now);
    }

    fn per_step(&self) -> Option<Duration> {
        self.per_step.map(Duration::from_secs_f64)
    }
}

/// Progress of preparing a corpus, for the data crate to report to.
pub struct DataProgress {
    ui: Ui,
    cancelled: Box<dyn Fn() -> bool + Send + Sync>,
    stage: Mutex<Option<(bellows_data::Stage, ProgressBar)>>,
}

impl DataProgress {
    pub(super) fn new(ui: Ui, cancelled: Box<dyn Fn() -> bool + Send + Sync>) -> Self {
        Self {
            ui,
            cancelled,
            stage: Mutex::new(None),
        }
    }
}

impl bellows_data::Progress for DataProgress {
    fn stage(&self, stage: bellows_data::Stage) {
        let bar = self.ui.live().add(ProgressBar::new_spinner());
        bar.set_style(style("{spinner} {msg}"));
        bar.set_message(stage.to_string());
        if bar.is_hidden() {
            self.ui.status("Data", stage);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        let mut current = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bar)) = current.replace((stage, bar)) {
            bar.finish_and_clear();
        }
    }

    fn advance(&self, done: u64, total: Option<u64>) {
        let current = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((stage, bar)) = current.as_ref() else {
            return;
        };
        match total {
            Some(total) => {
                if bar.length().is_none() {
                    bar.set_style(style("{spinner} [{bar:24}] {msg}").progress_chars("=> "));
                }
                bar.set_length(total);
                bar.set_position(done);
                bar.set_message(format!("{stage}  {} of {}", bytes(done), bytes(total)));
            }
            None => bar.set_message(format!("{stage}  {}", bytes(done))),
        }
    }

    fn warning(&self, message: &str) {
        self.ui.warn(message);
    }

    fn cancelled(&self) -> bool {
        (self.cancelled)()
    }
}

impl Drop for DataProgress {
    fn drop(&mut self) {
        let mut current = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bar)) = current.take() {
            bar.finish_and_clear();
        }
    }
}

/// The templates are fixed text, so a wrong one is only ever seen by who writes it.
fn style(template: &str) -> ProgressStyle {
    let color = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    let template = if color {
        template.replace("{spinner}", &format!("{}", "{spinner}".green()))
    } else {
        template.to_owned()
    };
    ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_follows_the_pace_and_ends_with_the_run() {
        let mut pace = Pace::default();
        for second in 1..=200 {
            pace.step(Duration::from_secs(second));
        }
        let per_step = pace.per_step().expect("steps were made").as_secs_f64();
        assert!((per_step - 1.0).abs() < 1e-6, "{per_step}");
        let ui = Ui::new(true, anstream::ColorChoice::Never);
        let mut progress = ui.training(TrainingPlan {
            steps: 10,
            ..TrainingPlan::default()
        });
        assert_eq!(progress.remaining(), None);
        progress.step(StepReport {
            step: 10,
            ..StepReport::default()
        });
        assert_eq!(progress.remaining(), Some(Duration::ZERO));
    }

    #[test]
    fn a_line_leaves_out_what_is_not_known() {
        let ui = Ui::new(true, anstream::ColorChoice::Never);
        let mut progress = ui.training(TrainingPlan {
            steps: 10,
            ..TrainingPlan::default()
        });
        let mut report = StepReport {
            step: 10,
            loss: 4.5,
            tokens_per_second: 1234.0,
            ..StepReport::default()
        };
        progress.step(report);
        let line = progress.describe(&report);
        assert!(
            line.starts_with("step 10/10  loss 4.500  1.2k tokens/s"),
            "{line}"
        );
        assert!(!line.contains("val"), "{line}");
        report.validation_loss = Some(4.75);
        assert!(progress.describe(&report).contains("val 4.750"));
    }
}
