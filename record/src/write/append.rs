use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{RecordError, Result};

/// How many bytes wait in memory, a file, for a disk that takes no more.
const WAITING_LIMIT: usize = 16 << 20;

/// A file of the run that grows until the writer ends.
pub(crate) trait Grows {
    /// Writes what waits for a disk that was full.
    fn retry(&mut self) -> Result<()>;
    /// Writes what waits, and returns when the disk holds it.
    fn sync(&mut self) -> Result<()>;
    /// Like `sync`, for the last time.
    fn finish(&mut self) -> Result<()>;
}

/// What an [`Appender`] writes to: a file, or in tests a disk that fills up.
pub(crate) trait Target: Sized + Send {
    /// Opens `path` for appending, and says how long it is and whether it ends in the middle of a line.
    fn open(path: &Path) -> io::Result<(Self, u64, bool)>;
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn cut(&mut self, length: u64) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
}

impl Target for File {
    fn open(path: &Path) -> io::Result<(Self, u64, bool)> {
        // Windows cuts no file that is open for appending alone; there the position does the same.
        let mut file = Self::options()
            .read(true)
            .write(true)
            .append(cfg!(unix))
            .create(true)
            .truncate(false)
            .open(path)?;
        let length = file.metadata()?.len();
        let mut last = [b'\n'];
        if length > 0 && file.metadata()?.is_file() {
            file.seek(SeekFrom::End(-1))?;
            // Leaves the position at the end.
            file.read_exact(&mut last)?;
        }
        Ok((file, length, last != *b"\n"))
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)?;
        self.seek(SeekFrom::End(0)).map(drop)
    }

    fn sync(&mut self) -> io::Result<()> {
        match self.sync_data() {
            // A pipe or device somebody put in the file's place.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            done => done,
        }
    }
}

/// Appends whole records to a file: each is there completely or not at all.
///
/// A record that cannot be written (a full disk) is cut off again, kept, and tried anew before the
/// next one, so that the file stays in order and nothing is lost while there is memory to hold it.
pub(crate) struct Appender<T: Target = File> {
    path: PathBuf,
    target: Option<T>,
    /// Bytes of whole records.
    length: u64,
    /// Whether something else follows those bytes.
    torn: bool,
    /// Whether records are lines: then a new line keeps a torn tail apart that cannot be cut off.
    lines: bool,
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    lost: u64,
}

impl<T: Target> Appender<T> {
    /// The file is made with the first record.
    pub(crate) fn new(path: PathBuf, lines: bool) -> Self {
        Self {
            path,
            target: None,
            length: 0,
            torn: false,
            lines,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            lost: 0,
        }
    }

    /// Makes the file now, so that a directory nobody may write to is known at the start.
    pub(crate) fn open(&mut self) -> Result<()> {
        self.opened()
            .map(|_| ())
            .map_err(RecordError::io("open", &self.path.clone()))
    }

    /// Appends a record, after those that still wait.
    pub(crate) fn append(&mut self, record: Vec<u8>) -> Result<()> {
        if self.waiting_bytes + record.len() > WAITING_LIMIT && !self.waiting.is_empty() {
            // The newest is refused: an Arrow stream is nothing without its first record.
            return match self.write_waiting() {
                Ok(()) => self.append(record),
                Err(cause) => {
                    self.lost += 1;
                    Err(RecordError::RowsLost {
                        path: self.path.clone(),
                        rows: self.lost,
                        cause: Arc::new(cause),
                    })
                }
            };
        }
        self.waiting_bytes += record.len();
        self.waiting.push_back(record);
        Grows::retry(self)
    }

    fn write_waiting(&mut self) -> io::Result<()> {
        while let Some(record) = self.waiting.pop_front() {
            if let Err(error) = self.write(&record) {
                self.waiting.push_front(record);
                return Err(error);
            }
            self.waiting_bytes -= record.len();
        }
        Ok(())
    }

    fn write(&mut self, record: &[u8]) -> io::Result<()> {
        let length = self.length;
        let (torn, lines) = (self.torn, self.lines);
        let target = self.opened()?;
        if torn {
            match target.cut(length) {
                Ok(()) => {}
                Err(_) if lines => target.write(b"\n")?,
                Err(error) => return Err(error),
            }
            self.torn = false;
        }
        let target = self.opened()?;
        if let Err(error) = target.write(record) {
            // A reader shall not wait for the rest of a record that may never come.
            self.torn = target.cut(length).is_err();
            return Err(error);
        }
        self.length += record.len() as u64;
        Ok(())
    }

    fn opened(&mut self) -> io::Result<&mut T> {
        if self.target.is_none() {
            let (mut target, length, torn) = T::open(&self.path)?;
            let mut length = length;
            if torn && self.lines {
                // A killed writer's half line: what it says stays, on a line of its own.
                target.write(b"\n")?;
                length += 1;
            }
            self.length = length;
            self.target = Some(target);
        }
        // Just filled, if it was empty.
        self.target
            .as_mut()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

impl<T: Target> Grows for Appender<T> {
    fn retry(&mut self) -> Result<()> {
        self.write_waiting()
            .map_err(RecordError::io("write", &self.path))
    }

    fn sync(&mut self) -> Result<()> {
        self.retry()?;
        match &mut self.target {
            Some(target) => target.sync().map_err(RecordError::io("sync", &self.path)),
            None => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<()> {
        self.sync()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A disk with room for so many bytes, on which cutting may fail as it does on a device.
    struct Disk {
        bytes: Vec<u8>,
        room: usize,
        cuts: bool,
    }

    static DISK: Mutex<Option<Arc<Mutex<Disk>>>> = Mutex::new(None);

    impl Target for Arc<Mutex<Disk>> {
        fn open(_: &Path) -> io::Result<(Self, u64, bool)> {
            let disk = DISK.lock().unwrap().take().expect("a disk is set");
            let state = disk.lock().unwrap();
            let length = state.bytes.len() as u64;
            let torn = !matches!(state.bytes.last(), None | Some(b'\n'));
            drop(state);
            Ok((disk, length, torn))
        }

        fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
            let mut disk = self.lock().unwrap();
            let fits = bytes.len().min(disk.room - disk.bytes.len());
            disk.bytes.extend_from_slice(&bytes[..fits]);
            if fits < bytes.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            Ok(())
        }

        fn cut(&mut self, length: u64) -> io::Result<()> {
            let mut disk = self.lock().unwrap();
            if !disk.cuts {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            disk.bytes.truncate(length as usize);
            Ok(())
        }

        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    // The disk is handed over through a static, so tests that use it take turns.
    static TURN: Mutex<()> = Mutex::new(());

    fn on_disk(
        start: &[u8],
        room: usize,
        cuts: bool,
        lines: bool,
        test: impl FnOnce(Appender<Arc<Mutex<Disk>>>, Arc<Mutex<Disk>>),
    ) {
        let _turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let disk = Arc::new(Mutex::new(Disk {
            bytes: start.to_vec(),
            room,
            cuts,
        }));
        *DISK.lock().unwrap() = Some(Arc::clone(&disk));
        test(Appender::new("metrics.jsonl".into(), lines), disk);
    }

    fn text(disk: &Arc<Mutex<Disk>>) -> String {
        String::from_utf8(disk.lock().unwrap().bytes.clone()).unwrap()
    }

    #[test]
    fn a_full_disk_leaves_whole_lines_and_gets_the_rest_when_there_is_room_again() {
        on_disk(b"", 10, true, true, |mut file, disk| {
            file.append(b"one\n".to_vec()).unwrap();
            let error = file.append(b"two is long\n".to_vec()).unwrap_err();
            assert!(error.is_disk_full(), "{error}");
            assert_eq!(text(&disk), "one\n");
            assert!(file.append(b"three\n".to_vec()).is_err());
            // "three\n" alone would fit, but lines stay in order.
            assert_eq!(text(&disk), "one\n");
            disk.lock().unwrap().room = 100;
            file.append(b"four\n".to_vec()).unwrap();
            assert_eq!(text(&disk), "one\ntwo is long\nthree\nfour\n");
        });
    }

    #[test]
    fn a_torn_line_that_cannot_be_cut_off_does_not_swallow_the_next_one() {
        on_disk(b"", 10, false, true, |mut file, disk| {
            file.append(b"one\n".to_vec()).unwrap();
            assert!(file.append(b"two is long\n".to_vec()).is_err());
            assert_eq!(text(&disk), "one\ntwo is");
            disk.lock().unwrap().room = 100;
            file.retry().unwrap();
            assert_eq!(text(&disk), "one\ntwo is\ntwo is long\n");
        });
    }

    #[test]
    fn a_stream_whose_tail_cannot_be_cut_off_takes_nothing_more() {
        on_disk(b"", 6, false, false, |mut file, disk| {
            file.append(b"head".to_vec()).unwrap();
            assert!(file.append(b"batch".to_vec()).is_err());
            disk.lock().unwrap().room = 100;
            assert!(file.retry().is_err());
            assert_eq!(text(&disk), "headba");
            disk.lock().unwrap().cuts = true;
            file.retry().unwrap();
            assert_eq!(text(&disk), "headbatch");
        });
    }

    #[test]
    fn a_killed_writers_half_line_gets_a_line_of_its_own() {
        on_disk(b"{\"a\":1}\n{\"a\"", 100, true, true, |mut file, disk| {
            file.append(b"{\"a\":2}\n".to_vec()).unwrap();
            assert_eq!(text(&disk), "{\"a\":1}\n{\"a\"\n{\"a\":2}\n");
        });
    }

    #[test]
    fn what_no_longer_fits_into_memory_is_counted_and_the_oldest_rows_are_kept() {
        on_disk(b"", 0, true, true, |mut file, disk| {
            let line = |byte: u8| {
                let mut line = vec![byte; WAITING_LIMIT / 2 - 1];
                line.push(b'\n');
                line
            };
            assert!(matches!(
                file.append(line(b'a')),
                Err(RecordError::Io { .. })
            ));
            assert!(matches!(
                file.append(line(b'b')),
                Err(RecordError::Io { .. })
            ));
            for lost in 1..=2 {
                match file.append(line(b'c')) {
                    Err(RecordError::RowsLost { rows, .. }) => assert_eq!(rows, lost),
                    other => panic!("{other:?}"),
                }
            }
            disk.lock().unwrap().room = usize::MAX;
            file.append(line(b'd')).unwrap();
            let kept: Vec<u8> = text(&disk).lines().map(|line| line.as_bytes()[0]).collect();
            assert_eq!(kept, b"abd");
        });
    }
}
