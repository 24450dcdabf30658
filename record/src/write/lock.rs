use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use crate::layout::LOCK;
use crate::{RecordError, Result};

/// Keeps a run to one writer. The system releases it when the process ends, however it ends.
pub(crate) struct RunLock {
    _file: File,
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
        Ok(Self { _file: file })
    }
}
