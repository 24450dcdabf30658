//! Who holds memory, how much, and when it was most: one mechanism for the ledger of a run, for
//! benches and for tests.
//!
//! A [`Watch`] reads what is in use. On a device that CubeCL programs it does so before launches,
//! which is after all that a launch writes was allocated and before anything is let go: so the
//! largest reading of a watch that looks at every launch is the peak. On the CPU backend the
//! program's global allocator counts ([`Counting`]), where the program installs it.
//!
//! A [`Ledger`] names owners while it lives. Owners come from where memory is taken: the
//! [`Stage`] of the step, the layer and the part of it that are at work ([`enter_stage`],
//! [`enter_layer`], [`enter_part`]), or, for what outlives a step, from [`own`]. What it counts
//! are handles that exist: on a device a weak handle of each buffer, noted when it is made and
//! gone when its last owner is; on the CPU each block of the allocator.
//!
//! Nothing here costs more than a look at an atomic while no ledger and no watch lives.

mod counting;
mod handles;
mod ledger;
mod owner;
mod watch;

pub use counting::Counting;
pub use handles::{address, keep, last_request, note};
pub(crate) use handles::{note_any, note_gradient, note_primitive};
pub(crate) use ledger::own_gradient;
pub use ledger::{Held, Ledger, own};
pub use owner::{
    Entered, Kind, Place, Stage, enter_layer, enter_part, enter_stage, failed_at, place,
};
pub use watch::{Moment, PEAKS, Reading, Watch, in_use, peak_during};
