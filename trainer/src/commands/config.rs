//! `bellows config`: every setting, or what a file comes to.

use crate::cli::ConfigArgs;
use crate::config::{DEFAULT_DOCUMENT, RunConfig};
use crate::error::Error;
use crate::ui::Ui;

/// Prints the documented default file, or the resolved form of a given one.
///
/// # Errors
/// The file cannot be read, or its problems.
pub fn run(args: ConfigArgs, ui: &Ui) -> Result<(), Error> {
    let loaded = match &args.config {
        Some(path) => RunConfig::load(path, &args.set)?,
        None if args.set.is_empty() && !args.json => {
            ui.print_raw(DEFAULT_DOCUMENT);
            return Ok(());
        }
        None => RunConfig::parse("", "the defaults", &args.set)?,
    };
    for warning in &loaded.warnings {
        ui.warn(warning);
    }
    if args.json {
        ui.json(&loaded.config);
    } else {
        ui.print_raw(loaded.config.to_toml()?);
    }
    Ok(())
}
