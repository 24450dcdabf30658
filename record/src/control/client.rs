use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::wire::{Acknowledgement, Command, ControlError, Outcome, Reply, Request, Status};
use super::{ControlStream, connect};
use crate::{Liveness, RecordError, RunReader, RunState};

/// Bytes of a reply's line: a sample of the longest prompt and continuation fits.
const LONGEST_REPLY: u64 = 1 << 20;

/// Why a command was not acknowledged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The directory is no run, or cannot be read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// No process trains the run.
    #[error("{} is not training: it is {liveness}{}", path.display(), Advice(*liveness))]
    NotRunning {
        /// The run's directory.
        path: PathBuf,
        /// What it is.
        liveness: Liveness,
    },
    /// A process trains the run and cannot be reached.
    #[error("{} is {liveness}, but its control socket cannot be reached: {source}", path.display())]
    Unreachable {
        /// The run's directory.
        path: PathBuf,
        /// What it is.
        liveness: Liveness,
        /// The system's answer.
        source: io::Error,
    },
    /// The run said no.
    #[error(transparent)]
    Refused(#[from] ControlError),
    /// The run ended, or was too slow, before it answered. The command may have taken effect.
    #[error("{} gave no answer: {what}; events.jsonl tells whether the command took effect", path.display())]
    NoAnswer {
        /// The run's directory.
        path: PathBuf,
        /// What happened instead.
        what: String,
    },
}

struct Advice(Liveness);

impl std::fmt::Display for Advice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Liveness::Stopped | Liveness::Crashed | Liveness::Failed => {
                f.write_str("; `bellows resume` goes on with it")
            }
            Liveness::Running | Liveness::Paused | Liveness::Finished => Ok(()),
        }
    }
}

/// Sends a command to the run in `run` and waits for its acknowledgement, at most `patience` (the
/// longest step may take minutes; `None` waits for as long as the run lives).
///
/// # Errors
///
/// [`ClientError`]. Values out of range are refused before anything is sent.
pub fn send(
    run: &Path,
    command: Command,
    patience: Option<Duration>,
) -> Result<Acknowledgement, ClientError> {
    command.check()?;
    let liveness = RunReader::open(run)?.liveness();
    let mut stream = connect(run).map_err(|source| {
        if liveness.is_live() {
            ClientError::Unreachable {
                path: run.to_owned(),
                liveness,
                source,
            }
        } else {
            ClientError::NotRunning {
                path: run.to_owned(),
                liveness,
            }
        }
    })?;
    let no_answer = |what: String| ClientError::NoAnswer {
        path: run.to_owned(),
        what,
    };
    let line = exchange(&mut stream, &Request::new(command), patience).map_err(|error| {
        no_answer(match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "it took too long".to_owned(),
            _ => error.to_string(),
        })
    })?;
    if line.is_empty() {
        return Err(no_answer("it ended first".to_owned()));
    }
    let reply: Reply = serde_json::from_slice(&line)
        .map_err(|error| no_answer(format!("what it said is no reply: {error}")))?;
    match reply.outcome {
        Outcome::Done(acknowledgement) => Ok(acknowledgement),
        Outcome::Error(error) => Err(error.into()),
    }
}

/// Asks a run for its status over its socket, and tells what it is doing. A run whose manifest has
/// gone silent need not be dead: one that cannot write (a
/// full disk) trains on and still answers. `None` where nobody answers within `patience`.
pub fn ask_status(run: &Path, patience: Duration) -> Option<(Liveness, Status)> {
    let mut stream = connect(run).ok()?;
    let line = exchange(&mut stream, &Request::new(Command::Status), Some(patience)).ok()?;
    let reply: Reply = serde_json::from_slice(&line).ok()?;
    let Outcome::Done(done) = reply.outcome else {
        return None;
    };
    let status = *done.status?;
    let liveness = match status.state {
        RunState::Paused => Liveness::Paused,
        _ => Liveness::Running,
    };
    Some((liveness, status))
}

fn exchange(
    stream: &mut ControlStream,
    request: &Request,
    patience: Option<Duration>,
) -> io::Result<Vec<u8>> {
    stream.read_timeout(patience)?;
    stream.write_all(&request.to_line())?;
    stream.flush()?;
    let mut line = Vec::new();
    let mut reader = BufReader::new(io::Read::take(stream, LONGEST_REPLY));
    reader.read_until(b'\n', &mut line)?;
    Ok(line)
}
