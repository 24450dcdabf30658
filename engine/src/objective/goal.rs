//! What a run minimises beside its router losses.

use serde::{Deserialize, Serialize};

use super::Targets;
use crate::step::{IGNORE, MicroBatch};

/// The training objective. Whatever it is, a step's gradient is that of a cross-entropy with a
/// weight for each token, so that every way to backpropagate serves all of them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Objective {
    /// Next-token cross-entropy of a corpus.
    Pretrain {},
    /// The same of completions and assistant turns alone: supervised fine-tuning.
    Sft {},
    /// Direct preference optimisation with the sigmoid loss (arXiv 2305.18290).
    Dpo {
        /// How strongly the policy is held to the reference.
        #[serde(default = "dpo_beta")]
        beta: f64,
    },
    /// Group-relative policy optimisation (arXiv 2402.03300) from completions with rewards.
    Grpo {
        /// Coefficient of the divergence from the reference; 0: none, and no reference.
        #[serde(default = "grpo_beta")]
        beta: f64,
        /// The probability ratio is clipped to 1 ± this.
        #[serde(default = "grpo_epsilon")]
        epsilon: f64,
        /// What the loss is a mean over.
        #[serde(default)]
        mean: Mean,
    },
}

/// What the loss of GRPO is a mean over, in the whole step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mean {
    /// Completions, each the mean of its tokens: a token of a long completion counts less.
    Sequence,
    /// Tokens: every one counts the same.
    #[default]
    Token,
}

fn dpo_beta() -> f64 {
    0.1
}

fn grpo_beta() -> f64 {
    0.04
}

fn grpo_epsilon() -> f64 {
    0.2
}

impl Default for Objective {
    fn default() -> Self {
        Self::Pretrain {}
    }
}

/// Counts of the whole step by which its sums are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Tokens with a label.
    pub labels: usize,
    /// What the objective is a mean over.
    pub units: usize,
}

impl Share {
    /// Of a step of `batches`.
    pub fn of(objective: &Objective, batches: &[MicroBatch]) -> Self {
        Self {
            labels: batches.iter().map(MicroBatch::label_count).sum(),
            units: batches.iter().map(|batch| objective.units(batch)).sum(),
        }
    }

    /// Sums that are divided by nothing.
    pub const SUMS: Self = Self {
        labels: 1,
        units: 1,
    };
}

impl Objective {
    /// Its name in a configuration.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Pretrain {} => "pretrain",
            Self::Sft {} => "sft",
            Self::Dpo { .. } => "dpo",
            Self::Grpo { .. } => "grpo",
        }
    }

    /// Whether it compares the policy with another one, which is where training started from.
    pub fn has_reference(&self) -> bool {
        matches!(self, Self::Dpo { .. } | Self::Grpo { .. })
    }

    /// What the objective is a mean over, in `batch`: labels; pairs of which a completion has a
    /// label; labels or completions that have one.
    pub fn units(&self, batch: &MicroBatch) -> usize {
        match self {
            Self::Pretrain {} | Self::Sft {} => batch.label_count(),
            Self::Dpo { .. } => present_pairs(batch).iter().filter(|&&there| there).count(),
            Self::Grpo { mean, .. } => match mean {
                Mean::Token => batch.label_count(),
                Mean::Sequence => row_labels(batch)
                    .iter()
                    .filter(|&&labels| labels > 0)
                    .count(),
            },
        }
    }
}

/// Labels of each row.
pub(super) fn row_labels(batch: &MicroBatch) -> Vec<usize> {
    let rows = batch.labels.chunks_exact(batch.sequences.time.max(1));
    rows.map(|row| row.iter().filter(|&&label| label != IGNORE).count())
        .collect()
}

/// Of each two rows, whether one of them has a label.
pub(super) fn present_pairs(batch: &MicroBatch) -> Vec<bool> {
    let rows = row_labels(batch);
    rows.chunks_exact(2)
        .map(|pair| pair[0] + pair[1] > 0)
        .collect()
}

/// The complaint about a micro-batch that lacks what its objective needs.
pub(super) fn misfit(objective: &Objective, targets: &Targets) -> ! {
    let found = match targets {
        Targets::Labels => "labels alone",
        Targets::Pairs { .. } => "pairs",
        Targets::Groups { .. } => "groups",
    };
    panic!("{} cannot train on {found}", objective.as_str())
}
