//! The error that a command ends with: what went wrong, what to do, and the exit code.

use std::process::ExitCode;

use crate::config::Problems;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Who has to act on an error; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Bad usage or input: exit code 2.
    Input,
    /// A failure while running: exit code 1.
    Failed,
    /// Stopped by the user before the command was done: exit code 130.
    Interrupted,
}

/// Why a command stops.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    help: Option<String>,
    #[source]
    source: Option<Source>,
}

impl Error {
    /// What the user gave cannot be used. `message` says what is wrong and where.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Input, message)
    }

    /// The work failed through no fault of the input.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, message)
    }

    /// The user stopped the command at once.
    pub fn interrupted() -> Self {
        Self::new(ErrorKind::Interrupted, "interrupted")
    }

    fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            help: None,
            source: None,
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds the error underneath.
    #[must_use]
    pub fn because(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Who has to act.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What to do about it, if there is something to say.
    pub fn help_text(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            ErrorKind::Input => 2,
            ErrorKind::Failed => 1,
            ErrorKind::Interrupted => 130,
        })
    }

    /// The errors underneath, outermost first, those left out whose text an outer one repeats.
    pub fn causes(&self) -> Vec<String> {
        let mut said = self.message.clone();
        let mut causes = Vec::new();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            let text = cause.to_string();
            if !said.contains(&text) {
                said.push_str(&text);
                causes.push(text);
            }
            next = cause.source();
        }
        causes
    }
}

/// Whether an error of the system is about what was given: a path that is not there, or not for
/// this user. A disk that fails is not.
fn given(error: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    matches!(error, NotFound | PermissionDenied | NotADirectory)
}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        Self::input(problems.to_string())
    }
}

impl From<bellows_data::DataError> for Error {
    fn from(error: bellows_data::DataError) -> Self {
        use bellows_data::DataError;
        let kind = match error {
            DataError::Cancelled => return Self::interrupted(),
            DataError::Io { ref source, .. } if !given(source.kind()) => ErrorKind::Failed,
            _ => ErrorKind::Input,
        };
        Self::new(kind, error.to_string()).because(error)
    }
}

impl From<bellows_engine::config::ConfigError> for Error {
    fn from(error: bellows_engine::config::ConfigError) -> Self {
        Self::input(error.to_string())
    }
}

impl From<bellows_record::RecordError> for Error {
    fn from(error: bellows_record::RecordError) -> Self {
        use bellows_record::RecordError;
        let kind = match error {
            RecordError::InUse { .. }
            | RecordError::InvalidName { .. }
            | RecordError::NotARun { .. }
            | RecordError::UnsupportedVersion { .. }
            | RecordError::Json { .. } => ErrorKind::Input,
            RecordError::Io { ref source, .. } if given(source.kind()) => ErrorKind::Input,
            // A full disk is for the user to mend.
            ref error if error.is_disk_full() => ErrorKind::Input,
            _ => ErrorKind::Failed,
        };
        Self::new(kind, error.to_string()).because(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_only_repeats_the_message_is_not_said_twice() {
        let io = std::io::Error::other("disk full");
        let repeated = Error::failed("cannot write model.safetensors: disk full").because(io);
        assert!(repeated.causes().is_empty());
        let io = std::io::Error::other("disk full");
        let told = Error::failed("cannot write model.safetensors").because(io);
        assert_eq!(told.causes(), ["disk full"]);
    }
}
