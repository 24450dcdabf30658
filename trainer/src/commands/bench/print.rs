//! The tables of `bellows bench`.

use super::{Line, Report, StageLine};
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
    for chain in &report.chains {
        ui.print(format_args!(
            "coe-chain takes {:.3} times as long as coe-paper in {}",
            chain.ratio, chain.precision
        ));
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
fn figures<Shape>(report: &Report, line: &Line<Shape>) -> [String; 8] {
    let Some(found) = &line.measured else {
        return ["failed", "", "", "", "", "", "", ""].map(str::to_owned);
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
        found.launches.to_string(),
        format!("{:.2}", found.host_seconds * 1e3),
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
        "pools grew",
        "first s",
        "launches",
        "host ms",
    ])
    .right(&[1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15, 16, 17]);
    for line in &report.results {
        let shape: &LayerShape = &line.shape;
        let [forward, both, rate, share, memory, first, launches, host] = figures(report, line);
        let pools = line.measured.as_ref().and_then(|found| found.pool_bytes);
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
            pools.map_or_else(|| "?".to_owned(), bytes),
            first,
            launches,
            host,
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
        "launches",
        "host ms",
    ])
    .right(&[1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13]);
    for line in &report.heads {
        let shape: &HeadShape = &line.shape;
        let [forward, both, rate, share, memory, first, launches, host] = figures(report, line);
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
            launches,
            host,
        ]);
    }
    ui.table(&table);
}

/// A line's stages, or why it has no figures.
fn rest<Shape>(name: &str, line: &Line<Shape>, ui: &Ui) {
    if let Some(reason) = &line.failed {
        ui.warn(format_args!("{name} {}: {reason}", line.precision));
    }
    if !line.stages.is_empty() {
        stages(&format!("{name} {}", line.precision), &line.stages, ui);
    }
}

/// What each stage takes.
pub(super) fn stages(title: &str, stages: &[StageLine], ui: &Ui) {
    ui.print(format_args!("\n{title}:"));
    let mut table =
        Table::new(["stage", "runs", "ms", "share", "TFLOP/s", "in use"]).right(&[1, 2, 3, 4, 5]);
    let total: f64 = stages.iter().map(|stage| stage.seconds).sum();
    for stage in stages {
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
            bytes(stage.bytes),
        ]);
    }
    ui.table(&table);
}
