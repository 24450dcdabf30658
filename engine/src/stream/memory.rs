//! Which of the ways to backpropagate a run takes.

use serde::{Deserialize, Serialize};

use super::{Keep, Settings};
use crate::step::Backpropagation;

/// How activations are kept for the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Memory {
    /// All of them: the fastest, and memory grows with layers times tokens.
    Plain,
    /// The input of every layer; backward recomputes one whole layer at a time.
    Checkpoint,
    /// The input of every layer; forward and backward go through chunks of the sequence.
    Stream,
    /// [`Memory::Stream`] for micro-batches of more than [`AUTO_STREAMS_ABOVE`] tokens, else
    /// [`Memory::Plain`].
    #[default]
    Auto,
}

/// Tokens of a micro-batch above which [`Memory::Auto`] streams.
pub const AUTO_STREAMS_ABOVE: usize = 16_384;

/// The chunk for sequences of `time` tokens where none is asked for: an eighth of the sequence,
/// so that what a chunk needs stays small beside what the sequence needs, within 1,024, below which
/// products are too small for a GPU, and 4,096 tokens.
pub fn auto_chunk(time: usize) -> usize {
    (time / 8).next_multiple_of(128).clamp(1024, 4096)
}

impl Memory {
    /// What it means for micro-batches of `batch` sequences of `time` tokens. `chunk`: tokens of a
    /// chunk, where it is not to be chosen here.
    pub fn resolve(
        self,
        batch: usize,
        time: usize,
        chunk: Option<usize>,
        keep: Keep,
    ) -> Backpropagation {
        match self {
            Self::Plain => Backpropagation::Plain,
            Self::Checkpoint => Backpropagation::Streamed(Settings { chunk: None, keep }),
            Self::Stream => Backpropagation::Streamed(Settings {
                chunk: Some(chunk.unwrap_or_else(|| auto_chunk(time))),
                keep,
            }),
            Self::Auto if batch * time > AUTO_STREAMS_ABOVE => {
                Self::Stream.resolve(batch, time, chunk, keep)
            }
            Self::Auto => Backpropagation::Plain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_chunk_is_never_too_small_for_products_nor_as_long_as_a_long_sequence() {
        for (time, chunk) in [(1, 1024), (8192, 1024), (20_000, 2560), (65_536, 4096)] {
            assert_eq!(auto_chunk(time), chunk);
        }
    }

    #[test]
    fn auto_streams_what_is_long_and_nothing_else() {
        let resolve = |batch, time| Memory::Auto.resolve(batch, time, None, Keep::F32);
        assert_eq!(resolve(2, 8192), Backpropagation::Plain);
        let streamed = Backpropagation::Streamed(Settings {
            chunk: Some(1024),
            keep: Keep::F32,
        });
        assert_eq!(resolve(3, 8192), streamed);
    }
}
