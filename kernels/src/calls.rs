//! Which implementation computed each family, counted: `bellows verify` reports it, and a caller
//! can see whether a device's own kernels ran or plain operations stood in for them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Who computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// The family's own kernels, and which of them.
    Kernels(&'static str),
    /// Burn's operations, because they are the faster choice there, and which.
    Burn(&'static str),
    /// Plain tensor operations in place of kernels.
    Reference,
}

impl Path {
    /// Of a family that has one set of kernels, and runs its reference where `fused` is false.
    pub(crate) fn of(fused: bool) -> Self {
        if fused {
            Self::Kernels("fused")
        } else {
            Self::Reference
        }
    }
}

/// Calls of one family that went one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calls {
    /// The family.
    pub family: &'static str,
    /// Who computed.
    pub path: Path,
    /// How often, since the last [`take`].
    pub count: u64,
}

static CALLS: Mutex<BTreeMap<(&'static str, Path), u64>> = Mutex::new(BTreeMap::new());

fn lock() -> MutexGuard<'static, BTreeMap<(&'static str, Path), u64>> {
    CALLS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a call of `family`.
pub(crate) fn note(family: &'static str, path: Path) {
    *lock().entry((family, path)).or_default() += 1;
}

/// All calls of the process since the last time, by family.
pub fn take() -> Vec<Calls> {
    std::mem::take(&mut *lock())
        .into_iter()
        .map(|((family, path), count)| Calls {
            family,
            path,
            count,
        })
        .collect()
}
