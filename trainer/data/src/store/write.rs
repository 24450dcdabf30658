//! Writing one side of a token-cache entry, as a stream.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{BLOCK, FileMeta, SplitMeta, block_hash, entropy, io};
use crate::DataError;

/// A file that is hashed block by block while it is written.
struct HashedFile {
    path: PathBuf,
    file: BufWriter<File>,
    block: Vec<u8>,
    meta: FileMeta,
}

impl HashedFile {
    fn create(path: PathBuf) -> Result<Self, DataError> {
        let file = File::create(&path).map_err(io("create", &path))?;
        Ok(HashedFile {
            path,
            file: BufWriter::new(file),
            block: Vec::new(),
            meta: FileMeta::default(),
        })
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), DataError> {
        self.meta.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.block.len()));
            self.block.extend_from_slice(now);
            bytes = later;
            if self.block.len() == BLOCK {
                self.end_block()?;
            }
        }
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), DataError> {
        self.meta.blocks.push(block_hash(&self.block));
        self.file
            .write_all(&self.block)
            .map_err(io("write", &self.path))?;
        self.block.clear();
        Ok(())
    }

    /// No sync: a cache that a power failure damages is found damaged by its hashes, and built
    /// again.
    fn finish(mut self) -> Result<FileMeta, DataError> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        self.file.flush().map_err(io("write", &self.path))?;
        Ok(self.meta)
    }
}

/// What the last token of a document is to training.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Ending {
    /// As the text before it.
    #[default]
    AsBefore,
    /// Its author never wrote it.
    Cut,
    /// Its author wrote it, with this log-probability.
    Known(f32),
}

/// What a side is beside its tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kind {
    /// Token ids above 65535 occur.
    pub wide: bool,
    /// Some tokens are not trained on.
    pub masked: bool,
    /// Documents are completions with rewards.
    pub groups: bool,
}

/// Writes the tokens, records and mask of one side.
pub(super) struct SplitWriter {
    tokens: HashedFile,
    documents: HashedFile,
    mask: Option<HashedFile>,
    /// Rewards, and old log-probabilities.
    groups: Option<[HashedFile; 2]>,
    /// Of the open document.
    reward: f32,
    wide: bool,
    /// Bits of the mask that do not fill a byte yet, the first token's lowest.
    bits: u8,
    count: u64,
    document_count: u64,
    /// The open document's record, until its first token.
    pending: Option<[u8; super::RECORD]>,
    /// Whether the last token is trained on.
    last_trained: bool,
    /// How often each token occurs among those trained on.
    counts: Vec<u64>,
    sources: BTreeSet<u32>,
}

impl SplitWriter {
    pub fn create(
        folder: &Path,
        name: &str,
        kind: Kind,
        vocab_size: usize,
    ) -> Result<Self, DataError> {
        let file = |extension: &str| HashedFile::create(folder.join(format!("{name}.{extension}")));
        Ok(SplitWriter {
            tokens: file("bin")?,
            documents: file("docs")?,
            mask: kind.masked.then(|| file("mask")).transpose()?,
            groups: match kind.groups {
                true => Some([file("rewards")?, file("logprobs")?]),
                false => None,
            },
            reward: 0.0,
            wide: kind.wide,
            bits: 0,
            count: 0,
            document_count: 0,
            pending: None,
            last_trained: true,
            counts: vec![0; vocab_size],
            sources: BTreeSet::new(),
        })
    }

    /// Opens a document; it comes to exist with its first token.
    pub fn begin(&mut self, row: u64, file: u32, source: u32) {
        let mut record = [0; super::RECORD];
        record[8..16].copy_from_slice(&row.to_le_bytes());
        record[16..20].copy_from_slice(&file.to_le_bytes());
        record[20..24].copy_from_slice(&source.to_le_bytes());
        self.pending = Some(record);
    }

    /// Gives the open document, before its first token, a reward.
    pub fn reward(&mut self, reward: f32) {
        self.reward = reward;
    }

    /// Adds tokens to the open document.
    pub fn append(&mut self, tokens: &[u32], trained: bool) -> Result<(), DataError> {
        self.append_scored(tokens, trained, None)
    }

    /// The same, with a log-probability for each of them where it is known.
    pub fn append_scored(
        &mut self,
        tokens: &[u32],
        trained: bool,
        log_probabilities: Option<&[f32]>,
    ) -> Result<(), DataError> {
        if tokens.is_empty() {
            return Ok(());
        }
        if let Some([rewards, logs]) = &mut self.groups {
            if self.pending.is_some() {
                rewards.write(&self.reward.to_le_bytes())?;
            }
            let unknown = vec![f32::NAN; tokens.len()];
            let logs_of = log_probabilities.unwrap_or(&unknown);
            let bytes: Vec<u8> = logs_of.iter().flat_map(|log| log.to_le_bytes()).collect();
            logs.write(&bytes)?;
        }
        if let Some(mut record) = self.pending.take() {
            record[..8].copy_from_slice(&self.count.to_le_bytes());
            self.documents.write(&record)?;
            self.document_count += 1;
            self.sources.insert(u32::from_le_bytes([
                record[20], record[21], record[22], record[23],
            ]));
        }
        let mut bytes = Vec::with_capacity(tokens.len() * 4);
        for token in tokens {
            let le = token.to_le_bytes();
            bytes.extend_from_slice(if self.wide { &le } else { &le[..2] });
            if trained && let Some(count) = self.counts.get_mut(*token as usize) {
                *count += 1;
            }
        }
        self.tokens.write(&bytes)?;
        if let Some(mask) = &mut self.mask {
            bytes.clear();
            for at in self.count..self.count + tokens.len() as u64 {
                self.bits |= u8::from(trained) << (at % 8);
                if at % 8 == 7 {
                    bytes.push(std::mem::take(&mut self.bits));
                }
            }
            mask.write(&bytes)?;
        }
        self.count += tokens.len() as u64;
        self.last_trained = trained;
        Ok(())
    }

    /// Closes the open document with its last token, trained on when the text before it is; `false`
    /// when it had no text, and so does not exist.
    pub fn end(&mut self, eos: u32, ending: &Ending) -> Result<bool, DataError> {
        if self.pending.take().is_some() {
            return Ok(false);
        }
        match ending {
            Ending::AsBefore => self.append(&[eos], self.last_trained)?,
            Ending::Cut => self.append(&[eos], false)?,
            Ending::Known(log) => self.append_scored(&[eos], true, Some(&[*log]))?,
        }
        Ok(true)
    }

    pub fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    pub fn source_count(&self) -> u64 {
        self.sources.len() as u64
    }

    pub fn finish(mut self) -> Result<SplitMeta, DataError> {
        if let Some(mask) = &mut self.mask
            && !self.count.is_multiple_of(8)
        {
            mask.write(&[self.bits])?;
        }
        Ok(SplitMeta {
            tokens: self.count,
            documents: self.document_count,
            unigram_entropy: entropy(&self.counts),
            token_file: self.tokens.finish()?,
            document_file: self.documents.finish()?,
            mask_file: self.mask.map(HashedFile::finish).transpose()?,
            group_files: match self.groups {
                Some([rewards, logs]) => Some([rewards.finish()?, logs.finish()?]),
                None => None,
            },
        })
    }
}
