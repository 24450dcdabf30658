//! What the long stages of [`Dataset::prepare`](crate::Dataset::prepare) tell the caller. This
//! crate never prints.

use std::fmt;

use crate::DataError;

/// A stage of preparing a corpus, in the order in which they happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Paths are expanded and files listed.
    Scan,
    /// A byte-pair encoding is learned from a sample of the training split.
    LearnTokenizer,
    /// Documents are read, tokenized and written to the token cache.
    Tokenize,
    /// A token cache of an earlier run is checked.
    Verify,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Scan => "scanning the corpus",
            Stage::LearnTokenizer => "learning the tokenizer",
            Stage::Tokenize => "tokenizing",
            Stage::Verify => "checking the token cache",
        })
    }
}

/// Receives the progress of preparing a corpus as plain values. Every method has an empty default.
pub trait Progress: Sync {
    /// A stage begins.
    fn stage(&self, _stage: Stage) {}
    /// `done` of `total` bytes of the current stage are through; `total` is an estimate, and absent
    /// when unknown.
    fn advance(&self, _done: u64, _total: Option<u64>) {}
    /// Something worth telling the user that does not stop the run (a file vanished, rows were
    /// skipped, …).
    fn warning(&self, _message: &str) {}
    /// Asked between pieces of work; `true` ends the preparation with [`DataError::Cancelled`].
    fn cancelled(&self) -> bool {
        false
    }
}

/// A [`Progress`] that ignores everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {}

/// `Err(Cancelled)` when the caller asked to stop.
pub(crate) fn check(progress: &dyn Progress) -> Result<(), DataError> {
    if progress.cancelled() {
        Err(DataError::Cancelled)
    } else {
        Ok(())
    }
}
