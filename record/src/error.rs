use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use crate::SchemaVersion;

/// A result whose error is a [`RecordError`].
pub type Result<T, E = RecordError> = std::result::Result<T, E>;

/// What can go wrong while a run is written or read.
///
/// It is `Clone`, because an error met by the writer's background thread is both kept
/// ([`RunWriter::last_error`](crate::RunWriter::last_error)) and handed to the next caller.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The operating system refused something.
    #[error("cannot {action} {}: {source}{}", path.display(), Advice(source))]
    Io {
        /// What was tried, as a verb: "write", "open", "rename".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: Arc<io::Error>,
    },
    /// A JSON file does not hold what its place in the schema says.
    #[error("{}:{line}:{column}: {message}; the file was damaged or edited by hand", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1; 0 when the parser names no column.
        column: usize,
        /// What the parser expected.
        message: String,
    },
    /// An Arrow file does not hold what its place in the schema says.
    #[error("{}: {message}", path.display())]
    Arrow {
        /// The file.
        path: PathBuf,
        /// What was wrong, with column, row or byte offset where known.
        message: String,
    },
    /// Another live process writes this run.
    #[error(
        "{} is in use by {}; stop it first, or give this run another name", path.display(), Holder(*pid)
    )]
    InUse {
        /// The run's directory.
        path: PathBuf,
        /// The holder's process id, where it could be read.
        pid: Option<u32>,
    },
    /// The name cannot become a directory's name.
    #[error("{name:?} cannot name a run: {why}")]
    InvalidName {
        /// The name as given.
        name: String,
        /// What is wrong with it and what to use.
        why: &'static str,
    },
    /// The directory has no manifest.
    #[error("{} is not a run: it has no manifest.json; name a directory that `bellows train` made", path.display())]
    NotARun {
        /// The directory.
        path: PathBuf,
    },
    /// The run was written under a newer major schema version.
    #[error(
        "{} was written with record schema {found}, and this program reads up to {}.x; use a newer Bellows",
        path.display(), supported.major
    )]
    UnsupportedVersion {
        /// The run's directory.
        path: PathBuf,
        /// The version in its manifest.
        found: SchemaVersion,
        /// The version of this program.
        supported: SchemaVersion,
    },
    /// Rows could not be written for so long that the retry buffer filled up.
    #[error("{}: {rows} rows are lost: the file could not be written and 16 MiB were already waiting; {cause}", path.display())]
    RowsLost {
        /// The file.
        path: PathBuf,
        /// Calls whose rows are lost, in total.
        rows: u64,
        /// Why the file could not be written.
        cause: Arc<io::Error>,
    },
    /// The writer's background thread is gone.
    #[error("the record writer of {} has stopped, so nothing more is recorded; resume the run to go on", path.display())]
    WriterStopped {
        /// The run's directory.
        path: PathBuf,
    },
}

impl RecordError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source: Arc::new(source),
        }
    }

    pub(crate) fn json(path: &Path, error: &serde_json::Error) -> Self {
        Self::Json {
            path: path.to_owned(),
            line: error.line().max(1),
            column: error.column(),
            message: plain_message(error),
        }
    }

    pub(crate) fn arrow(path: &Path, message: impl fmt::Display) -> Self {
        Self::Arrow {
            path: path.to_owned(),
            message: message.to_string(),
        }
    }

    /// True when the disk (or the user's share of it) is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::RowsLost { cause: source, .. } => disk_full(source),
            _ => false,
        }
    }
}

/// serde_json's words without the "at line 1 column 2" that the error already carries as numbers.
pub(crate) fn plain_message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

fn disk_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::WriteZero
    )
}

struct Advice<'a>(&'a io::Error);

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if disk_full(self.0) {
            return f.write_str("; free some space there, what is already written is safe");
        }
        match self.0.kind() {
            io::ErrorKind::PermissionDenied => f.write_str("; check who owns it and its mode"),
            io::ErrorKind::ReadOnlyFilesystem => f.write_str("; choose a writable directory"),
            _ => Ok(()),
        }
    }
}

struct Holder(Option<u32>);

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}
