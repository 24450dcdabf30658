use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::layout::LOCK;
use crate::{RecordError, Result};

/// Keeps a run to one writer. The system releases it when the process ends, however it ends.
pub(crate) struct RunLock {
    file: File,
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // Closing the file is not enough: a process that another thread is about to start holds a
        // copy of it until its program begins, and the lock with it.
        let _ = self.file.unlock();
    }
}

impl RunLock {
    pub(crate) fn take(run: &Path) -> Result<Self> {
        let path = run.join(LOCK);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(RecordError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Where a lock also keeps readers out (Windows), the holder stays unnamed.
                let pid = file
                    .read_to_string(&mut text)
                    .ok()
                    .and_then(|_| text.trim().parse().ok());
                return Err(RecordError::InUse {
                    path: run.to_owned(),
                    pid,
                });
            }
            Err(TryLockError::Error(error)) => return Err(RecordError::io("lock", &path)(error)),
        }
        // Only tells others who holds the lock; a full disk must not prevent a resume.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { file })
    }
}

#[cfg(test)]
mod tests {
    use super::RunLock;

    #[test]
    fn a_copy_of_the_file_does_not_hold_a_lock_that_was_dropped() {
        let root = tempfile::tempdir().unwrap();
        let lock = RunLock::take(root.path()).unwrap();
        // What a process started meanwhile inherits.
        let copy = lock.file.try_clone().unwrap();
        assert!(RunLock::take(root.path()).is_err());
        drop(lock);
        drop(RunLock::take(root.path()).unwrap());
        drop(copy);
    }
}
