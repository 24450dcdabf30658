//! What a Bellows run writes, and the only reader and writer of it.
//!
//! A run is a directory. This crate owns its schema, whose version is [`SCHEMA_VERSION`]: the trainer
//! writes through [`RunWriter`]; the dashboard, the viewer and the command line read through
//! [`RunReader`] and [`list_runs`]. Everything is JSON lines and Arrow, so `jq`, pandas and polars read
//! a run without this crate; this page is their guide.
//!
//! ```
//! use bellows_record::{RunInfo, RunReader, RunState, RunWriter, StepMetrics, RoutingRow};
//!
//! # fn main() -> bellows_record::Result<()> {
//! # let directory = tempfile::tempdir().unwrap();
//! # let root = directory.path();
//! let writer = RunWriter::create(root, "rust-code", RunInfo::default(), "steps = 1\n")?;
//! writer.metrics(StepMetrics { step: 1, loss: 2.5, ..StepMetrics::default() })?;
//! writer.routing(1, vec![RoutingRow {
//!     layer: 0, iteration: 0, expert: 3, tokens: 17, probability: 0.25, bias: None,
//! }])?;
//! let path = writer.path().to_owned();
//! writer.finish(RunState::Finished)?;
//!
//! let run = RunReader::open(&path)?;
//! assert_eq!(run.metrics().poll()?.rows[0].loss, 2.5);
//! let mut routing = run.routing();
//! routing.poll()?;
//! assert_eq!(routing.read(1)?[0].tokens, 17);
//! # Ok(())
//! # }
//! ```
//!
//! # Files
//!
//! | file | one record is | format |
//! |---|---|---|
//! | `manifest.json` | the run: versions, device, model, progress, heartbeat | JSON, replaced as a whole |
//! | `config.toml` | the configuration, every default written out | TOML |
//! | `plan.json` | the memory plan that was chosen and those that were not | JSON |
//! | `metrics.jsonl` | an optimizer step | JSON lines |
//! | `events.jsonl` | something that happened | JSON lines |
//! | `samples.jsonl` | text the model wrote | JSON lines |
//! | `routing.<n>.arrows` | step × layer × iteration × expert | Arrow IPC stream |
//! | `routers.<n>.arrows` | step × layer × iteration | Arrow IPC stream |
//! | `transitions.<n>.arrows` | step × pair of experts | Arrow IPC stream |
//! | `memory.<n>.arrows` | step × moment × owner of memory | Arrow IPC stream |
//! | `traces/probe.arrow` | a token of the probe set | Arrow IPC file |
//! | `traces/<step>.<n>.arrow` | probe token × layer × iteration × slot | Arrow IPC file |
//! | `checkpoints/<step>/` | a checkpoint; complete if it is there | the trainer's |
//! | `lock` | held by the process that writes the run | |
//! | `control.sock` | where a live run takes commands ([`control`]) | JSON lines |
//!
//! `<n>` is a segment's number, `<step>` has at least eight digits. A name that begins with
//! `.tmp-` is being written. A file that has nothing to hold is not there.
//!
//! # Segments: what a resume does
//!
//! Each process that writes a run opens a segment, 0 for the first. `manifest.json` lists them under
//! `segments` with `first_step`. A segment replaces all earlier ones from its first step on: a row
//! of segment *s* and step *t* counts if no later segment has a first step ≤ *t*. Replaced rows stay
//! in their files; this crate's readers leave them out. In pandas:
//!
//! ```python
//! import json, pandas as pd
//! metrics = pd.read_json("metrics.jsonl", lines=True)
//! for s in json.load(open("manifest.json"))["segments"]:
//!     metrics = metrics[(metrics.segment >= s["index"]) | (metrics.step < s["first_step"])]
//! ```
//!
//! In `metrics.jsonl` a segment's later line for a step replaces its earlier one. `events.jsonl` is a log:
//! nothing in it is replaced.
//!
//! # JSON lines
//!
//! A line is an object; its keys are the fields of [`StepMetrics`], [`Event`] and [`Sample`]. A key that is
//! absent was not measured. A number that was not finite is `null`. A line that is no JSON is what
//! a killed process left, and is to be skipped. Times of day are RFC 3339 in UTC, durations seconds.
//!
//! `metrics.jsonl`:
//!
//! | key | type | unit, meaning |
//! |---|---|---|
//! | `step` | integer | optimizer steps taken, this one included |
//! | `segment` | integer | segment that wrote the line |
//! | `time` | number | seconds of training since the run began |
//! | `tokens` | integer | tokens trained on since the run began |
//! | `loss` | number | what is minimised: the objective, mostly cross-entropy, plus weighted router losses |
//! | `cross_entropy` | number | nats a label |
//! | `aux_loss`, `z_loss` | number, may be absent | before their coefficients |
//! | `validation_loss` | number, may be absent | the objective on validation data, mostly nats a label |
//! | `grad_norm` | number, may be absent | L2 norm before clipping |
//! | `learning_rate` | number | |
//! | `tokens_per_second` | number | |
//! | `step_seconds` | number | seconds |
//! | `memory_bytes`, `peak_memory_bytes` | integer, may be absent | bytes on the device |
//! | `dropped` | integer | expert assignments dropped |
//! | `skipped` | boolean | no update: loss or gradient was not finite |
//! | `rewards_chosen`, `rewards_rejected`, `rewards_margins` | number, may be absent | DPO: implicit rewards and their difference, nats |
//! | `rewards_accuracies` | number, may be absent | DPO: share of pairs whose chosen completion has the larger reward |
//! | `kl`, `clip_fraction` | number, may be absent | GRPO: divergence from the reference, nats a token; share of clipped tokens |
//! | `reward`, `advantage` | number, may be absent | GRPO: means over the step's completions |
//! | any other | number | the trainer's own metrics |
//!
//! `events.jsonl`: `step`, `segment`, `time` (RFC 3339), `elapsed` (seconds of training), `kind`
//! ([`EventKind`]), `reason` (words), `data` (object, may be absent).
//!
//! `samples.jsonl`: `step`, `segment`, `prompt`, `text`, `settings` (object).
//!
//! # Arrow
//!
//! Columns are plain (no dictionaries, no compression) and free of nulls where nothing else is said.
//! A stream file (`.arrows`) holds a batch for each recorded step, and more than one where a step was
//! recorded in parts; it has no end marker after a kill, so read it batch by batch:
//! `pyarrow.ipc.open_stream(path)`, until it is exhausted or raises for the half-written tail. A file
//! in `traces/` is whole: `pyarrow.ipc.open_file`, `pandas.read_feather`. The schema's metadata holds
//! `bellows.schema_version` and `bellows.segment`.
//!
//! `routing` ([`RoutingRow`]), every expert of a layer, those without tokens too:
//!
//! | column | type | unit, meaning |
//! |---|---|---|
//! | `step` | uint64 | |
//! | `layer`, `iteration`, `expert` | uint32 | from 0 |
//! | `tokens` | uint64 | assignments, dropped ones included |
//! | `probability` | float32 | mean router probability (mass) over the step's tokens |
//! | `bias` | float32, nullable | score-correction bias |
//!
//! `routers` ([`RouterRow`]):
//!
//! | column | type | unit, meaning |
//! |---|---|---|
//! | `step` | uint64 | |
//! | `layer`, `iteration` | uint32 | from 0 |
//! | `tokens` | uint64 | tokens routed |
//! | `dropped` | uint64 | assignments dropped |
//! | `entropy` | float32 | nats, mean over tokens |
//!
//! `transitions` ([`TransitionRow`]), pairs that occurred:
//!
//! | column | type | unit, meaning |
//! |---|---|---|
//! | `step` | uint64 | |
//! | `kind` | utf8 | `iteration` (same layer) or `layer` (last iteration to the next layer's first) |
//! | `from_layer`, `from_iteration`, `from_expert` | uint32 | from 0 |
//! | `to_layer`, `to_iteration`, `to_expert` | uint32 | from 0 |
//! | `count` | uint64 | tokens' slot pairs, k × k a token |
//!
//! `memory` ([`MemoryRow`]):
//!
//! | column | type | unit, meaning |
//! |---|---|---|
//! | `step` | uint64 | |
//! | `moment` | uint32 | snapshot within the step, in order of time: the fullest moment of each phase |
//! | `phase` | utf8 | `forward`, `backward`, `optimizer`, `idle` at that moment |
//! | `layer` | uint32, nullable | the owner's layer |
//! | `kind` | utf8 | `weights`, `gradients`, `optimizer`, `activations`, `workspace`, `unexplained`, `allocator` |
//! | `owner` | utf8 | the owner's name; for `allocator`: `reserved`, `in_use`, `peak` (since 1.2) |
//! | `bytes` | uint64 | bytes; leave `allocator` out of sums |
//!
//! `traces/probe.arrow` ([`ProbeToken`]) and `traces/<step>.<n>.arrow` ([`TraceRow`]), joined on `sequence` and
//! `position`:
//!
//! | column | type | unit, meaning |
//! |---|---|---|
//! | `sequence`, `position` | uint32 | from 0 |
//! | `token` | uint32 | token id (probe) |
//! | `text`, `source` | utf8 | the token's text, where it comes from (probe) |
//! | `step` | uint64 | (trace) |
//! | `layer`, `iteration` | uint32 | from 0 (trace) |
//! | `slot` | uint32 | rank of the choice, from 0 (trace) |
//! | `expert` | uint32 | from 0 (trace) |
//! | `weight` | float32 | weight of the expert's output (trace) |
//!
//! # Memory plan
//!
//! `plan.json` (since 1.2) is one object: `verdict` (a sentence), `fits` (boolean; `null`: the limit is unknown),
//! `mode` (`plain`, `checkpoint`, `stream`), `chunk` (tokens or `null`), `peak_bytes` (in use), `reserved_bytes` (with what
//! the allocator reserves beyond), `limit_bytes`, `limit_source`, `beside_bytes` (in use for other things),
//! `longest_sequence`, `device`, `precision`, `batch_size`, `sequence_length`, `accumulation`, `advice` (sentences) and
//! `modes`: of each mode `mode`, `chunk`, `fits`, `peak_bytes`, `reserved_bytes`, `by_kind` (bytes by kind),
//! `longest_sequence`, `largest_batch` and `moments` (`phase`, `layer`, `bytes`, `by_kind`), the fullest of each phase and layer.
//!
//! # Manifest
//!
//! [`Manifest`] lists its keys. `state` is the writer's last word; a writer renews `heartbeat` about every two
//! seconds, so a run that says `running` with a heartbeat older than 15 seconds has crashed
//! ([`Liveness`]).
//!
//! # What holds whatever happens
//!
//! - A run has one writer: an advisory lock, which the system releases when the process ends.
//! - Lines and batches are whole or absent; a killed writer leaves at most half a line at the end
//!   of a JSON lines file, or half a batch at the end of a stream.
//! - Manifest, traces and checkpoints are written aside, synced and renamed.
//! - On a full disk rows wait in memory (16 MiB a file) and are tried again; nothing already written is
//!   touched, and the error reaches the writer's caller.

mod clock;
pub mod control;
mod error;
mod layout;
mod liveness;
mod manifest;
mod process;
mod read;
mod rows;
mod version;
mod write;

pub use clock::now;
pub use error::{RecordError, Result};
pub use layout::checkpoint_path;
pub use liveness::Liveness;
pub use manifest::{DeviceInfo, Manifest, ModelSummary, Progress, RunInfo, RunState, Segment};
pub use read::{
    BadLine, BadLines, LineReader, RunList, RunReader, RunSummary, StreamProblem, StreamReader,
    Update, is_run, list_checkpoints, list_runs,
};
pub use rows::{
    Event, EventKind, LineRow, MemoryRow, ProbeToken, RouterRow, RoutingRow, Sample, StepMetrics,
    StreamRow, TableRow, TraceRow, TransitionKind, TransitionRow,
};
pub use version::{SCHEMA_VERSION, SchemaVersion};
pub use write::{PendingCheckpoint, RunWriter};

// Types of theirs are part of this crate's interface.
pub use {arrow_array, serde_json, time};
