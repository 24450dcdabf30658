//! A run's directory: its name, and what is already in it.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Component, Path, PathBuf};

use super::atomic::sync_parent;
use crate::{Manifest, RecordError, Result};

/// Refuses a name that would not be one plain directory under the root.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let mut parts = Path::new(name).components();
    let why = match (parts.next(), parts.next()) {
        _ if name.is_empty() => "it is empty",
        _ if name.contains(['/', '\\', '\0']) => {
            "a name has no slashes; the directory is given apart"
        }
        _ if name.starts_with('.') => "a name does not begin with a dot",
        _ if name.starts_with('-') => "a name does not begin with a dash",
        _ if name.chars().any(char::is_control) => "it holds a control character",
        // Leaves room for "-2".
        _ if name.len() > 200 => "it is longer than 200 bytes",
        (Some(Component::Normal(_)), None) => return Ok(()),
        _ => "it is not a plain file name",
    };
    Err(RecordError::InvalidName {
        name: name.to_owned(),
        why,
    })
}

/// Makes `root/name`, `root/name-2`, …: the first that is not taken. Returns it and its name.
pub(crate) fn new_directory(root: &Path, name: &str) -> Result<(PathBuf, String)> {
    fs::create_dir_all(root).map_err(RecordError::io("create", root))?;
    let mut number = 1u64;
    loop {
        let candidate = match number {
            1 => name.to_owned(),
            n => format!("{name}-{n}"),
        };
        let run = root.join(&candidate);
        // Making it is the test whether it is taken: two processes never get the same.
        match fs::create_dir(&run) {
            Ok(()) => {
                sync_parent(&run)?;
                return Ok((run, candidate));
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(error) => return Err(RecordError::io("create", &run)(error)),
        }
    }
}

/// One more than any segment the manifest or a stream file knows of.
pub(crate) fn next_segment(run: &Path, manifest: &Manifest) -> Result<u32> {
    let entries = fs::read_dir(run).map_err(RecordError::io("read", run))?;
    let in_files = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        let name = name.to_str()?.strip_suffix(".arrows")?;
        name.rsplit_once('.')?.1.parse().ok()
    });
    let in_manifest = manifest.segments.iter().map(|segment| segment.index);
    Ok(in_files
        .chain(in_manifest)
        .max()
        .map_or(0, |last: u32| last.saturating_add(1)))
}

/// Time, process and a random number: enough to tell runs apart without coordination.
pub(crate) fn run_id() -> String {
    let nanoseconds = time::OffsetDateTime::now_utc().unix_timestamp_nanos();
    let random = RandomState::new().hash_one(std::process::id());
    format!("{nanoseconds:x}-{random:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_of_the_root_are_refused() {
        for name in ["", ".", "..", "a/b", "/a", "a\\b", ".hidden", "-x", "a\nb"] {
            let error = check_name(name).unwrap_err();
            assert!(matches!(error, RecordError::InvalidName { .. }), "{name:?}");
        }
        for name in ["a", "rust-code", "läuft 2", "a.b", "a..b"] {
            check_name(name).unwrap();
        }
    }
}
