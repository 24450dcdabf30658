//! `cargo xtask fixtures`: runs `xtask/fixtures/generate.py` in a Python environment of its own, with the versions that
//! `requirements.txt` pins. Only someone who changes the vectors needs this; the tests read the checked-in files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use crate::cargo::{self, Workspace};
use crate::error::Error;
use crate::ui;

/// Options of `cargo xtask fixtures`.
#[derive(Args)]
pub struct Options {
    /// The Python that makes the environment.
    #[arg(long, default_value = if cfg!(windows) { "python" } else { "python3" })]
    python: PathBuf,
    /// Arguments for generate.py: the folder to write, or `--check FOLDER…`, which only compares.
    #[arg(last = true, default_value = "trainer/tests/fixtures/extra")]
    arguments: Vec<String>,
}

const PYTHON_HINT: &str = "Install Python 3 with its venv module (Debian, Ubuntu: `apt-get install python3-venv`), or name one with --python";
const PIP_HINT: &str = "Installing needs a way to PyPI";

/// Makes or refreshes the environment, then runs the generator.
pub fn run(options: &Options) -> Result<bool, Error> {
    let workspace = Workspace::load()?;
    let folder = workspace.root.join("xtask").join("fixtures");
    let python = environment(
        &options.python,
        &workspace.target.join("fixtures-venv"),
        &folder,
    )?;
    let mut generate = Command::new(python);
    generate
        .arg(folder.join("generate.py"))
        .args(&options.arguments)
        .current_dir(&workspace.root);
    execute("generate", generate, "")?;
    Ok(true)
}

/// The Python of an environment that holds exactly what requirements.txt asks for.
fn environment(python: &Path, venv: &Path, folder: &Path) -> Result<PathBuf, Error> {
    let requirements = folder.join("requirements.txt");
    let wanted = fs::read_to_string(&requirements).map_err(|source| Error::File {
        action: "read",
        path: requirements.clone(),
        source,
    })?;
    let inside = venv.join(if cfg!(windows) {
        "Scripts/python.exe"
    } else {
        "bin/python"
    });
    // Written last, so an interrupted installation is done again.
    let stamp = venv.join("installed-requirements.txt");
    if inside.exists() && fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(inside);
    }

    let mut create = Command::new(python);
    create.args(["-m", "venv", "--clear"]).arg(venv);
    execute("environment", create, PYTHON_HINT)?;
    let mut install = Command::new(&inside);
    install
        .args([
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--requirement",
        ])
        .arg(&requirements);
    execute("packages", install, PIP_HINT)?;
    fs::write(&stamp, wanted).map_err(|source| Error::File {
        action: "write",
        path: stamp,
        source,
    })?;
    Ok(inside)
}

fn execute(name: &str, mut command: Command, hint: &'static str) -> Result<(), Error> {
    ui::step(name, &cargo::shown(&command));
    let status = cargo::status(
        &mut command,
        if hint.is_empty() { PYTHON_HINT } else { hint },
    )?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed {
        command: cargo::shown(&command),
        status,
        hint,
    })
}
