//! One voice for every command. What a command was asked for goes to standard output; what it
//! tells on the way (status, notes, warnings, errors, progress) goes to standard error.

mod format;
mod progress;
mod table;

pub use format::{bytes, count, duration, rate};
pub use progress::{DataProgress, Spinner, StepReport, TrainingPlan, TrainingProgress};
pub use table::Table;

use std::fmt::Display;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use anstream::ColorChoice;
use indicatif::{MultiProgress, ProgressDrawTarget};
use owo_colors::OwoColorize;
use serde::Serialize;

use crate::error::{Error, ErrorKind};

/// Where to report a bug.
const ISSUES: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/issues");

/// The terminal, as one command sees it. Clones share it; threads may too.
#[derive(Clone, Debug)]
pub struct Ui {
    quiet: bool,
    live: MultiProgress,
    lost: Arc<Mutex<Option<std::io::Error>>>,
}

impl Ui {
    /// `quiet` leaves only results, warnings and errors. `color` decides for the whole process;
    /// `Auto` honours `NO_COLOR` and leaves colours to terminals.
    pub fn new(quiet: bool, color: ColorChoice) -> Self {
        color.write_global();
        let target = if quiet {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        Self {
            quiet,
            live: MultiProgress::with_draw_target(target),
            lost: Arc::default(),
        }
    }

    /// Whether only results, warnings and errors are wanted.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Tells what is being done: a verb (`Training`, `Wrote`) and what it is done to.
    pub fn status(&self, verb: &str, message: impl Display) {
        if !self.quiet {
            self.tell(format_args!("{:>12} {message}", verb.bold().green()));
        }
    }

    /// Tells something worth knowing.
    pub fn note(&self, message: impl Display) {
        if !self.quiet {
            self.tell(format_args!("{} {message}", "note:".bold().cyan()));
        }
    }

    /// Tells that something is probably not meant, or was left out.
    pub fn warn(&self, message: impl Display) {
        self.tell(format_args!("{} {message}", "warning:".bold().yellow()));
    }

    /// Tells why the command ends: what went wrong, the errors underneath, what to do.
    pub fn error(&self, error: &Error) {
        if error.kind() == ErrorKind::Interrupted {
            self.tell(format_args!("{}", error.bold()));
            return;
        }
        self.tell(format_args!("{} {error}", "error:".bold().red()));
        for cause in error.causes() {
            self.tell(format_args!("  {} {cause}", "caused by:".bold()));
        }
        if let Some(help) = error.help_text() {
            for line in help.lines() {
                self.tell(format_args!(" {} {line}", "help:".bold().cyan()));
            }
        }
    }

    /// Writes a line of the result to standard output.
    pub fn print(&self, line: impl Display) {
        self.write(format_args!("{line}\n"));
    }

    /// Writes text to standard output as it is, without an end of line.
    pub fn print_raw(&self, text: impl Display) {
        self.write(format_args!("{text}"));
    }

    /// Writes a table to standard output.
    pub fn table(&self, table: &Table) {
        self.write(format_args!("{table}"));
    }

    /// Writes a result for a script to standard output: one JSON document, indented.
    pub fn json(&self, value: &impl Serialize) {
        match serde_json::to_string_pretty(value) {
            Ok(text) => self.print(text),
            Err(error) => self.keep(error.into()),
        }
    }

    /// Writes one line of a stream of JSON values to standard output.
    pub fn json_line(&self, value: &impl Serialize) {
        match serde_json::to_string(value) {
            Ok(text) => self.print(text),
            Err(error) => self.keep(error.into()),
        }
    }

    /// A live line for work of unknown length; it is gone when dropped.
    pub fn spinner(&self, message: impl Into<String>) -> Spinner {
        Spinner::new(self, message.into())
    }

    /// The live line of a training run.
    pub fn training(&self, plan: TrainingPlan) -> TrainingProgress {
        TrainingProgress::new(self.clone(), plan)
    }

    /// Progress of preparing a corpus; `cancelled` is asked now and then whether to stop.
    pub fn data(&self, cancelled: impl Fn() -> bool + Send + Sync + 'static) -> DataProgress {
        DataProgress::new(self.clone(), Box::new(cancelled))
    }

    /// Ends the command's output.
    ///
    /// # Errors
    /// A result could not be written to standard output (a reader that went away is no error).
    pub fn finish(&self) -> Result<(), Error> {
        let flushed = std::io::stdout().flush();
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        match lost.take().map_or(flushed, Err) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Error::failed("cannot write to standard output").because(error))
            }
            _ => Ok(()),
        }
    }

    fn live(&self) -> &MultiProgress {
        &self.live
    }

    fn tell(&self, line: impl Display) {
        // Nobody is left to be told of a failure to write here.
        self.live
            .suspend(|| _ = writeln!(anstream::stderr().lock(), "{line}"));
    }

    fn write(&self, text: impl Display) {
        let written = self
            .live
            .suspend(|| write!(anstream::stdout().lock(), "{text}"));
        if let Err(error) = written {
            self.keep(error);
        }
    }

    fn keep(&self, error: std::io::Error) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.get_or_insert(error);
    }
}

/// Reports a panic: it is never the user's fault.
pub fn report_bug(what: &str) {
    let version = env!("CARGO_PKG_VERSION");
    let mut out = anstream::stderr().lock();
    _ = writeln!(
        out,
        "{} this is a bug in bellows {version}: {what}\n {} please report it at {ISSUES}; \
         RUST_BACKTRACE=1 adds a backtrace",
        "error:".bold().red(),
        "help:".bold().cyan(),
    );
}
