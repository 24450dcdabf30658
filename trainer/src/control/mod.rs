//! Commands to a live run: a socket in its directory, and what the training loop takes from it.
//!
//! Threads of `server` speak with clients and hand whole, checked commands over; the loop takes
//! them between two steps ([`Control::next`]). The loop never waits for a client, and a client can
//! at most hold a thread of its own.

mod server;
mod steering;

pub use server::{Control, Pending};
pub use steering::{Steering, intervals_of};
