use super::table::table_row;

table_row! {
    /// A row of `traces/<step>.<n>.arrow`: one slot of one probe token's routing at one step.
    pub struct TraceRow {
        /// Probe sequence, as in [`ProbeToken`].
        pub sequence: u32,
        /// Position in the sequence, as in [`ProbeToken`].
        pub position: u32,
        /// Decoder layer, from 0.
        pub layer: u32,
        /// Chain-of-Experts iteration, from 0.
        pub iteration: u32,
        /// Rank of the choice: 0 to k − 1, highest score first.
        pub slot: u32,
        /// The expert chosen.
        pub expert: u32,
        /// The weight its output was multiplied with.
        pub weight: f32,
    }
}

table_row! {
    /// A row of `traces/probe.arrow`: one token of the fixed probe set, which all traces share.
    pub struct ProbeToken {
        /// Probe sequence, from 0.
        pub sequence: u32,
        /// Position in the sequence, from 0.
        pub position: u32,
        /// Token id.
        pub token: u32,
        /// The token's own text; bytes that are no UTF-8 by themselves show as U+FFFD.
        pub text: String,
        /// Where the text comes from: a file, a crate, a data set's split.
        pub source: String,
    }
}
