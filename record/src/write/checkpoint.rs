use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::atomic::{remove_leftovers, sync_directory, sync_parent, sync_tree};
use crate::layout::{CHECKPOINTS, TEMPORARY, checkpoint_path};
use crate::{RecordError, Result};

/// An older checkpoint of a step that is being replaced starts with this.
const REPLACED: &str = ".tmp-replaced-";

/// A checkpoint being written: invisible to every reader until [`commit`](Self::commit).
///
/// Made by [`RunWriter::begin_checkpoint`](crate::RunWriter::begin_checkpoint). It may move to
/// another thread, but should end before the [`RunWriter`](crate::RunWriter) does, whose lock
/// guards it. Dropped without a commit (an error, a full disk), what was written is removed
/// and the last good checkpoint stays.
#[derive(Debug)]
pub struct PendingCheckpoint {
    step: u64,
    aside: PathBuf,
    finished: PathBuf,
    committed: bool,
}

impl PendingCheckpoint {
    pub(crate) fn begin(run: &Path, step: u64) -> Result<Self> {
        let finished = checkpoint_path(run, step);
        let directory = run.join(CHECKPOINTS);
        fs::create_dir_all(&directory).map_err(RecordError::io("create", &directory))?;
        // A counter, because one process may write the same step twice at the same time.
        let mut attempt = 0u32;
        let aside = loop {
            let aside = directory.join(format!(
                "{TEMPORARY}{step:08}-{}-{attempt}",
                std::process::id()
            ));
            match fs::create_dir(&aside) {
                Ok(()) => break aside,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => attempt += 1,
                Err(error) => return Err(RecordError::io("create", &aside)(error)),
            }
        };
        Ok(Self {
            step,
            aside,
            finished,
            committed: false,
        })
    }

    /// Optimizer steps taken.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The directory to write the checkpoint's files into.
    pub fn path(&self) -> &Path {
        &self.aside
    }

    /// Syncs every file and gives the checkpoint its name, replacing an older one of the same step.
    /// Returns its final path.
    ///
    /// # Errors
    ///
    /// [`RecordError::Io`] when the disk is full or refuses; then nothing changed but that this
    /// checkpoint is gone.
    pub fn commit(mut self) -> Result<PathBuf> {
        sync_tree(&self.aside)?;
        let older = self
            .finished
            .with_file_name(format!("{REPLACED}{:08}", self.step));
        // A directory cannot be renamed over a full one: the older one steps aside, under a name
        // from which `recover` brings it back should we be killed in between.
        let replaces = match fs::rename(&self.finished, &older) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(RecordError::io("replace", &self.finished)(error)),
        };
        if let Err(error) = fs::rename(&self.aside, &self.finished) {
            if replaces {
                let _ = fs::rename(&older, &self.finished);
            }
            return Err(RecordError::io("rename", &self.aside)(error));
        }
        self.committed = true;
        sync_parent(&self.finished)?;
        if replaces {
            // Left behind it only takes room until the next start.
            let _ = fs::remove_dir_all(&older);
        }
        Ok(self.finished.clone())
    }
}

impl Drop for PendingCheckpoint {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_dir_all(&self.aside);
        }
    }
}

/// Removes a checkpoint; it stops being visible at once and as a whole.
pub(crate) fn remove_checkpoint(run: &Path, step: u64) -> Result<()> {
    let path = checkpoint_path(run, step);
    let aside = path.with_file_name(format!(
        "{TEMPORARY}removed-{step:08}-{}",
        std::process::id()
    ));
    fs::rename(&path, &aside).map_err(RecordError::io("remove", &path))?;
    fs::remove_dir_all(&aside).map_err(RecordError::io("remove", &aside))
}

/// Puts right what a killed writer left among the checkpoints. The caller holds the run's lock.
pub(crate) fn recover(run: &Path) {
    let directory = run.join(CHECKPOINTS);
    for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let step = name
            .to_str()
            .and_then(|name| name.strip_prefix(REPLACED)?.parse().ok());
        if let Some(step) = step {
            let finished = checkpoint_path(run, step);
            if !finished.exists() {
                let _ = fs::rename(entry.path(), finished);
            }
        }
    }
    remove_leftovers(&directory);
    let _ = sync_directory(&directory);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list_checkpoints;

    fn steps(run: &Path) -> Vec<u64> {
        list_checkpoints(run)
            .unwrap()
            .into_iter()
            .map(|(step, _)| step)
            .collect()
    }

    fn write(run: &Path, step: u64, weights: &str) -> PendingCheckpoint {
        let pending = PendingCheckpoint::begin(run, step).unwrap();
        fs::write(pending.path().join("model.safetensors"), weights).unwrap();
        pending
    }

    fn weights(run: &Path, step: u64) -> String {
        fs::read_to_string(checkpoint_path(run, step).join("model.safetensors")).unwrap()
    }

    #[test]
    fn a_checkpoint_is_seen_whole_or_not_at_all() {
        let run = tempfile::tempdir().unwrap();
        let run = run.path();
        let pending = write(run, 40, "a");
        assert!(steps(run).is_empty());
        pending.commit().unwrap();
        assert_eq!(steps(run), [40]);
        drop(write(run, 80, "never committed"));
        assert_eq!(steps(run), [40]);
        assert_eq!(fs::read_dir(run.join(CHECKPOINTS)).unwrap().count(), 1);
        write(run, 9, "b").commit().unwrap();
        assert_eq!(steps(run), [9, 40]);
        remove_checkpoint(run, 9).unwrap();
        assert_eq!(steps(run), [40]);
        assert!(remove_checkpoint(run, 9).is_err());
    }

    #[test]
    fn replacing_a_checkpoint_and_being_killed_halfway_keeps_one_of_the_two() {
        let run = tempfile::tempdir().unwrap();
        let run = run.path();
        write(run, 40, "old").commit().unwrap();
        let kept = write(run, 40, "new");
        assert_eq!(weights(run, 40), "old");
        kept.commit().unwrap();
        assert_eq!(weights(run, 40), "new");

        // The state between the two renames, as a kill leaves it.
        let older = run.join(CHECKPOINTS).join(format!("{REPLACED}00000040"));
        fs::rename(checkpoint_path(run, 40), &older).unwrap();
        let half = write(run, 40, "half");
        std::mem::forget(half);
        assert!(steps(run).is_empty());
        recover(run);
        assert_eq!(steps(run), [40]);
        assert_eq!(weights(run, 40), "new");
        assert_eq!(fs::read_dir(run.join(CHECKPOINTS)).unwrap().count(), 1);

        // Killed after both renames: the newer one wins.
        fs::create_dir(&older).unwrap();
        recover(run);
        assert_eq!(weights(run, 40), "new");
        assert!(!older.exists());
    }
}
