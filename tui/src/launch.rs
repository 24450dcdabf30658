//! Starting `bellows` from the dashboard.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde::Deserialize;

use crate::app::{Launch, Plan, Verdict};
use crate::format;
use crate::query::config;

/// Bytes of what a failed program said that are shown.
const SAID: u64 = 2000;

/// The `bellows` program: beside this one, then on the PATH.
///
/// # Errors
///
/// Words that say how to build it.
pub fn program() -> Result<PathBuf, String> {
    let name = format!("bellows{}", std::env::consts::EXE_SUFFIX);
    let beside = std::env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.join(&name)))
        .filter(|path| path.is_file());
    let on_path = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|folder| folder.join(&name))
            .find(|path| path.is_file())
    };
    beside.or_else(on_path).ok_or_else(|| {
        "there is no `bellows` beside this program or on the PATH; `cargo build --release` builds it".to_owned()
    })
}

/// A program that was started and outlives the dashboard.
#[derive(Debug)]
pub struct Started {
    child: Child,
    said: File,
}

/// Starts what `launch` says, in a session of its own: neither Ctrl-C nor the end of the terminal
/// reaches it.
///
/// # Errors
///
/// Words that say why it could not be started.
pub fn start(launch: &Launch) -> Result<Started, String> {
    let program = program()?;
    let failed = |error: io::Error| format!("{} cannot be started: {error}", program.display());
    // A file, not a pipe: it must not matter to the run whether somebody reads.
    let said = anonymous_file().map_err(failed)?;
    let mut command = Command::new(&program);
    command
        .args(&launch.arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.try_clone().map_err(failed)?);
    detach(&mut command);
    let child = command.spawn().map_err(failed)?;
    Ok(Started { child, said })
}

impl Started {
    /// Waits for its end; `Err` with its last words where it failed.
    ///
    /// # Errors
    ///
    /// What it said.
    pub fn wait(mut self) -> Result<(), String> {
        let status = self.child.wait().map_err(|error| error.to_string())?;
        if status.success() {
            return Ok(());
        }
        let mut words = String::new();
        let length = self.said.metadata().map_or(0, |metadata| metadata.len());
        let _ = self
            .said
            .seek(SeekFrom::Start(length.saturating_sub(SAID)))
            .and_then(|_| self.said.read_to_string(&mut words));
        Err(last_error(&words).unwrap_or_else(|| format!("it ended with {status}")))
    }
}

/// The error among a program's words.
fn last_error(words: &str) -> Option<String> {
    let from = words.rfind("error:")?;
    let lines: Vec<&str> = words[from..]
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    Some(lines.join("; "))
}

/// A file without a name, gone when nobody has it open any more (on Windows: in the temporary
/// directory).
fn anonymous_file() -> io::Result<File> {
    let mut number = 0u32;
    loop {
        let name = format!("bellows-tui-{}-{number}.log", std::process::id());
        let path = std::env::temp_dir().join(name);
        match File::options()
            .read(true)
            .append(true)
            .create_new(true)
            .open(&path)
        {
            Ok(file) => {
                if cfg!(unix) {
                    let _ = std::fs::remove_file(&path);
                }
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 1000 => {
                number += 1
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(unix)]
fn detach(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: `setsid` is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| {
            // It fails only where the process leads a group already, which a child never does.
            libc::setsid();
            Ok(())
        });
    }
}

#[cfg(windows)]
fn detach(command: &mut Command) {
    use std::os::windows::process::CommandExt;
    const DETACHED_PROCESS: u32 = 0x8;
    const CREATE_NEW_PROCESS_GROUP: u32 = 0x200;
    command.creation_flags(DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP);
}

#[cfg(not(any(unix, windows)))]
fn detach(_: &mut Command) {}

/// Resolves settings: `bellows config … --json`.
///
/// # Errors
///
/// What is wrong with them, in the program's words.
pub fn resolve(settings: &[OsString]) -> Result<BTreeMap<String, String>, String> {
    let output = run(&program()?, "config", settings)?;
    if !output.status.success() {
        return Err(said(&output));
    }
    let value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("`bellows config` printed no JSON: {error}"))?;
    let mut settings = BTreeMap::new();
    config::json_settings("", &value, &mut settings);
    Ok(settings)
}

/// What `bellows plan --json` prints, as far as the form tells it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Document {
    verdict: String,
    fits: Option<bool>,
    longest_sequence: Option<u64>,
    mode: Option<String>,
    device: Option<String>,
    advice: Vec<String>,
}

/// Asks for the memory plan of settings: `bellows plan … --json`.
pub fn plan(settings: &[OsString]) -> Verdict {
    let output = match program().and_then(|program| run(&program, "plan", settings)) {
        Ok(output) => output,
        Err(trouble) => return Verdict::None(trouble),
    };
    if !output.status.success() {
        let words = said(&output);
        // A program from before there were plans.
        if words.contains("unrecognized subcommand") {
            return Verdict::None(
                "this bellows has no `plan`: whether the run fits shows when it starts".to_owned(),
            );
        }
        return Verdict::None(format!("no plan: {words}"));
    }
    match serde_json::from_slice::<Document>(&output.stdout) {
        Ok(document) => Verdict::Said(document.told()),
        Err(error) => Verdict::None(format!("`bellows plan` printed no plan: {error}")),
    }
}

impl Document {
    fn told(self) -> Plan {
        let mut facts: Vec<String> = self
            .device
            .map(|device| format!("on {device}"))
            .into_iter()
            .collect();
        if let Some(longest) = self.longest_sequence {
            let mode = self
                .mode
                .map_or_else(String::new, |mode| format!(" in {mode} mode"));
            facts.push(format!(
                "sequences of up to {} tokens fit{mode}",
                format::whole(longest)
            ));
        }
        let mut lines = vec![self.verdict];
        if !facts.is_empty() {
            lines.push(facts.join("; "));
        }
        lines.extend(self.advice);
        Plan {
            fits: self.fits,
            lines,
        }
    }
}

/// The error of a program that failed.
fn said(output: &Output) -> String {
    let words = String::from_utf8_lossy(&output.stderr);
    last_error(&words).unwrap_or_else(|| words.trim().to_owned())
}

/// `bellows COMMAND … --json`, to its end.
fn run(program: &Path, command: &str, settings: &[OsString]) -> Result<Output, String> {
    Command::new(program)
        .arg(command)
        .args(settings)
        .arg("--json")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{} cannot be started: {error}", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_words_the_error_is_told() {
        let words = "   Data 3 MiB\nerror: x.toml:3:1: unknown key \"a\"\n help: remove it\n\n";
        assert_eq!(
            last_error(words).as_deref(),
            Some("error: x.toml:3:1: unknown key \"a\"; help: remove it")
        );
        assert_eq!(last_error("nothing"), None);
    }

    #[test]
    fn a_plan_is_told_with_what_it_rests_on() {
        let json = r#"{"verdict": "does not fit: stream mode needs 3.0 GiB of 2.0 GiB", "fits": false,
            "mode": "stream", "chunk": 1024, "peak_bytes": 3221225472, "limit_bytes": 2147483648,
            "longest_sequence": 4096, "device": "a card", "advice": ["halve train.batch_size"], "modes": []}"#;
        let plan = serde_json::from_str::<Document>(json).unwrap().told();
        assert_eq!(plan.fits, Some(false));
        assert_eq!(
            plan.lines,
            [
                "does not fit: stream mode needs 3.0 GiB of 2.0 GiB",
                "on a card; sequences of up to 4,096 tokens fit in stream mode",
                "halve train.batch_size"
            ]
        );
    }
}
