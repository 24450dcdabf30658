use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use time::OffsetDateTime;

use super::RunReader;
use crate::layout::{CHECKPOINTS, MANIFEST, parse_checkpoint};
use crate::{Liveness, RecordError, Result};

/// The runs of a directory.
#[derive(Debug, Default)]
pub struct RunList {
    /// Those that can be read, newest first.
    pub runs: Vec<RunSummary>,
    /// Those that cannot, and why.
    pub unreadable: Vec<(PathBuf, RecordError)>,
}

/// A run in one line.
#[derive(Clone, Debug, PartialEq)]
pub struct RunSummary {
    /// The run's directory.
    pub path: PathBuf,
    /// The directory's name.
    pub name: String,
    /// The run's identity, whatever its directory is called.
    pub run_id: String,
    /// What it is doing.
    pub liveness: Liveness,
    /// Optimizer steps taken.
    pub step: u64,
    /// Optimizer steps to take in all.
    pub total_steps: u64,
    /// The last step's loss; `None` when there was none or it was not finite.
    pub loss: Option<f64>,
    /// The last validation loss.
    pub validation_loss: Option<f64>,
    /// The last step's throughput.
    pub tokens_per_second: Option<f64>,
    /// When it was made.
    pub created: OffsetDateTime,
    /// When its writer last gave a sign of life.
    pub heartbeat: OffsetDateTime,
    /// The device's name.
    pub device: String,
    /// The model's `model_type`.
    pub model_type: String,
}

/// Whether a directory is a run.
pub fn is_run(path: &Path) -> bool {
    path.join(MANIFEST).is_file()
}

/// The runs directly under `root`; none when there is no such directory yet. Directories that are
/// no runs are passed over.
///
/// # Errors
///
/// [`RecordError::Io`] when `root` itself cannot be read.
pub fn list_runs(root: &Path) -> Result<RunList> {
    let mut list = RunList::default();
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(list),
        Err(error) => return Err(RecordError::io("read", root)(error)),
    };
    for entry in entries {
        let path = entry.map_err(RecordError::io("read", root))?.path();
        if !is_run(&path) {
            continue;
        }
        match summary(&path) {
            Ok(run) => list.runs.push(run),
            Err(error) => list.unreadable.push((path, error)),
        }
    }
    list.runs
        .sort_by(|a, b| (b.created, &a.name).cmp(&(a.created, &b.name)));
    list.unreadable.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(list)
}

fn summary(path: &Path) -> Result<RunSummary> {
    let run = RunReader::open(path)?;
    let manifest = run.manifest();
    let mut summary = RunSummary {
        path: path.to_owned(),
        name: path.file_name().map_or_else(
            || manifest.name.clone(),
            |name| name.to_string_lossy().into_owned(),
        ),
        run_id: manifest.run_id.clone(),
        liveness: run.liveness(),
        step: manifest.progress.step,
        total_steps: manifest.info.total_steps,
        loss: manifest.progress.loss,
        validation_loss: manifest.progress.validation_loss,
        tokens_per_second: manifest.progress.tokens_per_second,
        created: manifest.created,
        heartbeat: manifest.heartbeat,
        device: manifest.info.device.name.clone(),
        model_type: manifest.info.model.model_type.clone(),
    };
    // A killed writer's manifest is up to two seconds behind its metrics.
    if let Some(last) = run.last_metrics(1)?.pop()
        && last.step > summary.step
    {
        let finite = |value: f64| value.is_finite().then_some(value);
        summary.step = last.step;
        summary.loss = finite(last.loss);
        summary.tokens_per_second = finite(last.tokens_per_second);
        if let Some(loss) = last.validation_loss {
            summary.validation_loss = finite(loss);
        }
    }
    Ok(summary)
}

/// The complete checkpoints of a run, by step, ascending. Those being written have no name yet.
///
/// # Errors
///
/// [`RecordError::Io`] when the directory is there but cannot be read.
pub fn list_checkpoints(run: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let directory = run.join(CHECKPOINTS);
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(RecordError::io("read", &directory)(error)),
    };
    let mut checkpoints = Vec::new();
    for entry in entries {
        let entry = entry.map_err(RecordError::io("read", &directory))?;
        let step = entry.file_name().to_str().and_then(parse_checkpoint);
        if let Some(step) = step
            && entry.path().is_dir()
        {
            checkpoints.push((step, entry.path()));
        }
    }
    checkpoints.sort();
    Ok(checkpoints)
}
