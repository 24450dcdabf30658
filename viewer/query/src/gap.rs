use std::path::PathBuf;

use bellows_record::{RecordError, SchemaVersion};

/// Why a question has no answer: shown in the place where the answer would be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Gap {
    /// The run's files are being looked through; ask again when the store notifies.
    #[error("reading {what}")]
    Opening {
        /// What is being read.
        what: &'static str,
    },
    /// A newer Bellows wrote the run.
    #[error("{} was written with schema {found}; this program reads up to {supported}", path.display())]
    NewerSchema {
        /// The run.
        path: PathBuf,
        /// Its schema.
        found: SchemaVersion,
        /// The newest that can be read.
        supported: SchemaVersion,
    },
    /// The run, or the one file that the question is about, cannot be read.
    #[error("{message}")]
    Unreadable {
        /// What and where, in words.
        message: String,
        /// What to do about it.
        remedy: String,
    },
    /// The run has no such record.
    #[error("{what} was not recorded: {why}")]
    NotRecorded {
        /// What is missing.
        what: String,
        /// Why it is missing.
        why: String,
        /// What would record it.
        remedy: String,
    },
    /// The run has such records, but none at or before the step.
    #[error("{what} begins at step {first}; the cursor stands at {step}")]
    TooEarly {
        /// What is missing.
        what: String,
        /// The cursor's step.
        step: u64,
        /// The first step with a record.
        first: u64,
    },
    /// The run has no such expert, layer, token or metric.
    #[error("there is no {what}; {range}")]
    NoSuch {
        /// What was asked for.
        what: String,
        /// What there is.
        range: String,
    },
    /// Two things that cannot be put side by side.
    #[error("these cannot be compared: {why}")]
    Different {
        /// What differs.
        why: String,
    },
}

impl Gap {
    /// What to do about it, in a sentence; nothing where waiting is all.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Opening { .. } => None,
            Self::NewerSchema { .. } => {
                Some("build the viewer from the version of Bellows that trained the run".to_owned())
            }
            Self::Unreadable { remedy, .. } | Self::NotRecorded { remedy, .. } => {
                (!remedy.is_empty()).then(|| remedy.clone())
            }
            Self::TooEarly { first, .. } => {
                Some(format!("move the cursor to step {first} or later"))
            }
            Self::NoSuch { .. } => None,
            Self::Different { .. } => {
                Some("choose runs of the same layers, iterations and experts".to_owned())
            }
        }
    }

    /// Whether waiting is all there is to do.
    pub fn is_opening(&self) -> bool {
        matches!(self, Self::Opening { .. })
    }
}

impl From<&RecordError> for Gap {
    fn from(error: &RecordError) -> Self {
        match error {
            RecordError::UnsupportedVersion {
                path,
                found,
                supported,
            } => Self::NewerSchema {
                path: path.clone(),
                found: *found,
                supported: *supported,
            },
            RecordError::NotARun { path } if !path.is_dir() => Self::Unreadable {
                message: format!("{} is gone: the run was deleted or moved", path.display()),
                remedy: "open it from where it is now".to_owned(),
            },
            RecordError::Arrow { .. } => Self::Unreadable {
                message: error.to_string(),
                remedy: "other steps can still be read; move the cursor".to_owned(),
            },
            other => Self::Unreadable {
                message: other.to_string(),
                remedy: String::new(),
            },
        }
    }
}

impl From<RecordError> for Gap {
    fn from(error: RecordError) -> Self {
        Self::from(&error)
    }
}
