//! Documentation tests. Only rustdoc can build them, so cargo runs them and their output is told apart by library.

use std::process::Command;
use std::time::{Duration, Instant};

use super::report::Row;
use super::run::{self, DEVICE_VARIABLE, Device};
use super::stream::{self, Listener};
use super::transcript::{Counts, Transcript};
use crate::cargo::{self, Workspace};
use crate::ui;

/// Runs the documentation tests of every library through cargo; `command` is the whole call.
pub fn tests(mut command: Command, workspace: &Workspace) -> Vec<Row> {
    command.env(DEVICE_VARIABLE, Device::Cpu.name());
    // Each library is announced in a line that a quiet cargo would leave out.
    command.env("CARGO_TERM_QUIET", "false");
    if ui::colour() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    ui::step("doc", &cargo::shown(&command));
    let mut output = DocOutput {
        workspace,
        crates: Vec::new(),
        started: Instant::now(),
    };
    let ended = stream::watch(&mut command, &mut output);
    output.finish();

    let count = |(row, transcript): (Row, Transcript)| {
        // rustdoc runs a library's examples in several batches, each with a result.
        let total = transcript.results().iter().copied().reduce(Counts::and);
        run::counted(row, &transcript, total)
    };
    let mut rows: Vec<Row> = output.crates.into_iter().map(count).collect();
    rows.retain(|row| !row.is_empty());
    let unnamed = rows.iter().all(|row| row.failed() == 0);
    let failure = match ended {
        Err(error) => Some(error.to_string()),
        Ok(status) if !status.success() && unnamed => Some(format!(
            "`{}` failed ({status}) without naming a test",
            cargo::shown(&command)
        )),
        Ok(_) => None,
    };
    rows.extend(failure.map(|text| Row::failure("cpu", "documentation", text, Duration::ZERO)));
    rows
}

/// The documentation tests of one library after the other.
struct DocOutput<'a> {
    workspace: &'a Workspace,
    crates: Vec<(Row, Transcript)>,
    started: Instant,
}

impl DocOutput<'_> {
    fn finish(&mut self) {
        if let Some((row, _)) = self.crates.last_mut() {
            row.time = self.started.elapsed();
        }
        self.started = Instant::now();
    }
}

impl Listener for DocOutput<'_> {
    fn line(&mut self, line: &str) -> bool {
        if let Some(library) = line.trim_start().strip_prefix("Doc-tests ") {
            self.finish();
            let package = self
                .workspace
                .package_of_library(library)
                .unwrap_or(library)
                .to_owned();
            let row = Row {
                pass: "cpu",
                package,
                target: "documentation".to_owned(),
                ..Row::default()
            };
            self.crates.push((row, Transcript::new()));
        }
        self.crates
            .last_mut()
            .is_none_or(|(_, transcript)| transcript.line(line))
    }

    fn shows_early(&self, _: &[u8]) -> bool {
        false
    }
}
