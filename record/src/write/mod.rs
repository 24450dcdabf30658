//! The only writer of a run's directory.

mod append;
mod atomic;
mod checkpoint;
mod directory;
mod files;
mod lock;
mod run;
mod worker;

pub use checkpoint::PendingCheckpoint;
pub use run::RunWriter;
