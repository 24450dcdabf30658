//! The validation batches: the same every time.

use super::{Batch, IGNORE_INDEX, LoaderConfig, Origin, Packer, Side};
use crate::DataError;
use crate::store::entropy;

/// A fixed list of validation batches. Nothing is shuffled; every batch has the full shape, the
/// last ones padded where the split ends.
pub struct ValidationSet {
    packer: Packer,
    /// Numbers of the sequences, in order.
    sequences: Vec<u64>,
    vocab_size: usize,
}

impl ValidationSet {
    /// `batches` batches of sequences spread evenly over the split; with `None`, or where the split
    /// holds no more, all of it.
    pub(crate) fn new(
        side: Side,
        config: &LoaderConfig,
        batches: Option<usize>,
        vocab_size: usize,
    ) -> Result<ValidationSet, DataError> {
        config.validate()?;
        if side.store().len() == 0 {
            return Err(DataError::NoValidationSplit);
        }
        if batches == Some(0) {
            return Err(DataError::config(
                "validation batches",
                "must be at least 1",
            ));
        }
        let config = LoaderConfig {
            shuffle: false,
            ..config.clone()
        };
        let packer = Packer::new(side, config);
        let available = packer.sequences();
        let wanted = batches.map_or(available, |n| {
            (n as u64).saturating_mul(packer.config.batch_size as u64)
        });
        Ok(ValidationSet {
            sequences: packer.spread(wanted.min(available)),
            packer,
            vocab_size,
        })
    }

    /// Number of batches.
    pub fn len(&self) -> usize {
        self.sequences.len().div_ceil(self.packer.config.batch_size)
    }

    /// Whether there is no batch; never so, since a split without tokens is refused.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// The batches, made one by one.
    pub fn batches(&self) -> impl Iterator<Item = Batch> + '_ {
        let size = self.packer.config.batch_size;
        self.sequences
            .chunks(size)
            .enumerate()
            .map(move |(i, rows)| self.packer.single_pass((i * size) as u64, rows))
    }

    /// Entropy, in nat, of the empirical unigram distribution of exactly the labels that the
    /// validation loss averages over: the loss that a model reaches which knows how often each of
    /// these labels occurs and nothing else.
    pub fn unigram_entropy(&self) -> f64 {
        let mut counts = vec![0; self.vocab_size];
        for batch in self.batches() {
            for label in batch.labels.iter().filter(|label| **label != IGNORE_INDEX) {
                counts[*label as usize] += 1;
            }
        }
        entropy(&counts)
    }

    /// Where the tokens of a batch came from.
    pub fn origins(&self, batch: &Batch) -> Vec<Origin> {
        self.packer.side.origins(batch)
    }
}
