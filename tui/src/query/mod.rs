//! Questions about a run that more than one screen asks, answered from what the store holds.

pub mod config;
pub mod headline;
pub mod progress;
pub mod smooth;
pub mod warnings;
