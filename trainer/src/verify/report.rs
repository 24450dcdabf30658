//! What a comparison found.

use std::path::PathBuf;

use bellows_engine::kernels::calls::{Calls, Path};
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

/// Which implementation computed a family of operations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Computed {
    /// The family.
    pub family: &'static str,
    /// By what, in words.
    pub by: String,
    /// How often.
    pub calls: u64,
    /// Plain operations stood in for kernels.
    pub fell_back: bool,
}

impl Computed {
    /// What `calls` says.
    pub fn new(calls: &Calls) -> Self {
        let (by, fell_back) = match calls.path {
            Path::Kernels(which) => (format!("kernels ({which})"), false),
            Path::Burn(which) => (format!("Burn's {which}, by rule"), false),
            Path::Reference => ("plain operations".to_owned(), true),
        };
        Self {
            family: calls.family,
            by,
            calls: calls.count,
            fell_back,
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
    /// Which implementation computed each family, and how often.
    pub computed: Vec<Computed>,
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

    /// The families for which plain operations stood in, each once.
    pub fn fallbacks(&self) -> Vec<&'static str> {
        let fallen = self.computed.iter().filter(|computed| computed.fell_back);
        fallen.map(|computed| computed.family).collect()
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
