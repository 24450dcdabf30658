use std::borrow::Cow;

use super::StreamRow;
use super::table::table_row;

table_row! {
    /// A row of `memory.<n>.arrows`: the bytes one owner holds at one moment of a step.
    ///
    /// Rows with one step and one `moment` are one snapshot of the device's memory: since schema 1.2
    /// that of the fullest moment of a phase. Without the kinds `allocator` and `unexplained` their
    /// bytes add up to what the ledger explains, and with `unexplained` to what was in use; the
    /// allocator's own totals stand beside them as rows of kind [`MemoryRow::ALLOCATOR`].
    pub struct MemoryRow {
        /// The snapshot's place in its step, from 0 in order of time.
        pub moment: u32,
        /// What training was doing at that moment: `forward`, `backward`, `optimizer`, or `idle` after
        /// the update.
        pub phase: Cow<'static, str>,
        /// The owner's decoder layer; null for what belongs to none.
        pub layer: Option<u32>,
        /// `weights`, `gradients`, `optimizer`, `activations`, `workspace`, `unexplained`, or `allocator`.
        pub kind: Cow<'static, str>,
        /// The owner's name: a parameter, a saved tensor, a workspace. For `allocator`, [`MemoryRow::RESERVED`], [`MemoryRow::IN_USE`] or [`MemoryRow::PEAK`].
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
    /// The owner of the row with the bytes the allocator had given out when the snapshot was taken.
    pub const IN_USE: &'static str = "in_use";
    /// The owner of the row with the most bytes it had given out in the snapshot's phase: the
    /// snapshot is taken within a hundredth of it. Not in runs before schema 1.2.
    pub const PEAK: &'static str = "peak";
    /// Kind and owner of the row with what no owner explains of the bytes in use.
    pub const UNEXPLAINED: &'static str = "unexplained";
}

impl StreamRow for MemoryRow {
    const STREAM: &'static str = "memory";
}
