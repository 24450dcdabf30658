//! Train or validation: decided by a hash of a document's key, so that it neither depends on the
//! order of reading nor moves a document when the corpus grows.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A side of the corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// What the model is trained on.
    Train,
    /// What is held out.
    Validation,
}

impl Split {
    /// Both sides, in the order in which they are stored.
    pub const ALL: [Split; 2] = [Split::Train, Split::Validation];

    /// Position in [`Split::ALL`].
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Split::Train => "training",
            Split::Validation => "validation",
        })
    }
}

/// Hash of a name under a seed: stable across platforms and versions.
pub(crate) fn hash_name(seed: u64, name: &str) -> u64 {
    let digest = Sha256::new()
        .chain_update(seed.to_le_bytes())
        .chain_update(name.as_bytes())
        .finalize();
    u64::from_le_bytes(
        digest[..8]
            .try_into()
            .expect("a SHA-256 digest has 32 bytes"),
    )
}

/// A bijective mixer of 64 bits (the finaliser of SplitMix64): for hashes of numbers, where SHA-256
/// would cost too much.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The side of a document whose key hashes to `hash`.
pub(crate) fn side(hash: u64, fraction: f64) -> Split {
    // The upper 53 bits as a uniform number in [0, 1).
    let uniform = (hash >> 11) as f64 / (1u64 << 53) as f64;
    if uniform < fraction {
        Split::Validation
    } else {
        Split::Train
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_held_out_is_near_the_fraction() {
        let held = (0..10_000)
            .filter(|row| side(mix(*row), 0.05) == Split::Validation)
            .count();
        assert!((400..600).contains(&held), "{held}");
        assert!((0..1000).all(|row| side(mix(row), 0.0) == Split::Train));
    }

    #[test]
    fn a_seed_changes_the_split_and_the_same_seed_does_not() {
        let sides = |seed| {
            (0..64)
                .map(|i| side(hash_name(seed, &format!("crate{i}")), 0.5))
                .collect::<Vec<_>>()
        };
        assert_eq!(sides(1), sides(1));
        assert_ne!(sides(1), sides(2));
    }
}
