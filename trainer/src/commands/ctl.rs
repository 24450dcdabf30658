//! `bellows ctl`: a command to a live run.

use std::path::Path;
use std::time::Duration;

use bellows_record::RunReader;
use bellows_record::control::{Acknowledgement, ClientError, send};

use super::status;
use crate::cli::{CtlArgs, CtlCommand};
use crate::error::Error;
use crate::ui::Ui;

/// Time between two looks at whether a run has ended.
const LOOK: Duration = Duration::from_millis(100);

/// Sends a command and tells the answer.
///
/// # Errors
/// If nobody trains the run, the value is out of range (exit code 2), or the run refuses.
pub fn run(args: CtlArgs, ui: &Ui) -> Result<(), Error> {
    let answer = send(&args.run, args.command.told(), args.patience())?;
    if matches!(args.command, CtlCommand::Stop { wait: true }) {
        wait_for_the_end(&args.run)?;
    }
    if args.json {
        ui.json(&answer);
    } else {
        tell(&answer, ui);
    }
    Ok(())
}

fn tell(answer: &Acknowledgement, ui: &Ui) {
    if let Some(told) = &answer.status {
        status::tell_steering(told, ui);
    }
    if !answer.message.is_empty() {
        ui.status("Step", format!("{}: {}", answer.step, answer.message));
    }
    if let Some(loss) = answer.validation_loss {
        ui.print(loss);
    }
    if let Some(text) = &answer.text {
        ui.print(text);
    }
}

fn wait_for_the_end(run: &Path) -> Result<(), Error> {
    let mut reader = RunReader::open(run)?;
    loop {
        reader.refresh()?;
        if !reader.liveness().is_live() {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        use bellows_record::control::ControlErrorKind::Invalid;
        match error {
            ClientError::Record(error) => error.into(),
            ClientError::Refused(error) if error.kind == Invalid => Error::input(error.message),
            ClientError::Refused(error) => Error::failed(error.message),
            ClientError::NotRunning { .. } => Error::input(error.to_string()),
            other => Error::failed(other.to_string()),
        }
    }
}
