//! `cargo xtask lint`: formatting, clippy and rustdoc, in the order that fails quickest; all of them run.

use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;

use crate::cargo::{self, Workspace};
use crate::error::Error;
use crate::ui;

/// Options of `cargo xtask lint`.
#[derive(Args, Default)]
pub struct Options {
    /// Features to check with, as cargo takes them (`vulkan`, `metal`).
    #[arg(long, value_name = "FEATURES")]
    features: Option<String>,
}

const HINT: &str = "Is cargo on the PATH?";

/// Runs every check; true where all passed.
pub fn run(options: &Options) -> Result<bool, Error> {
    let viewer = Workspace::load()?.viewer()?;
    let mut results = Vec::new();
    for (name, mut check) in checks(options).into_iter().chain(viewer_checks(&viewer)) {
        ui::step(name, &cargo::shown(&check));
        let started = Instant::now();
        let passed = cargo::status(&mut check, HINT)?.success();
        results.push((name, passed, started.elapsed()));
        if !passed {
            hint(name);
        }
    }
    summary(&results);
    Ok(results.iter().all(|(_, passed, _)| *passed))
}

/// The checks as `(name, command)`. They share the release profile with the tests: one profile's build scripts and macros.
fn checks(options: &Options) -> Vec<(&'static str, Command)> {
    let features = options
        .features
        .iter()
        .flat_map(|list| ["--features", list]);
    let formatting = cargo::command(["fmt", "--all", "--check"]);
    let mut clippy = cargo::command(["clippy", "--release", "--workspace", "--all-targets"]);
    clippy.args(features.clone()).args(["--", "-D", "warnings"]);
    let mut docs = cargo::command(["doc", "--release", "--workspace", "--no-deps"]);
    docs.args(features).env(
        "RUSTDOCFLAGS",
        deny_warnings(std::env::var("RUSTDOCFLAGS").ok()),
    );
    vec![
        ("formatting", formatting),
        ("clippy", clippy),
        ("rustdoc", docs),
    ]
}

/// The same checks of the viewer, whose workspace is its own.
fn viewer_checks(workspace: &Workspace) -> Vec<(&'static str, Command)> {
    let mut formatting = cargo::command(["fmt", "--check", "--manifest-path"]);
    formatting.arg(workspace.root.join("Cargo.toml"));
    let mut clippy = cargo::command(["clippy", "--release", "--all-targets"]);
    clippy
        .args(workspace.options())
        .args(["--", "-D", "warnings"]);
    let mut docs = cargo::command(["doc", "--release", "--no-deps"]);
    docs.args(workspace.options()).env(
        "RUSTDOCFLAGS",
        deny_warnings(std::env::var("RUSTDOCFLAGS").ok()),
    );
    vec![
        ("formatting", formatting),
        ("clippy", clippy),
        ("rustdoc", docs),
    ]
}

fn deny_warnings(given: Option<String>) -> String {
    match given {
        Some(flags) if !flags.trim().is_empty() => format!("{flags} -D warnings"),
        _ => "-D warnings".to_owned(),
    }
}

/// A missing component looks like a failed check; say so where it is one.
fn hint(name: &str) {
    let (subcommand, component) = match name {
        "formatting" => ("fmt", "rustfmt"),
        "clippy" => ("clippy", "clippy"),
        _ => return,
    };
    let present = cargo::command([subcommand, "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !present {
        ui::warning(format!(
            "{component} is not installed: run `rustup component add {component}`, or install your distribution's {component}"
        ));
    } else if name == "formatting" {
        ui::warning("`cargo fmt --all` formats the files listed above");
    }
}

fn summary(results: &[(&str, bool, Duration)]) {
    ui::title("Lint");
    for (name, passed, time) in results {
        let verdict = if *passed { "passed" } else { "FAILED" };
        ui::say(format!("  {name:<10}  {verdict}  {}", ui::duration(*time)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_denied_beside_flags_already_set() {
        assert_eq!(deny_warnings(None), "-D warnings");
        assert_eq!(deny_warnings(Some(" ".into())), "-D warnings");
        assert_eq!(
            deny_warnings(Some("--cfg docsrs".into())),
            "--cfg docsrs -D warnings"
        );
    }

    #[test]
    fn the_viewer_is_checked_as_the_rest_is_and_builds_beside_it() {
        let workspace = Workspace::load().unwrap();
        let viewer = workspace.viewer().unwrap();
        assert_eq!(viewer.target, workspace.target);
        assert!(viewer.root.ends_with("viewer"));
        let names = |checks: Vec<(&'static str, Command)>| -> Vec<&str> {
            checks.into_iter().map(|(name, _)| name).collect()
        };
        let root = names(checks(&Options::default()));
        assert_eq!(names(viewer_checks(&viewer)), root);
    }

    #[test]
    fn features_reach_clippy_before_its_own_flags() {
        let checks = checks(&Options {
            features: Some("vulkan".into()),
        });
        assert!(
            cargo::shown(&checks[1].1).ends_with("--all-targets --features vulkan -- -D warnings")
        );
        assert!(cargo::shown(&checks[2].1).ends_with("--no-deps --features vulkan"));
    }
}
