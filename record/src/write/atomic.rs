//! Files and directories that appear whole or not at all.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::layout::TEMPORARY;
use crate::{RecordError, Result};

/// Replaces `path` by a file with these bytes. On an error the old file stays as it was.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let aside = aside(path);
    let written = File::create(&aside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let moved = match written {
        Ok(()) => fs::rename(&aside, path),
        Err(error) => Err(error),
    };
    if let Err(error) = moved {
        // What could not be finished only takes room; the error that matters is the first one.
        let _ = fs::remove_file(&aside);
        return Err(RecordError::io("write", path)(error));
    }
    sync_parent(path)
}

/// Makes a rename or a new name in `path`'s directory survive a loss of power.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => sync_directory(parent).map_err(RecordError::io("sync", parent)),
        None => Ok(()),
    }
}

/// Syncs a directory's own entries, where the system lets a directory be opened.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(directory)?.sync_all()
    } else {
        Ok(())
    }
}

/// Syncs every file under `directory`, and the directories themselves.
pub(crate) fn sync_tree(directory: &Path) -> Result<()> {
    let entries = fs::read_dir(directory).map_err(RecordError::io("read", directory))?;
    for entry in entries {
        let path = entry.map_err(RecordError::io("read", directory))?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            // Windows syncs only through a handle that may write.
            File::options()
                .read(true)
                .write(cfg!(windows))
                .open(&path)
                .and_then(|file| file.sync_all())
                .map_err(RecordError::io("sync", &path))?;
        }
    }
    sync_directory(directory).map_err(RecordError::io("sync", directory))
}

fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{TEMPORARY}{}-{name}", std::process::id()))
}

/// Removes what a killed writer left half written in `directory`: the caller holds the run's lock,
/// so nobody else writes there.
pub(crate) fn remove_leftovers(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            let path = entry.path();
            // One that cannot be removed harms nobody: readers overlook it.
            let _ = if path.is_dir() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            };
        }
    }
}
