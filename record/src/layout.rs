//! Names inside a run's directory: the one place that knows them.

use std::path::{Path, PathBuf};

pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const CONFIG: &str = "config.toml";
pub(crate) const PLAN: &str = "plan.json";
pub(crate) const METRICS: &str = "metrics.jsonl";
pub(crate) const EVENTS: &str = "events.jsonl";
pub(crate) const SAMPLES: &str = "samples.jsonl";
#[cfg(unix)]
pub(crate) const CONTROL: &str = "control.sock";
pub(crate) const LOCK: &str = "lock";
pub(crate) const TRACES: &str = "traces";
pub(crate) const PROBE: &str = "probe.arrow";
pub(crate) const CHECKPOINTS: &str = "checkpoints";

/// What is being written aside starts with this, so that no reader takes it for finished.
pub(crate) const TEMPORARY: &str = ".tmp-";

/// `routing.0.arrows`
pub(crate) fn stream_file(stream: &str, segment: u32) -> String {
    format!("{stream}.{segment}.arrows")
}

/// The segment of `routing.<segment>.arrows`, if `file` is one of `stream`'s files.
pub(crate) fn stream_segment(file: &str, stream: &str) -> Option<u32> {
    number(
        file.strip_prefix(stream)?
            .strip_prefix('.')?
            .strip_suffix(".arrows")?,
    )
}

/// `00000120.0.arrow`
pub(crate) fn trace_file(step: u64, segment: u32) -> String {
    format!("{step:08}.{segment}.arrow")
}

/// Step and segment of a trace's file name.
pub(crate) fn parse_trace_file(file: &str) -> Option<(u64, u32)> {
    let (step, segment) = file.strip_suffix(".arrow")?.split_once('.')?;
    Some((number(step)?, number(segment)?))
}

/// Where the checkpoint of `step` lies, or will lie, in a run: `checkpoints/00000120`.
///
/// The step has at least eight digits, so that names sort as steps do.
pub fn checkpoint_path(run: &Path, step: u64) -> PathBuf {
    run.join(CHECKPOINTS).join(format!("{step:08}"))
}

/// The step of a finished checkpoint's directory name.
pub(crate) fn parse_checkpoint(name: &str) -> Option<u64> {
    // At least eight digits, no more zeros than needed: a directory that `checkpoint_path` names.
    number(name).filter(|step| format!("{step:08}") == name)
}

// `parse` alone would also take "+7".
fn number<T: std::str::FromStr>(digits: &str) -> Option<T> {
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())?
}
