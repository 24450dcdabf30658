//! Counts, and the words they are told in.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cargo::TestProgram;
use crate::ui;

/// How many names a reason for skipping lists before it says "and so many more".
const NAMES_SHOWN: usize = 5;

/// A test that did not run.
pub struct Skip {
    /// Its name.
    pub test: String,
    /// Why.
    pub reason: String,
}

/// One test program on one device, one library's documentation, or the build.
#[derive(Default)]
pub struct Row {
    /// `cpu`, `gpu` or `build`.
    pub pass: &'static str,
    /// The package.
    pub package: String,
    /// The test program.
    pub target: String,
    /// How many tests ran to their end and held.
    pub passed: usize,
    /// What failed, each with what is known of it.
    pub failures: Vec<String>,
    /// What did not run.
    pub skips: Vec<Skip>,
    /// How long it took.
    pub time: Duration,
}

impl Row {
    /// A row with no tests yet.
    pub fn new(pass: &'static str, program: &TestProgram) -> Self {
        Self {
            pass,
            package: program.package.clone(),
            target: program.label(),
            ..Self::default()
        }
    }

    /// A row for something that failed without being a test.
    pub fn failure(pass: &'static str, target: &str, failure: String, time: Duration) -> Self {
        let failures = vec![failure];
        Self {
            pass,
            target: target.to_owned(),
            failures,
            time,
            ..Self::default()
        }
    }

    /// How many tests failed.
    pub fn failed(&self) -> usize {
        self.failures.len()
    }

    /// Whether nothing passed, failed or was skipped.
    pub fn is_empty(&self) -> bool {
        self.passed + self.failures.len() + self.skips.len() == 0
    }

    fn place(&self) -> String {
        let words = [self.pass, &self.package, &self.target];
        words
            .into_iter()
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    }

    fn cells(&self) -> [String; 7] {
        [
            self.pass.to_owned(),
            self.package.clone(),
            self.target.clone(),
            self.passed.to_string(),
            self.failed().to_string(),
            self.skips.len().to_string(),
            ui::duration(self.time),
        ]
    }
}

/// Every row of a call of `cargo xtask test`.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// A report for a command that could not even begin.
    pub fn of_a_failure(failure: String) -> Self {
        Self {
            rows: vec![Row::failure("", "", failure, Duration::ZERO)],
        }
    }

    /// Adds a row.
    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Adds rows.
    pub fn extend(&mut self, rows: impl IntoIterator<Item = Row>) {
        self.rows.extend(rows);
    }

    /// True where something ran and nothing failed.
    pub fn succeeded(&self) -> bool {
        self.sum(Row::failed) == 0 && self.sum(|row| row.passed) > 0
    }

    /// The table, the reasons for skipping, and what failed.
    pub fn print_details(&self) {
        if self.rows.is_empty() {
            ui::title("No test matched, so nothing was tested");
            return;
        }
        ui::title("Tests");
        for line in self.table() {
            ui::say(line);
        }
        for (title, lines) in [("Skipped", self.skipped()), ("Failed", self.failed())] {
            if !lines.is_empty() {
                ui::title(title);
                lines.iter().for_each(ui::say);
            }
        }
        ui::say("");
    }

    /// The last line, the same whatever happened.
    pub fn print_count(&self) {
        ui::say(self.count());
    }

    fn count(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.sum(|row| row.passed),
            self.sum(Row::failed),
            self.sum(|row| row.skips.len())
        )
    }

    fn sum(&self, number: impl Fn(&Row) -> usize) -> usize {
        self.rows.iter().map(number).sum()
    }

    fn table(&self) -> Vec<String> {
        let title = [
            "pass", "package", "target", "passed", "failed", "skipped", "time",
        ];
        let lines: Vec<[String; 7]> = std::iter::once(title.map(str::to_owned))
            .chain(self.rows.iter().map(Row::cells))
            .collect();
        let width = |column: usize| {
            lines
                .iter()
                .map(|cells| cells[column].len())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..title.len()).map(width).collect();
        let cell = |(column, text): (usize, &String)| match column {
            0..3 => format!("{text:<width$}", width = widths[column]),
            _ => format!("{text:>width$}", width = widths[column]),
        };
        let line = |cells: &[String; 7]| {
            cells
                .iter()
                .enumerate()
                .map(cell)
                .collect::<Vec<_>>()
                .join("  ")
        };
        lines
            .iter()
            .map(|cells| format!("  {}", line(cells)))
            .collect()
    }

    /// One line a reason, with the tests it kept from running.
    fn skipped(&self) -> Vec<String> {
        let mut reasons: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
        for row in &self.rows {
            for skip in &row.skips {
                reasons
                    .entry((row.pass, &skip.reason))
                    .or_default()
                    .push(&skip.test);
            }
        }
        let mut lines = Vec::new();
        for ((pass, reason), tests) in reasons {
            lines.push(format!("  {} on {pass}: {reason}", tests.len()));
            lines.extend(
                tests
                    .iter()
                    .take(NAMES_SHOWN)
                    .map(|test| format!("    {test}")),
            );
            if tests.len() > NAMES_SHOWN {
                lines.push(format!("    and {} more", tests.len() - NAMES_SHOWN));
            }
        }
        lines
    }

    fn failed(&self) -> Vec<String> {
        self.rows
            .iter()
            .flat_map(|row| {
                row.failures
                    .iter()
                    .map(|failure| format!("  {}: {failure}", row.place()))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pass: &'static str, passed: usize, failures: &[&str], skips: usize) -> Row {
        let skip = |number| Skip {
            test: format!("t{number}"),
            reason: "no f16".into(),
        };
        Row {
            pass,
            package: "bellows-engine".into(),
            target: "bellows_engine".into(),
            passed,
            failures: failures
                .iter()
                .map(|failure| (*failure).to_owned())
                .collect(),
            skips: (0..skips).map(skip).collect(),
            time: Duration::from_secs(1),
        }
    }

    #[test]
    fn the_last_line_counts_every_pass() {
        let report = Report {
            rows: vec![row("cpu", 12, &[], 0), row("gpu", 3, &["x"], 7)],
        };
        assert_eq!(report.count(), "15 passed, 1 failed, 7 skipped");
        assert!(!report.succeeded());
    }

    #[test]
    fn nothing_run_is_no_success() {
        assert!(!Report::default().succeeded());
        assert!(
            !Report {
                rows: vec![row("gpu", 0, &[], 4)]
            }
            .succeeded()
        );
        assert!(
            Report {
                rows: vec![row("cpu", 1, &[], 4)]
            }
            .succeeded()
        );
    }

    #[test]
    fn what_kept_the_tests_from_running_counts_as_failed() {
        let report = Report::of_a_failure("no cargo".into());
        assert_eq!(report.count(), "0 passed, 1 failed, 0 skipped");
        assert!(!report.succeeded());
    }

    #[test]
    fn skips_of_one_reason_share_a_line_and_long_lists_are_cut() {
        let report = Report {
            rows: vec![row("gpu", 1, &[], 7)],
        };
        let lines = report.skipped();
        assert_eq!(lines[0], "  7 on gpu: no f16");
        assert_eq!(lines.len(), 1 + NAMES_SHOWN + 1);
        assert_eq!(lines[lines.len() - 1], "    and 2 more");
    }

    #[test]
    fn columns_line_up() {
        let report = Report {
            rows: vec![row("cpu", 1234, &[], 0), row("gpu", 1, &[], 0)],
        };
        let table = report.table();
        assert!(
            table.iter().all(|line| line.len() == table[0].len()),
            "{table:#?}"
        );
    }
}
