//! The thread that keeps a run up to date.

use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLock, Weak};
use std::time::{Duration, Instant};

use bellows_record::{
    Event, LineReader, Liveness, RecordError, RunReader, Sample, StepMetrics, StreamReader,
    StreamRow, Update,
};

use super::Inner;
use super::handed::Handed;
use super::load_history::LoadHistory;
use super::load_record::LoadRecord;
use super::memory_record::MemoryRecord;
use super::notes::notes;
use super::run::{Run, Streams, lock, read, steps_of, write};
use super::series::Metrics;
use super::snapshot::{Loading, RunSnapshot, Shape};

/// Time between two looks at the files while nothing is to be read.
const PERIOD: Duration = Duration::from_millis(150);

/// The same for a run that has ended: it may be resumed.
const REST: Duration = Duration::from_millis(500);

/// Time before a run that cannot be read is tried again.
const PATIENCE: Duration = Duration::from_secs(1);

/// Time that histories are read for before files are looked at again.
const SLICE: Duration = Duration::from_millis(60);

/// Time between two announcements while histories are read: each makes views draw anew.
const ANNOUNCE: Duration = Duration::from_millis(250);

/// Events and samples kept.
const LOG: usize = 10_000;

/// Follows until the run is closed or the store is gone.
pub(super) fn follow(run: &Arc<Run>, store: &Weak<Inner>) {
    loop {
        let Err(error) = Follower::open(run, store).and_then(Follower::work) else {
            return;
        };
        if store.upgrade().is_none() || run.closed.load(Ordering::Acquire) {
            return;
        }
        publish(run, |snapshot| {
            snapshot.problem = Some((&error).into());
            snapshot.liveness = None;
        });
        run.announce();
        notify(store);
        std::thread::sleep(PATIENCE);
    }
}

fn notify(store: &Weak<Inner>) {
    if let Some(store) = store.upgrade() {
        (store.options.notify)();
    }
}

fn publish(run: &Run, change: impl FnOnce(&mut RunSnapshot)) {
    let mut snapshot = (*run.snapshot()).clone();
    change(&mut snapshot);
    *write(&run.snapshot) = Arc::new(snapshot);
}

struct Follower<'a> {
    run: &'a Arc<Run>,
    store: &'a Weak<Inner>,
    reader: RunReader,
    streams: Arc<Streams>,
    metrics: LineReader<StepMetrics>,
    events: LineReader<Event>,
    samples: LineReader<Sample>,
    load_steps: Handed,
    memory_steps: Handed,
    /// Memory records that the history lacks, the next one last.
    memory_due: Vec<u64>,
    announced: Instant,
    /// Something changed that was not announced.
    news: bool,
}

impl<'a> Follower<'a> {
    fn open(run: &'a Arc<Run>, store: &'a Weak<Inner>) -> Result<Self, RecordError> {
        let reader = RunReader::open(&run.path)?;
        let streams = Arc::new(Streams::new(reader.clone()));
        *write(&run.metrics) = Metrics::default();
        *write(&run.loads) = LoadHistory::default();
        lock(&run.clusters).clear();
        *write(&run.memory) = Default::default();
        *write(&run.streams) = Some(streams.clone());
        run.epoch.fetch_add(1, Ordering::AcqRel);
        publish(run, |snapshot| {
            let fresh = RunSnapshot::new(snapshot.id, snapshot.path.clone(), snapshot.name.clone());
            *snapshot = RunSnapshot {
                manifest: Some(Arc::new(reader.manifest().clone())),
                liveness: Some(reader.liveness()),
                // A configuration or plan that cannot be read is a note, not a run that cannot be read.
                config: reader.config().unwrap_or_default().into(),
                plan: reader.plan().unwrap_or_default().map(Arc::new),
                ..fresh
            };
        });
        Ok(Self {
            run,
            store,
            metrics: reader.metrics(),
            events: reader.events(),
            samples: reader.samples(),
            streams,
            reader,
            load_steps: Handed::default(),
            memory_steps: Handed::default(),
            memory_due: Vec::new(),
            announced: Instant::now(),
            news: true,
        })
    }

    /// Reads on until the run is closed (`Ok`) or cannot be read.
    fn work(mut self) -> Result<(), RecordError> {
        self.announce();
        loop {
            let Some(store) = self.store.upgrade() else {
                return Ok(());
            };
            if self.run.closed.load(Ordering::Acquire) {
                return Ok(());
            }
            write(&self.run.loads).limit(store.share_of_loads());
            drop(store);
            // Streams first: with their steps known, the cursor's step can be shown.
            self.news |= self.poll_streams()?;
            let more = self.poll_lines()?;
            self.news |= self.refresh()?;
            if self.run.snapshot().loading == Loading::Opening {
                self.publish(true);
                self.announce();
            }
            let at_work = self.fill() || more;
            let held = self.load_steps.held.or(self.memory_steps.held).is_some();
            let busy = at_work || held;
            self.news |= !busy
                && (self.run.snapshot().loading != Loading::Complete || self.has_new_traces());
            if self.news && (!busy || self.announced.elapsed() >= ANNOUNCE) {
                self.publish(busy);
                self.announce();
            }
            if !at_work {
                let live = self.run.snapshot().liveness.is_some_and(Liveness::is_live);
                std::thread::sleep(if live || held { PERIOD } else { REST });
            }
        }
    }

    /// Traces are files of their own: one may come when nothing else does.
    fn has_new_traces(&self) -> bool {
        let traces = self.reader.trace_steps();
        traces.is_ok_and(|traces| traces[..] != self.run.snapshot().traces[..])
    }

    fn announce(&mut self) {
        self.run.announce();
        notify(self.store);
        self.announced = Instant::now();
        self.news = false;
    }

    /// Reads on in the JSON lines; whether there is more.
    fn poll_lines(&mut self) -> Result<bool, RecordError> {
        let update = self.metrics.poll()?;
        let (events, samples) = (self.events.poll()?, self.samples.poll()?);
        self.news |= !(update.is_empty() && events.is_empty() && samples.is_empty());
        let more = update.more || events.more || samples.more;
        let mut metrics = write(&self.run.metrics);
        let last = metrics.steps.map(|(_, last)| last);
        if update
            .keep_below
            .is_some_and(|step| last.is_some_and(|last| step <= last))
        {
            // A resume went back: the history is read anew, which takes less than to take it apart.
            *metrics = Metrics::default();
            self.metrics = self.reader.metrics();
            return Ok(true);
        }
        update.rows.iter().for_each(|row| metrics.push(row));
        drop(metrics);
        if !events.is_empty() || !samples.is_empty() {
            publish(self.run, |snapshot| {
                log(&mut snapshot.events, events, |event| event.step);
                log(&mut snapshot.samples, samples, |sample| sample.step);
            });
        }
        Ok(more)
    }

    /// Looks for new records in the streams; whether there are any.
    fn poll_streams(&mut self) -> Result<bool, RecordError> {
        let streams = self.streams.clone();
        let routing = self.poll(&streams.routing)?;
        let routers = self.poll(&streams.routers)?;
        let transitions = self.poll(&streams.transitions)?;
        let memory = self.poll(&streams.memory)?;
        if !routing.is_empty() {
            self.learn_shape();
        }
        // What the routers' rows say of a step goes into the same history.
        let routing_steps = self.load_steps.take(&routing, &read(&streams.routing));
        if routing_steps.is_none()
            || routers
                .keep_below
                .is_some_and(|step| self.load_steps.reaches(step))
        {
            let mut loads = write(&self.run.loads);
            loads.clear();
            loads.add(self.load_steps.again(&read(&streams.routing)));
        } else if let Some(steps) = routing_steps.filter(|steps| !steps.is_empty()) {
            write(&self.run.loads).add(steps);
        }
        match self.memory_steps.take(&memory, &read(&streams.memory)) {
            Some(mut steps) => {
                steps.reverse();
                steps.append(&mut self.memory_due);
                self.memory_due = steps;
            }
            None => {
                *write(&self.run.memory) = Default::default();
                self.memory_due = self.memory_steps.again(&read(&streams.memory));
                self.memory_due.reverse();
            }
        }
        let empty =
            routing.is_empty() && routers.is_empty() && transitions.is_empty() && memory.is_empty();
        Ok(!empty)
    }

    /// Polls a stream.
    fn poll<R: StreamRow>(
        &self,
        stream: &RwLock<StreamReader<R>>,
    ) -> Result<Update<u64>, RecordError> {
        let mut stream = write(stream);
        let latest = stream.latest();
        let update = stream.poll()?;
        let first = update
            .keep_below
            .into_iter()
            .chain(update.rows.first().copied())
            .min();
        if latest.is_some_and(|latest| first.is_some_and(|first| first <= latest)) {
            self.run.epoch.fetch_add(1, Ordering::AcqRel);
        }
        Ok(update)
    }

    /// Learns from the newest record which routers there are.
    fn learn_shape(&self) {
        let stream = read(&self.streams.routing);
        // A record that is damaged says nothing; the one before it may.
        let newest = stream
            .steps()
            .rev()
            .take(8)
            .find_map(|step| LoadRecord::read(&stream, step).ok());
        drop(stream);
        if let Some(record) = newest {
            write(&self.run.loads).lay_out(&record.layout);
        }
    }

    /// Reads records into the histories for a while; whether there are more.
    fn fill(&mut self) -> bool {
        let begin = Instant::now();
        // Both get on: memory has fewer records than routing, and takes turns with it.
        while begin.elapsed() < SLICE {
            let memory = self.fill_memory();
            let loads = self.fill_loads();
            if !memory && !loads {
                return false;
            }
            self.news = true;
        }
        true
    }

    fn fill_memory(&mut self) -> bool {
        let Some(step) = self.memory_due.pop() else {
            return false;
        };
        let record = MemoryRecord::read(&read(&self.streams.memory), step);
        let mut memory = write(&self.run.memory);
        memory.due = self.memory_due.len() as u64;
        // One that cannot be read leaves its gap; asking for its step says why.
        if let Ok(record) = record {
            memory.push(step, &record);
        }
        true
    }

    fn fill_loads(&mut self) -> bool {
        let Some((at, step)) = write(&self.run.loads).next() else {
            return false;
        };
        let record = LoadRecord::read(&read(&self.streams.routing), step);
        let routers = self.streams.router_rows(step);
        let mut loads = write(&self.run.loads);
        loads.take(
            at,
            record.as_ref().ok().map(|record| (record, &routers[..])),
        );
        true
    }

    /// Looks into the manifest again; whether it says something new.
    fn refresh(&mut self) -> Result<bool, RecordError> {
        let manifest = self.reader.refresh()?.clone();
        let liveness = Liveness::of(&manifest);
        let known = self.run.snapshot();
        let resumed = known
            .manifest
            .as_ref()
            .is_none_or(|known| known.segment != manifest.segment);
        let same = known.manifest.as_deref() == Some(&manifest) && known.liveness == Some(liveness);
        if same && known.problem.is_none() {
            return Ok(false);
        }
        publish(self.run, |snapshot| {
            if resumed {
                snapshot.config = self.reader.config().unwrap_or_default().into();
                snapshot.plan = self.reader.plan().unwrap_or_default().map(Arc::new);
            }
            snapshot.manifest = Some(Arc::new(manifest));
            snapshot.liveness = Some(liveness);
            snapshot.problem = None;
        });
        Ok(true)
    }

    /// Makes what was read known.
    fn publish(&mut self, busy: bool) {
        let known = self.run.snapshot();
        let checkpoints = self.reader.checkpoints().unwrap_or_default();
        let traces = self.reader.trace_steps().unwrap_or_default();
        if traces[..] != known.traces[..]
            && !known.traces.is_empty()
            && !traces.starts_with(&known.traces)
        {
            self.run.epoch.fetch_add(1, Ordering::AcqRel);
        }
        let (loads, memory) = (self.run.loads(), self.run.memory());
        let plan = match &known.plan {
            // Written after the run began.
            None => self.reader.plan().unwrap_or_default().map(Arc::new),
            plan => plan.clone(),
        };
        let shape = Shape {
            routers: loads
                .layout
                .routers
                .iter()
                .map(|&(router, experts, _)| (router, experts))
                .collect(),
            k: self.reader.manifest().info.model.experts_per_token,
        };
        let loading = if busy {
            Loading::Reading {
                read: loads.read as u64 + memory.records,
                of: loads.steps.len() as u64 + memory.records + memory.due,
            }
        } else {
            Loading::Complete
        };
        drop((loads, memory));
        let metrics = self.run.metrics();
        let (names, steps) = (metrics.names(), metrics.steps);
        drop(metrics);
        publish(self.run, |snapshot| {
            snapshot.checkpoints = checkpoints.iter().map(|(step, _)| *step).collect();
            snapshot.metrics = names.into();
            snapshot.steps = steps;
            snapshot.plan = plan;
            snapshot.routing = steps_of(&self.streams.routing);
            snapshot.transitions = steps_of(&self.streams.transitions);
            snapshot.memory = steps_of(&self.streams.memory);
            snapshot.traces = traces.into();
            if *snapshot.shape != shape {
                snapshot.shape = Arc::new(shape);
            }
            snapshot.loading = loading;
            let lines = [
                ("metrics.jsonl", self.metrics.bad_lines()),
                ("events.jsonl", self.events.bad_lines()),
                ("samples.jsonl", self.samples.bad_lines()),
            ];
            snapshot.notes = Arc::new(notes(snapshot, &self.streams, &lines));
        });
    }
}

/// Adds lines to a log and keeps the newest.
fn log<T: Clone>(log: &mut Arc<Vec<T>>, update: Update<T>, step: impl Fn(&T) -> u64) {
    if update.is_empty() {
        return;
    }
    let log = Arc::make_mut(log);
    update.apply(log, step);
    let old = log.len().saturating_sub(LOG);
    log.drain(..old);
}
