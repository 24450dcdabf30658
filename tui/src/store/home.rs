use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bellows_record::control::ask_status;
use bellows_record::{Liveness, RunReader, RunSummary, list_runs};

use super::{Notify, Shared};
use crate::query::progress::seconds_left;

/// Rows of a sparkline, from all over the run.
const SPARK: usize = 64;

/// Newest rows, for the pace.
const NEWEST: usize = 64;

/// Time between two looks at the directory.
const PERIOD: Duration = Duration::from_millis(1000);

/// Time in which a silent run has to say that it lives.
const PATIENCE: Duration = Duration::from_millis(500);

/// The runs under a directory.
#[derive(Debug, Default)]
pub struct HomeData {
    /// Newest first.
    pub runs: Vec<HomeRow>,
    /// Directories that look like runs and cannot be read, and why.
    pub unreadable: Vec<(PathBuf, String)>,
    /// Why the directory itself cannot be read.
    pub trouble: Option<String>,
    /// Whether a first look was taken.
    pub looked: bool,
}

/// A run in the list.
#[derive(Clone, Debug, PartialEq)]
pub struct HomeRow {
    /// What its manifest says.
    pub summary: RunSummary,
    /// Losses from the run's first step to its newest.
    pub losses: Vec<f64>,
    /// Seconds to the run's end at the present pace, while it trains.
    pub seconds_left: Option<f64>,
}

/// Keeps [`HomeData`] up to date until dropped.
#[derive(Debug)]
pub struct HomeFollower {
    /// What it found.
    pub data: Shared<HomeData>,
    stop: Arc<AtomicBool>,
}

impl HomeFollower {
    /// Follows the runs under `root`.
    pub fn start(root: PathBuf, notify: Notify) -> Self {
        let data = Shared::new(HomeData::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (data.clone(), stop.clone());
        std::thread::spawn(move || {
            let mut known = HashMap::new();
            while !stopped.load(Ordering::Relaxed) {
                let found = look(&root, &mut known);
                let changed = {
                    let now = shared.read();
                    !now.looked
                        || now.runs != found.runs
                        || now.unreadable != found.unreadable
                        || now.trouble != found.trouble
                };
                if changed {
                    *shared.write() = found;
                    notify();
                }
                std::thread::sleep(PERIOD);
            }
        });
        Self { data, stop }
    }

    /// A list that nobody follows.
    pub fn of(data: HomeData) -> Self {
        Self {
            data: Shared::new(data),
            stop: Arc::default(),
        }
    }
}

impl Drop for HomeFollower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What was read of a run when it was at some step.
type Known = HashMap<PathBuf, (u64, Vec<f64>, Option<f64>)>;

fn look(root: &Path, known: &mut Known) -> HomeData {
    let mut data = HomeData {
        looked: true,
        ..HomeData::default()
    };
    let list = match list_runs(root) {
        Ok(list) => list,
        Err(error) => {
            data.trouble = Some(error.to_string());
            return data;
        }
    };
    data.unreadable = list
        .unreadable
        .into_iter()
        .map(|(path, error)| (path, error.to_string()))
        .collect();
    known.retain(|path, _| list.runs.iter().any(|run| run.path == *path));
    for mut summary in list.runs {
        // One that cannot write, its disk being full, is silent and trains on.
        if summary.liveness == Liveness::Crashed
            && let Some((liveness, status)) = ask_status(&summary.path, PATIENCE)
        {
            summary.liveness = liveness;
            summary.step = summary.step.max(status.step);
        }
        let entry = known.get(&summary.path);
        if entry.is_none_or(|(step, ..)| *step != summary.step) {
            // A run that vanishes in between is simply not there at the next look.
            let (spread, newest) = RunReader::open(&summary.path)
                .and_then(|run| Ok((run.spread_metrics(SPARK)?, run.last_metrics(NEWEST)?)))
                .unwrap_or_default();
            let losses = spread.iter().chain(newest.last());
            let losses = losses.map(|row| row.loss).collect();
            let left = seconds_left(newest.iter(), summary.total_steps);
            known.insert(summary.path.clone(), (summary.step, losses, left));
        }
        let (_, losses, left) = known[&summary.path].clone();
        data.runs.push(HomeRow {
            seconds_left: left.filter(|_| summary.liveness == Liveness::Running),
            summary,
            losses,
        });
    }
    data
}
