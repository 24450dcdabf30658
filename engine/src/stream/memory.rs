//! Which of the ways to backpropagate a run takes.

use serde::{Deserialize, Serialize};

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
    /// The first of these that fits, which [`crate::plan`] finds.
    #[default]
    Auto,
}

/// The chunk for sequences of `time` tokens where none is asked for: an eighth of the sequence,
/// so that what a chunk needs stays small beside what the sequence needs, within 1,024, below which
/// products are too small for a GPU, and 4,096 tokens.
pub fn auto_chunk(time: usize) -> usize {
    (time / 8).next_multiple_of(128).clamp(1024, 4096)
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
}
