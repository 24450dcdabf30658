//! Memory between steps, and what is told where it ran out.

use bellows_engine::kernels::memory::{Kind, in_use};
use bellows_engine::plan::Prediction;
use bellows_record::{Event, EventKind, list_checkpoints};

use super::Loop;
use crate::error::Error;
use crate::plan::{Verdict, ways};
use crate::ui::bytes;

impl Loop<'_> {
    /// Looks whether the next step fits: it goes on in another way where that helps, else the run
    /// is to stop.
    pub(super) fn check_memory(&mut self) -> Result<(), Error> {
        let Some(mut reading) = in_use(&self.device) else {
            return Ok(());
        };
        let prediction = self.guard.prediction();
        // Moments are made by the first update.
        let resident = match self.optimizer.state().next() {
            Some(_) => prediction.resident(),
            None => prediction.weights(),
        };
        // Where there is no room for what the update copies because a checkpoint still has to write
        // it, the step waits, and then finds the checkpoint's memory free.
        if self.checkpoints.is_writing()
            && !self.guard.fits_beside_checkpoint(reading.in_use, resident)
        {
            if let Err(error) = self.checkpoints.wait() {
                self.warn_checkpoint(&error);
            }
            reading = in_use(&self.device).unwrap_or(reading);
        }
        match self.guard.check(reading.in_use, resident) {
            Verdict::Go => {}
            Verdict::Change(way, reason) => {
                self.ui.warn(&reason);
                let event = Event::new(self.state.step, EventKind::Warning, reason)
                    .elapsed(self.seconds())
                    .with("memory", ways(way));
                self.recorder.writer().event(event)?;
            }
            Verdict::Stop(reason) => {
                self.ui
                    .warn(format!("{reason}; stopping with a checkpoint"));
                self.out_of_memory = Some(reason);
            }
        }
        Ok(())
    }

    /// The error of a step for which the device refused memory although the plan said that there
    /// was some.
    pub(super) fn refused(&mut self, step: u64, what: &str) -> Error {
        // One that was begun is still good, and the last.
        if let Err(error) = self.checkpoints.wait() {
            self.warn_checkpoint(&error);
        }
        let ledger = match self.recorder.last_ledger() {
            Some(ledger) => format!("the last ledger, {ledger}"),
            None => format!("by the plan, {}", ledger_of(self.guard.prediction())),
        };
        let checkpoint = list_checkpoints(self.recorder.writer().path())
            .ok()
            .and_then(|checkpoints| checkpoints.into_iter().next_back());
        let (last, help) = match checkpoint {
            Some((step, path)) => (
                format!(
                    "the last checkpoint is that of step {step}, {}",
                    path.display()
                ),
                format!(
                    "`bellows resume {} --memory SIZE` goes on from it with a limit below what the device refused",
                    self.recorder.writer().path().display()
                ),
            ),
            None => (
                "there is no checkpoint yet".to_owned(),
                "start again with --memory SIZE below what the device refused".to_owned(),
            ),
        };
        Error::failed(format!(
            "step {step} ran out of memory: {what}; {ledger}; {last}"
        ))
        .help(help)
    }
}

/// What the plan says of a step's peak, by kind.
fn ledger_of(prediction: &Prediction) -> String {
    let peak = prediction.peak();
    let kinds = Kind::ALL.into_iter().map(|kind| {
        let held = bytes(peak.bytes[kind as usize]);
        format!("{} {held}", kind.as_str())
    });
    kinds.collect::<Vec<_>>().join(", ")
}
