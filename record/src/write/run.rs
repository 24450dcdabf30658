use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use super::atomic::{remove_leftovers, replace_file};
use super::checkpoint::{self, PendingCheckpoint};
use super::directory::{check_name, new_directory, next_segment, run_id};
use super::lock::RunLock;
use super::worker::{Errors, Message, Worker};
use crate::layout;
use crate::{
    Event, Manifest, MemoryRow, ProbeToken, Progress, RecordError, Result, RouterRow, RoutingRow,
    RunInfo, RunState, SCHEMA_VERSION, Sample, Segment, StepMetrics, TraceRow, TransitionRow, now,
    process,
};

const HEARTBEAT: Duration = Duration::from_secs(2);

/// Messages that may wait for the disk before the training thread waits with them: tens of steps.
const QUEUE: usize = 256;

/// Writes a run. There is one at a time for a run, in one process.
///
/// Rows are sent to a background thread, which gives them to the file system as they come: a
/// killed process loses only what was still on the way (call [`flush`](Self::flush) before a
/// checkpoint is committed, so that none of the steps before it can be missing). The calling thread
/// pays for the sending alone, unless the disk falls hundreds of rows behind.
///
/// When the background thread meets an error, the next call returns it once; the row of that call
/// is sent all the same. Rows of files that grow wait for room, up to 16 MiB a file, and are tried
/// again every two seconds and with each new row, so training may go on and lose nothing.
///
/// A `RunWriter` may be shared between threads.
pub struct RunWriter {
    run: PathBuf,
    name: String,
    segment: u32,
    sender: SyncSender<Message>,
    errors: Arc<Errors>,
    /// `None` once the run is finished.
    worker: Option<JoinHandle<()>>,
    /// Last, so that the files are closed when another process may open them.
    _lock: RunLock,
}

impl RunWriter {
    /// Makes the directory `root/name` for a new run, or `root/name-2`, `root/name-3`, … where that is
    /// taken; [`path`](Self::path) tells which. `config_toml` is the configuration with every
    /// default written out.
    ///
    /// # Errors
    ///
    /// [`RecordError::InvalidName`] when `name` cannot be a directory's name;
    /// [`RecordError::Io`] when the directory cannot be made or written.
    pub fn create(root: &Path, name: &str, info: RunInfo, config_toml: &str) -> Result<Self> {
        Self::create_beating(root, name, info, config_toml, HEARTBEAT)
    }

    fn create_beating(
        root: &Path,
        name: &str,
        info: RunInfo,
        config_toml: &str,
        heartbeat: Duration,
    ) -> Result<Self> {
        check_name(name)?;
        let (run, name) = new_directory(root, name)?;
        let started = Self::begin(&run, name, info, config_toml, heartbeat);
        if started.is_err() {
            // Made a moment ago, and nobody's: without a manifest it would be no run.
            let _ = fs::remove_dir_all(&run);
        }
        started
    }

    fn begin(
        run: &Path,
        name: String,
        info: RunInfo,
        config_toml: &str,
        heartbeat: Duration,
    ) -> Result<Self> {
        let lock = RunLock::take(run)?;
        replace_file(&run.join(layout::CONFIG), config_toml.as_bytes())?;
        let time = now();
        let manifest = Manifest {
            schema_version: SCHEMA_VERSION,
            name,
            run_id: run_id(),
            created: time,
            segment: 0,
            segments: vec![Segment {
                index: 0,
                first_step: 1,
                started: time,
                program_version: info.program_version.clone(),
            }],
            info,
            state: RunState::Running,
            progress: Progress::default(),
            pid: std::process::id(),
            hostname: process::hostname(),
            process_scope: process::scope(),
            heartbeat: time,
            extra: serde_json::Map::new(),
        };
        Self::start(run.to_owned(), manifest, lock, heartbeat)
    }

    /// Goes on with an existing run in a new segment, whose first step is `first_step`: the
    /// checkpoint's step plus 1. Rows of earlier segments from that step on are thereby replaced:
    /// they stay in their files, and readers leave them out. What a killed writer left half
    /// written (checkpoints above all) is removed.
    ///
    /// # Errors
    ///
    /// [`RecordError::InUse`] while another process writes the run; [`RecordError::NotARun`];
    /// [`RecordError::UnsupportedVersion`]; [`RecordError::Json`] when its manifest is damaged;
    /// [`RecordError::Io`].
    pub fn resume(run: &Path, info: RunInfo, first_step: u64) -> Result<Self> {
        // Before the lock, which would leave a file in a directory that is no run.
        Manifest::read(run)?;
        let lock = RunLock::take(run)?;
        // Again: until now somebody else may have written it.
        let mut manifest = Manifest::read(run)?;
        remove_leftovers(run);
        remove_leftovers(&run.join(layout::TRACES));
        checkpoint::recover(run);

        let time = now();
        manifest.segment = next_segment(run, &manifest)?;
        manifest.segments.push(Segment {
            index: manifest.segment,
            first_step,
            started: time,
            program_version: info.program_version.clone(),
        });
        manifest.schema_version = manifest.schema_version.max(SCHEMA_VERSION);
        manifest.info = info;
        manifest.state = RunState::Running;
        manifest.progress.step = first_step.saturating_sub(1);
        manifest.pid = std::process::id();
        manifest.hostname = process::hostname();
        manifest.process_scope = process::scope();
        Self::start(run.to_owned(), manifest, lock, HEARTBEAT)
    }

    fn start(run: PathBuf, manifest: Manifest, lock: RunLock, heartbeat: Duration) -> Result<Self> {
        let (name, segment) = (manifest.name.clone(), manifest.segment);
        let errors = Arc::new(Errors::default());
        let worker = Worker::new(&run, manifest, Arc::clone(&errors))?;
        let (sender, receiver) = mpsc::sync_channel(QUEUE);
        let worker = std::thread::Builder::new()
            .name("bellows-record".to_owned())
            .spawn(move || worker.work(&receiver, heartbeat))
            .map_err(RecordError::io("start the writer thread of", &run))?;
        Ok(Self {
            run,
            name,
            segment,
            sender,
            errors,
            worker: Some(worker),
            _lock: lock,
        })
    }

    /// The run's directory.
    pub fn path(&self) -> &Path {
        &self.run
    }

    /// The run's name, which is not the one asked for where that was taken.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// This process's number among those that wrote the run, from 0.
    pub fn segment(&self) -> u32 {
        self.segment
    }

    /// Records a step in `metrics.jsonl` and in the manifest's progress.
    ///
    /// # Errors
    ///
    /// Like every method that records rows: an error the background thread met with an earlier
    /// row, or [`RecordError::WriterStopped`].
    pub fn metrics(&self, row: StepMetrics) -> Result<()> {
        self.send(Message::Metrics(Box::new(row)))
    }

    /// Records an event in `events.jsonl`.
    pub fn event(&self, event: Event) -> Result<()> {
        self.send(Message::Event(event))
    }

    /// Records sampled text in `samples.jsonl`.
    pub fn sample(&self, sample: Sample) -> Result<()> {
        self.send(Message::Sample(sample))
    }

    /// Records a step's loads in `routing.<n>.arrows`: every expert of every layer and iteration.
    pub fn routing(&self, step: u64, rows: Vec<RoutingRow>) -> Result<()> {
        self.send(Message::Routing(step, rows))
    }

    /// Records a step's routers in `routers.<n>.arrows`: every layer and iteration.
    pub fn routers(&self, step: u64, rows: Vec<RouterRow>) -> Result<()> {
        self.send(Message::Routers(step, rows))
    }

    /// Records a step's transitions in `transitions.<n>.arrows`, those that occurred.
    pub fn transitions(&self, step: u64, rows: Vec<TransitionRow>) -> Result<()> {
        self.send(Message::Transitions(step, rows))
    }

    /// Records snapshots of a step's memory in `memory.<n>.arrows`.
    pub fn memory(&self, step: u64, rows: Vec<MemoryRow>) -> Result<()> {
        self.send(Message::Memory(step, rows))
    }

    /// Records how the probe set was routed at a step, as a file in `traces/`. One that cannot be
    /// written is reported and not tried again.
    pub fn trace(&self, step: u64, rows: Vec<TraceRow>) -> Result<()> {
        self.send(Message::Trace(step, rows))
    }

    /// Records the probe set, `traces/probe.arrow`, replacing an earlier one.
    pub fn probe(&self, tokens: Vec<ProbeToken>) -> Result<()> {
        self.send(Message::Probe(tokens))
    }

    /// Says in the manifest that the run is paused, or runs again.
    pub fn set_state(&self, state: RunState) -> Result<()> {
        self.send(Message::State(state))
    }

    /// Writes `plan.json` before it returns.
    ///
    /// # Errors
    ///
    /// [`RecordError::Io`]; the earlier plan then stays.
    pub fn plan(&self, plan: &Value) -> Result<()> {
        let text = format!("{plan:#}\n");
        replace_file(&self.run.join(layout::PLAN), text.as_bytes())
    }

    /// Replaces `config.toml` before it returns: for a resume under other settings.
    ///
    /// # Errors
    ///
    /// [`RecordError::Io`]; the earlier configuration then stays.
    pub fn config(&self, toml: &str) -> Result<()> {
        replace_file(&self.run.join(layout::CONFIG), toml.as_bytes())
    }

    /// Waits until everything sent so far is on the disk.
    ///
    /// # Errors
    ///
    /// What keeps it from being there, or else an earlier error that no call returned yet.
    pub fn flush(&self) -> Result<()> {
        let (answer, flushed) = mpsc::sync_channel(1);
        self.send_only(Message::Flush(answer))?;
        flushed.recv().unwrap_or_else(|_| Err(self.stopped()))?;
        self.errors.take().map_or(Ok(()), Err)
    }

    /// The last error the background thread met, whether or not a call has returned it.
    pub fn last_error(&self) -> Option<RecordError> {
        self.errors.last()
    }

    /// What keeps rows from being written at present; they wait in memory, and are tried again at
    /// every heartbeat.
    pub fn trouble(&self) -> Option<RecordError> {
        self.errors.standing()
    }

    /// Begins a checkpoint: write its files into [`PendingCheckpoint::path`], then commit it.
    ///
    /// # Errors
    ///
    /// [`RecordError::Io`].
    pub fn begin_checkpoint(&self, step: u64) -> Result<PendingCheckpoint> {
        PendingCheckpoint::begin(&self.run, step)
    }

    /// Removes a checkpoint, which stops being visible at once.
    ///
    /// # Errors
    ///
    /// [`RecordError::Io`], also when there is no such checkpoint.
    pub fn remove_checkpoint(&self, step: u64) -> Result<()> {
        checkpoint::remove_checkpoint(&self.run, step)
    }

    /// Writes everything out, says in the manifest how the run ended, and lets go of it.
    ///
    /// Dropping the writer does the same with [`RunState::Failed`]: it went without saying how.
    ///
    /// # Errors
    ///
    /// What could not be written, or else an earlier error that no call returned yet.
    pub fn finish(mut self, state: RunState) -> Result<()> {
        self.close(state)?;
        self.errors.take().map_or(Ok(()), Err)
    }

    fn close(&mut self, state: RunState) -> Result<()> {
        let Some(worker) = self.worker.take() else {
            return Ok(());
        };
        let (answer, finished) = mpsc::sync_channel(1);
        let sent = self.send_only(Message::Finish(state, answer));
        let result = sent.and_then(|()| finished.recv().unwrap_or_else(|_| Err(self.stopped())));
        match worker.join() {
            Ok(()) => result,
            Err(_) => Err(self.stopped()),
        }
    }

    fn send(&self, message: Message) -> Result<()> {
        self.send_only(message)?;
        self.errors.take().map_or(Ok(()), Err)
    }

    fn send_only(&self, message: Message) -> Result<()> {
        self.sender.send(message).map_err(|_| self.stopped())
    }

    fn stopped(&self) -> RecordError {
        RecordError::WriterStopped {
            path: self.run.clone(),
        }
    }
}

impl Drop for RunWriter {
    fn drop(&mut self) {
        // Nobody is left to tell; `finish` is for those who want to know.
        let _ = self.close(RunState::Failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heartbeat_goes_on_while_nothing_is_recorded() {
        let root = tempfile::tempdir().unwrap();
        let writer = RunWriter::create_beating(
            root.path(),
            "run",
            RunInfo::default(),
            "",
            Duration::from_millis(1),
        )
        .unwrap();
        let first = Manifest::read(writer.path()).unwrap().heartbeat;
        while Manifest::read(writer.path()).unwrap().heartbeat <= first {
            std::thread::yield_now();
        }
        writer.finish(RunState::Finished).unwrap();
    }
}
