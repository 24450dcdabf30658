//! `bellows view`: starts the desktop viewer, a program of its own, so that training needs no window system.

use super::sibling::Sibling;
use crate::cli::ViewArgs;
use crate::error::Error;
use crate::ui::Ui;

const VIEWER: Sibling = Sibling {
    program: "bellows-viewer",
    what: "the desktop viewer",
    build: "cargo build --release --manifest-path viewer/Cargo.toml --target-dir target",
};

/// Hands over to `bellows-viewer`.
///
/// # Errors
/// If there is no such program, with the command that builds it; if it cannot be started.
pub fn run(args: ViewArgs, _: &Ui) -> Result<(), Error> {
    VIEWER.hand_over(args.arguments)
}
