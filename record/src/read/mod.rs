//! The only reader of a run's directory.

mod frames;
mod lines;
mod list;
mod run;
mod segments;
mod stream;
mod tables;
mod tail;
mod update;

pub use lines::{BadLine, BadLines, LineReader};
pub use list::{RunList, RunSummary, is_run, list_checkpoints, list_runs};
pub use run::RunReader;
pub use stream::{StreamProblem, StreamReader};
pub use update::Update;
