//! Runs test programs and judges how they ended.
//!
//! The programs are started here rather than by `cargo test`, because then each has an exit status of its own (a driver
//! that crashes takes the whole process with it), and one build serves both passes.

use std::process::{Command, Stdio};
use std::time::Instant;

use super::apart;
use super::report::{Row, Skip};
use super::stream;
use super::transcript::{Counts, IGNORED, Transcript, Verdict};
use crate::cargo::{self, TestProgram};
use crate::error::Error;
use crate::ui;

/// Which device the tests take, told to them in this variable.
pub const DEVICE_VARIABLE: &str = "BELLOWS_TEST_DEVICE";

const HINT: &str = "Was it removed after the build?";

/// Where a pass runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// Burn's CPU backend.
    Cpu,
    /// A wgpu device.
    Gpu,
    /// The wgpu device of the Vulkan driver with this manifest.
    Driver(&'static str),
}

impl Device {
    /// The value the tests read.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Gpu | Self::Driver(_) => "gpu",
        }
    }
}

/// The names of the tests that `arguments` choose.
pub fn list(program: &TestProgram, arguments: &[String]) -> Result<Vec<String>, Error> {
    let mut command = prepared(program);
    command
        .args(["--list", "--format", "terse"])
        .args(arguments)
        .stderr(Stdio::inherit());
    let output = command.output().map_err(|source| Error::Start {
        command: cargo::shown(&command),
        source,
        hint: HINT,
    })?;
    if !output.status.success() {
        let command = cargo::shown(&command);
        return Err(Error::Failed {
            command,
            status: output.status,
            hint: "",
        });
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect())
}

/// Runs the tests that `arguments` choose; `expected` are their names.
pub fn tests(
    program: &TestProgram,
    device: Device,
    arguments: &[String],
    expected: &[String],
) -> Result<Row, Error> {
    let mut command = prepared(program);
    command
        .args(libtest_flags())
        .args(arguments)
        .env(DEVICE_VARIABLE, device.name());
    // Software drivers use every core for one kernel; more tests at once only take memory.
    if device != Device::Cpu && std::env::var_os("RUST_TEST_THREADS").is_none() {
        command.env("RUST_TEST_THREADS", "2");
    }
    if let Device::Driver(manifest) = device {
        apart::only_driver(&mut command, manifest);
    }
    ui::step(
        device.name(),
        &format!("{} {}", program.package, program.label()),
    );
    let mut transcript = Transcript::new();
    let started = Instant::now();
    let status = stream::watch(&mut command, &mut transcript)?;
    let row = Row {
        time: started.elapsed(),
        ..Row::new(device.name(), program)
    };
    Ok(judged(
        row,
        &transcript,
        expected,
        status.success(),
        &status.to_string(),
    ))
}

/// The row of a test program that was to run `expected` and ended in the way that `status` describes.
fn judged(
    row: Row,
    transcript: &Transcript,
    expected: &[String],
    success: bool,
    status: &str,
) -> Row {
    // libtest's own result is the last; one before it was printed by a test.
    let result = transcript.results().last().copied();
    let mut row = counted(row, transcript, result);
    if result.is_none() {
        // It died: what had not finished by then has failed.
        let verdicts = transcript.verdicts();
        let lost = expected.iter().filter(|name| !verdicts.contains_key(*name));
        row.failures
            .extend(lost.map(|name| format!("{name}: the program ended first ({status})")));
        if row.failed() == 0 {
            row.failures
                .push(format!("the program ended without a result ({status})"));
        }
    } else if !success && row.failed() == 0 {
        row.failures.push(format!(
            "every test passed, then the program failed ({status})"
        ));
    }
    row
}

/// Adds what a transcript says to a row; `total` are the numbers libtest gave, where it came so far.
pub fn counted(mut row: Row, transcript: &Transcript, total: Option<Counts>) -> Row {
    let verdicts = transcript.verdicts();
    let named =
        |wanted: fn(&Verdict) -> bool| verdicts.iter().filter(move |(_, verdict)| wanted(verdict));
    row.failures
        .extend(named(|verdict| *verdict == Verdict::Failed).map(|(name, _)| name.clone()));
    for (name, verdict) in verdicts {
        if let Verdict::Ignored(reason) = verdict {
            row.skips.push(Skip {
                test: name.clone(),
                reason: reason.clone(),
            });
        }
    }
    let passed_by_name = named(|verdict| *verdict == Verdict::Passed).count();
    let mut passed = passed_by_name;
    if let Some(total) = total {
        // The result line is what counts; a name can be lost to something that wrote into its line.
        passed = total.passed;
        let unnamed = "(its name was lost in the output above)";
        while row.failures.len() < total.failed {
            row.failures.push(unnamed.to_owned());
        }
        while row.skips.len() < total.ignored {
            row.skips.push(Skip {
                test: unnamed.to_owned(),
                reason: IGNORED.to_owned(),
            });
        }
    }
    for (test, reason) in transcript.skips().take(passed) {
        row.skips.push(Skip {
            test: test.to_owned(),
            reason: reason.to_owned(),
        });
        passed -= 1;
    }
    row.passed = passed;
    row
}

fn prepared(program: &TestProgram) -> Command {
    let mut command = Command::new(&program.executable);
    // As cargo starts them.
    command
        .current_dir(program.folder())
        .env("CARGO_MANIFEST_DIR", program.folder())
        .env("CARGO_MANIFEST_PATH", &program.manifest)
        .env("CARGO_PKG_NAME", &program.package)
        .env("CARGO_PKG_VERSION", &program.version)
        .stdin(Stdio::null());
    command
}

fn libtest_flags() -> [&'static str; 3] {
    [
        "--show-output",
        "--color",
        if ui::colour() { "always" } else { "never" },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str, expected: &[&str], success: bool) -> Row {
        let mut transcript = Transcript::new();
        for line in text.lines() {
            transcript.line(line);
        }
        let expected: Vec<String> = expected.iter().map(|name| (*name).to_owned()).collect();
        judged(
            Row::default(),
            &transcript,
            &expected,
            success,
            "signal: 11",
        )
    }

    #[test]
    fn tests_lost_in_a_crash_have_failed() {
        let row = row("test a ... ok\ntest b ... ", &["a", "b", "c"], false);
        assert_eq!(row.passed, 1);
        assert_eq!(
            row.failures,
            [
                "b: the program ended first (signal: 11)",
                "c: the program ended first (signal: 11)"
            ]
        );
    }

    #[test]
    fn a_crash_after_the_last_test_is_a_failure() {
        let result = "test a ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured\n";
        assert_eq!(row(result, &["a"], false).failed(), 1);
        assert_eq!(row(result, &["a"], true).failed(), 0);
    }

    #[test]
    fn an_early_exit_without_a_result_is_a_failure() {
        assert_eq!(row("test a ... ok\n", &["a"], true).failed(), 1);
    }

    #[test]
    fn a_skipped_test_is_taken_from_the_passed_ones() {
        let row = row(
            "test a ... ok\ntest b ... ok\ntest c ... ignored\nsuccesses:\n\n---- b stdout ----\n\
             SKIPPED b: no f16\n\nsuccesses:\n    a\n    b\n\n\
             test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured\n",
            &["a", "b", "c"],
            true,
        );
        assert_eq!((row.passed, row.failed(), row.skips.len()), (1, 0, 2));
    }

    #[test]
    fn the_result_line_outweighs_names_lost_to_other_output() {
        let row = row(
            "test a ... FAILtest b ... ok\nED\ntest result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured\n",
            &["a", "b", "c"],
            false,
        );
        assert_eq!((row.passed, row.failed()), (1, 2));
    }
}
