//! One training run: from a configuration, or a checkpoint, to its last step.
//!
//! [`Session`] opens device, data and model; [`train`] is the loop; [`Checkpoints`]
//! writes in the background; [`Recorder`] turns what the engine reports into the run's record.

mod batches;
mod checkpoint;
mod ledger;
mod recorder;
mod reference;
mod sample;
mod session;
mod stop;
mod training;

pub use batches::micro_batch;
pub use checkpoint::{Checkpoints, State};
pub use recorder::Recorder;
pub use reference::{Reference, ReferenceId};
pub use sample::continue_text;
pub use session::{Session, data_progress, loader_config};
pub use stop::Stop;
pub use training::{Outcome, train};
