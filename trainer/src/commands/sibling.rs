//! Programs of their own that a command starts, as git does with its subcommands.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use crate::error::Error;

/// A program that stands beside this one.
pub struct Sibling {
    /// Its file's name.
    pub program: &'static str,
    /// What it is.
    pub what: &'static str,
    /// The command that builds it, from the root of the sources.
    pub build: &'static str,
}

impl Sibling {
    /// Finds the program beside this one, then on the PATH, and hands over to it.
    ///
    /// # Errors
    /// If there is no such program, with the command that builds it; if it cannot be started.
    pub fn hand_over(&self, arguments: Vec<OsString>) -> Result<(), Error> {
        let Self {
            program,
            what,
            build,
        } = self;
        let found = find(program).ok_or_else(|| {
            Error::input(format!(
                "{what}, {program}, is neither beside this program nor on the PATH"
            ))
            .help(format!("`{build}` builds it"))
        })?;
        let mut command = Command::new(&found);
        command.args(arguments);
        let failed = |error: std::io::Error| {
            Error::failed(format!("cannot start {}", found.display())).because(error)
        };
        #[cfg(unix)]
        {
            use std::os::unix::process::CommandExt;
            // Takes this process's place, so that signals and the exit code are the other program's own.
            Err(failed(command.exec()))
        }
        #[cfg(not(unix))]
        {
            let status = command.status().map_err(failed)?;
            // Its own words have been said already.
            std::process::exit(status.code().unwrap_or(1));
        }
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
