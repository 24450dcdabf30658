use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bellows_record::control::ask_status;
use bellows_record::{
    Event, LineReader, Liveness, Manifest, MemoryRow, RecordError, RouterRow, RoutingRow,
    RunReader, RunState, Sample, StepMetrics, StreamReader, StreamRow,
};

use super::{Loading, MemoryView, MetricStore, Notify, RoutingView, RunData, Shared};
use crate::format;
use crate::query::warnings::{Detector, RoutingWatch};

/// Time between two looks at the files while nothing is asked for.
const PERIOD: Duration = Duration::from_millis(300);

/// Time before a run that cannot be read is tried again.
const PATIENCE: Duration = Duration::from_secs(1);

/// Silence after which a run is asked over its socket what it is doing; its manifest is renewed
/// about every two seconds.
const SILENCE: bellows_record::time::Duration = bellows_record::time::Duration::seconds(6);

/// Time between two such questions, and for their answer.
const QUESTION: Duration = Duration::from_secs(2);

/// Rows of the first look.
const PREVIEW: usize = 1500;

/// Samples and events kept; a dashboard shows the newest.
const LOG: usize = 5000;

/// Rows handed over in one go: a screen that is to be drawn waits for no more than these.
const SLICE: usize = 128;

/// Arrow batches read before the JSON lines are looked at again.
const BATCHES: usize = 64;

/// Time between two looks at the cursor's place while a history is being read.
const GLANCE: Duration = Duration::from_millis(500);

/// What the screens want to look at closely.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Focus {
    /// The step; `None` follows the newest.
    pub step: Option<u64>,
    /// Recorded steps that routing is summed over.
    pub window: usize,
}

impl Default for Focus {
    fn default() -> Self {
        Self {
            step: None,
            window: 20,
        }
    }
}

#[derive(Debug, Default)]
struct Mailbox {
    focus: Focus,
    stop: bool,
    changed: bool,
}

/// Keeps a run's [`RunData`] up to date until dropped.
#[derive(Debug)]
pub struct RunFollower {
    /// What is known.
    pub data: Shared<RunData>,
    mailbox: Arc<(Mutex<Mailbox>, Condvar)>,
}

impl RunFollower {
    /// Follows the run in `path`.
    pub fn start(path: PathBuf, notify: Notify) -> Self {
        let this = Self::of(RunData {
            path: path.clone(),
            ..RunData::default()
        });
        let worker = Worker {
            path,
            data: this.data.clone(),
            mailbox: this.mailbox.clone(),
            notify,
        };
        std::thread::spawn(move || worker.work());
        this
    }

    /// A run that nobody follows.
    pub fn of(data: RunData) -> Self {
        Self {
            data: Shared::new(data),
            mailbox: Arc::default(),
        }
    }

    /// Says what the screens want to look at closely.
    pub fn focus(&self, focus: Focus) {
        let mut mailbox = self
            .mailbox
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if mailbox.focus != focus {
            mailbox.focus = focus;
            mailbox.changed = true;
            self.mailbox.1.notify_one();
        }
    }
}

impl Drop for RunFollower {
    fn drop(&mut self) {
        let mut mailbox = self
            .mailbox
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        mailbox.stop = true;
        self.mailbox.1.notify_one();
    }
}

struct Worker {
    path: PathBuf,
    data: Shared<RunData>,
    mailbox: Arc<(Mutex<Mailbox>, Condvar)>,
    notify: Notify,
}

impl Worker {
    fn work(self) {
        loop {
            let trouble = match self.follow() {
                Ok(()) => return,
                Err(error) => words(&error),
            };
            {
                let mut data = self.data.write();
                data.liveness = None;
                data.trouble = Some(trouble);
            }
            (self.notify)();
            if self.wait(PATIENCE).is_none() {
                return;
            }
        }
    }

    /// Waits for a time or a new focus; `None` when nobody follows any more.
    fn wait(&self, time: Duration) -> Option<Focus> {
        let mut mailbox = self
            .mailbox
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !mailbox.changed && !mailbox.stop {
            mailbox = self
                .mailbox
                .1
                .wait_timeout(mailbox, time)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        mailbox.changed = false;
        (!mailbox.stop).then_some(mailbox.focus)
    }

    /// Follows the run until it cannot be read, or nobody wants to know.
    fn follow(&self) -> Result<(), RecordError> {
        let mut run = RunReader::open(&self.path)?;
        let mut preview = MetricStore::default();
        for row in run.last_metrics(PREVIEW)? {
            preview.push(&row);
        }
        {
            let mut data = self.data.write();
            *data = RunData {
                path: self.path.clone(),
                manifest: Some(run.manifest().clone()),
                liveness: Some(run.liveness()),
                preview,
                // A configuration that is gone leaves an empty screen, not a run that cannot be read.
                config: run.config().unwrap_or_default(),
                plan: run.plan().unwrap_or_default(),
                checkpoints: steps_of(&run)?,
                loading: Loading::Opening,
                ..RunData::default()
            };
        }
        (self.notify)();
        let mut streams = Streams::new(&run);
        let mut focus = Focus::default();
        let mut voice = Voice::default();
        let mut pause = Duration::ZERO;
        while let Some(wanted) = self.wait(pause) {
            let moved = wanted != focus;
            focus = wanted;
            let mut busy = streams.poll_lines(&self.data)?;
            // Streams wait for the curves that people look at first.
            let mut arrived = false;
            if !busy {
                (busy, arrived) = streams.poll_streams(&self.data)?;
            }
            streams.watch.due |= arrived;
            let refocus = moved || streams.watch.take_due(busy);
            if refocus {
                streams.look_closely(&self.data, focus);
            }
            // A manifest that is being replaced by another program's write is read at the next look.
            let manifest = run.refresh()?.clone();
            let changed = self.refresh(&run, manifest, &mut voice)?;
            if busy || arrived || refocus || changed || streams.take_news() {
                (self.notify)();
            }
            pause = if busy { Duration::ZERO } else { PERIOD };
        }
        Ok(())
    }

    fn refresh(
        &self,
        run: &RunReader,
        manifest: Manifest,
        voice: &mut Voice,
    ) -> Result<bool, RecordError> {
        let (liveness, unwritten) = voice.hear(&self.path, &manifest);
        let checkpoints = steps_of(run)?;
        let resumed = {
            let data = self.data.read();
            let known = data.manifest.as_ref();
            if known == Some(&manifest)
                && data.liveness == Some(liveness)
                && data.unwritten == unwritten
                && data.checkpoints == checkpoints
            {
                return Ok(false);
            }
            known.is_none_or(|known| known.segment != manifest.segment)
        };
        let again = resumed.then(|| {
            (
                run.config().unwrap_or_default(),
                run.plan().unwrap_or_default(),
            )
        });
        let mut data = self.data.write();
        if let Some((config, plan)) = again {
            (data.config, data.plan) = (config, plan);
        }
        data.liveness = Some(liveness);
        data.unwritten = unwritten;
        data.manifest = Some(manifest);
        data.checkpoints = checkpoints;
        data.trouble = None;
        Ok(true)
    }
}

/// What a run says over its socket while its files say nothing.
#[derive(Default)]
struct Voice {
    asked: Option<Instant>,
    said: Option<(Liveness, Option<String>)>,
}

impl Voice {
    /// What the run is doing, and what keeps it from writing so.
    fn hear(&mut self, path: &Path, manifest: &Manifest) -> (Liveness, Option<String>) {
        let judged = Liveness::of(manifest);
        let live = matches!(manifest.state, RunState::Running | RunState::Paused);
        if !live || bellows_record::now() - manifest.heartbeat < SILENCE {
            *self = Self::default();
            return (judged, None);
        }
        if self.asked.is_none_or(|asked| asked.elapsed() >= QUESTION) {
            self.said = ask_status(path, QUESTION).map(|(liveness, status)| {
                let unwritten = status.trouble.map(|trouble| {
                    let step = format::whole(status.step);
                    format!(
                        "the run goes on, step {step}, but its record is not written: {trouble}"
                    )
                });
                (liveness, unwritten)
            });
            self.asked = Some(Instant::now());
        }
        self.said.clone().unwrap_or((judged, None))
    }
}

fn steps_of(run: &RunReader) -> Result<Vec<u64>, RecordError> {
    Ok(run
        .checkpoints()?
        .into_iter()
        .map(|(step, _)| step)
        .collect())
}

/// An error in the dashboard's words.
fn words(error: &RecordError) -> String {
    match error {
        RecordError::NotARun { path } if !path.is_dir() => format!(
            "{} is gone: the run was deleted or moved; q goes back to the list",
            path.display()
        ),
        error => error.to_string(),
    }
}

/// The readers of a run's files.
struct Streams {
    run: RunReader,
    metrics: LineReader<StepMetrics>,
    events: LineReader<Event>,
    samples: LineReader<Sample>,
    routing: StreamReader<RoutingRow>,
    routers: StreamReader<RouterRow>,
    memory: StreamReader<MemoryRow>,
    /// Steps of the streams that their histories lack.
    routing_due: Due,
    memory_due: Due,
    watch: Watch,
    news: bool,
}

/// What follows the streams more closely than their histories do.
#[derive(Default)]
struct Watch {
    /// Whether the close view is behind.
    due: bool,
    looked: Option<Instant>,
    routing: RoutingWatch,
}

impl Watch {
    /// Whether to look again: now and then while there is more to come, and after the last.
    fn take_due(&mut self, busy: bool) -> bool {
        let early = busy && self.looked.is_some_and(|looked| looked.elapsed() < GLANCE);
        let due = self.due && !early;
        if due {
            self.due = false;
            self.looked = Some(Instant::now());
        }
        due
    }
}

impl Streams {
    fn new(run: &RunReader) -> Self {
        Self {
            metrics: run.metrics(),
            events: run.events(),
            samples: run.samples(),
            routing: run.routing(),
            routers: run.routers(),
            memory: run.memory(),
            routing_due: Due::default(),
            memory_due: Due::default(),
            run: run.clone(),
            watch: Watch::default(),
            news: false,
        }
    }

    fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// Reads on in the JSON lines. `true` while there is more.
    fn poll_lines(&mut self, data: &Shared<RunData>) -> Result<bool, RecordError> {
        let update = self.metrics.poll()?;
        let events = self.events.poll()?;
        let samples = self.samples.poll()?;
        let more = update.more || events.more || samples.more;
        let loading = data.read().loading;
        if update.is_empty()
            && events.is_empty()
            && samples.is_empty()
            && !more
            && loading == Loading::Complete
        {
            return Ok(false);
        }
        self.news = true;
        if let Some(step) = update.keep_below {
            let mut data = data.write();
            data.detector.keep_below(step);
            if !data.metrics.keep_below(step) {
                // A resume went far back: everything from the start, while the preview stays on the screen.
                data.metrics = MetricStore::default();
                data.detector = Detector::default();
                self.metrics = self.run.metrics();
                data.loading = Loading::Opening;
                return Ok(true);
            }
        }
        for rows in update.rows.chunks(SLICE) {
            let mut data = data.write();
            for row in rows {
                data.metrics.push(row);
                data.detector.push(row);
            }
        }
        let notes = self.notes();
        let warnings = {
            let data = data.read();
            data.detector.warnings(data.memory_limit(), &data.metrics)
        };
        let mut data = data.write();
        let data = &mut *data;
        events.apply(&mut data.events, |event| event.step);
        samples.apply(&mut data.samples, |sample| sample.step);
        let old = data.events.len().saturating_sub(LOG);
        data.events.drain(..old);
        let old = data.samples.len().saturating_sub(LOG);
        data.samples.drain(..old);
        data.loading = if update.more {
            let read = data.metrics.last().map_or(0, |row| row.step);
            Loading::History(read, data.step().max(read))
        } else {
            Loading::Complete
        };
        if !update.more {
            data.preview = MetricStore::default();
        }
        data.notes = notes;
        data.warnings = warnings;
        Ok(more)
    }

    /// Reads on in the Arrow streams: whether there is more, and whether something arrived.
    fn poll_streams(&mut self, data: &Shared<RunData>) -> Result<(bool, bool), RecordError> {
        let routing = self.routing.poll()?;
        let routers = self.routers.poll()?;
        let memory = self.memory.poll()?;
        let arrived = !routing.is_empty() || !routers.is_empty() || !memory.is_empty();
        if let Some(step) = routing
            .keep_below
            .into_iter()
            .chain(routers.keep_below)
            .min()
        {
            self.routing_due.keep_below(step);
            let mut data = data.write();
            if !data.routing.keep_below(step) {
                data.routing.history.clear();
                self.routing_due = Due::default();
                self.routing_due.add(self.routing.steps());
            }
            self.watch.routing.keep_below(step);
        }
        if let Some(step) = memory.keep_below {
            self.memory_due.keep_below(step);
            let mut data = data.write();
            if !data.memory.keep_below(step) {
                data.memory.kinds.clear();
                self.memory_due = Due::default();
                self.memory_due.add(self.memory.steps());
            }
        }
        self.routing_due.add(routing.rows.into_iter());
        self.memory_due.add(memory.rows.into_iter());
        for _ in 0..BATCHES {
            let Some(step) = self.routing_due.queue.pop_front() else {
                break;
            };
            let (rows, routers) = (read(&self.routing, step), read(&self.routers, step));
            self.watch.routing.push(step, &rows);
            let view = RoutingView::of(std::iter::once((step, &rows[..], &routers[..])));
            data.write().routing.push(step, view);
        }
        for _ in 0..BATCHES {
            let Some(step) = self.memory_due.queue.pop_front() else {
                break;
            };
            let rows = read(&self.memory, step);
            data.write().memory.push(step, &rows);
        }
        let busy = !self.routing_due.queue.is_empty() || !self.memory_due.queue.is_empty();
        if arrived || busy {
            let (found, notes) = (self.watch.routing.warnings(), self.notes());
            let mut data = data.write();
            let data = &mut *data;
            data.detector.routing = found;
            data.warnings = data.detector.warnings(data.memory_limit(), &data.metrics);
            data.notes = notes;
        }
        Ok((busy, arrived || busy))
    }

    /// Reads what lies at the cursor.
    fn look_closely(&self, data: &Shared<RunData>, focus: Focus) {
        let wanted = focus.step.unwrap_or(u64::MAX);
        let mut steps: Vec<u64> = match self.routing.at_or_before(wanted) {
            Some(last) => self
                .routing
                .steps()
                .rev()
                .skip_while(|&step| step > last)
                .take(focus.window.max(1))
                .collect(),
            None => Vec::new(),
        };
        steps.reverse();
        let records: Vec<_> = steps
            .iter()
            .map(|&step| (step, read(&self.routing, step), read(&self.routers, step)))
            .collect();
        let routing = RoutingView::of(
            records
                .iter()
                .map(|(step, routing, routers)| (*step, &routing[..], &routers[..])),
        );
        let memory = self
            .memory
            .at_or_before(wanted)
            .map(|step| MemoryView::of(step, &read(&self.memory, step)))
            .unwrap_or_default();
        let mut data = data.write();
        data.routing.view = routing;
        data.memory.view = memory;
    }

    /// What was left out, for the events screen.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for (file, bad) in [
            ("metrics.jsonl", self.metrics.bad_lines()),
            ("events.jsonl", self.events.bad_lines()),
            ("samples.jsonl", self.samples.bad_lines()),
        ] {
            if let Some(last) = &bad.last {
                notes.push(format!(
                    "{file}: {} lines could not be read, the last is line {}: {}",
                    bad.count, last.line, last.message
                ));
            }
        }
        let problems = self
            .routing
            .problems()
            .iter()
            .chain(self.routers.problems())
            .chain(self.memory.problems());
        notes.extend(problems.map(|problem| {
            format!(
                "{}: nothing can be read after byte {}: {}",
                Path::new(problem.path.file_name().unwrap_or_default()).display(),
                problem.offset,
                problem.message
            )
        }));
        notes
    }
}

/// Steps that a history lacks.
#[derive(Default)]
struct Due {
    queue: VecDeque<u64>,
    last: Option<u64>,
}

impl Due {
    /// Adds steps. One that got more rows comes again: its place in the history is taken already.
    fn add(&mut self, steps: impl Iterator<Item = u64>) {
        for step in steps {
            if self.last.is_none_or(|last| step > last) {
                self.queue.push_back(step);
                self.last = Some(step);
            }
        }
    }

    fn keep_below(&mut self, step: u64) {
        self.queue.retain(|&due| due < step);
        self.last = self.last.map(|last| last.min(step.saturating_sub(1)));
    }
}

/// A step's rows; none where the file is damaged there, which the notes tell.
fn read<R: StreamRow>(stream: &StreamReader<R>, step: u64) -> Vec<R> {
    stream.read(step).unwrap_or_default()
}
