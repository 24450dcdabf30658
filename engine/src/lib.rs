//! Models, objectives, optimizer and weights of Bellows, as a library.
//!
//! As data flows: token ids become an [`model::Input`], [`model::Decoder`] turns it into hidden
//! states and routing decisions, [`objective`] into losses, [`step`] runs forward and backward over
//! the micro-batches of one optimizer step, plainly or as [`stream`] does, [`optim`] updates the parameters, and [`observer`]
//! reports what happened in plain values. [`plan`] tells the memory of a step before it runs,
//! [`policy`] is the log-probabilities that some objectives
//! are functions of. [`weights`] names parameters as checkpoints do. Nothing
//! here reads or writes files or terminals.

pub mod config;
pub mod generate;
pub mod model;
pub mod objective;
pub mod observer;
pub mod optim;
pub mod plan;
pub mod policy;
pub mod step;
pub mod stream;
mod tally;
pub mod weights;

pub use bellows_kernels as kernels;
pub use burn;
