//! What can be typed after `bellows-tui`.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use bellows_record::time::UtcOffset;
use clap::Parser;

use crate::app::Options;
use crate::theme::{Glyphs, Theme, ThemeName};
use crate::{keys, terminal};

/// The terminal dashboard of Bellows: start, watch and steer training runs.
#[derive(Debug, Parser)]
#[command(
    name = "bellows-tui",
    version,
    after_help = "\
Examples:
  bellows-tui                     the runs under runs/
  bellows-tui runs/rust-code      one run
  bellows-tui /mnt/runs --read-only

? shows the keys of the screen you are on. Closing the dashboard leaves every run as it is."
)]
pub struct Arguments {
    /// Folder that holds runs, or the folder of one run
    #[arg(value_name = "DIR or RUN", default_value = "runs")]
    pub path: PathBuf,
    /// Hide whatever changes a run
    #[arg(long)]
    pub read_only: bool,
    /// Colours: for a dark or a light background, or none; NO_COLOR means none
    #[arg(long, value_enum)]
    pub theme: Option<ThemeName>,
    /// Draw with ASCII characters alone; the default where the locale is not UTF-8
    #[arg(long)]
    pub ascii: bool,
    /// Take mouse clicks and the wheel; text is then selected with Shift
    #[arg(long)]
    pub mouse: bool,
    /// Folder whose configurations a new run is offered
    #[arg(long, value_name = "DIR", default_value = "examples")]
    pub examples: PathBuf,
    /// Print every key as a page of documentation
    #[arg(long, hide = true)]
    pub print_keys: bool,
}

/// Why the dashboard ends.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Standard input or output is no terminal.
    #[error(
        "the dashboard needs a terminal; `bellows status RUN --json` and `bellows runs --json` are for scripts"
    )]
    NoTerminal,
    /// The path does not exist.
    #[error("there is no folder {}; give one that holds runs, or a run", .0.display())]
    NoFolder(PathBuf),
    /// The terminal failed.
    #[error("the terminal failed: {0}")]
    Terminal(#[from] io::Error),
}

impl Error {
    /// 2 for bad usage, 1 for a failure.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::NoTerminal | Self::NoFolder(_) => 2,
            Self::Terminal(_) => 1,
        })
    }
}

/// Runs the dashboard until it is left.
///
/// # Errors
///
/// [`Error`].
pub fn run(arguments: Arguments) -> Result<(), Error> {
    if arguments.print_keys {
        print!("{}", keys::markdown());
        return Ok(());
    }
    // A folder that is not there yet is where the first run will be written.
    if !arguments.path.is_dir() && arguments.path.as_os_str() != "runs" {
        return Err(Error::NoFolder(arguments.path));
    }
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(Error::NoTerminal);
    }
    let alone = bellows_record::is_run(&arguments.path).then(|| arguments.path.clone());
    let root = match &alone {
        Some(run) => run
            .canonicalize()
            .ok()
            .and_then(|run| run.parent().map(PathBuf::from))
            .unwrap_or_else(|| PathBuf::from(".")),
        None => arguments.path.clone(),
    };
    let options = Options {
        root,
        examples: arguments.examples,
        read_only: arguments.read_only,
        theme: Theme::new(theme(
            arguments.theme,
            std::env::var_os("NO_COLOR").is_some(),
        )),
        glyphs: Glyphs {
            ascii: arguments.ascii || !speaks_unicode(),
        },
        offset: UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC),
    };
    Ok(terminal::run(options, alone, arguments.mouse)?)
}

/// What was asked for wins; `NO_COLOR` is asked for too.
fn theme(asked: Option<ThemeName>, no_color: bool) -> ThemeName {
    match asked {
        Some(name) => name,
        None if no_color => ThemeName::None,
        None => ThemeName::Dark,
    }
}

/// Whether the locale says UTF-8. One that says nothing is a system of today, or Windows.
fn speaks_unicode() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .filter_map(|name| std::env::var(name).ok())
        .find(|value| !value.is_empty());
    locale.is_none_or(|locale| {
        let locale = locale.to_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_hold_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn no_color_is_honoured_unless_a_theme_is_asked_for() {
        assert_eq!(theme(None, true), ThemeName::None);
        assert_eq!(theme(None, false), ThemeName::Dark);
        assert_eq!(theme(Some(ThemeName::Light), true), ThemeName::Light);
    }
}
