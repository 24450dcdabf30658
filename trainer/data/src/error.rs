//! Everything that can be wrong with a corpus, a tokenizer or a token cache.

use std::path::{Path, PathBuf};

/// An error of this crate. Every message says what was wrong, where, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A configuration value is out of range or contradicts another one.
    #[error("{key}: {message}")]
    Config {
        /// The dotted key in the configuration file, e.g. `data.validation.fraction`.
        key: String,
        /// What is wrong with the value and what is allowed.
        message: String,
    },
    /// No file matches the configured paths.
    #[error("no {what} found: looked at {}. {hint}", list(.looked_at))]
    NoFiles {
        /// What was looked for, e.g. `text files`.
        what: String,
        /// The paths and globs (or folders) that were looked at.
        looked_at: Vec<String>,
        /// What to do.
        hint: String,
    },
    /// Files were found but none of them holds any text.
    #[error(
        "the {split} corpus holds no text: looked at {}.{} \
         Check the paths and columns of [data.source]",
        list(.looked_at),
        left_out(.reasons)
    )]
    NoText {
        /// `training` or `validation`.
        split: &'static str,
        /// The paths and globs that were looked at.
        looked_at: Vec<String>,
        /// Why files and rows were left out, the first few of them.
        reasons: Vec<String>,
    },
    /// The hash of the document keys put no document into the validation split.
    #[error(
        "no document fell into the validation split: {documents} documents at \
         data.validation.fraction = {fraction}. Raise the fraction, name files in \
         data.validation.paths, or set the fraction to 0 to train without validation"
    )]
    NoValidation {
        /// Documents in the corpus.
        documents: u64,
        /// The configured fraction.
        fraction: f64,
    },
    /// Validation was asked for on a dataset that has no validation split.
    #[error(
        "this dataset has no validation split: set data.validation.fraction above 0 or give data.validation.paths"
    )]
    NoValidationSplit,
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done, e.g. `read`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A column named in the configuration is not in a Parquet file.
    #[error("{}: no column {column:?} ({key}); the file's columns are {}", path.display(), list(.available))]
    Column {
        /// The file.
        path: PathBuf,
        /// The configuration key that names the column.
        key: &'static str,
        /// The missing column.
        column: String,
        /// The columns that the file has.
        available: Vec<String>,
    },
    /// A Parquet file cannot be read as such.
    #[error("{}: not a readable Parquet file: {message}. Check that the file is complete", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The reader's reason.
        message: String,
    },
    /// A row contradicts the tokenizer.
    #[error("{file}:{row}: {message}")]
    Row {
        /// The file.
        file: String,
        /// The row or line, counted from 1.
        row: u64,
        /// What is wrong and what to do.
        message: String,
    },
    /// A template cannot be compiled, or fails on a row.
    #[error("{key}: {message}")]
    Template {
        /// The configuration key of the template.
        key: String,
        /// The template engine's message, with the line in the template, and the row when one was
        /// being rendered.
        message: String,
    },
    /// A tokenizer cannot be loaded, learned or used.
    #[error("tokenizer {origin}: {message}")]
    Tokenizer {
        /// The file, or `(learned)`.
        origin: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// The corpus differs from the one that a run was started with.
    #[error(
        "the corpus is not the one this run was started with (dataset {expected}, now {found}), \
         so the run cannot continue bit for bit. \
         Restore the files and the tokenizer, or start a new run"
    )]
    CorpusChanged {
        /// Fingerprint stored by the run.
        expected: String,
        /// Fingerprint of the corpus as it is now.
        found: String,
    },
    /// A loader's state belongs to another configuration.
    #[error(
        "cannot continue the data order of the checkpoint: {field} was {expected} and is now \
         {found}. Resume with the run's own configuration"
    )]
    StateMismatch {
        /// The setting that differs.
        field: &'static str,
        /// Its value in the state.
        expected: String,
        /// Its value now.
        found: String,
    },
    /// The [`Progress`](crate::Progress) asked to stop.
    #[error(
        "cancelled while preparing the data; nothing was lost, the next run starts the preparation again"
    )]
    Cancelled,
}

impl DataError {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> DataError {
        DataError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn config(key: impl Into<String>, message: impl Into<String>) -> DataError {
        DataError::Config {
            key: key.into(),
            message: message.into(),
        }
    }
}

fn list(items: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = items
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if items.is_empty() {
        text.push_str("nothing");
    }
    if items.len() > SHOWN {
        text.push_str(&format!(" and {} more", items.len() - SHOWN));
    }
    text
}

fn left_out(reasons: &[String]) -> String {
    if reasons.is_empty() {
        String::new()
    } else {
        format!(" Left out: {}.", reasons.join("; "))
    }
}
