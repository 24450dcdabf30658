//! `cargo xtask bench`: builds and runs the example programs whose name starts with `bench_`.

use clap::Args;

use crate::cargo::{self, Workspace};
use crate::error::Error;
use crate::ui;

/// Options of `cargo xtask bench`.
#[derive(Args)]
pub struct Options {
    /// Run only benches whose name contains one of these.
    names: Vec<String>,
    /// Arguments for every bench.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs the benches one after the other; true where all ended well.
pub fn run(options: &Options) -> Result<bool, Error> {
    let workspace = Workspace::load()?;
    let viewer = workspace.viewer()?;
    let known: Vec<_> = [&workspace, &viewer]
        .into_iter()
        .flat_map(|of| of.benches().into_iter().map(move |bench| (bench, of)))
        .collect();
    let wanted = |name: &str| {
        options.names.is_empty()
            || options
                .names
                .iter()
                .any(|part| name.contains(part.as_str()))
    };
    let chosen: Vec<_> = known.iter().filter(|((name, _), _)| wanted(name)).collect();
    if chosen.is_empty() {
        return Err(Error::NoBench {
            known: known
                .iter()
                .map(|((name, _), _)| (*name).to_owned())
                .collect(),
        });
    }
    let mut failed = Vec::new();
    for ((name, package), of) in chosen {
        let mut command =
            cargo::command(["run", "--release", "--package", package, "--example", name]);
        if of.root != workspace.root {
            command.args(of.options());
        }
        command.arg("--").args(&options.arguments);
        ui::step(name, &cargo::shown(&command));
        if !cargo::status(&mut command, "Is cargo on the PATH?")?.success() {
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        ui::warning(format!("failed: {}", failed.join(", ")));
    }
    Ok(failed.is_empty())
}
