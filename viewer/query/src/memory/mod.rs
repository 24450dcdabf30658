//! What fills memory, and when.
//!
//! A record of memory is a step with one or more *moments*; a moment is a snapshot of every owner's bytes. The
//! allocator's own totals stand beside the owners and are no part of their sum.

mod plan;
mod range;
mod step;
mod timeline;
mod tree;

pub use plan::{MemoryFit, PlanMode, PlanTable};
pub use range::{KindStatistics, MemoryRange, RangeTable};
pub use step::{Band, Foretold, LedgerMoment, MemoryStep, StepLedger};
pub use timeline::{MemoryTimeline, Timeline, TimelineColumn};
pub use tree::{MemoryAt, MemoryTree, Tree, TreeNode};
