use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;

use crate::layout;
use crate::{RecordError, Result, SCHEMA_VERSION, SchemaVersion};

/// What a run's writer is told about the run: the part of the [`Manifest`] that only the trainer knows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunInfo {
    /// Version of the program that trains.
    pub program_version: String,
    /// Where it trains.
    pub device: DeviceInfo,
    /// What it trains.
    pub model: ModelSummary,
    /// Optimizer steps the run is to take in all, those before a resume included.
    pub total_steps: u64,
}

/// The device a run trains on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceInfo {
    /// The adapter's or processor's own name.
    pub name: String,
    /// `cpu`, `integrated`, `discrete`, `virtual` or `software`.
    pub kind: String,
    /// `flex`, `vulkan`, `metal`, `dx12` or `webgpu`.
    pub backend: String,
    /// Driver name and version; empty on the CPU backend.
    pub driver: String,
    /// What kernels are compiled to: `wgsl`, `spirv` or `msl`; empty on the CPU backend.
    pub compiler: String,
    /// Element type of the model's weights and of what its layers hand on: `f32`.
    pub dtype: String,
    /// Type in which matrices are multiplied, with sums in f32: `f32`, `f16` or `bf16`. Empty in
    /// a run of schema 1.0, which knew f32 alone.
    pub precision: String,
    /// The device's memory in bytes, where it is known: the limit line of a memory chart.
    pub memory_bytes: Option<u64>,
    /// Floating-point operations a second of a large matrix product in `precision`, measured when the
    /// process opened the device: what a model's arithmetic is compared with.
    pub peak_flops: Option<f64>,
}

/// The model in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelSummary {
    /// Hugging Face's `model_type`.
    pub model_type: String,
    /// All parameters.
    pub parameters: u64,
    /// Parameters one token meets.
    pub active_parameters: u64,
    /// Decoder layers.
    pub layers: u32,
    /// Decoder layers whose feed-forward block has experts.
    pub moe_layers: u32,
    /// Chain-of-Experts iterations a layer; 1 for plain Mixture-of-Experts.
    pub iterations: u32,
    /// Routed experts a layer; 0 for a dense model.
    pub experts: u32,
    /// Experts every token visits.
    pub shared_experts: u32,
    /// Routed experts a token visits in one iteration (k).
    pub experts_per_token: u32,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Rows of the embedding.
    pub vocabulary_size: u32,
    /// Tokens in one training sequence.
    pub sequence_length: u32,
    /// Floating-point operations of forward and backward pass a trained token, by the model's shape:
    /// six for each multiply-add of a token's matrix products and of its attention to what comes before
    /// it in its sequence. Elementwise work and recomputation are not in it.
    pub flops_per_token: Option<f64>,
}

/// `manifest.json`: what a run is, who writes it, and how far it has come.
///
/// Replaced as a whole (written aside, synced, renamed) about every two seconds while the writer
/// lives, so a reader never sees half of one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the directory's schema.
    pub schema_version: SchemaVersion,
    /// The run's name: that of its directory when it was made.
    pub name: String,
    /// Tells runs apart that share a name in different places.
    pub run_id: String,
    /// When the run was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// Program, device, model and length; keys of the manifest itself in JSON.
    #[serde(flatten)]
    pub info: RunInfo,
    /// What the writer was doing when it last wrote. See [`Liveness`](crate::Liveness) for whether that is still so.
    pub state: RunState,
    /// How far the run has come.
    pub progress: Progress,
    /// The segment being written: the last of `segments`.
    pub segment: u32,
    /// Each process that wrote this run, oldest first.
    pub segments: Vec<Segment>,
    /// The writer's process id.
    pub pid: u32,
    /// The writer's machine.
    pub hostname: String,
    /// Within what `pid` means something: machine and process namespace. Compare, don't parse.
    #[serde(default)]
    pub process_scope: String,
    /// When the writer last wrote this file.
    #[serde(with = "time::serde::rfc3339")]
    pub heartbeat: OffsetDateTime,
    /// Keys of a newer minor version, kept when an older program resumes the run.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What a writer says it is doing. A killed writer's last word stays `running`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Training.
    Running,
    /// Alive, but taking no steps until told to.
    Paused,
    /// Ended early on request, with a checkpoint.
    Stopped,
    /// Took all its steps.
    Finished,
    /// Ended by an error.
    Failed,
}

/// How far a run has come, as of the manifest's heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Optimizer steps taken.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Seconds of training, earlier segments included.
    pub seconds: f64,
    /// The last step's loss; `null` when there was none or it was not finite.
    pub loss: Option<f64>,
    /// The last validation loss measured.
    pub validation_loss: Option<f64>,
    /// The last step's throughput.
    pub tokens_per_second: Option<f64>,
}

/// One process's share of a run.
///
/// A segment replaces all earlier ones from `first_step` on: rows with that step or a later one
/// and a smaller segment number belong to work that was thrown away with the resume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Number from 0: the `<n>` of `routing.<n>.arrows`.
    pub index: u32,
    /// The first step this process takes: 1, or the resumed checkpoint's step plus 1.
    pub first_step: u64,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub started: OffsetDateTime,
    /// Version of the program.
    #[serde(default)]
    pub program_version: String,
}

impl Manifest {
    /// Reads `run`'s manifest, after making sure that its version is one this crate understands.
    pub(crate) fn read(run: &Path) -> Result<Self> {
        let path = run.join(layout::MANIFEST);
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            // A path that does not exist at all is an I/O error in words, not "not a run".
            io::ErrorKind::NotFound if run.is_dir() => RecordError::NotARun {
                path: run.to_owned(),
            },
            _ => RecordError::io("read", &path)(error),
        })?;
        #[derive(Deserialize)]
        struct Head {
            schema_version: SchemaVersion,
        }
        let json = |error| RecordError::json(&path, &error);
        // The version first: a newer major one may have changed everything else.
        let head: Head = serde_json::from_slice(&bytes).map_err(json)?;
        if !head.schema_version.is_readable() {
            return Err(RecordError::UnsupportedVersion {
                path: run.to_owned(),
                found: head.schema_version,
                supported: SCHEMA_VERSION,
            });
        }
        serde_json::from_slice(&bytes).map_err(json)
    }

    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut bytes =
            serde_json::to_vec_pretty(self).expect("a manifest has string keys and plain values");
        bytes.push(b'\n');
        bytes
    }
}
