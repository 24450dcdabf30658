use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::list::list_checkpoints;
use super::segments::Segments;
use super::{LineReader, StreamReader, tables, tail};
use crate::layout;
use crate::{
    Event, Liveness, Manifest, MemoryRow, ProbeToken, RecordError, Result, RouterRow, RoutingRow,
    Sample, StepMetrics, TraceRow, TransitionRow,
};

/// Reads a run, live or ended. It never writes, and takes no lock.
///
/// The readers it hands out stand on their own and may move to other threads.
#[derive(Clone, Debug)]
pub struct RunReader {
    run: PathBuf,
    manifest: Manifest,
}

impl RunReader {
    /// Opens a run's directory.
    ///
    /// # Errors
    ///
    /// [`RecordError::NotARun`] when there is no manifest, [`RecordError::UnsupportedVersion`] when a newer
    /// Bellows wrote it, [`RecordError::Json`] when the manifest is damaged, [`RecordError::Io`].
    pub fn open(run: &Path) -> Result<Self> {
        Ok(Self {
            run: run.to_owned(),
            manifest: Manifest::read(run)?,
        })
    }

    /// The run's directory.
    pub fn path(&self) -> &Path {
        &self.run
    }

    /// The manifest as it was last read.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Reads the manifest again.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); the manifest read before then stays.
    pub fn refresh(&mut self) -> Result<&Manifest> {
        self.manifest = Manifest::read(&self.run)?;
        Ok(&self.manifest)
    }

    /// Whether a process is behind the run, judged now by the manifest last read.
    pub fn liveness(&self) -> Liveness {
        Liveness::of(&self.manifest)
    }

    /// The text of `config.toml`.
    ///
    /// # Errors
    ///
    /// [`RecordError::Io`].
    pub fn config(&self) -> Result<String> {
        let path = self.run.join(layout::CONFIG);
        fs::read_to_string(&path).map_err(RecordError::io("read", &path))
    }

    /// `plan.json`, if the run has one.
    ///
    /// # Errors
    ///
    /// [`RecordError::Json`], [`RecordError::Io`].
    pub fn plan(&self) -> Result<Option<Value>> {
        let path = self.run.join(layout::PLAN);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| RecordError::json(&path, &error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(RecordError::io("read", &path)(error)),
        }
    }

    /// Follows `metrics.jsonl`.
    pub fn metrics(&self) -> LineReader<StepMetrics> {
        LineReader::new(&self.run, layout::METRICS, self.segments())
    }

    /// Follows `events.jsonl`.
    pub fn events(&self) -> LineReader<Event> {
        LineReader::new(&self.run, layout::EVENTS, self.segments())
    }

    /// Follows `samples.jsonl`.
    pub fn samples(&self) -> LineReader<Sample> {
        LineReader::new(&self.run, layout::SAMPLES, self.segments())
    }

    /// The last `n` steps' metrics, ascending, read from the file's end.
    ///
    /// # Errors
    ///
    /// [`RecordError::Io`].
    pub fn last_metrics(&self, n: usize) -> Result<Vec<StepMetrics>> {
        tail::last_metrics(&self.run.join(layout::METRICS), &mut self.segments(), n)
    }

    /// Up to `n` steps' metrics from all over the run, ascending, without reading the rest: what a
    /// small curve needs.
    ///
    /// # Errors
    ///
    /// [`RecordError::Io`].
    pub fn spread_metrics(&self, n: usize) -> Result<Vec<StepMetrics>> {
        tail::spread_metrics(&self.run.join(layout::METRICS), &mut self.segments(), n)
    }

    /// Follows `routing.<n>.arrows`.
    pub fn routing(&self) -> StreamReader<RoutingRow> {
        StreamReader::new(&self.run, self.segments())
    }

    /// Follows `routers.<n>.arrows`.
    pub fn routers(&self) -> StreamReader<RouterRow> {
        StreamReader::new(&self.run, self.segments())
    }

    /// Follows `transitions.<n>.arrows`.
    pub fn transitions(&self) -> StreamReader<TransitionRow> {
        StreamReader::new(&self.run, self.segments())
    }

    /// Follows `memory.<n>.arrows`.
    pub fn memory(&self) -> StreamReader<MemoryRow> {
        StreamReader::new(&self.run, self.segments())
    }

    /// The steps that have a trace of the probe set, ascending.
    ///
    /// # Errors
    ///
    /// [`RecordError::Io`].
    pub fn trace_steps(&self) -> Result<Vec<u64>> {
        Ok(tables::traces(&self.run, &mut self.segments())?
            .into_keys()
            .collect())
    }

    /// How the probe set was routed at a step; no rows for a step without a trace.
    ///
    /// # Errors
    ///
    /// [`RecordError::Arrow`] when the file is damaged, [`RecordError::Io`].
    pub fn trace(&self, step: u64) -> Result<Vec<TraceRow>> {
        tables::trace(&self.run, &mut self.segments(), step)
    }

    /// The probe set; empty for a run without one.
    ///
    /// # Errors
    ///
    /// As [`trace`](Self::trace).
    pub fn probe(&self) -> Result<Vec<ProbeToken>> {
        tables::probe(&self.run)
    }

    /// The complete checkpoints, by step, ascending.
    ///
    /// # Errors
    ///
    /// [`RecordError::Io`].
    pub fn checkpoints(&self) -> Result<Vec<(u64, PathBuf)>> {
        list_checkpoints(&self.run)
    }

    fn segments(&self) -> Segments {
        Segments::new(&self.run, &self.manifest)
    }
}
