//! What a run records: one file a kind of row.

mod column;
mod event;
mod memory;
mod metrics;
mod routing;
mod sample;
mod scalar;
mod table;
mod trace;
mod transition;

pub use event::{Event, EventKind};
pub use memory::MemoryRow;
pub use metrics::StepMetrics;
pub use routing::{RouterRow, RoutingRow};
pub use sample::Sample;
pub use table::{StreamRow, TableRow};
pub use trace::{ProbeToken, TraceRow};
pub use transition::{TransitionKind, TransitionRow};

pub(crate) use table::{STEP, batch, schema, step_batch, step_schema};

/// A line of a JSON lines file. Implemented by this crate's row types alone.
pub trait LineRow: serde::Serialize + serde::de::DeserializeOwned {
    /// Whether a later segment replaces lines from its first step on; a log only grows.
    const REPLACED: bool;

    /// Whether a segment holds one line a step: a second one then replaces the first.
    const ONE_A_STEP: bool;

    /// The segment that wrote the line, and the line's step.
    fn position(&self) -> (u32, u64);
}
