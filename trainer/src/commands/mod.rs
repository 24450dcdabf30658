//! One module a command. Each has `run(args, &ui)`.

pub mod bench;
pub mod completions;
pub mod config;
pub mod devices;
pub mod eval;
pub mod export;
pub mod generate;
pub mod import;
pub mod resume;
pub mod runs;
pub mod train;
pub mod verify;
