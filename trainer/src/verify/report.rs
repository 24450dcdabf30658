//! What a comparison found.

use std::path::PathBuf;

use serde::Serialize;

/// One number of the golden file, or the worst of one tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// Key in the golden file.
    pub key: String,
    /// Error found, in the measure of its kind.
    pub error: f64,
    /// Largest error allowed.
    pub tolerance: f64,
    /// Whether the error is within.
    pub passed: bool,
}

impl Check {
    /// A check of `key`. An error that is not a number fails.
    pub fn new(key: &str, error: f64, tolerance: f64) -> Self {
        Self {
            key: key.to_owned(),
            error,
            tolerance,
            passed: error <= tolerance,
        }
    }
}

/// Result for one folder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The folder.
    pub folder: PathBuf,
    /// Tokens of the batch.
    pub tokens: usize,
    /// Everything compared.
    pub checks: Vec<Check>,
    /// Weights not judged: their golden gradient is so small that AdamW amplifies its rounding.
    pub not_judged: Vec<String>,
    /// Keys that the engine makes and the golden file does not hold: skipped.
    pub absent: Vec<String>,
    /// Keys of the golden file that the engine does not make: a failure.
    pub not_produced: Vec<String>,
}

/// The kinds of check, in the order of their report.
pub const KINDS: [&str; 8] = [
    "logits",
    "router_logits",
    "loss",
    "aux_loss",
    "grad",
    "stream",
    "step2",
    "loss_after_2",
];

impl Report {
    /// Whether every check passed and every golden key was produced.
    pub fn passed(&self) -> bool {
        !self.checks.is_empty()
            && self.not_produced.is_empty()
            && self.checks.iter().all(|check| check.passed)
    }

    /// The check of `kind` that used most of its tolerance.
    pub fn worst(&self, kind: &str) -> Option<&Check> {
        let of_kind = |check: &&Check| match check.key.split_once('.') {
            Some((prefix, _)) => prefix == kind,
            None => check.key == kind,
        };
        self.checks
            .iter()
            .filter(of_kind)
            .max_by(|a, b| (a.error / a.tolerance).total_cmp(&(b.error / b.tolerance)))
    }
}
