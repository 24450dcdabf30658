use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use std::time::{Duration, Instant};

use bellows_record::{
    MemoryRow, RouterRow, RoutingRow, RunReader, StreamReader, StreamRow, TransitionRow,
};

use super::load_history::LoadHistory;
use super::memory_history::MemoryHistory;
use super::series::Metrics;
use super::snapshot::{Loading, RunSnapshot};
use super::{RunId, Stream};
use crate::{Gap, RouterId};

/// The readers of a run's streams, shared by the thread that follows it and by those that answer.
pub(crate) struct Streams {
    pub(crate) reader: RunReader,
    pub(crate) routing: RwLock<StreamReader<RoutingRow>>,
    pub(crate) routers: RwLock<StreamReader<RouterRow>>,
    pub(crate) transitions: RwLock<StreamReader<TransitionRow>>,
    pub(crate) memory: RwLock<StreamReader<MemoryRow>>,
}

impl Streams {
    pub(super) fn new(reader: RunReader) -> Self {
        Self {
            routing: RwLock::new(reader.routing()),
            routers: RwLock::new(reader.routers()),
            transitions: RwLock::new(reader.transitions()),
            memory: RwLock::new(reader.memory()),
            reader,
        }
    }

    /// What the routers' own rows say of a step; nothing where they cannot be read.
    pub(crate) fn router_rows(&self, step: u64) -> Vec<RouterRow> {
        read(&self.routers).read(step).unwrap_or_default()
    }
}

/// The order of a layer's experts by similarity, and how much of the history it was made from.
pub(super) type ClusterOrder = (usize, Arc<Vec<u32>>);

/// A run of the store: what the thread that follows it knows.
pub(crate) struct Run {
    pub(crate) id: RunId,
    pub(crate) path: PathBuf,
    pub(super) snapshot: RwLock<Arc<RunSnapshot>>,
    pub(super) streams: RwLock<Option<Arc<Streams>>>,
    pub(super) metrics: RwLock<Metrics>,
    pub(super) loads: RwLock<LoadHistory>,
    pub(super) memory: RwLock<MemoryHistory>,
    pub(crate) clusters: Mutex<BTreeMap<u32, ClusterOrder>>,
    /// Grows with every change.
    pub(super) revision: AtomicU64,
    /// Grows when records that were read before are no longer true.
    pub(super) epoch: AtomicU64,
    pub(super) closed: AtomicBool,
    changed: (Mutex<()>, Condvar),
}

impl Run {
    pub(super) fn new(id: RunId, path: PathBuf, name: String) -> Self {
        Self {
            id,
            snapshot: RwLock::new(Arc::new(RunSnapshot::new(id, path.clone(), name))),
            path,
            streams: RwLock::default(),
            metrics: RwLock::default(),
            loads: RwLock::default(),
            memory: RwLock::default(),
            clusters: Mutex::default(),
            revision: AtomicU64::new(1),
            epoch: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            changed: (Mutex::new(()), Condvar::new()),
        }
    }

    pub(crate) fn snapshot(&self) -> Arc<RunSnapshot> {
        read(&self.snapshot).clone()
    }

    pub(crate) fn metrics(&self) -> RwLockReadGuard<'_, Metrics> {
        read(&self.metrics)
    }

    pub(crate) fn loads(&self) -> RwLockReadGuard<'_, LoadHistory> {
        read(&self.loads)
    }

    pub(crate) fn memory(&self) -> RwLockReadGuard<'_, MemoryHistory> {
        read(&self.memory)
    }

    /// Which state of the run an answer is made from.
    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Which state of what was recorded before a record is made from.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(crate) fn is_open(&self) -> bool {
        let snapshot = self.snapshot();
        snapshot.loading != Loading::Opening || snapshot.problem.is_some()
    }

    /// The readers; a gap while there are none.
    pub(crate) fn streams(&self) -> Result<Arc<Streams>, Gap> {
        match &*read(&self.streams) {
            Some(streams) => Ok(streams.clone()),
            None => Err(self
                .snapshot()
                .problem
                .clone()
                .unwrap_or(Gap::Opening { what: "the run" })),
        }
    }

    /// The record of a stream that a cursor at `step` shows.
    pub(crate) fn record_at(&self, stream: Stream, step: u64) -> Result<u64, Gap> {
        let snapshot = self.snapshot();
        let steps = self.recorded(&snapshot, stream)?;
        RunSnapshot::at_or_before(steps, step).ok_or_else(|| Gap::TooEarly {
            what: stream.words().to_owned(),
            step,
            first: steps[0],
        })
    }

    /// A stream's recorded steps, or why there are none.
    pub(crate) fn recorded<'a>(
        &self,
        snapshot: &'a RunSnapshot,
        stream: Stream,
    ) -> Result<&'a [u64], Gap> {
        let steps = match stream {
            Stream::Routing => &snapshot.routing,
            Stream::Transitions => &snapshot.transitions,
            Stream::Memory => &snapshot.memory,
            Stream::Traces => &snapshot.traces,
        };
        if steps.is_empty() {
            return Err(snapshot.not_recorded(stream));
        }
        Ok(steps)
    }

    /// Makes sure that there is such a router; the number of its experts.
    pub(crate) fn experts(&self, router: RouterId) -> Result<u32, Gap> {
        let snapshot = self.snapshot();
        snapshot.shape.experts(router).ok_or_else(|| {
            if snapshot.shape.routers.is_empty() {
                return snapshot.not_recorded(Stream::Routing);
            }
            let layers = snapshot.shape.layers();
            Gap::NoSuch {
                what: format!("router at {router}"),
                range: format!(
                    "layers {} to {} have experts, with {} iterations",
                    layers.first().copied().unwrap_or(0),
                    layers.last().copied().unwrap_or(0),
                    layers
                        .iter()
                        .map(|&layer| snapshot.shape.iterations(layer))
                        .max()
                        .unwrap_or(0)
                ),
            }
        })
    }

    /// Bytes of the histories.
    pub(super) fn bytes(&self) -> u64 {
        (self.metrics().bytes() + self.loads().bytes() + self.memory().bytes()) as u64
    }

    /// Wakes those who wait for news.
    pub(super) fn announce(&self) {
        self.revision.fetch_add(1, Ordering::AcqRel);
        let _guard = lock(&self.changed.0);
        self.changed.1.notify_all();
    }

    /// Waits until `enough`, or until time is up. Returns whether it was enough.
    pub(super) fn wait_until(&self, most: Duration, enough: impl Fn(&RunSnapshot) -> bool) -> bool {
        let end = Instant::now() + most;
        let mut guard = lock(&self.changed.0);
        loop {
            if enough(&self.snapshot()) {
                return true;
            }
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                return false;
            };
            guard = self
                .changed
                .1
                .wait_timeout(guard, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

pub(crate) fn read<T>(shared: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    shared.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(shared: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    shared.write().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Steps of a stream, as of its last poll.
pub(super) fn steps_of<R: StreamRow>(stream: &RwLock<StreamReader<R>>) -> Arc<[u64]> {
    read(stream).steps().collect()
}
