//! The probe set: a few fixed validation sequences whose routing is followed token by token through
//! a run.

use std::collections::BTreeSet;

use super::order::Permutation;
use super::{Batch, LoaderConfig, Packer, Side, Span};
use crate::config::Packing;
use crate::{DataError, Tokenizer};

/// Documents looked at when the probe is chosen.
const CANDIDATES: u64 = 1 << 16;

/// A few beginnings of validation documents, the same in every run on the same dataset.
pub struct ProbeSet {
    /// One row a sequence, padded to the sequence length.
    pub batch: Batch,
    /// What the rows are.
    pub sequences: Vec<ProbeSequence>,
}

/// One sequence of the probe set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeSequence {
    /// Source of the document: a crate, a file, a value of the source column.
    pub source: String,
    /// Name of the document.
    pub document: String,
    /// Tokens without padding.
    pub length: usize,
    /// Text of each token.
    pub tokens: Vec<String>,
}

pub(crate) fn probe(
    side: Side,
    tokenizer: &Tokenizer,
    sequence_length: usize,
    sequences: usize,
) -> Result<ProbeSet, DataError> {
    let store = side.store();
    if store.document_count() == 0 {
        return Err(DataError::NoValidationSplit);
    }
    let documents = choose(&side, sequence_length as u64, sequences);
    let config = LoaderConfig {
        sequence_length,
        batch_size: documents.len(),
        seed: 0,
        packing: Packing::Respect,
        shuffle: false,
    };
    config.validate()?;
    let packer = Packer::new(side, config);
    let mut batch = packer.empty(0);
    let mut chosen = Vec::new();
    for (row, document) in documents.into_iter().enumerate() {
        let length = packer
            .side
            .store()
            .document_len(document)
            .min(sequence_length as u64) as usize;
        let span = Span {
            row,
            column: 0,
            length,
            document,
            offset: 0,
        };
        packer.fill_span(&mut batch, &span, 0);
        batch.spans.push(span);
        let start = row * sequence_length;
        let tokens = batch.input_ids[start..start + length]
            .iter()
            .map(|id| tokenizer.token_text(*id as u32))
            .collect();
        let (document, source) = packer.side.names(document);
        chosen.push(ProbeSequence {
            source,
            document,
            length,
            tokens,
        });
    }
    Ok(ProbeSet {
        batch,
        sequences: chosen,
    })
}

/// Documents in a fixed random order: first those that fill a sequence, one a source; then any, one
/// a source; then any.
fn choose(side: &Side, sequence_length: u64, count: usize) -> Vec<u64> {
    let store = side.store();
    let order = Permutation::new(store.document_count(), 0, 0);
    let candidates: Vec<u64> = (0..store.document_count().min(CANDIDATES))
        .map(|i| order.at(i))
        .collect();
    let (mut chosen, mut sources) = (Vec::new(), BTreeSet::new());
    for pass in 0..3 {
        for document in &candidates {
            let long = store.document_len(*document) >= sequence_length;
            let source = store.document(*document).source;
            let fits = match pass {
                0 => long && !sources.contains(&source),
                1 => !sources.contains(&source),
                _ => !chosen.contains(document),
            };
            if chosen.len() < count && fits {
                sources.insert(source);
                chosen.push(*document);
            }
        }
    }
    chosen
}
