//! Random orders that need no memory of their own, and the order of documents in an epoch.

use crate::split::mix;
use crate::store::TokenStore;

/// A pseudo-random permutation of `0..len`, computed element by element: a Feistel network over the
/// next even number of bits, applied again while it leads outside the range. Written out here
/// because the order of a run must never change with a library's version.
#[derive(Clone, Copy, Debug)]
pub(super) struct Permutation {
    len: u64,
    half_bits: u32,
    keys: [u64; Self::ROUNDS],
}

impl Permutation {
    const ROUNDS: usize = 6;

    pub fn new(len: u64, seed: u64, stream: u64) -> Permutation {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        let keys = std::array::from_fn(|round| mix(mix(mix(seed) ^ stream) ^ round as u64));
        Permutation {
            len,
            half_bits: bits.div_ceil(2).max(1),
            keys,
        }
    }

    pub fn at(&self, index: u64) -> u64 {
        debug_assert!(index < self.len);
        let mask = (1u64 << self.half_bits) - 1;
        let mut value = index;
        loop {
            let (mut left, mut right) = (value >> self.half_bits, value & mask);
            for key in self.keys {
                (left, right) = (right, left ^ (mix(right ^ key) & mask));
            }
            value = left << self.half_bits | right;
            if value < self.len {
                return value;
            }
        }
    }
}

/// The documents of one epoch in the order in which they are read, with the position of each in the
/// epoch's run of tokens.
pub(super) struct EpochOrder {
    permutation: Option<Permutation>,
    /// Position of the first token of the i-th document, by order; 8 bytes a document.
    starts: Vec<u64>,
}

impl EpochOrder {
    pub fn new(store: &TokenStore, seed: Option<u64>, epoch: u64) -> EpochOrder {
        let count = store.document_count();
        let permutation = seed.map(|seed| Permutation::new(count, seed, epoch.wrapping_mul(2)));
        let mut position = 0;
        let starts = (0..count)
            .map(|i| {
                let start = position;
                position += store.document_len(permutation.map_or(i, |p| p.at(i)));
                start
            })
            .collect();
        EpochOrder {
            permutation,
            starts,
        }
    }

    /// The place in the order of the document that holds a position of the epoch.
    pub fn locate(&self, position: u64) -> u64 {
        self.starts.partition_point(|start| *start <= position) as u64 - 1
    }

    /// Index of the document at a place in the order, and the position of its first token; `None`
    /// behind the last.
    pub fn document(&self, place: u64) -> Option<(u64, u64)> {
        let start = *self.starts.get(place as usize)?;
        Some((self.permutation.map_or(place, |p| p.at(place)), start))
    }
}

/// Order of the sequences that start within one epoch.
pub(super) fn sequence_order(len: u64, seed: u64, epoch: u64) -> Permutation {
    Permutation::new(len, seed, epoch.wrapping_mul(2).wrapping_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_comes_exactly_once_whatever_the_length() {
        for len in [1, 2, 3, 7, 64, 65, 1000, 4097] {
            let permutation = Permutation::new(len, 42, 3);
            let mut seen: Vec<u64> = (0..len).map(|i| permutation.at(i)).collect();
            seen.sort_unstable();
            assert!(seen.iter().copied().eq(0..len), "{len}");
        }
    }

    #[test]
    fn the_order_depends_on_seed_and_epoch_and_moves_most_elements() {
        let order = |seed, epoch| {
            (0..1000)
                .map(|i| Permutation::new(1000, seed, epoch).at(i))
                .collect::<Vec<_>>()
        };
        assert_eq!(order(1, 1), order(1, 1));
        assert_ne!(order(1, 1), order(2, 1));
        assert_ne!(order(1, 1), order(1, 2));
        let fixed = order(1, 1)
            .iter()
            .enumerate()
            .filter(|(i, v)| *i as u64 == **v)
            .count();
        let rising = order(1, 1).windows(2).filter(|w| w[0] < w[1]).count();
        assert!(
            fixed < 10 && (400..600).contains(&rising),
            "{fixed} {rising}"
        );
    }
}
