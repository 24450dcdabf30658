//! The sections of a run's configuration that belong to the trainer itself. What each key means,
//! its range and unit, is told to users in `default.toml`.

use std::path::PathBuf;

use bellows_engine::stream::{Keep, KeepAttention, Memory};
use serde::{Deserialize, Serialize};

use crate::cli::ByteSize;
use crate::device::{DeviceChoice, Precision};

/// `[run]`: what the run is called and where it lives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSection {
    /// Name of the run's folder; absent: made from the configuration file's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Folder that holds the folders of runs.
    pub directory: PathBuf,
    /// Seed of initial weights, order of batches and sampling.
    pub seed: u64,
    /// Where to train.
    pub device: DeviceChoice,
}

impl Default for RunSection {
    fn default() -> Self {
        Self {
            name: None,
            directory: "runs".into(),
            seed: 0,
            device: DeviceChoice::Auto,
        }
    }
}

/// `[train]`: how much to train, in which portions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSection {
    /// Folder of the model that training starts from: of a model, or a run whose last checkpoint it
    /// is. Absent: random weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_from: Option<PathBuf>,
    /// Optimizer steps.
    pub steps: u64,
    /// Sequences of a micro-batch.
    pub batch_size: usize,
    /// Tokens of a sequence.
    pub sequence_length: usize,
    /// Micro-batches of a step.
    pub accumulation: usize,
    /// Minutes of training of one process after which to stop early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_minutes: Option<f64>,
    /// Steps in a row with a loss that is not finite after which to stop.
    pub skip_limit: u64,
    /// Type in which matrices are multiplied.
    pub precision: Precision,
    /// How activations are kept for the backward pass.
    pub memory: Memory,
    /// Memory that the run may use; absent: what the device has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<ByteSize>,
    /// Look at the memory in use before every launch.
    pub measure_memory: bool,
    /// Compute the experts' pre-activations again in backward instead of keeping them.
    pub recompute_experts: bool,
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            init_from: None,
            steps: 1000,
            batch_size: 8,
            sequence_length: 256,
            accumulation: 1,
            max_minutes: None,
            skip_limit: 5,
            precision: Precision::Auto,
            memory: Memory::Auto,
            memory_limit: None,
            measure_memory: false,
            recompute_experts: false,
        }
    }
}

impl TrainSection {
    /// Tokens of one optimizer step, padding included.
    pub fn tokens_per_step(&self) -> u64 {
        self.batch_size as u64 * self.sequence_length as u64 * self.accumulation as u64
    }
}

/// `[stream]`: what `train.memory` = "checkpoint" and "stream" keep, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamSection {
    /// Tokens of a chunk; 0: chosen by the length of the sequences.
    pub chunk: usize,
    /// Where and how the layers' inputs are kept.
    pub keep: Keep,
    /// Whether the results of attention are kept beside them.
    pub attention: KeepAttention,
}

/// `[evaluate]`: the validation loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluateSection {
    /// Steps between evaluations; 0: only at the end.
    pub every: u64,
    /// Batches of an evaluation; 0: the whole validation split.
    pub batches: usize,
}

impl Default for EvaluateSection {
    fn default() -> Self {
        Self {
            every: 100,
            batches: 16,
        }
    }
}

/// `[sample]`: text generated during the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SampleSection {
    /// Texts to continue.
    pub prompts: Vec<String>,
    /// Steps between samples; 0: only at the end.
    pub every: u64,
    /// Tokens of a continuation.
    pub max_tokens: usize,
    /// Divisor of the logits; 0: always the likeliest token.
    pub temperature: f64,
    /// Likeliest tokens to choose among; 0: all.
    pub top_k: usize,
    /// Probability mass to choose among; 1: all.
    pub top_p: f64,
}

impl Default for SampleSection {
    fn default() -> Self {
        Self {
            prompts: vec!["fn main() {\n".into()],
            every: 500,
            max_tokens: 64,
            temperature: 0.8,
            top_k: 50,
            top_p: 0.95,
        }
    }
}

/// `[checkpoint]`: when to write checkpoints and which to keep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointSection {
    /// Steps between checkpoints; 0: only at the end.
    pub every: u64,
    /// Newest checkpoints to keep.
    pub keep_last: usize,
    /// Keep the one with the lowest validation loss.
    pub keep_best: bool,
    /// Keep those whose step this divides; 0: none.
    pub keep_every: u64,
}

impl Default for CheckpointSection {
    fn default() -> Self {
        Self {
            every: 500,
            keep_last: 2,
            keep_best: true,
            keep_every: 0,
        }
    }
}

/// `[record]`: how often each part of the record is written, in steps; 0: never.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordSection {
    /// Metrics.
    pub metrics_every: u64,
    /// Tokens and probability mass by expert.
    pub routing_every: u64,
    /// Transitions between experts.
    pub transitions_every: u64,
    /// The memory ledger.
    pub memory_every: u64,
    /// Experts of the probe tokens.
    pub traces_every: u64,
    /// Tokens of validation text that traces follow.
    pub probe_tokens: usize,
}

impl Default for RecordSection {
    fn default() -> Self {
        Self {
            metrics_every: 1,
            routing_every: 10,
            transitions_every: 50,
            memory_every: 10,
            traces_every: 100,
            probe_tokens: 256,
        }
    }
}
