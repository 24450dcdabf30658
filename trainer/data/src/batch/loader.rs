//! The training loader: an endless, resumable run of batches.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use super::{Batch, LoaderConfig, LoaderState, Origin, Packer, Side};
use crate::DataError;

/// Batches made ahead on the loader's thread.
const AHEAD: usize = 2;

/// Hands out the batches of the training side, without end. Each batch is a pure function of the
/// dataset, the configuration and its number, so a loader made from a [`LoaderState`] continues
/// exactly as the interrupted one would have.
pub struct Loader {
    packer: Arc<Packer>,
    /// Sequences handed out; what was made ahead does not count.
    sequences: u64,
    ahead: Option<Receiver<Batch>>,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl Loader {
    pub(crate) fn new(side: Side, config: &LoaderConfig) -> Result<Loader, DataError> {
        config.validate()?;
        Ok(Loader {
            packer: Arc::new(Packer::new(side, config.clone())),
            sequences: 0,
            ahead: None,
        })
    }

    pub(crate) fn resume(
        side: Side,
        config: &LoaderConfig,
        state: &LoaderState,
    ) -> Result<Loader, DataError> {
        let mut loader = Loader::new(side, config)?;
        let now = loader.state();
        if state.dataset != now.dataset {
            return Err(DataError::CorpusChanged {
                expected: state.dataset.clone(),
                found: now.dataset,
            });
        }
        for (field, expected, found) in [
            ("the seed", state.seed.to_string(), now.seed.to_string()),
            (
                "the sequence length",
                state.sequence_length.to_string(),
                now.sequence_length.to_string(),
            ),
            (
                "data.packing",
                format!("{:?}", state.packing),
                format!("{:?}", now.packing),
            ),
            (
                "data.shuffle",
                state.shuffle.to_string(),
                now.shuffle.to_string(),
            ),
        ] {
            if expected != found {
                return Err(DataError::StateMismatch {
                    field,
                    expected,
                    found,
                });
            }
        }
        loader.sequences = state.sequences;
        Ok(loader)
    }

    /// The next batch. A thread makes the ones after it meanwhile.
    pub fn next_batch(&mut self) -> Batch {
        let batch = match self.ahead.as_ref().map(Receiver::recv) {
            Some(Ok(batch)) => batch,
            // The thread could not be started, or died: the batch is the same wherever it is made.
            _ => self.packer.batch(self.sequences),
        };
        debug_assert_eq!(batch.sequence, self.sequences);
        self.sequences += self.packer.config.batch_size as u64;
        if self.ahead.is_none() {
            self.ahead = make_ahead(self.packer.clone(), self.sequences);
        }
        batch
    }

    /// The batch with a number, counted from the run's start in batches of this loader's size. Does
    /// not move the loader.
    pub fn batch_at(&self, index: u64) -> Batch {
        self.packer
            .batch(index * self.packer.config.batch_size as u64)
    }

    /// What a loader must be given to continue with the batch after the last one handed out.
    pub fn state(&self) -> LoaderState {
        let config = &self.packer.config;
        LoaderState {
            dataset: self.packer.side.entry.fingerprint.clone(),
            sequences: self.sequences,
            seed: config.seed,
            sequence_length: config.sequence_length,
            packing: config.packing,
            shuffle: config.shuffle,
        }
    }

    /// How often the corpus was gone through.
    pub fn epoch(&self) -> f64 {
        self.sequences as f64 / self.packer.epoch_sequences()
    }

    /// Where the tokens of a batch came from.
    pub fn origins(&self, batch: &Batch) -> Vec<Origin> {
        self.packer.side.origins(batch)
    }

    /// A line that names a batch's documents, for messages such as "the loss is NaN; the batch came
    /// from …".
    pub fn describe(&self, batch: &Batch) -> String {
        self.packer.side.describe(batch)
    }
}

/// Starts a thread that makes the batches from `first` on; it ends when the receiver is dropped.
fn make_ahead(packer: Arc<Packer>, first: u64) -> Option<Receiver<Batch>> {
    let (sender, receiver) = sync_channel(AHEAD);
    let work = move || {
        for index in 0.. {
            if sender
                .send(packer.batch(first + index * packer.config.batch_size as u64))
                .is_err()
            {
                break;
            }
        }
    };
    std::thread::Builder::new()
        .name("bellows-loader".to_owned())
        .spawn(work)
        .ok()
        .map(|_| receiver)
}
