use std::path::PathBuf;

use bellows_record::{Event, Liveness, Manifest, Sample};
use serde_json::Value;

use super::{MemoryData, MetricStore, RoutingData};
use crate::query::warnings::{Detector, Warning};

/// How much of a history was read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Loading {
    /// The first look is not done.
    #[default]
    Opening,
    /// Reading the history: steps read, steps there are.
    History(u64, u64),
    /// Everything there is.
    Complete,
}

/// Everything the screens show of a run.
#[derive(Debug, Default)]
pub struct RunData {
    /// The run's directory.
    pub path: PathBuf,
    /// Its manifest; absent until it was read once.
    pub manifest: Option<Manifest>,
    /// Whether a process is behind it.
    pub liveness: Option<Liveness>,
    /// Why it cannot be read just now, in words.
    pub trouble: Option<String>,
    /// What keeps the run from writing its record just now, in its own words.
    pub unwritten: Option<String>,
    /// What was left out, in words.
    pub notes: Vec<String>,
    /// How much was read.
    pub loading: Loading,
    /// Every metric.
    pub metrics: MetricStore,
    /// The newest rows, there before the history is.
    pub preview: MetricStore,
    /// What happened, oldest first.
    pub events: Vec<Event>,
    /// What the model wrote, oldest first.
    pub samples: Vec<Sample>,
    /// Steps that have a checkpoint.
    pub checkpoints: Vec<u64>,
    /// The resolved configuration, as text.
    pub config: String,
    /// The memory plan, where there is one.
    pub plan: Option<Value>,
    /// The routers.
    pub routing: RoutingData,
    /// Memory.
    pub memory: MemoryData,
    /// Finds what deserves a look in rows as they come.
    pub detector: Detector,
    /// What deserves a look, newest first.
    pub warnings: Vec<Warning>,
}

impl RunData {
    /// The run's name: that of its directory.
    pub fn name(&self) -> String {
        self.path.file_name().map_or_else(
            || self.path.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        )
    }

    /// The metrics that are complete enough to read the present from.
    pub fn present(&self) -> &MetricStore {
        match (self.metrics.last(), self.preview.last()) {
            (Some(read), Some(preview)) if preview.step > read.step => &self.preview,
            (None, _) => &self.preview,
            _ => &self.metrics,
        }
    }

    /// The last step taken.
    pub fn step(&self) -> u64 {
        let told = self
            .manifest
            .as_ref()
            .map_or(0, |manifest| manifest.progress.step);
        told.max(self.present().last().map_or(0, |row| row.step))
    }

    /// Steps of the whole run.
    pub fn total_steps(&self) -> u64 {
        self.manifest
            .as_ref()
            .map_or(0, |manifest| manifest.info.total_steps)
    }

    /// Bytes that the run may take on its device: what its plan was made for, else what the device
    /// has.
    pub fn memory_limit(&self) -> Option<u64> {
        let planned = self.plan.as_ref().and_then(|plan| plan.get("limit_bytes"));
        planned
            .and_then(Value::as_u64)
            .or_else(|| self.manifest.as_ref()?.info.device.memory_bytes)
            .filter(|&limit| limit > 0)
    }

    /// Whether a process is behind the run.
    pub fn is_live(&self) -> bool {
        self.liveness.is_some_and(Liveness::is_live)
    }
}
