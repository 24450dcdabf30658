//! The program from outside: tiny models on a tiny corpus, on the CPU.

mod common;
mod damage;
#[cfg(unix)]
mod dashboard;
mod disk;
mod folders;
mod input;
mod memory;
mod objectives;
mod on_device_memory;
mod on_device_precision;
mod output;
mod plan;
mod precision;
mod process;
mod record;
mod resume;
mod retention;
mod sibling;
mod skipped;
#[cfg(unix)]
mod steering;
#[cfg(unix)]
mod stop;
