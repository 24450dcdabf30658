//! `bellows bench`: what this machine makes of a mixture-of-experts layer, or of a head.

use bellows_engine::kernels::cross_entropy;
use bellows_engine::kernels::experts::Settings;
use bellows_engine::kernels::profile::Stage;
use bellows_engine::kernels::{Compute, Kernels};
use burn::tensor::Device;
use serde::Serialize;

use crate::bench::{
    HeadShape, LayerShape, Measurement, measure, measure_head, profile, profile_head,
};
use crate::cli::BenchArgs;
use crate::error::Error;
use crate::ui::{Table, Ui, bytes};

#[derive(Serialize)]
struct Report {
    device: String,
    results: Vec<Line<LayerShape>>,
    heads: Vec<Line<HeadShape>>,
}

#[derive(Serialize)]
struct Line<Shape> {
    #[serde(flatten)]
    shape: Shape,
    precision: &'static str,
    kernels: &'static str,
    #[serde(flatten)]
    measured: Option<Measurement>,
    failed: Option<String>,
    stages: Vec<StageLine>,
}

impl<Shape> Line<Shape> {
    fn new(
        shape: Shape,
        compute: Compute,
        kernels: Kernels,
        result: Result<Measurement, String>,
        stages: &[Stage],
    ) -> Self {
        let (measured, failed) = match result {
            Ok(measured) => (Some(measured), None),
            Err(reason) => (None, Some(reason)),
        };
        Self {
            shape,
            precision: name(compute),
            kernels: match kernels {
                Kernels::Fused => "fused",
                Kernels::Reference => "reference",
            },
            measured,
            failed,
            stages: stages.iter().map(StageLine::new).collect(),
        }
    }

    /// Times, rate, memory and the first pass, as a table shows them.
    fn figures(&self) -> [String; 5] {
        match &self.measured {
            Some(found) => [
                format!("{:.2}", found.forward_seconds * 1e3),
                format!("{:.2}", found.seconds * 1e3),
                format!("{:.2}", found.tera_operations),
                found.extra_bytes.map_or_else(|| "?".to_owned(), bytes),
                format!("{:.1}", found.first_seconds),
            ],
            None => ["failed", "", "", "", ""].map(str::to_owned),
        }
    }
}

/// A stage of a layer's forward and backward pass.
#[derive(Serialize)]
struct StageLine {
    name: &'static str,
    runs: usize,
    seconds: f64,
    tera_operations: f64,
}

impl StageLine {
    fn new(stage: &Stage) -> Self {
        Self {
            name: stage.name,
            runs: stage.runs,
            seconds: stage.seconds,
            tera_operations: stage.operations / stage.seconds / 1e12,
        }
    }
}

fn name(compute: Compute) -> &'static str {
    match compute {
        Compute::F32 => "f32",
        Compute::F16 => "f16",
        Compute::Bf16 => "bf16",
    }
}

/// Times the shapes that were asked for, in every type that the device stores, and prints a table
/// that can be shared.
///
/// # Errors
/// If a shape has no known name, or the device does not open.
pub fn run(args: BenchArgs, ui: &Ui) -> Result<(), Error> {
    let known = LayerShape::known();
    let (mut shapes, mut heads) = (Vec::new(), Vec::new());
    for wanted in &args.shapes {
        if let Some(shape) = known.iter().find(|shape| shape.name == *wanted) {
            shapes.push(shape.clone());
        } else if let Some(shape) = HeadShape::parse(wanted) {
            heads.push(shape);
        } else {
            let layers = known.iter().map(|shape| shape.name.clone());
            let heads = HeadShape::known().into_iter().map(|shape| shape.name);
            return Err(Error::input(format!(
                "no layer shape is called {wanted}; choose of {}, or head:TOKENSxHIDDENxVOCABULARY",
                layers.chain(heads).collect::<Vec<_>>().join(", ")
            )));
        }
    }
    if shapes.is_empty() && heads.is_empty() {
        shapes = known;
    }
    let opened = args.device.open()?;
    let device = opened.device.clone().without_autodiff();
    let on_cpu = opened.adapter.is_none();
    let mut report = Report {
        device: opened.name().to_owned(),
        results: Vec::new(),
        heads: Vec::new(),
    };
    let ways = ways(&args, &device, on_cpu);
    let repeats = usize::from(args.repeats);
    for shape in shapes {
        for &(compute, kernels) in &ways {
            let settings = Settings {
                kernels,
                compute,
                recompute: false,
            };
            let spinner = ui.spinner(format!("{} {}", shape.name, name(compute)));
            let result = measure(&shape, settings, &device, repeats);
            let stages = match args.profile && result.is_ok() {
                true => profile(&shape, settings, &device).unwrap_or_default(),
                false => Vec::new(),
            };
            drop(spinner);
            let line = Line::new(shape.clone(), compute, kernels, result, &stages);
            report.results.push(line);
        }
    }
    for shape in heads {
        for &(compute, kernels) in &ways {
            let settings = cross_entropy::Settings {
                kernels,
                compute,
                ..cross_entropy::Settings::default()
            };
            let spinner = ui.spinner(format!("{} {}", shape.name, name(compute)));
            let result = measure_head(&shape, settings, &device, repeats);
            let stages = match args.profile && result.is_ok() {
                true => profile_head(&shape, settings, &device).unwrap_or_default(),
                false => Vec::new(),
            };
            drop(spinner);
            let line = Line::new(shape.clone(), compute, kernels, result, &stages);
            report.heads.push(line);
        }
    }
    if args.json {
        ui.json(&report);
    } else {
        print(&report, ui);
    }
    Ok(())
}

/// Types, and whose kernels multiply in them: those that were asked for and that the device has.
fn ways(args: &BenchArgs, device: &Device, on_cpu: bool) -> Vec<(Compute, Kernels)> {
    let mut ways = Vec::new();
    for compute in [Compute::Bf16, Compute::F16, Compute::F32] {
        let asked = args.precision.is_empty() || args.precision.iter().any(|p| p == name(compute));
        let possible = compute == Compute::F32 || (!on_cpu && compute.stored_by(device));
        if !asked || !possible {
            continue;
        }
        ways.push(match on_cpu {
            true => (compute, Kernels::Reference),
            false => (compute, Kernels::Fused),
        });
        if args.reference && !on_cpu && compute == Compute::F32 {
            ways.push((compute, Kernels::Reference));
        }
    }
    ways
}

fn print(report: &Report, ui: &Ui) {
    ui.print(format_args!("device: {}", report.device));
    if !report.results.is_empty() {
        print_layers(&report.results, ui);
    }
    if !report.heads.is_empty() {
        print_heads(&report.heads, ui);
    }
    for line in &report.results {
        print_rest(&line.shape.name, line, ui);
    }
    for line in &report.heads {
        print_rest(&line.shape.name, line, ui);
    }
}

fn print_heads(lines: &[Line<HeadShape>], ui: &Ui) {
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
        "extra memory",
        "first s",
    ])
    .right(&[1, 2, 3, 6, 7, 8, 9, 10]);
    for line in lines {
        let shape = &line.shape;
        let [forward, both, rate, memory, first] = line.figures();
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
            memory,
            first,
        ]);
    }
    ui.table(&table);
}

fn print_layers(lines: &[Line<LayerShape>], ui: &Ui) {
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
        "extra memory",
        "first s",
    ])
    .right(&[1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 13]);
    for line in lines {
        let shape = &line.shape;
        let [forward, both, rate, memory, first] = line.figures();
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
            memory,
            first,
        ]);
    }
    ui.table(&table);
}

/// A line's stages, or why it has no figures.
fn print_rest<Shape>(name: &str, line: &Line<Shape>, ui: &Ui) {
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
