//! Which of the ways to backpropagate a run takes.

use serde::{Deserialize, Serialize};

/// Whether the results of attention are kept beside the layers' inputs, so that backward does not
/// compute attention again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeepAttention {
    /// They are, where that is known to fit, which [`crate::plan`] finds.
    #[default]
    Auto,
    /// They are.
    Keep,
    /// They are not.
    Recompute,
}

/// How activations are kept for the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Memory {
    /// All of them: the fastest, and memory grows with layers times tokens.
    Plain,
    /// The input of every layer; backward recomputes one whole layer at a time.
    Checkpoint,
    /// The input of every layer; forward and backward go through chunks of the sequence.
    Stream,
    /// The first of these that fits, which [`crate::plan`] finds.
    #[default]
    Auto,
}
