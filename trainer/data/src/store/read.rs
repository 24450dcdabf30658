//! Opening an entry of the token cache, and checking that it is whole.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;
use rayon::prelude::*;

use super::{BLOCK, FileMeta, Meta, RECORD, block_hash};
use crate::Split;
use crate::source::WHOLE_FILE;

/// Up to this many blocks of a file are checked when an entry is opened (256 MiB), spread evenly,
/// the first and last included.
const CHECKED_BLOCKS: usize = 64;

/// A mapped file; empty files cannot be mapped.
struct Mapped(Option<Mmap>);

impl Mapped {
    /// `None` when the file is absent, has another size, or a checked block differs.
    fn open(path: &Path, meta: &FileMeta) -> Option<Mapped> {
        let file = File::open(path).ok()?;
        if file.metadata().ok()?.len() != meta.bytes {
            return None;
        }
        if meta.bytes == 0 {
            return Some(Mapped(None));
        }
        // SAFETY: entries are renamed into place whole and never changed afterwards. What another
        // program does to the cache folder cannot be ruled out, as with any mapped file.
        let map = unsafe { Mmap::map(&file) }.ok()?;
        let blocks = meta.blocks.len();
        if blocks != map.len().div_ceil(BLOCK) {
            return None;
        }
        let checked = blocks.min(CHECKED_BLOCKS);
        let whole = (0..checked).into_par_iter().all(|i| {
            let block = if checked < 2 {
                0
            } else {
                i * (blocks - 1) / (checked - 1)
            };
            let bytes = &map[block * BLOCK..((block + 1) * BLOCK).min(map.len())];
            block_hash(bytes) == meta.blocks[block]
        });
        whole.then_some(Mapped(Some(map)))
    }

    fn bytes(&self) -> &[u8] {
        self.0.as_deref().unwrap_or(&[])
    }
}

/// The tokens and documents of one side.
pub(crate) struct TokenStore {
    tokens: Mapped,
    documents: Mapped,
    mask: Option<Mapped>,
    /// Rewards, and old log-probabilities.
    groups: Option<[Mapped; 2]>,
    wide: bool,
    len: u64,
    document_count: u64,
    /// Ids are held below this, should an unchecked block be damaged: an embedding must not be read
    /// out of bounds.
    vocab_size: u32,
}

/// Where a document came from and where its tokens are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Document {
    /// Its tokens within the side, the end-of-text token included.
    pub tokens: Range<u64>,
    /// Row in the file, unless the document is the whole file.
    pub row: Option<u64>,
    pub file: u32,
    pub source: u32,
}

impl TokenStore {
    fn open(folder: &Path, split: Split, meta: &Meta) -> Option<TokenStore> {
        let name = if split == Split::Train {
            "train"
        } else {
            "validation"
        };
        let side = &meta.splits[split.index()];
        let wide = meta.token_bytes == 4;
        let path = |extension: &str| folder.join(format!("{name}.{extension}"));
        let sizes_agree = side.token_file.bytes == side.tokens * meta.token_bytes as u64
            && side.document_file.bytes == side.documents * RECORD as u64
            && side
                .mask_file
                .as_ref()
                .is_none_or(|mask| mask.bytes == side.tokens.div_ceil(8))
            && side.group_files.as_ref().is_none_or(|[rewards, logs]| {
                rewards.bytes == side.documents * 4 && logs.bytes == side.tokens * 4
            });
        if !sizes_agree {
            return None;
        }
        Some(TokenStore {
            tokens: Mapped::open(&path("bin"), &side.token_file)?,
            documents: Mapped::open(&path("docs"), &side.document_file)?,
            mask: match &side.mask_file {
                Some(file) => Some(Mapped::open(&path("mask"), file)?),
                None => None,
            },
            groups: match &side.group_files {
                Some([rewards, logs]) => Some([
                    Mapped::open(&path("rewards"), rewards)?,
                    Mapped::open(&path("logprobs"), logs)?,
                ]),
                None => None,
            },
            wide,
            len: side.tokens,
            document_count: side.documents,
            vocab_size: meta.vocab_size as u32,
        })
    }

    /// Number of tokens.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Number of documents.
    pub fn document_count(&self) -> u64 {
        self.document_count
    }

    /// The token at a position.
    pub fn token(&self, at: u64) -> u32 {
        let bytes = self.tokens.bytes();
        let at = at as usize;
        let id = if self.wide {
            u32::from_le_bytes(bytes[at * 4..at * 4 + 4].try_into().expect("4 bytes"))
        } else {
            u32::from(u16::from_le_bytes([bytes[at * 2], bytes[at * 2 + 1]]))
        };
        id.min(self.vocab_size - 1)
    }

    /// Whether the token at a position counts in the loss.
    pub fn is_trained(&self, at: u64) -> bool {
        self.mask
            .as_ref()
            .is_none_or(|mask| mask.bytes()[(at / 8) as usize] >> (at % 8) & 1 == 1)
    }

    /// Reward of a document; `None` where documents have none.
    pub fn reward(&self, index: u64) -> Option<f32> {
        let [rewards, _] = self.groups.as_ref()?;
        Some(float(rewards.bytes(), index))
    }

    /// Log-probability of the token at a position under the policy that wrote it, where it is known.
    pub fn log_probability(&self, at: u64) -> Option<f32> {
        let [_, logs] = self.groups.as_ref()?;
        Some(float(logs.bytes(), at)).filter(|log| !log.is_nan())
    }

    fn start(&self, index: u64) -> u64 {
        if index >= self.document_count {
            return self.len;
        }
        self.field(index, 0).min(self.len)
    }

    fn field(&self, index: u64, offset: usize) -> u64 {
        let at = index as usize * RECORD + offset;
        u64::from_le_bytes(
            self.documents.bytes()[at..at + 8]
                .try_into()
                .expect("8 bytes"),
        )
    }

    /// Number of tokens of a document.
    pub fn document_len(&self, index: u64) -> u64 {
        self.start(index + 1).saturating_sub(self.start(index))
    }

    /// The document's record.
    pub fn document(&self, index: u64) -> Document {
        let (row, names) = (self.field(index, 8), self.field(index, 16));
        Document {
            tokens: self.start(index)..self.start(index + 1),
            row: (row != WHOLE_FILE).then_some(row),
            file: names as u32,
            source: (names >> 32) as u32,
        }
    }
}

fn float(bytes: &[u8], index: u64) -> f32 {
    let at = index as usize * 4;
    f32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

/// An opened entry.
pub(crate) struct Entry {
    pub meta: Meta,
    pub fingerprint: String,
    pub stores: [TokenStore; 2],
}

impl Entry {
    /// `None` when there is no such entry, or it is truncated or damaged.
    pub fn open(folder: &Path) -> Option<Entry> {
        let meta = Meta::read(folder)?;
        let stores = [
            TokenStore::open(folder, Split::Train, &meta)?,
            TokenStore::open(folder, Split::Validation, &meta)?,
        ];
        Some(Entry {
            fingerprint: meta.fingerprint(),
            meta,
            stores,
        })
    }
}
