//! The most memory that the kernels had in use at one time, for benches and tests.

use std::cell::Cell;

thread_local! {
    static PEAK: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Runs `work` and returns the most bytes that were in use on its device whenever one of this
/// crate's kernels took memory meanwhile, on this thread; 0 if none did. Slower than running
/// `work` alone: every such moment asks the allocator.
pub fn peak_during<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let outer = PEAK.replace(Some(0));
    let result = work();
    let peak = PEAK.replace(outer).unwrap_or_default();
    (result, peak)
}

/// Takes note of what is in use now, if anyone asked.
pub(crate) fn note(in_use: impl FnOnce() -> u64) {
    if let Some(peak) = PEAK.get() {
        PEAK.set(Some(peak.max(in_use())));
    }
}
