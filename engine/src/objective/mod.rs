//! Training objectives: cross-entropy, preferences ([`dpo`]), rewards ([`grpo`]), and what keeps
//! routers healthy.
//!
//! Every term is a sum over tokens divided by a count of the whole optimizer step, never of a
//! micro-batch, so that accumulation over micro-batches equals one large batch. The one exception
//! is a balance loss per micro-batch, whose value depends on the division by definition.

mod balance;
mod config;
pub mod dpo;
mod goal;
pub mod grpo;
mod targets;
mod weigh;

pub use balance::{
    Chosen, Counts, Frequencies, RouterTerms, StepSize, Weighing, router_terms,
    update_correction_bias,
};
pub use config::{BalanceScope, RouterObjective};
pub(crate) use goal::Share;
pub use goal::{Mean, Objective};
pub use targets::{Targets, advantages};
pub(crate) use weigh::Reported;
pub use weigh::{Measures, Weighed};
