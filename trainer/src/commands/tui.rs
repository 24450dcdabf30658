//! `bellows tui`: starts the dashboard, a program of its own, so that a server needs to build none.

use super::sibling::Sibling;
use crate::cli::TuiArgs;
use crate::error::Error;
use crate::ui::Ui;

const DASHBOARD: Sibling = Sibling {
    program: "bellows-tui",
    what: "the dashboard",
    build: "cargo build --release -p bellows-tui",
};

/// Hands over to `bellows-tui`.
///
/// # Errors
/// If there is no such program, with the command that builds it; if it cannot be started.
pub fn run(args: TuiArgs, _: &Ui) -> Result<(), Error> {
    DASHBOARD.hand_over(args.arguments)
}
