mod cache;
mod columns;
mod follow;
mod handed;
pub(crate) mod load_history;
pub(crate) mod load_record;
pub(crate) mod memory_history;
pub(crate) mod memory_record;
mod notes;
mod pool;
pub(crate) mod run;
pub(crate) mod series;
mod snapshot;
pub(crate) mod trace_record;
pub(crate) mod transition_record;

use std::any::TypeId;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

pub use snapshot::{Loading, Note, RunSnapshot, Severity, Shape};

use self::cache::Cache;
use self::pool::Pool;
use self::run::{Run, lock, read, write};
use crate::{Answer, Asked, Cost, Gap, Query};

/// Called from other threads when there is something new to show.
pub type Notify = Arc<dyn Fn() + Send + Sync>;

/// A run of a [`Store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(pub(crate) u32);

/// The kinds of records that not every run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Routing,
    Transitions,
    Memory,
    Traces,
}

impl Stream {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Routing => "the routing of experts",
            Self::Transitions => "transitions between experts",
            Self::Memory => "the memory ledger",
            Self::Traces => "the trace of probe tokens",
        }
    }
}

/// How a [`Store`] works.
#[derive(Clone)]
pub struct Options {
    /// Bytes that histories and remembered answers may take together. Histories get coarser and answers are
    /// forgotten rather than that it is passed. Raised to 32 MiB where it is less.
    pub memory_limit: u64,
    /// Called when there is something new: a live run got longer, an answer is ready.
    pub notify: Notify,
}

impl Options {
    /// 512 MiB.
    pub const MEMORY_LIMIT: u64 = 512 << 20;
}

impl Default for Options {
    fn default() -> Self {
        Self {
            memory_limit: Self::MEMORY_LIMIT,
            notify: Arc::new(|| {}),
        }
    }
}

const LEAST_MEMORY: u64 = 32 << 20;

/// How long [`Store::answer`] waits for a run's files to be looked through.
const OPENING: Duration = Duration::from_secs(60);

/// What a [`Store`] holds, bytes, as far as it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// Histories of the open runs: curves, loads and memory over time.
    pub histories: u64,
    /// Remembered records and answers.
    pub answers: u64,
    /// What both may take together.
    pub limit: u64,
}

/// Runs, kept up to date, and what was answered about them. A clone is another handle to the same store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    options: Options,
    runs: RwLock<Vec<Arc<Run>>>,
    next: AtomicU32,
    cache: Mutex<Cache>,
    /// Questions that a thread is at work on.
    working: Mutex<HashSet<(TypeId, u64)>>,
    pool: Pool,
}

impl Inner {
    /// Bytes that one run's loads over time may take: half the limit, shared by the open runs.
    fn share_of_loads(&self) -> u64 {
        self.options.memory_limit / 2 / read(&self.runs).len().max(1) as u64
    }

    /// What histories leave for answers; at least an eighth.
    fn left_for_answers(&self) -> u64 {
        let histories: u64 = read(&self.runs).iter().map(|run| run.bytes()).sum();
        let limit = self.options.memory_limit;
        limit.saturating_sub(histories).max(limit / 8)
    }
}

/// Takes a question off the list of those at work, whatever ends the work.
struct Working {
    store: std::sync::Weak<Inner>,
    question: (TypeId, u64),
}

impl Drop for Working {
    fn drop(&mut self) {
        if let Some(store) = self.store.upgrade() {
            lock(&store.working).remove(&self.question);
        }
    }
}

impl Store {
    /// An empty store.
    pub fn new(mut options: Options) -> Self {
        options.memory_limit = options.memory_limit.max(LEAST_MEMORY);
        let inner = Arc::new(Inner {
            options,
            runs: RwLock::default(),
            next: AtomicU32::new(0),
            cache: Mutex::default(),
            working: Mutex::default(),
            pool: Pool::default(),
        });
        inner.pool.start(&Arc::downgrade(&inner));
        Self { inner }
    }

    /// Begins to follow the run in a directory, and returns at once. A path that is no run, or not yet, is looked at
    /// again every second; the snapshot's `problem` says what is wrong. A path that is open already keeps its id.
    pub fn open(&self, path: &Path) -> RunId {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut runs = write(&self.inner.runs);
        if let Some(run) = runs.iter().find(|run| run.path == path) {
            return run.id;
        }
        let id = RunId(self.inner.next.fetch_add(1, Ordering::Relaxed));
        let name = name_of(&path, &runs);
        let run = Arc::new(Run::new(id, path, name));
        runs.push(run.clone());
        drop(runs);
        let store = Arc::downgrade(&self.inner);
        std::thread::spawn(move || follow::follow(&run, &store));
        id
    }

    /// Forgets a run. Questions about it then end in a gap.
    pub fn close(&self, run: RunId) {
        let mut runs = write(&self.inner.runs);
        if let Some(at) = runs.iter().position(|open| open.id == run) {
            runs.remove(at).closed.store(true, Ordering::Release);
        }
    }

    /// The open runs, in the order of opening.
    pub fn runs(&self) -> Vec<RunId> {
        read(&self.inner.runs).iter().map(|run| run.id).collect()
    }

    /// What is known of a run now. Cheap: ask each frame.
    pub fn run(&self, run: RunId) -> Option<Arc<RunSnapshot>> {
        self.find(run).ok().map(|run| run.snapshot())
    }

    /// Grows with every change of what is known of a run.
    pub fn revision(&self, run: RunId) -> u64 {
        self.find(run).map_or(0, |run| run.revision())
    }

    /// Waits until everything that is recorded was read, histories included, or the run cannot be read, or time is
    /// up: for programs that draw once. `true` if everything was read.
    pub fn wait(&self, run: RunId, most: Duration) -> bool {
        let Ok(run) = self.find(run) else {
            return false;
        };
        let done = |snapshot: &RunSnapshot| {
            snapshot.problem.is_some() || snapshot.loading == Loading::Complete
        };
        run.wait_until(most, done) && run.snapshot().problem.is_none()
    }

    /// Answers now, in the calling thread; waits for the run's files to be looked through first.
    ///
    /// # Errors
    ///
    /// A [`Gap`] where there is no answer.
    pub fn answer<Q: Query>(&self, query: &Q) -> Result<Arc<Q::Answer>, Gap> {
        for run in query.runs() {
            let run = self.find(run)?;
            run.wait_until(OPENING, |_| run.is_open());
        }
        self.make(query)
    }

    /// Answers without waiting: at once what is remembered or costs less than a frame, and in a thread of its own the
    /// rest. Ask each frame; the store notifies when there is something new.
    pub fn ask<Q: Query>(&self, query: &Q) -> Asked<Q::Answer> {
        let revision = self.revision_of(query);
        let known = lock(&self.inner.cache).get::<Q, Result<Arc<Q::Answer>, Gap>>(query);
        let known = known.map(|(answer, made)| ((*answer).clone(), made == revision));
        if let Some((answer, true)) = known {
            return Asked {
                answer: Some(answer),
                pending: false,
            };
        }
        let runs: Result<Vec<_>, Gap> =
            query.runs().into_iter().map(|run| self.find(run)).collect();
        let open = match &runs {
            Ok(runs) => runs.iter().all(|run| run.is_open()),
            Err(gap) => {
                return Asked {
                    answer: Some(Err(gap.clone())),
                    pending: false,
                };
            }
        };
        if !open {
            return Asked {
                answer: Some(Err(Gap::Opening { what: "the run" })),
                pending: true,
            };
        }
        if query.cost() == Cost::Frame {
            return Asked {
                answer: Some(self.make(query)),
                pending: false,
            };
        }
        self.work_on(query);
        Asked {
            answer: known.map(|(answer, _)| answer),
            pending: true,
        }
    }

    /// What the store holds.
    pub fn memory(&self) -> MemoryUse {
        MemoryUse {
            histories: read(&self.inner.runs).iter().map(|run| run.bytes()).sum(),
            answers: lock(&self.inner.cache).bytes(),
            limit: self.inner.options.memory_limit,
        }
    }

    fn work_on<Q: Query>(&self, query: &Q) {
        let mut hasher = DefaultHasher::new();
        query.hash(&mut hasher);
        let question = (TypeId::of::<Q>(), hasher.finish());
        if !lock(&self.inner.working).insert(question) {
            return;
        }
        let working = Working {
            store: Arc::downgrade(&self.inner),
            question,
        };
        let query = query.clone();
        self.inner.pool.push(Box::new(move |inner| {
            let store = Store { inner };
            // What it is worth is in the cache now.
            _ = store.make(&query);
            drop(working);
            (store.inner.options.notify)();
        }));
    }

    /// Answers in this thread, and remembers.
    fn make<Q: Query>(&self, query: &Q) -> Result<Arc<Q::Answer>, Gap> {
        // Before the answer: what changes meanwhile makes it outdated, not wrong.
        let revision = self.revision_of(query);
        let answer = query.answer(self).map(Arc::new);
        let bytes = answer.as_ref().map_or(64, |answer| answer.bytes());
        let limit = self.inner.left_for_answers();
        lock(&self.inner.cache).put(
            query.clone(),
            Arc::new(answer.clone()),
            bytes,
            revision,
            limit,
        );
        answer
    }

    /// Reads a record, or remembers it.
    pub(crate) fn record<K, V>(
        &self,
        key: K,
        epoch: u64,
        make: impl FnOnce() -> Result<V, Gap>,
        bytes: impl FnOnce(&V) -> usize,
    ) -> Result<Arc<V>, Gap>
    where
        K: Eq + Hash + Send + 'static,
        V: Send + Sync + 'static,
    {
        if let Some((value, made)) = lock(&self.inner.cache).get::<K, V>(&key)
            && made == epoch
        {
            return Ok(value);
        }
        let value = Arc::new(make()?);
        let limit = self.inner.left_for_answers();
        lock(&self.inner.cache).put(key, value.clone(), bytes(&value), epoch, limit);
        Ok(value)
    }

    /// A run by its id.
    pub(crate) fn find(&self, run: RunId) -> Result<Arc<Run>, Gap> {
        let runs = read(&self.inner.runs);
        let found = runs.iter().find(|open| open.id == run).cloned();
        found.ok_or_else(|| Gap::NoSuch {
            what: "such run".to_owned(),
            range: "it was closed".to_owned(),
        })
    }

    fn revision_of<Q: Query>(&self, query: &Q) -> u64 {
        query.runs().into_iter().map(|run| self.revision(run)).sum()
    }
}

/// A name that no other open run has.
fn name_of(path: &Path, runs: &[Arc<Run>]) -> String {
    let part = |path: &Path| {
        path.file_name()
            .map(|name| name.to_string_lossy().into_owned())
    };
    let name = part(path).unwrap_or_else(|| path.display().to_string());
    let taken = |name: &str| runs.iter().any(|run| run.snapshot().name == name);
    if !taken(&name) {
        return name;
    }
    let longer = match path.parent().and_then(part) {
        Some(parent) => format!("{parent}/{name}"),
        None => name,
    };
    if !taken(&longer) {
        return longer;
    }
    path.display().to_string()
}
