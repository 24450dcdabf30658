//! One module a command. Each has `run(args, &ui)`.

pub mod bench;
pub mod completions;
pub mod config;
pub mod ctl;
pub mod devices;
pub mod eval;
pub mod export;
pub mod export_metrics;
pub mod generate;
pub mod import;
pub mod plan;
pub mod resume;
pub mod runs;
mod sibling;
pub mod status;
pub mod train;
pub mod tui;
pub mod verify;
pub mod view;
