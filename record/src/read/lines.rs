use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use super::segments::Segments;
use super::update::Update;
use crate::error::plain_message;
use crate::{LineRow, RecordError, Result};

/// What one poll reads unless told otherwise: some tens of milliseconds of parsing.
const CHUNK: usize = 4 << 20;

const SMALLEST_CHUNK: usize = 64 << 10;

/// No row is this long; a line that is would otherwise have to be held in memory.
const LONGEST_LINE: usize = 8 << 20;

/// Follows a JSON lines file of a run: each [`poll`](Self::poll) returns what was added.
///
/// - The last line is read when its end is there, however long the writer takes.
/// - A line that is no row (a killed writer's half line, bytes that are no UTF-8) is left out,
///   counted and described in [`bad_lines`](Self::bad_lines).
/// - A later segment replaces earlier ones from its first step on, and in `metrics.jsonl` a second
///   line of a segment for a step replaces the first: [`Update::keep_below`] says so.
/// - A file that was replaced or cut is read anew from its start.
pub struct LineReader<T> {
    run: PathBuf,
    path: PathBuf,
    segments: Segments,
    /// Start of the first line that was not read yet.
    offset: u64,
    line: u64,
    file: Option<Identity>,
    /// Inside a line that is too long to be a row.
    skipping: bool,
    /// Segment and step of the last row returned.
    last: Option<(u32, u64)>,
    bad: BadLines,
    rows: PhantomData<fn() -> T>,
}

/// Lines that could not be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BadLines {
    /// How many.
    pub count: u64,
    /// The last of them.
    pub last: Option<BadLine>,
}

/// A line that could not be read.
#[derive(Clone, Debug, PartialEq)]
pub struct BadLine {
    /// Line number, from 1.
    pub line: u64,
    /// Column, from 1; 0 when unknown.
    pub column: usize,
    /// What was wrong.
    pub message: String,
}

impl BadLines {
    pub(super) fn add(&mut self, line: u64, column: usize, message: String) {
        self.count += 1;
        self.last = Some(BadLine {
            line,
            column,
            message,
        });
    }
}

impl<T: LineRow> LineReader<T> {
    pub(super) fn new(run: &Path, file: &str, segments: Segments) -> Self {
        Self {
            run: run.to_owned(),
            path: run.join(file),
            segments,
            offset: 0,
            line: 0,
            file: None,
            skipping: false,
            last: None,
            bad: BadLines::default(),
            rows: PhantomData,
        }
    }

    /// The lines added since the last poll, up to 4 MiB of them ([`Update::more`]).
    ///
    /// # Errors
    ///
    /// [`RecordError::NotARun`] when the run's directory is gone, [`RecordError::Io`] when the file cannot be
    /// read. A file that is not there yet has no lines.
    pub fn poll(&mut self) -> Result<Update<T>> {
        self.poll_at_most(CHUNK)
    }

    /// Like [`poll`](Self::poll), reading at most about `bytes` bytes.
    ///
    /// # Errors
    ///
    /// As [`poll`](Self::poll).
    pub fn poll_at_most(&mut self, bytes: usize) -> Result<Update<T>> {
        let mut update = Update::default();
        let opened = File::open(&self.path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, mut file) = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !self.run.is_dir() {
                    return Err(RecordError::NotARun {
                        path: self.run.clone(),
                    });
                }
                self.start_over(None, &mut update);
                return Ok(update);
            }
            Err(error) => return Err(RecordError::io("open", &self.path)(error)),
        };
        let identity = Identity::of(&metadata);
        if self.file != Some(identity) || metadata.len() < self.offset {
            self.start_over(Some(identity), &mut update);
        }
        if T::REPLACED
            && let Some(step) = self.segments.refresh()
        {
            update.rewind(step);
        }

        let available = metadata.len() - self.offset;
        // A line longer than `bytes` is still read in one go, as long as a row may be that long.
        let mut want = bytes.max(SMALLEST_CHUNK);
        loop {
            let chunk = self.read(&mut file, want)?;
            match chunk.iter().rposition(|&byte| byte == b'\n') {
                Some(end) => {
                    self.take_lines(&chunk[..=end], &mut update);
                    self.offset += end as u64 + 1;
                    update.more = (chunk.len() as u64) < available;
                    return Ok(update);
                }
                None if (chunk.len() as u64) >= available && chunk.len() <= LONGEST_LINE => {
                    // The tail is half written.
                    return Ok(update);
                }
                None if chunk.len() > LONGEST_LINE || self.skipping => {
                    self.skipping = true;
                    self.offset += chunk.len() as u64;
                    update.more = (chunk.len() as u64) < available;
                    return Ok(update);
                }
                None => want = (want * 2).min(LONGEST_LINE + 1),
            }
        }
    }

    /// Everything there is, from where the last poll ended: for a run that has ended.
    ///
    /// # Errors
    ///
    /// As [`poll`](Self::poll).
    pub fn read_all(&mut self) -> Result<Vec<T>> {
        let mut rows: Vec<T> = Vec::new();
        loop {
            let update = self.poll()?;
            let more = update.more;
            update.apply(&mut rows, |row| row.position().1);
            if !more {
                return Ok(rows);
            }
        }
    }

    /// The lines that were left out so far.
    pub fn bad_lines(&self) -> &BadLines {
        &self.bad
    }

    fn start_over(&mut self, file: Option<Identity>, update: &mut Update<T>) {
        if self.offset > 0 {
            update.rewind(0);
        }
        self.offset = 0;
        self.line = 0;
        self.file = file;
        self.skipping = false;
        self.last = None;
        self.bad = BadLines::default();
    }

    fn read(&self, file: &mut File, bytes: usize) -> Result<Vec<u8>> {
        let mut chunk = Vec::new();
        file.seek(SeekFrom::Start(self.offset))
            .and_then(|_| file.take(bytes as u64).read_to_end(&mut chunk))
            .map_err(RecordError::io("read", &self.path))?;
        Ok(chunk)
    }

    fn take_lines(&mut self, lines: &[u8], update: &mut Update<T>) {
        for line in lines.split_inclusive(|&byte| byte == b'\n') {
            self.line += 1;
            if std::mem::take(&mut self.skipping) || line.len() > LONGEST_LINE {
                let message = format!("longer than {} MiB", LONGEST_LINE >> 20);
                self.bad.add(self.line, 0, message);
                continue;
            }
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            match serde_json::from_slice::<T>(line) {
                Ok(row) => self.take_row(row, update),
                Err(error) => self
                    .bad
                    .add(self.line, error.column(), plain_message(&error)),
            }
        }
    }

    fn take_row(&mut self, row: T, update: &mut Update<T>) {
        if T::REPLACED {
            let (segment, step) = row.position();
            if let Some(first_step) = self.segments.meet(segment, step) {
                go_back(update, first_step);
            }
            if !self.segments.counts(segment, step) {
                return;
            }
            if T::ONE_A_STEP
                && self
                    .last
                    .is_some_and(|last| last.0 == segment && step <= last.1)
            {
                go_back(update, step);
            }
            self.last = Some((segment, step));
        }
        update.rows.push(row);
    }
}

fn go_back<T: LineRow>(update: &mut Update<T>, step: u64) {
    update.rewind(step);
    update.rows.retain(|row| row.position().1 < step);
}

/// Tells a file from another that took its place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Identity(u64, u64);

impl Identity {
    #[cfg(unix)]
    pub(super) fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self(metadata.dev(), metadata.ino())
    }

    /// Where files have no numbers, the time one was made is the next best thing.
    #[cfg(not(unix))]
    pub(super) fn of(metadata: &Metadata) -> Self {
        let made = metadata
            .created()
            .ok()
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .unwrap_or_default();
        Self(made.as_secs(), u64::from(made.subsec_nanos()))
    }
}
