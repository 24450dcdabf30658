use std::borrow::Cow;

use super::StreamRow;
use super::table::table_row;

table_row! {
    /// A row of `memory.<n>.arrows`: the bytes one owner holds at one moment of a step.
    ///
    /// Rows with one step and one `moment` are one snapshot of the device's memory. Without the
    /// kind `allocator` their bytes add up to what the ledger explains; the allocator's own totals
    /// stand beside them as rows of kind [`MemoryRow::ALLOCATOR`].
    pub struct MemoryRow {
        /// The snapshot's place in its step, from 0 in order of time.
        pub moment: u32,
        /// What training was doing at that moment: `forward`, `backward`, `optimizer`, `evaluate`, ….
        pub phase: Cow<'static, str>,
        /// The owner's decoder layer; null for what belongs to none.
        pub layer: Option<u32>,
        /// `weights`, `gradients`, `optimizer`, `activations`, `workspace`, `unexplained`, or `allocator`.
        pub kind: Cow<'static, str>,
        /// The owner's name: a parameter, a saved tensor, a workspace. For `allocator`, [`MemoryRow::RESERVED`] or [`MemoryRow::IN_USE`].
        pub owner: Cow<'static, str>,
        /// Bytes held.
        pub bytes: u64,
    }
}

impl MemoryRow {
    /// The kind of rows that carry the allocator's totals.
    pub const ALLOCATOR: &'static str = "allocator";
    /// The owner of the row with the bytes the allocator took from the device.
    pub const RESERVED: &'static str = "reserved";
    /// The owner of the row with the bytes the allocator gave out.
    pub const IN_USE: &'static str = "in_use";
}

impl StreamRow for MemoryRow {
    const STREAM: &'static str = "memory";
}
