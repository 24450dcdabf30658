//! The token cache: one folder an entry, memory-mapped.
//!
//! ```text
//! <cache>/tokens/<key>/
//!   meta.json             the SHA-256 of the rest, a line end, then JSON: counts, names, the
//!                         report, the hash of every block of the other files
//!   tokenizer.json, tokenizer_config.json
//!   {train,validation}.bin    token ids, little endian, 2 bytes each; 4 bytes when the
//!                         vocabulary is larger than 65536
//!   {train,validation}.docs   a record a document, in the order of the tokens: start and row
//!                         (u64 each), file and source (u32 each)
//!   {train,validation}.mask   a bit a token, 1 where it is trained on; absent when all are
//!   {train,validation}.rewards    f32 a document; of groups of completions alone
//!   {train,validation}.logprobs   f32 a token: what its author gave it, NaN where that is not known;
//!                         of groups alone
//! ```
//!
//! The key covers the files (path, size, modification time), the settings and the tokenizer. An
//! entry is written aside and renamed, and never changed afterwards.

mod build;
mod entropy;
mod read;
mod write;

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(crate) use build::{Job, build};
pub(crate) use entropy::entropy;
pub(crate) use read::{Entry, TokenStore};

use crate::files::hex;
use crate::{CorpusReport, DataError};

/// Raised whenever the layout, or what a document's tokens are, changes.
pub(crate) const VERSION: u32 = 1;

/// Blocks that are hashed one by one, so that a large entry can be checked in samples.
const BLOCK: usize = 4 << 20;

/// Bytes of a document's record.
const RECORD: usize = 24;

/// What `meta.json` says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Meta {
    pub version: u32,
    pub key: String,
    pub vocab_size: usize,
    /// Bytes of a token id: 2 or 4.
    pub token_bytes: usize,
    /// Train, then validation.
    pub splits: [SplitMeta; 2],
    /// Names of files, by the index that records hold.
    pub files: Vec<String>,
    /// Names of sources, by the index that records hold.
    pub sources: Vec<String>,
    pub report: CorpusReport,
}

/// One side of an entry.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SplitMeta {
    pub tokens: u64,
    pub documents: u64,
    /// Of the tokens that are trained on, in nat.
    pub unigram_entropy: f64,
    pub token_file: FileMeta,
    pub document_file: FileMeta,
    pub mask_file: Option<FileMeta>,
    /// Rewards and old log-probabilities, of groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_files: Option<[FileMeta; 2]>,
}

/// Size and block hashes of a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct FileMeta {
    pub bytes: u64,
    pub blocks: Vec<String>,
}

impl Meta {
    /// Hash of everything that batches are made from.
    pub fn fingerprint(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(format!("{} {}", self.vocab_size, self.token_bytes));
        for split in &self.splits {
            for file in [
                Some(&split.token_file),
                Some(&split.document_file),
                split.mask_file.as_ref(),
            ] {
                hash.update(format!("{file:?}"));
            }
            for file in split.group_files.iter().flatten() {
                hash.update(format!("{file:?}"));
            }
        }
        hex(&hash.finalize()[..16])
    }

    fn to_text(&self) -> String {
        let json = serde_json::to_string(self).expect("the meta data always serialises");
        format!("{}\n{json}\n", hex(&Sha256::digest(&json)))
    }

    /// `None` when damaged, or of another version.
    fn read(folder: &Path) -> Option<Meta> {
        let text = std::fs::read_to_string(folder.join("meta.json")).ok()?;
        let (hash, json) = text.split_once('\n')?;
        let json = json.strip_suffix('\n')?;
        let meta: Meta =
            (hex(&Sha256::digest(json)) == hash).then(|| serde_json::from_str(json).ok())??;
        (meta.version == VERSION).then_some(meta)
    }
}

fn block_hash(block: &[u8]) -> String {
    hex(&Sha256::digest(block)[..16])
}

fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> DataError + 'a {
    move |error| DataError::io(action, path, error)
}

#[cfg(test)]
mod tests {
    use super::write::{Ending, Kind, SplitWriter};
    use super::*;
    use crate::Split;

    /// Writes one side with documents of tokens and masks, and opens the entry.
    fn entry(folder: &Path, vocab_size: usize, documents: &[&[(&[u32], bool)]]) -> Entry {
        let wide = vocab_size > 1 << 16;
        let kind = Kind {
            wide,
            masked: true,
            groups: false,
        };
        let create = |name| SplitWriter::create(folder, name, kind, vocab_size).unwrap();
        let (mut train, validation) = (create("train"), create("validation"));
        for (row, document) in documents.iter().enumerate() {
            train.begin(row as u64, 0, 0);
            for (tokens, trained) in *document {
                train.append(tokens, *trained).unwrap();
            }
            train.end(1, &Ending::AsBefore).unwrap();
        }
        let meta = Meta {
            version: VERSION,
            key: String::new(),
            vocab_size,
            token_bytes: if wide { 4 } else { 2 },
            splits: [train.finish().unwrap(), validation.finish().unwrap()],
            files: Vec::new(),
            sources: Vec::new(),
            report: CorpusReport::default(),
        };
        std::fs::write(folder.join("meta.json"), meta.to_text()).unwrap();
        Entry::open(folder).unwrap()
    }

    #[test]
    fn ids_masks_and_documents_come_back_in_two_and_in_four_bytes() {
        for vocab_size in [1 << 16, 200_000] {
            let last = vocab_size as u32 - 1;
            let folder = tempfile::tempdir().unwrap();
            let long: Vec<u32> = (0..100).map(|i| last - i).collect();
            let documents: [&[(&[u32], bool)]; 3] = [
                &[(&[7, last, 9], false), (&long, true)],
                &[(&[], true)],
                &[(&[3], false)],
            ];
            let entry = entry(folder.path(), vocab_size, &documents);
            let store = &entry.stores[Split::Train.index()];
            let ids: Vec<u32> = (0..store.len()).map(|at| store.token(at)).collect();
            assert_eq!(ids, [&[7, last, 9][..], &long, &[1, 3, 1]].concat());
            let trained: Vec<u64> = (0..store.len())
                .filter(|at| store.is_trained(*at))
                .collect();
            assert!(
                trained.iter().copied().eq(3..104),
                "the end counts as the text before it"
            );
            assert_eq!(
                store.document_count(),
                2,
                "a document without tokens is none"
            );
            assert_eq!(store.document(0).tokens, 0..104);
            assert_eq!(
                (store.document(1).tokens, store.document(1).row),
                (104..106, Some(2))
            );
            assert_eq!(entry.stores[Split::Validation.index()].len(), 0);
        }
    }

    #[test]
    fn files_of_several_blocks_are_checked_to_their_last_byte() {
        let folder = tempfile::tempdir().unwrap();
        let tokens = vec![5u32; 2 * BLOCK / 2 + 3];
        let open = entry(folder.path(), 300, &[&[(&tokens, true)]]);
        assert_eq!(open.meta.splits[0].token_file.blocks.len(), 3);
        drop(open);
        let path = folder.path().join("train.bin");
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(Entry::open(folder.path()).is_none());
    }
}
