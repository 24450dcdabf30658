//! The program: arguments, then the dashboard until it is left.

use std::process::ExitCode;

use bellows_tui::cli::Arguments;
use clap::Parser;

fn main() -> ExitCode {
    match bellows_tui::cli::run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            error.exit_code()
        }
    }
}
