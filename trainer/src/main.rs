//! The program: parse the arguments, run the command, turn its end into an exit code.
//!
//! 0: done. 1: failed while running. 2: bad usage or input. 130: stopped by a second Ctrl-C.

use std::process::ExitCode;

use bellows::cli::Cli;
use bellows_engine::kernels::memory::Counting;
use clap::Parser;

/// Counts, for the memory ledger of the CPU backend.
#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    // SAFETY: this is the first thing the process does, on its only thread.
    unsafe { bellows::device::hush_display_library() };
    bellows::device::install_panic_hook();
    // The hook has told what happened; what is left is the exit code of a failure.
    std::panic::catch_unwind(|| bellows::cli::run(Cli::parse())).unwrap_or(ExitCode::FAILURE)
}
