use std::path::PathBuf;
use std::sync::Arc;

use bellows_record::serde_json::Value;
use bellows_record::{Event, Liveness, Manifest, Sample};

use super::RunId;
use crate::{Gap, RouterId};

/// What is known of a run at one time.
#[derive(Clone, Debug)]
pub struct RunSnapshot {
    /// The run.
    pub id: RunId,
    /// Its directory.
    pub path: PathBuf,
    /// Its name, unique among the open runs: `name`, or `folder/name` where two share one.
    pub name: String,
    /// Why nothing can be read; what was read before then stays.
    pub problem: Option<Gap>,
    /// How far reading has come.
    pub loading: Loading,
    /// The manifest; `None` until it was read.
    pub manifest: Option<Arc<Manifest>>,
    /// What the run is doing.
    pub liveness: Option<Liveness>,
    /// The text of `config.toml`.
    pub config: Arc<str>,
    /// `plan.json`.
    pub plan: Option<Arc<Value>>,
    /// Steps with a checkpoint, ascending.
    pub checkpoints: Arc<[u64]>,
    /// Events, oldest first; of more than 10,000 the newest.
    pub events: Arc<Vec<Event>>,
    /// Samples, oldest first; of more than 10,000 the newest.
    pub samples: Arc<Vec<Sample>>,
    /// Keys of the recorded metrics: the fixed ones in file order, then others by name.
    pub metrics: Arc<[String]>,
    /// Steps with metrics: the first and the last.
    pub steps: Option<(u64, u64)>,
    /// Steps with a record of routing, ascending.
    pub routing: Arc<[u64]>,
    /// Steps with a record of transitions, ascending.
    pub transitions: Arc<[u64]>,
    /// Steps with a record of memory, ascending.
    pub memory: Arc<[u64]>,
    /// Steps with a trace, ascending.
    pub traces: Arc<[u64]>,
    /// Routers and experts.
    pub shape: Arc<Shape>,
    /// What was left out or is missing, and why.
    pub notes: Arc<Vec<Note>>,
}

impl RunSnapshot {
    /// A run of which nothing is known yet.
    pub(super) fn new(id: RunId, path: PathBuf, name: String) -> Self {
        Self {
            id,
            path,
            name,
            problem: None,
            loading: Loading::Opening,
            manifest: None,
            liveness: None,
            config: "".into(),
            plan: None,
            checkpoints: Arc::default(),
            events: Arc::default(),
            samples: Arc::default(),
            metrics: Arc::default(),
            steps: None,
            routing: Arc::default(),
            transitions: Arc::default(),
            memory: Arc::default(),
            traces: Arc::default(),
            shape: Arc::default(),
            notes: Arc::default(),
        }
    }

    /// The first and last step that the time cursor can stand on; `None` before anything was recorded.
    pub fn range(&self) -> Option<(u64, u64)> {
        let lists = [&self.routing, &self.transitions, &self.memory, &self.traces];
        lists
            .into_iter()
            .filter_map(|steps| Some((*steps.first()?, *steps.last()?)))
            .chain(self.steps)
            .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }

    /// The record of a list of steps that a cursor at `step` shows: that step or the last one before it.
    pub fn at_or_before(steps: &[u64], step: u64) -> Option<u64> {
        let after = steps.partition_point(|&recorded| recorded <= step);
        after.checked_sub(1).map(|at| steps[at])
    }
}

/// How far reading of a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loading {
    /// The files are being looked through: what was recorded is not known yet.
    Opening,
    /// Every record can be asked for; histories are being read.
    Reading {
        /// Records read.
        read: u64,
        /// Records in all.
        of: u64,
    },
    /// Everything that is recorded so far was read.
    Complete,
}

/// A run's routers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Every router with its number of experts, by layer and iteration.
    pub routers: Vec<(RouterId, u32)>,
    /// Experts a token chooses in an iteration, as the manifest says; 0 for a dense model.
    pub k: u32,
}

impl Shape {
    /// Layers with experts, ascending.
    pub fn layers(&self) -> Vec<u32> {
        let mut layers: Vec<u32> = self
            .routers
            .iter()
            .map(|(router, _)| router.layer)
            .collect();
        layers.dedup();
        layers
    }

    /// Iterations of a layer.
    pub fn iterations(&self, layer: u32) -> u32 {
        let of_layer = self
            .routers
            .iter()
            .filter(|(router, _)| router.layer == layer);
        of_layer.count() as u32
    }

    /// Experts of a router; `None` where there is no such router.
    pub fn experts(&self, router: RouterId) -> Option<u32> {
        let found = self
            .routers
            .binary_search_by_key(&router, |&(router, _)| router);
        found.ok().map(|at| self.routers[at].1)
    }

    /// The router after `router`: the layer's next iteration, or the next layer's first.
    pub fn after(&self, router: RouterId) -> Option<RouterId> {
        let at = self.routers.partition_point(|&(other, _)| other <= router);
        self.routers.get(at).map(|&(router, _)| router)
    }
}

/// Something about a run's files that a person should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How bad it is.
    pub severity: Severity,
    /// The file, relative to the run.
    pub file: String,
    /// What is wrong or missing, and since where.
    pub text: String,
    /// What follows from it, or what to do.
    pub remedy: String,
}

/// How bad a [`Note`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is wrong; something was simply not recorded.
    Info,
    /// Something is lost, the rest can be read.
    Warning,
}
