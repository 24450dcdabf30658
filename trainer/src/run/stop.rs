//! Ctrl-C: the first asks for a stop after the step, the second ends the program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;

/// Exit code of a program ended by an interrupt.
const INTERRUPTED: i32 = 130;

/// Whether somebody asked for a stop.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens to Ctrl-C (and SIGTERM). `told` runs at the first one.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub fn listen(told: impl Fn() + Send + 'static) -> Result<Self, Error> {
        let stop = Self::default();
        let flag = stop.0.clone();
        ctrlc::set_handler(move || {
            if flag.swap(true, Ordering::SeqCst) {
                std::process::exit(INTERRUPTED);
            }
            told();
        })
        .map_err(|error| Error::failed("cannot listen to Ctrl-C").because(error))?;
        Ok(stop)
    }

    /// Whether a stop was asked for.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
