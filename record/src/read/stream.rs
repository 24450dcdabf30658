use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;

use super::frames::{Frame, check_step, decode, decode_schema, frame_at, read_at};
use super::lines::Identity;
use super::segments::Segments;
use super::update::Update;
use crate::layout::{stream_file, stream_segment};
use crate::{RecordError, Result, StreamRow};

/// Follows one of a run's Arrow streams over all its segments.
///
/// A poll finds where each step's batches lie and reads nothing else, so a large record opens at
/// once; [`read`](Self::read) then reads the step asked for. Later segments replace earlier ones
/// from their first step on. A file that ends in the middle of a batch ends after the batch before.
pub struct StreamReader<R> {
    run: PathBuf,
    segments: Segments,
    files: BTreeMap<u32, StreamFile>,
    index: BTreeMap<u64, Vec<Place>>,
    problems: Vec<StreamProblem>,
    rows: PhantomData<fn() -> R>,
}

/// A file of a stream that cannot be read beyond some point.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamProblem {
    /// The file.
    pub path: PathBuf,
    /// Everything before this byte was read.
    pub offset: u64,
    /// What stands there instead of a batch.
    pub message: String,
}

struct StreamFile {
    path: PathBuf,
    identity: Identity,
    /// The schema's message, which every batch needs in front of it.
    schema: Option<Vec<u8>>,
    /// End of what was understood.
    offset: u64,
    /// End of the file when it was last looked at.
    length: u64,
    ended: bool,
}

struct Place {
    segment: u32,
    offset: u64,
    length: u64,
    rows: u64,
}

impl<R: StreamRow> StreamReader<R> {
    pub(super) fn new(run: &Path, segments: Segments) -> Self {
        Self {
            run: run.to_owned(),
            segments,
            files: BTreeMap::new(),
            index: BTreeMap::new(),
            problems: Vec::new(),
            rows: PhantomData,
        }
    }

    /// The steps added since the last poll, ascending. One that got more rows comes again.
    ///
    /// # Errors
    ///
    /// [`RecordError::NotARun`] when the run's directory is gone, [`RecordError::Io`] when a file cannot be
    /// read. A file that holds something else is no error: see [`problems`](Self::problems).
    pub fn poll(&mut self) -> Result<Update<u64>> {
        let mut update = Update::default();
        self.problems.clear();
        if let Some(step) = self.segments.refresh() {
            self.go_back(step, &mut update);
        }
        for segment in self.list()? {
            self.follow(segment, &mut update)?;
        }
        update.rows.sort_unstable();
        update.rows.dedup();
        Ok(update)
    }

    /// The steps recorded, ascending, as of the last poll.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = u64> + '_ {
        self.index.keys().copied()
    }

    /// The last step recorded, as of the last poll.
    pub fn latest(&self) -> Option<u64> {
        self.steps().next_back()
    }

    /// The recorded step a time cursor at `step` shows: that step or the last one before it.
    pub fn at_or_before(&self, step: u64) -> Option<u64> {
        self.index.range(..=step).next_back().map(|(&step, _)| step)
    }

    /// How many rows a step has.
    pub fn row_count(&self, step: u64) -> u64 {
        self.places(step).iter().map(|place| place.rows).sum()
    }

    /// A step's rows, in the order they were written; none for a step that was not recorded.
    ///
    /// # Errors
    ///
    /// [`RecordError::Arrow`] when the file does not hold what the schema says, [`RecordError::Io`].
    pub fn read(&self, step: u64) -> Result<Vec<R>> {
        let mut rows = Vec::new();
        for place in self.places(step) {
            let file = self.file(place.segment)?;
            let batch = read_batch(file, place)?;
            let unpacked = R::unpack(&batch).map_err(|message| {
                RecordError::arrow(&file.path, format!("step {step}: {message}"))
            })?;
            rows.extend(unpacked);
        }
        Ok(rows)
    }

    /// A step's rows as Arrow batches, for those who work on columns.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn batches(&self, step: u64) -> Result<Vec<RecordBatch>> {
        self.places(step)
            .iter()
            .map(|place| read_batch(self.file(place.segment)?, place))
            .collect()
    }

    /// The files that the last poll could not read to their end, a half-written tail aside.
    pub fn problems(&self) -> &[StreamProblem] {
        &self.problems
    }

    /// The files that end in the middle of a batch: one that is being written, or, where the writer is gone, one
    /// that it left half written or that was cut.
    pub fn half_written(&self) -> impl Iterator<Item = StreamProblem> + '_ {
        let cut = |file: &&StreamFile| {
            let known = |problem: &StreamProblem| problem.path == file.path;
            !file.ended && file.offset < file.length && !self.problems.iter().any(known)
        };
        self.files.values().filter(cut).map(|file| StreamProblem {
            path: file.path.clone(),
            offset: file.offset,
            message: format!("{} bytes of an unfinished batch", file.length - file.offset),
        })
    }

    fn places(&self, step: u64) -> &[Place] {
        self.index.get(&step).map_or(&[], Vec::as_slice)
    }

    fn file(&self, segment: u32) -> Result<&StreamFile> {
        self.files.get(&segment).ok_or_else(|| {
            let path = self.run.join(stream_file(R::STREAM, segment));
            RecordError::io("open", &path)(io::ErrorKind::NotFound.into())
        })
    }

    /// The segments that have a file, in order.
    fn list(&self) -> Result<Vec<u32>> {
        let entries = fs::read_dir(&self.run).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => RecordError::NotARun {
                path: self.run.clone(),
            },
            _ => RecordError::io("read", &self.run)(error),
        })?;
        let mut segments: Vec<u32> = entries
            .flatten()
            .filter_map(|entry| stream_segment(entry.file_name().to_str()?, R::STREAM))
            .collect();
        // "routing.1.arrows" and "routing.01.arrows": only the former is ours, and it is read once.
        segments.sort_unstable();
        segments.dedup();
        Ok(segments)
    }

    fn follow(&mut self, segment: u32, update: &mut Update<u64>) -> Result<()> {
        let path = self.run.join(stream_file(R::STREAM, segment));
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, mut file) = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(RecordError::io("open", &path)(error)),
        };
        let (identity, end) = (Identity::of(&metadata), metadata.len());
        let mut state = match self.files.remove(&segment) {
            Some(state) if state.identity == identity && state.offset <= end => state,
            stale => {
                if stale.is_some() {
                    self.forget(segment, update);
                }
                StreamFile {
                    path,
                    identity,
                    schema: None,
                    offset: 0,
                    length: 0,
                    ended: false,
                }
            }
        };
        state.length = end;
        let read = self.follow_frames(segment, &mut state, &mut file, end, update);
        let path = state.path.clone();
        self.files.insert(segment, state);
        read.map_err(RecordError::io("read", &path))
    }

    fn follow_frames(
        &mut self,
        segment: u32,
        state: &mut StreamFile,
        file: &mut File,
        end: u64,
        update: &mut Update<u64>,
    ) -> io::Result<()> {
        while !state.ended {
            let message = match frame_at(file, state.offset, end)? {
                Frame::Schema { length } if state.schema.is_none() => {
                    let mut bytes = vec![0; length as usize];
                    read_at(file, state.offset, &mut bytes)?;
                    match decode_schema(&bytes).and_then(|schema| check_step(&schema)) {
                        Ok(()) => {
                            state.schema = Some(bytes);
                            state.offset += length;
                            continue;
                        }
                        Err(message) => format!("a schema that is not ours: {message}"),
                    }
                }
                Frame::Batch {
                    length,
                    rows,
                    first: Some(first),
                } if state.schema.is_some() => {
                    let mut step = [0; 8];
                    read_at(file, first, &mut step)?;
                    let step = u64::from_le_bytes(step);
                    let place = Place {
                        segment,
                        offset: state.offset,
                        length,
                        rows,
                    };
                    state.offset += length;
                    if let Some(first_step) = self.segments.meet(segment, step) {
                        self.go_back(first_step, update);
                    }
                    if self.segments.counts(segment, step) {
                        self.index.entry(step).or_default().push(place);
                        update.rows.push(step);
                    }
                    continue;
                }
                Frame::Schema { .. } => "a second schema".to_owned(),
                Frame::Batch { .. } => "a batch without a schema or without rows".to_owned(),
                Frame::End => {
                    state.ended = true;
                    return Ok(());
                }
                Frame::Incomplete => return Ok(()),
                Frame::Garbage(message) => message,
            };
            self.problems.push(StreamProblem {
                path: state.path.clone(),
                offset: state.offset,
                message,
            });
            return Ok(());
        }
        Ok(())
    }

    fn go_back(&mut self, step: u64, update: &mut Update<u64>) {
        update.rewind(step);
        update.rows.retain(|&other| other < step);
        self.index.split_off(&step);
    }

    /// Drops what was known of a file that another took the place of.
    fn forget(&mut self, segment: u32, update: &mut Update<u64>) {
        let first = self
            .index
            .iter()
            .find(|(_, places)| places.iter().any(|place| place.segment == segment))
            .map(|(&step, _)| step);
        if let Some(step) = first {
            update.rewind(step);
            for places in self.index.values_mut() {
                places.retain(|place| place.segment != segment);
            }
            self.index.retain(|_, places| !places.is_empty());
            // The caller drops these steps; those of other segments are still there.
            update
                .rows
                .extend(self.index.range(step..).map(|(&s, _)| s));
        }
    }
}

fn read_batch(file: &StreamFile, place: &Place) -> Result<RecordBatch> {
    let mut bytes = vec![0; place.length as usize];
    File::open(&file.path)
        .and_then(|mut opened| read_at(&mut opened, place.offset, &mut bytes))
        .map_err(RecordError::io("read", &file.path))?;
    decode(file.schema.as_deref().unwrap_or_default(), &bytes).map_err(|what| {
        RecordError::arrow(
            &file.path,
            format!("the batch at byte {} is damaged: {what}", place.offset),
        )
    })
}
