use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::append::{Appender, Grows};
use super::atomic::replace_file;
use super::files::{StreamFile, append_line, write_probe, write_trace};
use crate::layout;
use crate::{
    Event, Manifest, MemoryRow, ProbeToken, RecordError, Result, RouterRow, RoutingRow, RunState,
    Sample, StepMetrics, TraceRow, TransitionRow, now,
};

/// What the writer's callers send to the background thread.
pub(crate) enum Message {
    Metrics(Box<StepMetrics>),
    Event(Event),
    Sample(Sample),
    Routing(u64, Vec<RoutingRow>),
    Routers(u64, Vec<RouterRow>),
    Transitions(u64, Vec<TransitionRow>),
    Memory(u64, Vec<MemoryRow>),
    Trace(u64, Vec<TraceRow>),
    Probe(Vec<ProbeToken>),
    State(RunState),
    /// Answered when everything sent before is on disk.
    Flush(SyncSender<Result<()>>),
    /// Like `Flush`, and the thread ends.
    Finish(RunState, SyncSender<Result<()>>),
}

/// Errors of the background thread, on their way to a caller.
#[derive(Default)]
pub(crate) struct Errors {
    unreported: Mutex<Option<RecordError>>,
    last: Mutex<Option<RecordError>>,
    /// What keeps something from being written now.
    standing: Mutex<Option<RecordError>>,
}

impl Errors {
    fn keep(&self, error: RecordError) {
        *lock(&self.last) = Some(error.clone());
        *lock(&self.standing) = Some(error.clone());
        *lock(&self.unreported) = Some(error);
    }

    /// Everything that waited is written.
    fn clear(&self) {
        *lock(&self.standing) = None;
    }

    pub(crate) fn standing(&self) -> Option<RecordError> {
        lock(&self.standing).clone()
    }

    /// The latest error that no caller has been given yet.
    pub(crate) fn take(&self) -> Option<RecordError> {
        lock(&self.unreported).take()
    }

    pub(crate) fn last(&self) -> Option<RecordError> {
        lock(&self.last).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The background thread: all of a run's files but the ones written at its start.
pub(crate) struct Worker {
    run: PathBuf,
    manifest: Manifest,
    errors: Arc<Errors>,
    metrics: Appender,
    events: Appender,
    samples: Appender,
    routing: StreamFile<RoutingRow>,
    routers: StreamFile<RouterRow>,
    transitions: StreamFile<TransitionRow>,
    memory: StreamFile<MemoryRow>,
}

impl Worker {
    /// Writes the manifest and opens the JSON lines files, so that a directory that takes nothing
    /// is known before training starts.
    pub(crate) fn new(run: &Path, manifest: Manifest, errors: Arc<Errors>) -> Result<Self> {
        let segment = manifest.segment;
        let lines = |name| Appender::new(run.join(name), true);
        let mut worker = Self {
            run: run.to_owned(),
            manifest,
            errors,
            metrics: lines(layout::METRICS),
            events: lines(layout::EVENTS),
            samples: lines(layout::SAMPLES),
            routing: StreamFile::new(run, segment),
            routers: StreamFile::new(run, segment),
            transitions: StreamFile::new(run, segment),
            memory: StreamFile::new(run, segment),
        };
        for file in [&mut worker.metrics, &mut worker.events, &mut worker.samples] {
            file.open()?;
        }
        worker.write_manifest()?;
        Ok(worker)
    }

    pub(crate) fn work(mut self, messages: &Receiver<Message>, heartbeat: Duration) {
        let mut next_beat = Instant::now() + heartbeat;
        loop {
            let until = next_beat.saturating_duration_since(Instant::now());
            let done = match messages.recv_timeout(until) {
                Ok(Message::Flush(answer)) => {
                    let flushed = self.flush();
                    // Whoever asked may be gone; the error is kept all the same.
                    let _ = answer.send(flushed);
                    Ok(())
                }
                Ok(Message::Finish(state, answer)) => {
                    let _ = answer.send(self.finish(state));
                    return;
                }
                Ok(message) => self.handle(message),
                Err(RecvTimeoutError::Timeout) => Ok(()),
                // The writer always says goodbye first, unless its thread was torn down.
                Err(RecvTimeoutError::Disconnected) => {
                    let _ = self.finish(RunState::Failed);
                    return;
                }
            };
            self.note(done);
            if Instant::now() >= next_beat {
                let mut results = self.files().map(Grows::retry).to_vec();
                results.push(self.write_manifest());
                if results.iter().all(Result::is_ok) {
                    self.errors.clear();
                }
                for result in results {
                    self.note(result);
                }
                next_beat = Instant::now() + heartbeat;
            }
        }
    }

    fn note(&self, result: Result<()>) {
        if let Err(error) = result {
            self.errors.keep(error);
        }
    }

    fn handle(&mut self, message: Message) -> Result<()> {
        let segment = self.manifest.segment;
        match message {
            Message::Metrics(mut row) => {
                row.segment = segment;
                self.follow(&row);
                append_line(&mut self.metrics, &*row)
            }
            Message::Event(mut event) => {
                event.segment = segment;
                append_line(&mut self.events, &event)
            }
            Message::Sample(mut sample) => {
                sample.segment = segment;
                append_line(&mut self.samples, &sample)
            }
            Message::Routing(step, rows) => self.routing.append(step, &rows),
            Message::Routers(step, rows) => self.routers.append(step, &rows),
            Message::Transitions(step, rows) => self.transitions.append(step, &rows),
            Message::Memory(step, rows) => self.memory.append(step, &rows),
            Message::Trace(step, rows) => write_trace(&self.run, segment, step, &rows),
            Message::Probe(tokens) => write_probe(&self.run, segment, &tokens),
            Message::State(state) => {
                self.manifest.state = state;
                self.write_manifest()
            }
            Message::Flush(_) | Message::Finish(..) => Ok(()),
        }
    }

    fn follow(&mut self, row: &StepMetrics) {
        let progress = &mut self.manifest.progress;
        let finite = |value: f64| value.is_finite().then_some(value);
        progress.step = row.step;
        progress.tokens = row.tokens;
        if row.time.is_finite() {
            progress.seconds = row.time;
        }
        progress.loss = finite(row.loss);
        progress.tokens_per_second = finite(row.tokens_per_second);
        if let Some(loss) = row.validation_loss {
            progress.validation_loss = finite(loss);
        }
    }

    fn write_manifest(&mut self) -> Result<()> {
        self.manifest.heartbeat = now();
        replace_file(&self.run.join(layout::MANIFEST), &self.manifest.to_json())
    }

    fn files(&mut self) -> [&mut dyn Grows; 7] {
        [
            &mut self.metrics,
            &mut self.events,
            &mut self.samples,
            &mut self.routing,
            &mut self.routers,
            &mut self.transitions,
            &mut self.memory,
        ]
    }

    fn flush(&mut self) -> Result<()> {
        let results = self.files().map(Grows::sync);
        self.first_error(&results)
    }

    fn finish(&mut self, state: RunState) -> Result<()> {
        let mut results = self.files().map(Grows::finish).to_vec();
        self.manifest.state = state;
        results.push(self.write_manifest());
        self.first_error(&results)
    }

    fn first_error(&self, results: &[Result<()>]) -> Result<()> {
        match results.iter().find_map(|result| result.as_ref().err()) {
            Some(error) => {
                *lock(&self.errors.last) = Some(error.clone());
                Err(error.clone())
            }
            None => Ok(()),
        }
    }
}
