//! Bellows trains Mixture-of-Experts and Chain-of-Experts language models.
//!
//! This is the program's library: the command line ([`cli`]), a run's configuration ([`config`]),
//! devices ([`device`]), what is told to the user ([`ui`]) and one module a command ([`commands`]).
//! Models and objectives live in `bellows-engine`, corpora in `bellows-data`, and what a run writes
//! in `bellows-record`.

pub mod bench;
pub mod cli;
pub mod commands;
pub mod config;
pub mod control;
pub mod device;
pub mod error;
pub mod models;
pub mod plan;
pub mod run;
pub mod ui;
pub mod verify;
