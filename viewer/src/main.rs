//! The program: arguments, then a window until it is closed, or a picture without one.

use std::process::ExitCode;

use bellows_viewer::cli::{self, Arguments};
use clap::Parser;

fn main() -> ExitCode {
    match cli::run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            error.exit_code()
        }
    }
}
