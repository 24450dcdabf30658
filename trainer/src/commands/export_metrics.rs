//! `bellows export-metrics`: a run's metrics as a table.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use bellows_record::{RunReader, StepMetrics};

use crate::cli::ExportMetricsArgs;
use crate::error::Error;
use crate::ui::Ui;

/// Writes a row a step.
///
/// # Errors
/// If the folder is no run, or the file cannot be written.
pub fn run(args: ExportMetricsArgs, ui: &Ui) -> Result<(), Error> {
    let reader = RunReader::open(&args.run)?;
    let mut lines = reader.metrics();
    let rows = lines.read_all()?;
    let bad = lines.bad_lines().count;
    if bad > 0 {
        ui.warn(format!(
            "{bad} lines of metrics.jsonl could not be read and were left out"
        ));
    }
    let columns = columns(&rows);
    match &args.output {
        None => {
            ui.print(columns.join(","));
            for row in &rows {
                ui.print(line(row, &columns));
            }
        }
        Some(path) => {
            write(path, &rows, &columns).map_err(|error| {
                Error::input(format!("cannot write {}: {error}", path.display()))
            })?;
            ui.status(
                "Exported",
                format!("{} steps to {}", rows.len(), path.display()),
            );
        }
    }
    Ok(())
}

/// The keys that any row has: the fixed ones in their order, then the others in the alphabet's.
fn columns(rows: &[StepMetrics]) -> Vec<&str> {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for row in rows {
        seen.extend(row.values().map(|(name, _)| name));
    }
    let fixed = StepMetrics::NAMES
        .iter()
        .copied()
        .filter(|name| seen.contains(name));
    let others = seen
        .iter()
        .copied()
        .filter(|name| !StepMetrics::NAMES.contains(name));
    fixed.chain(others).collect()
}

fn line(row: &StepMetrics, columns: &[&str]) -> String {
    let mut line = String::new();
    for (index, name) in columns.iter().enumerate() {
        if index > 0 {
            line.push(',');
        }
        // Counts stay exact: a float holds no large one.
        let exact = match *name {
            "step" => Some(row.step),
            "tokens" => Some(row.tokens),
            "memory_bytes" => row.memory_bytes,
            "peak_memory_bytes" => row.peak_memory_bytes,
            "dropped" => Some(row.dropped),
            _ => None,
        };
        let written = match (exact, row.get(name)) {
            (Some(count), _) => write!(line, "{count}"),
            (None, Some(value)) if value.is_finite() => write!(line, "{value}"),
            (None, Some(_)) => write!(line, "nan"),
            (None, None) => Ok(()),
        };
        written.expect("a string takes everything");
    }
    line
}

fn write(path: &Path, rows: &[StepMetrics], columns: &[&str]) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    writeln!(file, "{}", columns.join(","))?;
    for row in rows {
        writeln!(file, "{}", line(row, columns))?;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_empty_and_what_was_not_finite_is_nan() {
        let mut rows = vec![StepMetrics {
            step: 1,
            tokens: (1 << 60) + 1,
            loss: f64::NAN,
            ..StepMetrics::default()
        }];
        rows.push(StepMetrics {
            step: 2,
            loss: 2.5,
            grad_norm: Some(0.5),
            ..StepMetrics::default()
        });
        rows[1].extra.insert("temperature".into(), 0.25);
        let columns = columns(&rows);
        assert_eq!(
            (columns[0], columns[columns.len() - 1]),
            ("step", "temperature")
        );
        let at = |row: usize, name: &str| {
            let column = columns.iter().position(|column| *column == name).unwrap();
            line(&rows[row], &columns)
                .split(',')
                .nth(column)
                .unwrap()
                .to_owned()
        };
        assert_eq!(at(0, "tokens"), "1152921504606846977");
        assert_eq!(
            (at(0, "loss").as_str(), at(1, "loss").as_str()),
            ("nan", "2.5")
        );
        assert_eq!(
            (at(0, "grad_norm").as_str(), at(1, "grad_norm").as_str()),
            ("", "0.5")
        );
    }
}
