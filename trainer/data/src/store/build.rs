//! Building an entry of the token cache: one thread reads, all threads tokenize, the results are
//! appended in reading order.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, SystemTime};

use rayon::prelude::*;

use super::write::{Ending, Kind, SplitWriter};
use super::{Meta, VERSION, io};
use crate::files::{aside, write_atomically};
use crate::progress::check;
use crate::source::{Listing, Piece, Reader};
use crate::{CorpusReport, DataError, Progress, Split, Tokenizer};

/// Text that is tokenized at once; two such chunks are in memory, one being read and one being
/// tokenized.
const CHUNK_BYTES: usize = 4 << 20;

/// Entries under construction that nobody touched for so long belong to a program that was killed.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

type Chunk = Vec<(u32, Piece)>;

/// What to build.
pub(crate) struct Job<'a> {
    pub key: &'a str,
    pub listing: &'a Listing,
    pub reader: &'a Reader<'a>,
    pub tokenizer: &'a Tokenizer,
    pub parse_special_tokens: bool,
    /// For the message when no document was held out.
    pub fraction: f64,
}

/// A folder that is removed again unless it is kept.
struct Scratch(Option<PathBuf>);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(folder) = &self.0 {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

/// Builds the entry and returns its folder below `parent`. A corpus of which files vanished midway
/// gets a folder of its own, which no later run takes for the whole corpus.
pub(crate) fn build(
    job: &Job<'_>,
    parent: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, DataError> {
    std::fs::create_dir_all(parent).map_err(io("create", parent))?;
    remove_abandoned(parent);
    let scratch = aside(&parent.join(job.key));
    std::fs::create_dir(&scratch).map_err(io("create", &scratch))?;
    let mut guard = Scratch(Some(scratch.clone()));
    let meta = write(job, &scratch, progress)?;
    job.tokenizer.save(&scratch)?;
    write_atomically(&scratch.join("meta.json"), meta.to_text().as_bytes())?;
    let whole = meta.report.unreadable_files == 0;
    let name = if whole {
        job.key.to_owned()
    } else {
        format!("{}-partial-{}", job.key, meta.fingerprint())
    };
    let folder = parent.join(name);
    publish(&scratch, &folder)?;
    guard.0 = scratch.exists().then_some(scratch);
    Ok(folder)
}

/// Renames the entry into place. Another run may have been quicker; its entry is as good, unless it
/// is damaged.
fn publish(scratch: &Path, folder: &Path) -> Result<(), DataError> {
    let mut outcome = Ok(());
    for _ in 0..3 {
        outcome = std::fs::rename(scratch, folder);
        if outcome.is_ok() || super::Entry::open(folder).is_some() {
            return Ok(());
        }
        // Moved aside first, so that nobody sees half of it.
        let damaged = aside(folder);
        if std::fs::rename(folder, &damaged).is_ok() {
            let _ = std::fs::remove_dir_all(&damaged);
        }
    }
    outcome.map_err(io("move the token cache into place at", folder))
}

fn remove_abandoned(parent: &Path) {
    let is_old = |time: Option<SystemTime>| {
        time.and_then(|t| t.elapsed().ok())
            .is_some_and(|age| age > ABANDONED)
    };
    for entry in std::fs::read_dir(parent)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
    {
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with('.') || !name.to_string_lossy().ends_with(".tmp") {
            continue;
        }
        let touched = std::fs::read_dir(entry.path())
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
            .map(|file| file.metadata());
        let own = entry.metadata();
        if touched
            .chain([own])
            .all(|metadata| is_old(metadata.ok().and_then(|m| m.modified().ok())))
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn write(job: &Job<'_>, folder: &Path, progress: &dyn Progress) -> Result<Meta, DataError> {
    let kind = Kind {
        wide: job.tokenizer.vocab_size() > 1 << 16,
        masked: job.reader.has_mask(),
        groups: job.reader.has_groups(),
    };
    let create = |name| SplitWriter::create(folder, name, kind, job.tokenizer.vocab_size());
    let mut sink = Sink {
        writers: [create("train")?, create("validation")?],
        open: None,
        ending: Ending::default(),
        sources: Names::default(),
        report: CorpusReport::default(),
        job,
    };
    let total: u64 = job.listing.files.iter().map(|file| file.bytes).sum();
    let (sender, receiver) = sync_channel::<Chunk>(0);
    let read_report = std::thread::scope(|scope| {
        let reading = scope.spawn(move || read(job, &sender));
        let outcome = (|| {
            let mut done = 0;
            for chunk in &receiver {
                check(progress)?;
                let encoded = chunk
                    .par_iter()
                    .map(|(file, piece)| encode(job, *file, piece))
                    .collect::<Result<Vec<_>, _>>()?;
                for ((file, piece), encoded) in chunk.iter().zip(encoded) {
                    sink.add(*file, piece, &encoded)?;
                    done += piece.consumed;
                }
                progress.advance(done.min(total), Some(total));
            }
            Ok(())
        })();
        // Tells the reader to stop, should it still be reading.
        drop(receiver);
        let report = reading
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        outcome.and(report)
    })?;
    sink.close()?;
    progress.advance(total, Some(total));
    sink.finish(read_report)
}

/// Reads every file and sends chunks until the receiver is gone.
fn read(
    job: &Job<'_>,
    sender: &std::sync::mpsc::SyncSender<Chunk>,
) -> Result<CorpusReport, DataError> {
    let mut report = CorpusReport::default();
    let mut chunk = Chunk::new();
    let mut bytes = 0;
    for (index, file) in job.listing.files.iter().enumerate() {
        let mut stopped = false;
        job.reader.read(file, &mut report, &mut |piece| {
            bytes += piece.segments.iter().map(|s| s.text.len()).sum::<usize>();
            chunk.push((index as u32, piece));
            if bytes >= CHUNK_BYTES {
                bytes = 0;
                if sender.send(std::mem::take(&mut chunk)).is_err() {
                    stopped = true;
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        })?;
        if stopped {
            return Ok(report);
        }
    }
    // A receiver that is gone has its own error to tell.
    let _ = sender.send(chunk);
    Ok(report)
}

/// The tokens of a piece.
struct Encoded {
    /// Runs of tokens that are trained on, or not.
    runs: Vec<(Vec<u32>, bool)>,
    ending: Ending,
}

fn encode(job: &Job<'_>, file: u32, piece: &Piece) -> Result<Encoded, DataError> {
    let encode = |text: &str| {
        if job.parse_special_tokens {
            job.tokenizer.encode(text)
        } else {
            job.tokenizer.encode_plain(text)
        }
    };
    let runs = piece
        .segments
        .iter()
        .map(|segment| Ok((encode(&segment.text)?, segment.trained)))
        .collect::<Result<Vec<(Vec<u32>, bool)>, DataError>>()?;
    let Some(old) = &piece.old else {
        return Ok(Encoded {
            runs,
            ending: Ending::AsBefore,
        });
    };
    let trained = runs.iter().filter(|(_, trained)| *trained);
    let count: usize = trained.map(|(ids, _)| ids.len()).sum();
    let ending = match old.len().checked_sub(count) {
        Some(0) => Ending::Cut,
        Some(1) => Ending::Known(old[count]),
        _ => {
            // Not a row to leave out: if one does not fit, another tokenizer wrote all of them.
            return Err(DataError::Row {
                file: job.listing.files[file as usize].name.clone(),
                row: piece.row + 1,
                message: format!(
                    "old_logprobs has {} values for a completion of {count} tokens ({} with the one that ends it). \
                     Give those of this tokenizer's tokens, or leave the column out to have them computed",
                    old.len(),
                    count + 1
                ),
            });
        }
    };
    Ok(Encoded { runs, ending })
}

/// Names by index, in the order of their first use.
#[derive(Default)]
struct Names {
    names: Vec<String>,
    indices: HashMap<Arc<str>, u32>,
}

impl Names {
    fn index(&mut self, name: &str) -> u32 {
        if let Some(index) = self.indices.get(name) {
            return *index;
        }
        let index = self.names.len() as u32;
        self.names.push(name.to_owned());
        self.indices.insert(name.into(), index);
        index
    }
}

/// Appends pieces in reading order.
struct Sink<'a> {
    writers: [SplitWriter; 2],
    /// The open document: file, its number in the file, and its side.
    open: Option<(u32, u64, Split)>,
    /// How it ends.
    ending: Ending,
    sources: Names,
    report: CorpusReport,
    job: &'a Job<'a>,
}

impl Sink<'_> {
    fn add(&mut self, file: u32, piece: &Piece, encoded: &Encoded) -> Result<(), DataError> {
        let tokens = &encoded.runs;
        let document = (file, piece.document, piece.split);
        if self.open != Some(document) {
            self.close()?;
            let source = piece
                .source
                .as_deref()
                .unwrap_or(&self.job.listing.files[file as usize].source);
            let source = self.sources.index(source);
            let writer = &mut self.writers[piece.split.index()];
            writer.begin(piece.row, file, source);
            writer.reward(piece.reward.unwrap_or_default());
            self.open = Some(document);
        }
        self.ending = encoded.ending;
        let writer = &mut self.writers[piece.split.index()];
        if writer.is_pending()
            && tokens.iter().any(|(ids, _)| !ids.is_empty())
            && let Some(bos) = self.job.tokenizer.bos_id()
        {
            writer.append(&[bos], tokens.first().is_some_and(|(_, trained)| *trained))?;
        }
        let mut old = piece.old.as_deref();
        for (ids, trained) in tokens {
            let known = match old {
                Some(values) if *trained => {
                    let (own, rest) = values.split_at(ids.len());
                    old = Some(rest);
                    Some(own)
                }
                _ => None,
            };
            writer.append_scored(ids, *trained, known)?;
        }
        self.report.split_mut(piece.split).bytes += piece
            .segments
            .iter()
            .map(|s| s.text.len() as u64)
            .sum::<u64>();
        Ok(())
    }

    fn close(&mut self) -> Result<(), DataError> {
        if let Some((_, _, split)) = self.open.take()
            && !self.writers[split.index()].end(self.job.tokenizer.eos_id(), &self.ending)?
        {
            self.report.empty_documents += 1;
        }
        Ok(())
    }

    fn finish(self, read: CorpusReport) -> Result<Meta, DataError> {
        let Sink {
            writers,
            sources,
            mut report,
            job,
            ..
        } = self;
        report.source.clone_from(&job.listing.description);
        report.looked_at.clone_from(&job.listing.looked_at);
        report.warnings.clone_from(&job.listing.warnings);
        report.take_reading(read);
        for (writer, split) in writers.iter().zip(Split::ALL) {
            report.split_mut(split).sources = writer.source_count();
        }
        let [train, validation] = writers;
        let splits = [train.finish()?, validation.finish()?];
        for (side, split) in splits.iter().zip(Split::ALL) {
            report.split_mut(split).tokens = side.tokens;
            report.split_mut(split).documents = side.documents;
        }
        let no_text = |split| DataError::NoText {
            split,
            looked_at: report.looked_at.clone(),
            reasons: report.reasons(),
        };
        let [train, validation] = &splits;
        if train.documents == 0 {
            return Err(no_text("training"));
        }
        if job.listing.wants_validation && validation.documents == 0 {
            return Err(if job.listing.separate_validation {
                no_text("validation")
            } else {
                DataError::NoValidation {
                    documents: train.documents,
                    fraction: job.fraction,
                }
            });
        }
        report.conclude();
        Ok(Meta {
            version: VERSION,
            key: job.key.to_owned(),
            vocab_size: job.tokenizer.vocab_size(),
            token_bytes: if job.tokenizer.vocab_size() > 1 << 16 {
                4
            } else {
                2
            },
            splits,
            files: job
                .listing
                .files
                .iter()
                .map(|file| file.name.clone())
                .collect(),
            sources: sources.names,
            report,
        })
    }
}
