//! The tables of `bellows bench`.

use super::{Line, Report};
use crate::bench::{HeadShape, LayerShape};
use crate::ui::{Table, Ui, bytes};

/// Everything that was measured.
pub(super) fn report(report: &Report, ui: &Ui) {
    ui.print(format_args!("device: {}", report.device));
    for ceiling in &report.ceilings {
        ui.print(format_args!(
            "its best in {}: {:.2} TFLOP/s",
            ceiling.precision, ceiling.tera_operations
        ));
    }
    if !report.results.is_empty() {
        layers(report, ui);
    }
    if !report.heads.is_empty() {
        heads(report, ui);
    }
    for line in &report.results {
        rest(&line.shape.name, line, ui);
    }
    for line in &report.heads {
        rest(&line.shape.name, line, ui);
    }
}

/// Times, rate, share of the best, memory and the first pass.
fn figures<Shape>(report: &Report, line: &Line<Shape>) -> [String; 6] {
    let Some(found) = &line.measured else {
        return ["failed", "", "", "", "", ""].map(str::to_owned);
    };
    [
        format!("{:.2}", found.forward_seconds * 1e3),
        format!("{:.2}", found.seconds * 1e3),
        format!("{:.2}", found.tera_operations),
        report
            .share(line)
            .map_or_else(|| "?".to_owned(), |share| format!("{:.0} %", 100.0 * share)),
        found.extra_bytes.map_or_else(|| "?".to_owned(), bytes),
        format!("{:.1}", found.first_seconds),
    ]
}

fn layers(report: &Report, ui: &Ui) {
    let mut table = Table::new([
        "layer",
        "N",
        "H",
        "F",
        "E",
        "k",
        "C",
        "type",
        "kernels",
        "forward ms",
        "fwd+bwd ms",
        "TFLOP/s",
        "of best",
        "extra memory",
        "first s",
    ])
    .right(&[1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14]);
    for line in &report.results {
        let shape: &LayerShape = &line.shape;
        let [forward, both, rate, share, memory, first] = figures(report, line);
        table.row([
            shape.name.clone(),
            shape.tokens.to_string(),
            shape.hidden.to_string(),
            shape.inner.to_string(),
            shape.experts.to_string(),
            shape.top_k.to_string(),
            shape.iterations.to_string(),
            line.precision.to_owned(),
            line.kernels.to_owned(),
            forward,
            both,
            rate,
            share,
            memory,
            first,
        ]);
    }
    ui.table(&table);
}

fn heads(report: &Report, ui: &Ui) {
    let mut table = Table::new([
        "head",
        "N",
        "H",
        "V",
        "type",
        "kernels",
        "forward ms",
        "fwd+bwd ms",
        "TFLOP/s",
        "of best",
        "extra memory",
        "first s",
    ])
    .right(&[1, 2, 3, 6, 7, 8, 9, 10, 11]);
    for line in &report.heads {
        let shape: &HeadShape = &line.shape;
        let [forward, both, rate, share, memory, first] = figures(report, line);
        table.row([
            shape.name.clone(),
            shape.tokens.to_string(),
            shape.hidden.to_string(),
            shape.vocabulary.to_string(),
            line.precision.to_owned(),
            line.kernels.to_owned(),
            forward,
            both,
            rate,
            share,
            memory,
            first,
        ]);
    }
    ui.table(&table);
}

/// A line's stages, or why it has no figures.
fn rest<Shape>(name: &str, line: &Line<Shape>, ui: &Ui) {
    if let Some(reason) = &line.failed {
        ui.warn(format_args!("{name} {}: {reason}", line.precision));
    }
    if line.stages.is_empty() {
        return;
    }
    ui.print(format_args!("\n{name} {}:", line.precision));
    let mut table = Table::new(["stage", "runs", "ms", "share", "TFLOP/s"]).right(&[1, 2, 3, 4]);
    let total: f64 = line.stages.iter().map(|stage| stage.seconds).sum();
    for stage in &line.stages {
        table.row([
            stage.name.to_owned(),
            stage.runs.to_string(),
            format!("{:.3}", stage.seconds * 1e3),
            format!("{:.1} %", 100.0 * stage.seconds / total),
            if stage.tera_operations > 0.0 {
                format!("{:.1}", stage.tera_operations)
            } else {
                String::new()
            },
        ]);
    }
    ui.table(&table);
}
