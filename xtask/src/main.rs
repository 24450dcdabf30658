//! Developer commands, run as `cargo xtask <command>`.
//!
//! Nothing here links Burn, so the commands themselves build in seconds. Each command is a file; [`cargo`] is what they
//! know of the workspace, [`ui`] how they speak.

mod bench;
mod cargo;
mod error;
mod fixtures;
mod lint;
mod test;
mod ui;
mod vulkan;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Error;

/// Developer commands of Bellows.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every test on the CPU backend, then the device-dependent ones on a wgpu device.
    Test(test::Options),
    /// Check formatting, clippy and rustdoc, warnings denied.
    Lint(lint::Options),
    /// Everything continuous integration runs: lint, then test.
    Ci,
    /// Build and run the benches: the examples whose name starts with `bench_`.
    Bench(bench::Options),
    /// Make the checked-in parity vectors anew, with Python in an environment of its own.
    Fixtures(fixtures::Options),
}

fn main() -> ExitCode {
    if let Some(code) = test::as_compiler() {
        return code;
    }
    let succeeded = match Arguments::parse().command {
        Command::Test(options) => test_to_the_last_line(&options, true),
        Command::Lint(options) => lint::run(&options),
        Command::Ci => {
            let clean = lint::run(&lint::Options::default()).unwrap_or_else(|error| {
                ui::error(&error);
                false
            });
            test_to_the_last_line(&test::Options::default(), clean)
        }
        Command::Bench(options) => bench::run(&options),
        Command::Fixtures(options) => fixtures::run(&options),
    };
    match succeeded {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            ui::error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Runs the tests and ends the output with the count line, whatever happens: scripts read the last line.
fn test_to_the_last_line(options: &test::Options, clean: bool) -> Result<bool, Error> {
    let report = match test::run(options) {
        Ok(report) => {
            report.print_details();
            report
        }
        Err(error) => {
            ui::error(&error);
            test::Report::of_a_failure(error.to_string())
        }
    };
    if !clean {
        ui::warning("lint failed; what it found is above the tests");
    }
    report.print_count();
    Ok(clean && report.succeeded())
}
