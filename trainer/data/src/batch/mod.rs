//! Tokens → packed, shuffled batches.

mod loader;
mod order;
mod pack;
mod probe;
mod rows;
mod validation;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use loader::Loader;
pub(crate) use pack::Packer;
pub(crate) use probe::probe;
pub use probe::{ProbeSequence, ProbeSet};
pub(crate) use rows::groups;
pub use validation::ValidationSet;

use crate::DataError;
use crate::Split;
use crate::config::Packing;
use crate::store::{Entry, TokenStore};

/// Label of positions that do not count in the loss.
pub const IGNORE_INDEX: i32 = -100;

/// Segment id of padding.
pub const PADDING_SEGMENT: i32 = -1;

/// How batches are cut and ordered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoaderConfig {
    /// Tokens of a sequence.
    pub sequence_length: usize,
    /// Sequences of a (micro-)batch.
    pub batch_size: usize,
    /// Seed of the order of documents and sequences.
    pub seed: u64,
    /// How documents become sequences.
    pub packing: Packing,
    /// Whether documents and sequences are visited in a random order.
    pub shuffle: bool,
}

impl LoaderConfig {
    fn validate(&self) -> Result<(), DataError> {
        for (key, value) in [
            ("sequence length", self.sequence_length),
            ("batch size", self.batch_size),
        ] {
            if !(1..=1 << 24).contains(&value) {
                return Err(DataError::config(
                    key,
                    format!("{value} is out of range: 1 to 16777216"),
                ));
            }
        }
        Ok(())
    }
}

/// Where a loader stands. Together with the dataset and the configuration it determines every later
/// batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoaderState {
    /// Fingerprint of the dataset.
    pub dataset: String,
    /// Sequences handed out since the run began; the next batch starts with this one.
    pub sequences: u64,
    /// Seed of the order.
    pub seed: u64,
    /// Tokens of a sequence.
    pub sequence_length: usize,
    /// Whether documents in one sequence may see each other.
    pub packing: Packing,
    /// Whether the order is random.
    pub shuffle: bool,
}

/// A run of tokens of one document within a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Row of the batch.
    pub row: usize,
    /// First position in the row.
    pub column: usize,
    /// Number of tokens.
    pub length: usize,
    /// Index of the document within its split.
    pub document: u64,
    /// Position of the first token within the document.
    pub offset: u64,
}

/// A batch of packed sequences. The arrays are row-major, `[batch_size, sequence_length]`. With
/// [`Packing::Off`] a batch is as long as its longest document needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Number of its first sequence since the run began; the batch's own number is this divided by
    /// the batch size.
    pub sequence: u64,
    /// Rows.
    pub batch_size: usize,
    /// Columns.
    pub sequence_length: usize,
    /// Token ids.
    pub input_ids: Vec<i32>,
    /// For each position the id of the token after it, already shifted, or [`IGNORE_INDEX`]: at a
    /// document's end (with [`Packing::Respect`]), where the next token is not trained on, and in
    /// padding.
    pub labels: Vec<i32>,
    /// Number of the document's piece in its row, 0, 1, …: attention stays within equal numbers.
    /// With [`Packing::Ignore`] all 0. Of whole documents those that come again to fill the row
    /// have numbers of their own. [`PADDING_SEGMENT`] in padding.
    pub segment_ids: Vec<i32>,
    /// Position within the segment, starting at 0.
    pub position_ids: Vec<i32>,
    /// Where each run of tokens came from, in order; what fills a row of whole documents is left
    /// out.
    pub spans: Vec<Span>,
}

impl Batch {
    /// Number of labels that count in the loss.
    pub fn label_count(&self) -> usize {
        self.labels
            .iter()
            .filter(|label| **label != IGNORE_INDEX)
            .count()
    }

    /// Cuts off the columns behind the longest row's documents, but for what makes their number a
    /// multiple of `tile`. What fills the other rows goes on to there.
    fn trim(&mut self, tile: usize) {
        let old = self.sequence_length;
        let ends = self.spans.iter().map(|span| span.column + span.length);
        let new = ends.max().unwrap_or(1).next_multiple_of(tile);
        if new >= old {
            return;
        }
        for values in [
            &mut self.input_ids,
            &mut self.labels,
            &mut self.segment_ids,
            &mut self.position_ids,
        ] {
            let rows = values.chunks_exact(old);
            *values = rows.flat_map(|row| &row[..new]).copied().collect();
        }
        self.sequence_length = new;
    }

    /// Number of tokens, without what fills rows.
    pub fn token_count(&self) -> usize {
        self.spans.iter().map(|span| span.length).sum()
    }
}

/// Where a run of tokens of a batch came from, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Row of the batch.
    pub row: usize,
    /// First position in the row.
    pub column: usize,
    /// Number of tokens.
    pub length: usize,
    /// Source of the document: a crate, a file, a value of the source column.
    pub source: String,
    /// The document: a file, with the row (counted from 1) where it is one of several.
    pub document: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.document)?;
        if !self.document.contains(&self.source) {
            write!(f, " ({})", self.source)
        } else {
            Ok(())
        }
    }
}

/// One side of a dataset, with the names of its documents.
#[derive(Clone)]
pub(crate) struct Side {
    pub entry: Arc<Entry>,
    pub split: Split,
    /// Fills padding, which nothing looks at.
    pub pad: u32,
}

impl Side {
    pub fn store(&self) -> &TokenStore {
        &self.entry.stores[self.split.index()]
    }

    /// Name of a document and of its source.
    pub fn names(&self, document: u64) -> (String, String) {
        let record = self.store().document(document);
        let name = |names: &[String], index: u32| {
            names
                .get(index as usize)
                .cloned()
                .unwrap_or_else(|| "(unknown)".to_owned())
        };
        let file = name(&self.entry.meta.files, record.file);
        let document = match record.row {
            Some(row) => format!("{file}:{}", row + 1),
            None => file,
        };
        (document, name(&self.entry.meta.sources, record.source))
    }

    pub fn origins(&self, batch: &Batch) -> Vec<Origin> {
        let origin = |span: &Span| {
            let (document, source) = self.names(span.document);
            Origin {
                row: span.row,
                column: span.column,
                length: span.length,
                source,
                document,
            }
        };
        batch.spans.iter().map(origin).collect()
    }

    /// A line that names the documents of a batch.
    pub fn describe(&self, batch: &Batch) -> String {
        const SHOWN: usize = 6;
        let mut names: Vec<String> = Vec::new();
        for origin in self.origins(batch) {
            let name = origin.to_string();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let more = names.len().saturating_sub(SHOWN);
        names.truncate(SHOWN);
        let mut line = names.join(", ");
        if more > 0 {
            line.push_str(&format!(" and {more} more"));
        }
        line
    }
}
