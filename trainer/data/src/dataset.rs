//! From the configuration to a dataset that batches are drawn from.

use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::batch::{
    Loader, LoaderConfig, LoaderState, ProbeSet, Side, ValidationSet, groups, probe,
};
use crate::config::{DataConfig, SourceConfig};
use crate::files::{default_cache_dir, hex};
use crate::progress::check;
use crate::source::{DEFAULT_CHAT_SPECIAL_TOKENS, ListedFile, Listing, Reader, SpecialTexts, list};
use crate::split::hash_name;
use crate::store::{self, Entry, Job};
use crate::tokenizer::{END_OF_TEXT, Sample, learn_cached};
use crate::{CorpusReport, DataError, Progress, Split, Stage, Tokenizer};

/// At least this much is read of each file for the tokenizer's sample, however many files there
/// are.
const SAMPLE_PER_FILE: u64 = 64 << 10;

/// Names a dataset for later: what a checkpoint must hold to find the very same tokens again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetId {
    /// Name of the token cache's folder.
    pub cache: String,
    /// Hash of all tokens, documents and masks.
    pub fingerprint: String,
}

/// A tokenized corpus, mapped into memory.
pub struct Dataset {
    entry: Arc<Entry>,
    tokenizer: Arc<Tokenizer>,
    id: DatasetId,
    cache: PathBuf,
    from_cache: bool,
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dataset")
            .field("id", &self.id)
            .field("report", self.report())
            .finish_non_exhaustive()
    }
}

impl Dataset {
    /// Lists the corpus, learns or loads the tokenizer, and tokenizes, or opens what an earlier run
    /// with the same files and settings tokenized.
    ///
    /// # Errors
    /// Any [`DataError`] but [`DataError::CorpusChanged`] and [`DataError::StateMismatch`].
    pub fn prepare(config: &DataConfig, progress: &dyn Progress) -> Result<Dataset, DataError> {
        config.validate()?;
        progress.stage(Stage::Scan);
        let cache = cache_dir(config);
        let listing = list(config)?;
        check(progress)?;
        let fraction = if listing.separate_validation {
            0.0
        } else {
            config.validation.fraction
        };
        let tokenizer = Arc::new(match &config.tokenizer.path {
            Some(path) => Tokenizer::load_with(path, &config.tokenizer)?,
            None => learn(config, &listing, fraction, &cache, progress)?,
        });
        let reader = Reader::new(
            &config.source,
            &tokenizer.special_texts(),
            config.seed,
            fraction,
        )?;
        let parse_special_tokens = config
            .tokenizer
            .parse_special_tokens
            .unwrap_or(reader.parses_special_tokens());
        let key = key(config, &listing, &tokenizer, &reader, parse_special_tokens);
        let parent = cache.join("tokens");

        progress.stage(Stage::Verify);
        let mut folder = parent.join(&key);
        let mut entry = Entry::open(&folder);
        let from_cache = entry.is_some();
        if entry.is_none() {
            progress.stage(Stage::Tokenize);
            let job = Job {
                key: &key,
                listing: &listing,
                reader: &reader,
                tokenizer: &tokenizer,
                parse_special_tokens,
                fraction,
            };
            folder = store::build(&job, &parent, progress)?;
            entry = Entry::open(&folder);
        }
        let entry = entry.ok_or_else(|| DataError::Io {
            action: "read back the token cache",
            path: folder.clone(),
            source: std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                "it differs from what was written: is the disk failing, or full?",
            ),
        })?;
        entry.meta.report.warn(progress);
        Ok(Dataset::new(entry, tokenizer, &folder, cache, from_cache))
    }

    /// For resuming a run: opens the very tokens that the run was started with, though files may
    /// have come or gone since (cargo fetches new crates). Where they are no longer in the cache,
    /// prepares the corpus again and compares.
    ///
    /// # Errors
    /// [`DataError::CorpusChanged`] when the corpus is no longer the same; otherwise as
    /// [`Dataset::prepare`].
    pub fn reopen(
        config: &DataConfig,
        id: &DatasetId,
        progress: &dyn Progress,
    ) -> Result<Dataset, DataError> {
        config.validate()?;
        progress.stage(Stage::Verify);
        let cache = cache_dir(config);
        let folder = cache.join("tokens").join(&id.cache);
        if let Some(entry) =
            Entry::open(&folder).filter(|entry| entry.fingerprint == id.fingerprint)
            && let Ok(tokenizer) = Tokenizer::load_with(&folder, &config.tokenizer)
        {
            return Ok(Dataset::new(
                entry,
                Arc::new(tokenizer),
                &folder,
                cache,
                true,
            ));
        }
        let dataset = Dataset::prepare(config, progress)?;
        if dataset.id.fingerprint != id.fingerprint {
            return Err(DataError::CorpusChanged {
                expected: id.fingerprint.clone(),
                found: dataset.id.fingerprint,
            });
        }
        Ok(dataset)
    }

    fn new(
        entry: Entry,
        tokenizer: Arc<Tokenizer>,
        folder: &Path,
        cache: PathBuf,
        from_cache: bool,
    ) -> Dataset {
        let name = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let id = DatasetId {
            cache: name,
            fingerprint: entry.fingerprint.clone(),
        };
        Dataset {
            entry: Arc::new(entry),
            tokenizer,
            id,
            cache,
            from_cache,
        }
    }

    /// Names the dataset for [`Dataset::reopen`].
    pub fn id(&self) -> &DatasetId {
        &self.id
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// What was found in the corpus, and what was left out.
    pub fn report(&self) -> &CorpusReport {
        &self.entry.meta.report
    }

    /// Whether the tokens came from the cache.
    pub fn from_cache(&self) -> bool {
        self.from_cache
    }

    /// The cache folder in use.
    pub fn cache_dir(&self) -> &Path {
        &self.cache
    }

    /// Tokens of a side, end-of-text tokens included.
    pub fn tokens(&self, split: Split) -> u64 {
        self.entry.stores[split.index()].len()
    }

    /// Documents of a side.
    pub fn documents(&self, split: Split) -> u64 {
        self.entry.stores[split.index()].document_count()
    }

    /// Whether anything is held out.
    pub fn has_validation(&self) -> bool {
        self.tokens(Split::Validation) > 0
    }

    /// Entropy, in nat per token, of the empirical unigram distribution of a side's own tokens
    /// (those that are trained on). The number to compare a validation loss with is
    /// [`ValidationSet::unigram_entropy`], over exactly the labels of that loss.
    pub fn unigram_entropy(&self, split: Split) -> f64 {
        self.entry.meta.splits[split.index()].unigram_entropy
    }

    /// The training batches from the beginning.
    ///
    /// # Errors
    /// [`DataError::Config`] when a size is out of range.
    pub fn loader(&self, config: &LoaderConfig) -> Result<Loader, DataError> {
        Loader::new(self.side(Split::Train), config)
    }

    /// The training batches from where `state` was taken; the batch size may differ, everything
    /// else must be as it was.
    ///
    /// # Errors
    /// [`DataError::CorpusChanged`] or [`DataError::StateMismatch`] when the state belongs to other
    /// data or settings.
    pub fn resume_loader(
        &self,
        config: &LoaderConfig,
        state: &LoaderState,
    ) -> Result<Loader, DataError> {
        Loader::resume(self.side(Split::Train), config, state)
    }

    /// A fixed list of validation batches, at most `batches`, spread evenly over the split; all of
    /// it with `None`.
    ///
    /// # Errors
    /// [`DataError::NoValidationSplit`] when nothing is held out, [`DataError::Config`] when a size
    /// is out of range.
    pub fn validation(
        &self,
        config: &LoaderConfig,
        batches: Option<usize>,
    ) -> Result<ValidationSet, DataError> {
        ValidationSet::new(
            self.side(Split::Validation),
            config,
            batches,
            self.tokenizer.vocab_size(),
        )
    }

    /// The beginnings of up to `sequences` validation documents, of different sources where there
    /// are as many.
    ///
    /// # Errors
    /// [`DataError::NoValidationSplit`] when nothing is held out, [`DataError::Config`] when a size
    /// is out of range.
    pub fn probe(&self, sequence_length: usize, sequences: usize) -> Result<ProbeSet, DataError> {
        probe(
            self.side(Split::Validation),
            &self.tokenizer,
            sequence_length,
            sequences,
        )
    }

    /// All sequences of a side once, in a fixed order.
    ///
    /// # Errors
    /// [`DataError::Config`] when a size is out of range; [`DataError::NoValidationSplit`] when the
    /// side is empty.
    pub fn pass(&self, split: Split, config: &LoaderConfig) -> Result<ValidationSet, DataError> {
        ValidationSet::new(self.side(split), config, None, self.tokenizer.vocab_size())
    }

    /// The documents of each row of a side, in order: two of a pair, all completions of a group.
    pub fn groups(&self, split: Split) -> Vec<Range<u64>> {
        let starts = groups(&self.entry.stores[split.index()]);
        starts.windows(2).map(|pair| pair[0]..pair[1]).collect()
    }

    /// Tokens of a document of a side, the one that ends it included.
    pub fn document_len(&self, split: Split, document: u64) -> u64 {
        self.entry.stores[split.index()].document_len(document)
    }

    /// Labels of a document of a side, as far as they are within `length` positions.
    pub fn label_count(&self, split: Split, document: u64, length: usize) -> usize {
        self.label_positions(split, document, length).count()
    }

    fn label_positions(
        &self,
        split: Split,
        document: u64,
        length: usize,
    ) -> impl Iterator<Item = u64> + '_ {
        let store = &self.entry.stores[split.index()];
        let tokens = store.document(document).tokens;
        let end = tokens.end.min(tokens.start + 1 + length as u64);
        (tokens.start + 1..end).filter(|at| store.is_trained(*at))
    }

    /// Reward of a completion; `None` where documents have none.
    pub fn reward(&self, split: Split, document: u64) -> Option<f32> {
        self.entry.stores[split.index()].reward(document)
    }

    /// The log-probability of each label of a document under the policy that wrote it, as far as
    /// they are within `length` positions; `None` where they are not known.
    pub fn old_log_probabilities(
        &self,
        split: Split,
        document: u64,
        length: usize,
    ) -> Option<Vec<f32>> {
        let store = &self.entry.stores[split.index()];
        self.label_positions(split, document, length)
            .map(|at| store.log_probability(at))
            .collect()
    }

    fn side(&self, split: Split) -> Side {
        let pad = self.tokenizer.pad_id().unwrap_or(self.tokenizer.eos_id());
        Side {
            entry: self.entry.clone(),
            split,
            pad,
        }
    }
}

fn cache_dir(config: &DataConfig) -> PathBuf {
    config.cache.clone().unwrap_or_else(default_cache_dir)
}

/// Learns a tokenizer from a bounded sample of the training side, or finds the one that was.
fn learn(
    config: &DataConfig,
    listing: &Listing,
    fraction: f64,
    cache: &Path,
    progress: &dyn Progress,
) -> Result<Tokenizer, DataError> {
    progress.stage(Stage::LearnTokenizer);
    let settings = &config.tokenizer;
    // ChatML's markers, where its template is going to be used.
    let chat: &[&str] = match &config.source {
        SourceConfig::Jsonl(r) | SourceConfig::Parquet(r)
            if (r.messages_column.is_some() || r.form.is_some())
                && r.chat_template.is_none()
                && r.chat_template_file.is_none() =>
        {
            &DEFAULT_CHAT_SPECIAL_TOKENS
        }
        _ => &[],
    };
    let specials = SpecialTexts {
        bos_token: settings.bos_token.clone().unwrap_or_default(),
        eos_token: settings
            .eos_token
            .clone()
            .unwrap_or_else(|| END_OF_TEXT.to_owned()),
        chat_template: None,
    };
    let reader = Reader::new(&config.source, &specials, config.seed, fraction)?;
    let sample = sample(
        &reader,
        listing,
        config.seed,
        settings.sample_bytes,
        progress,
    )?;
    learn_cached(&sample, settings, chat, cache)
}

/// Training text up to `limit` bytes, files in the order of a hash of their names, each giving an
/// even share, its beginning.
fn sample(
    reader: &Reader<'_>,
    listing: &Listing,
    seed: u64,
    limit: u64,
    progress: &dyn Progress,
) -> Result<Sample, DataError> {
    let mut files: Vec<&ListedFile> = listing.files.iter().collect();
    files.sort_by_cached_key(|file| (hash_name(seed, &file.name), file.name.clone()));
    let share = (limit / files.len().max(1) as u64).max(SAMPLE_PER_FILE);
    let mut sample = Sample::default();
    let mut left = limit;
    // Told only when there is no text at all: what is left out here is left out, and counted, when
    // the corpus is read.
    let mut report = CorpusReport::default();
    for file in files {
        check(progress)?;
        let mut of_file = share.min(left);
        reader.read(file, &mut report, &mut |piece| {
            if piece.split == Split::Train {
                for segment in piece.segments {
                    let mut text = segment.text;
                    text.truncate(text.floor_char_boundary(of_file as usize));
                    of_file -= text.len() as u64;
                    left -= text.len() as u64;
                    if !text.is_empty() {
                        sample.texts.push(text);
                    }
                }
            }
            // A few bytes may remain in front of a character that does not fit.
            if of_file < 4 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        progress.advance(limit - left, Some(limit));
        if left < 4 {
            break;
        }
    }
    if sample.texts.is_empty() {
        return Err(DataError::NoText {
            split: "training",
            looked_at: listing.looked_at.clone(),
            reasons: report.reasons(),
        });
    }
    Ok(sample)
}

/// Name of the token cache: everything that the tokens depend on.
fn key(
    config: &DataConfig,
    listing: &Listing,
    tokenizer: &Tokenizer,
    reader: &Reader<'_>,
    parse_special_tokens: bool,
) -> String {
    let mut hash = Sha256::new();
    let mut add = |text: &str| {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    };
    add(&format!(
        "{} {} {parse_special_tokens}",
        store::VERSION,
        config.seed
    ));
    add(
        &serde_json::to_string(&(&config.source, &config.validation))
            .expect("a configuration always serialises"),
    );
    add(tokenizer.hash());
    add(reader.identity());
    for file in &listing.files {
        add(&format!(
            "{} {} {} {} {:?}",
            file.path.display(),
            file.source,
            file.bytes,
            file.modified,
            file.side
        ));
    }
    hex(&hash.finalize()[..16])
}
