//! `bellows tui`: starts the dashboard, a program of its own, so that a server needs to build none.

use std::path::PathBuf;
use std::process::Command;

use crate::cli::TuiArgs;
use crate::error::Error;
use crate::ui::Ui;

/// Finds `bellows-tui` beside this program, then on the PATH, and hands over to it.
///
/// # Errors
/// If there is no such program, with the command that builds it; if it fails.
pub fn run(args: TuiArgs, _: &Ui) -> Result<(), Error> {
    let program = find("bellows-tui").ok_or_else(|| {
        Error::input("the dashboard, bellows-tui, is neither beside this program nor on the PATH")
            .help("`cargo build --release -p bellows-tui` builds it")
    })?;
    let mut command = Command::new(&program);
    command.args(args.arguments);
    let failed = |error: std::io::Error| {
        Error::failed(format!("cannot start {}", program.display())).because(error)
    };
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        // Takes this process's place, so that signals and the exit code are the dashboard's own.
        Err(failed(command.exec()))
    }
    #[cfg(not(unix))]
    {
        let status = command.status().map_err(failed)?;
        // Its own words have been said already.
        std::process::exit(status.code().unwrap_or(1));
    }
}

fn find(name: &str) -> Option<PathBuf> {
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let beside = std::env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.join(&file)))
        .filter(|path| path.is_file());
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|folder| folder.join(&file))
            .find(|path| path.is_file())
    };
    beside.or_else(on_path)
}
