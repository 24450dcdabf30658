//! `bellows completions`: a shell's completion script.

use clap::CommandFactory;

use crate::cli::{Cli, CompletionsArgs};
use crate::error::Error;
use crate::ui::Ui;

/// Prints the script.
///
/// # Errors
/// None of its own.
pub fn run(args: CompletionsArgs, ui: &Ui) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "bellows", &mut script);
    ui.print_raw(String::from_utf8_lossy(&script));
    Ok(())
}
