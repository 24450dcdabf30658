//! What the commands know of cargo and of the workspace: packages, targets, and the test programs a build makes.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use serde::Deserialize;

use crate::error::Error;

const CARGO_HINT: &str = "Is cargo on the PATH?";

/// The viewer's manifest. Its workspace is apart because a window system asks shared crates for features that would
/// build Burn a second time.
pub const VIEWER: &str = "viewer/Cargo.toml";

/// The workspace as `cargo metadata` tells it.
#[derive(Deserialize)]
pub struct Workspace {
    packages: Vec<Package>,
    /// Where the workspace's Cargo.toml lies.
    #[serde(rename = "workspace_root")]
    pub root: PathBuf,
    /// Where cargo builds, `CARGO_TARGET_DIR` respected.
    #[serde(rename = "target_directory")]
    pub target: PathBuf,
}

/// A member of the workspace.
#[derive(Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its Cargo.toml.
    pub manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
    #[serde(default)]
    doctest: bool,
}

/// One test program: a library's, a binary's or an example's unit tests, or a file under `tests/`.
pub struct TestProgram {
    /// The package it belongs to.
    pub package: String,
    /// That package's version.
    pub version: String,
    /// That package's Cargo.toml.
    pub manifest: PathBuf,
    /// The target's name: the file under `tests/`, or the crate.
    pub name: String,
    /// Whether it is a file under `tests/`.
    pub integration: bool,
    /// The program itself.
    pub executable: PathBuf,
}

impl TestProgram {
    /// What the report calls the target.
    pub fn label(&self) -> String {
        if self.integration {
            format!("tests/{}", self.name)
        } else {
            self.name.clone()
        }
    }

    /// The folder cargo would start it in.
    pub fn folder(&self) -> &Path {
        self.manifest.parent().unwrap_or(Path::new("."))
    }
}

/// What a build of the tests made.
pub struct Build {
    /// Every test program that was built, in a fixed order.
    pub programs: Vec<TestProgram>,
    /// How cargo ended. After a failure the programs are an arbitrary part: cargo stops where it happens to be.
    pub status: ExitStatus,
}

/// A call of the cargo that called us, or else of the one on the PATH.
pub fn command<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(cargo());
    command.args(arguments);
    command
}

fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// The command line as a person would type it.
pub fn shown(command: &Command) -> String {
    let program = command.get_program();
    let program = if program == cargo() {
        OsStr::new("cargo")
    } else {
        program
    };
    std::iter::once(program)
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command to its end, its output going where ours goes.
pub fn status(command: &mut Command, hint: &'static str) -> Result<ExitStatus, Error> {
    command.status().map_err(|source| Error::Start {
        command: shown(command),
        source,
        hint,
    })
}

impl Workspace {
    /// Asks cargo about the workspace that the folder we stand in belongs to.
    pub fn load() -> Result<Self, Error> {
        Self::ask(command(["metadata", "--no-deps", "--format-version", "1"]))
    }

    /// The viewer's own workspace. It builds into the target folder of this one, so that both share what they can.
    pub fn viewer(&self) -> Result<Self, Error> {
        let mut command = command(["metadata", "--no-deps", "--format-version", "1"]);
        command.arg("--manifest-path").arg(self.root.join(VIEWER));
        Ok(Self {
            target: self.target.clone(),
            ..Self::ask(command)?
        })
    }

    /// Options that make a command of cargo's mean this workspace and build into its target folder.
    pub fn options(&self) -> [OsString; 4] {
        [
            "--manifest-path".into(),
            self.root.join("Cargo.toml").into(),
            "--target-dir".into(),
            self.target.clone().into(),
        ]
    }

    fn ask(mut command: Command) -> Result<Self, Error> {
        command.stderr(Stdio::inherit());
        let output = command.output().map_err(|source| Error::Start {
            command: shown(&command),
            source,
            hint: CARGO_HINT,
        })?;
        if !output.status.success() {
            return Err(Error::Failed {
                command: shown(&command),
                status: output.status,
                hint: "",
            });
        }
        serde_json::from_slice(&output.stdout).map_err(|source| Error::Json {
            command: shown(&command),
            source,
        })
    }

    /// Example targets whose name starts with `bench_`, with their packages, by name.
    pub fn benches(&self) -> Vec<(&str, &str)> {
        let mut found: Vec<(&str, &str)> = self
            .packages
            .iter()
            .flat_map(|package| package.targets.iter().map(move |target| (package, target)))
            .filter(|(_, target)| target.kind.iter().any(|kind| kind == "example"))
            .filter(|(_, target)| target.name.starts_with("bench_"))
            .map(|(package, target)| (target.name.as_str(), package.name.as_str()))
            .collect();
        found.sort_unstable();
        found
    }

    /// Whether any library has documentation tests to look for.
    pub fn has_doc_tests(&self) -> bool {
        self.packages
            .iter()
            .flat_map(|package| &package.targets)
            .any(|target| target.doctest)
    }

    /// The package whose library is called `name` in Rust.
    pub fn package_of_library(&self, name: &str) -> Option<&str> {
        self.packages
            .iter()
            .find(|package| {
                package
                    .targets
                    .iter()
                    .any(|target| target.doctest && target.name.replace('-', "_") == name)
            })
            .map(|package| package.name.as_str())
    }

    /// Builds every test of the workspace and says which programs came of it. Cargo's own words go to standard error.
    pub fn build_tests(&self, command: &mut Command) -> Result<Build, Error> {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Start {
                command: shown(command),
                source,
                hint: CARGO_HINT,
            })?;
        let mut programs = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).lines() {
                let line = line.map_err(|source| Error::Stream {
                    program: shown(command),
                    source,
                })?;
                // Build scripts and macros can print beside cargo's messages.
                if !line.starts_with('{') {
                    continue;
                }
                let message: Message =
                    serde_json::from_str(&line).map_err(|source| Error::Json {
                        command: shown(command),
                        source,
                    })?;
                programs.extend(self.test_program(message));
            }
        }
        let status = child.wait().map_err(|source| Error::Stream {
            program: shown(command),
            source,
        })?;
        // Cargo reports in the order compilation ended, which differs from build to build.
        programs.sort_by(|a, b| {
            (&a.package, a.integration, &a.name, &a.executable).cmp(&(
                &b.package,
                b.integration,
                &b.name,
                &b.executable,
            ))
        });
        Ok(Build { programs, status })
    }

    fn test_program(&self, message: Message) -> Option<TestProgram> {
        let Message::CompilerArtifact {
            manifest_path,
            target,
            profile,
            executable,
        } = message
        else {
            return None;
        };
        let executable = executable.filter(|_| profile.test)?;
        let package = self
            .packages
            .iter()
            .find(|package| package.manifest_path == manifest_path)?;
        Some(TestProgram {
            package: package.name.clone(),
            version: package.version.clone(),
            manifest: manifest_path,
            integration: target.kind.iter().any(|kind| kind == "test"),
            name: target.name,
            executable,
        })
    }
}

#[derive(Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
enum Message {
    CompilerArtifact {
        manifest_path: PathBuf,
        target: Target,
        profile: Profile,
        executable: Option<PathBuf>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> Workspace {
        serde_json::from_str(
            r#"{"workspace_root": "/w", "target_directory": "/w/target", "packages": [
                {"name": "bellows-engine", "version": "0.1.0", "manifest_path": "/w/engine/Cargo.toml", "targets": [
                    {"name": "bellows_engine", "kind": ["lib"], "doctest": true},
                    {"name": "bench_experts", "kind": ["example"], "doctest": false},
                    {"name": "library", "kind": ["example"], "doctest": false}]},
                {"name": "bellows-kernels", "version": "0.1.0", "manifest_path": "/w/kernels/Cargo.toml", "targets": [
                    {"name": "bench_attention", "kind": ["example"], "doctest": false},
                    {"name": "bench_build", "kind": ["custom-build"], "doctest": false}]}]}"#,
        )
        .unwrap()
    }

    #[test]
    fn benches_are_examples_only_and_in_a_fixed_order() {
        assert_eq!(
            workspace().benches(),
            [
                ("bench_attention", "bellows-kernels"),
                ("bench_experts", "bellows-engine")
            ]
        );
    }

    #[test]
    fn a_library_name_leads_to_its_package() {
        assert_eq!(
            workspace().package_of_library("bellows_engine"),
            Some("bellows-engine")
        );
        assert_eq!(workspace().package_of_library("bench_attention"), None);
    }

    #[test]
    fn only_test_programs_are_taken_from_cargos_messages() {
        let artifact = |test: bool, executable: &str| {
            serde_json::from_str::<Message>(&format!(
                r#"{{"reason": "compiler-artifact", "package_id": "x", "manifest_path": "/w/engine/Cargo.toml",
                    "target": {{"name": "on_device", "kind": ["test"]}}, "profile": {{"test": {test}}},
                    "executable": {executable}}}"#
            ))
            .unwrap()
        };
        let found = workspace()
            .test_program(artifact(true, r#""/w/target/on_device-1""#))
            .unwrap();
        assert_eq!(
            (found.package.as_str(), found.label().as_str()),
            ("bellows-engine", "tests/on_device")
        );
        assert!(
            workspace()
                .test_program(artifact(false, r#""/w/target/bin""#))
                .is_none()
        );
        assert!(workspace().test_program(artifact(true, "null")).is_none());
        let finished = serde_json::from_str(r#"{"reason": "build-finished", "success": true}"#);
        assert!(workspace().test_program(finished.unwrap()).is_none());
    }
}
