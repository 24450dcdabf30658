//! The program: parse the arguments, run the command, turn its end into an exit code.
//!
//! 0: done. 1: failed while running. 2: bad usage or input. 130: stopped by a second Ctrl-C.

use std::process::ExitCode;

use bellows::cli::Cli;
use clap::Parser;

fn main() -> ExitCode {
    // SAFETY: this is the first thing the process does, on its only thread.
    unsafe { bellows::device::hush_display_library() };
    keep_freed_memory();
    bellows::device::install_panic_hook();
    // The hook has told what happened; what is left is the exit code of a failure.
    std::panic::catch_unwind(|| bellows::cli::run(Cli::parse())).unwrap_or(ExitCode::FAILURE)
}

/// Tensors of one step come and go in the same sizes. By default glibc gives large ones back to the
/// system at once, and each next one pays for fresh pages; kept, they cost about a fifth less time
/// a step on the CPU backend.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_freed_memory() {
    const LARGEST_MMAP_THRESHOLD: i32 = 32 << 20;
    // SAFETY: both only set numbers of the allocator; a refusal leaves the defaults.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_freed_memory() {}
