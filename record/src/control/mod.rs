//! Steering a live run from outside.
//!
//! While a run trains, its process listens on `control.sock` in the run's directory (on Windows on
//! the named pipe `bellows-<run_id>`), which its owner alone may use. A client sends a [`Request`]
//! as one line of JSON and gets a [`Reply`] as one line, in the order of its requests:
//!
//! ```text
//! {"version":1,"command":"learning_rate_scale","scale":0.5}
//! {"version":1,"done":{"step":1200,"message":"the learning rate is scaled by 0.5"}}
//! ```
//!
//! `status` is answered at once. Every other command takes effect between two optimizer steps; the
//! answer comes then, with the number of steps taken, and `events.jsonl` has an event of kind
//! `command`. A command whose line arrived whole takes effect even if its client is gone by then.
//!
//! A path too long for a Unix socket, or a file system without sockets, is no obstacle: the socket
//! then lies in a private folder of the system's temporary directory, and `control.sock` is a
//! symbolic link to it.

mod client;
mod socket;
mod wire;

pub use client::{ClientError, ask_status, send};
pub use socket::{ControlListener, ControlStream, connect};
pub use wire::{
    Acknowledgement, CONTROL_VERSION, Command, ControlError, ControlErrorKind, Intervals,
    LONGEST_REQUEST, Outcome, Reply, Request, Status,
};
