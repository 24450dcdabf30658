//! `bellows bench`: what this machine makes of a mixture-of-experts layer, and of attention.

mod attention;
mod tiles;

use bellows_engine::kernels::experts::Settings;
use bellows_engine::kernels::profile::Stage;
use bellows_engine::kernels::{Compute, Kernels};
use burn::tensor::Device;
use serde::Serialize;

use crate::bench::{LayerShape, Measurement, ceiling, measure, profile};
use crate::cli::BenchArgs;
use crate::error::Error;
use crate::ui::{Table, Ui, bytes};

#[derive(Serialize)]
struct Report {
    device: String,
    /// What the device multiplies at its best, by type.
    ceilings: Vec<Ceiling>,
    results: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    shape: LayerShape,
    precision: &'static str,
    kernels: &'static str,
    #[serde(flatten)]
    measured: Option<Measurement>,
    failed: Option<String>,
    stages: Vec<StageLine>,
}

/// Operations a second that the device reaches in a type, in 10¹².
#[derive(Serialize)]
struct Ceiling {
    precision: &'static str,
    tera_operations: f64,
}

impl Report {
    /// The part of the device's best that a line reaches.
    fn share(&self, line: &Line) -> Option<f64> {
        let ceiling = self
            .ceilings
            .iter()
            .find(|ceiling| ceiling.precision == line.precision)?;
        Some(line.measured.as_ref()?.tera_operations / ceiling.tera_operations)
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

/// The types that layers are timed in.
const TYPES: [Compute; 3] = [Compute::Bf16, Compute::F16, Compute::F32];

impl BenchArgs {
    /// Whether a type was asked for, or none was, and the device has it.
    fn takes(&self, compute: Compute, on_cpu: bool, device: &Device) -> bool {
        let asked = self.precision.is_empty() || self.precision.iter().any(|p| p == name(compute));
        asked && (compute == Compute::F32 || (!on_cpu && compute.stored_by(device)))
    }
}

/// Times the shapes that were asked for, in every type that the device stores, and prints a table
/// that can be shared.
///
/// # Errors
/// If a shape has no known name, or the device does not open.
pub fn run(args: BenchArgs, ui: &Ui) -> Result<(), Error> {
    let known = LayerShape::known();
    let mut shapes = Vec::new();
    if args.shapes.iter().any(|name| attention::knows(name)) {
        return attention::run(args, ui);
    }
    for wanted in &args.shapes {
        match known.iter().find(|shape| shape.name == *wanted) {
            Some(shape) => shapes.push(shape.clone()),
            None => {
                let names: Vec<_> = known.iter().map(|shape| shape.name.as_str()).collect();
                return Err(Error::input(format!(
                    "no layer shape is called {wanted}; choose of {}, or of attention, {}",
                    names.join(", "),
                    attention::names()
                )));
            }
        }
    }
    if shapes.is_empty() {
        let wanted = |shape: &LayerShape| !args.tiles || tiles::LAYERS.contains(&&*shape.name);
        shapes = known.into_iter().filter(wanted).collect();
    }
    let opened = args.device.open()?;
    let device = opened.device.clone().without_autodiff();
    let on_cpu = opened.adapter.is_none();
    if args.tiles {
        return tiles::run(&args, &shapes, opened.name(), &device, ui);
    }
    let mut report = Report {
        device: opened.name().to_owned(),
        ceilings: Vec::new(),
        results: Vec::new(),
    };
    for compute in TYPES {
        if !args.takes(compute, on_cpu, &device) {
            continue;
        }
        let spinner = ui.spinner(format!("the device's best in {}", name(compute)));
        if let Some(rate) = ceiling(&device, compute) {
            report.ceilings.push(Ceiling {
                precision: name(compute),
                tera_operations: rate / 1e12,
            });
        }
        drop(spinner);
    }
    for shape in shapes {
        for compute in TYPES {
            if !args.takes(compute, on_cpu, &device) {
                continue;
            }
            let mut kinds = vec![if on_cpu {
                Kernels::Reference
            } else {
                Kernels::Fused
            }];
            if args.reference && !on_cpu && compute == Compute::F32 {
                kinds.push(Kernels::Reference);
            }
            for kernels in kinds {
                let settings = Settings {
                    kernels,
                    compute,
                    recompute: false,
                };
                let spinner = ui.spinner(format!("{} {}", shape.name, name(compute)));
                let result = measure(&shape, settings, &device, usize::from(args.repeats));
                let stages = if args.profile && result.is_ok() {
                    profile(&shape, settings, &device).unwrap_or_default()
                } else {
                    Vec::new()
                };
                drop(spinner);
                let (measured, failed) = match result {
                    Ok(measured) => (Some(measured), None),
                    Err(reason) => (None, Some(reason)),
                };
                report.results.push(Line {
                    shape: shape.clone(),
                    precision: name(compute),
                    kernels: match kernels {
                        Kernels::Fused => "fused",
                        Kernels::Reference => "reference",
                    },
                    measured,
                    failed,
                    stages: stages.iter().map(StageLine::new).collect(),
                });
            }
        }
    }
    if args.json {
        ui.json(&report);
    } else {
        print(&report, ui);
    }
    Ok(())
}

fn print(report: &Report, ui: &Ui) {
    ui.print(format_args!("device: {}", report.device));
    for ceiling in &report.ceilings {
        ui.print(format_args!(
            "its best in {}: {:.2} TFLOP/s",
            ceiling.precision, ceiling.tera_operations
        ));
    }
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
        let shape = &line.shape;
        let figures = match &line.measured {
            Some(found) => [
                format!("{:.2}", found.forward_seconds * 1e3),
                format!("{:.2}", found.seconds * 1e3),
                format!("{:.2}", found.tera_operations),
                report
                    .share(line)
                    .map_or_else(|| "?".to_owned(), |share| format!("{:.0} %", 100.0 * share)),
                found.extra_bytes.map_or_else(|| "?".to_owned(), bytes),
                format!("{:.1}", found.first_seconds),
            ],
            None => ["failed", "", "", "", "", ""].map(str::to_owned),
        };
        let [forward, both, rate, share, memory, first] = figures;
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
    for line in report.results.iter().filter(|line| !line.stages.is_empty()) {
        let title = format!("{} {}", line.shape.name, line.precision);
        print_stages(&title, &line.stages, ui);
    }
    for line in &report.results {
        if let Some(reason) = &line.failed {
            ui.warn(format_args!(
                "{} {}: {reason}",
                line.shape.name, line.precision
            ));
        }
    }
}

fn print_stages(title: &str, stages: &[StageLine], ui: &Ui) {
    ui.print(format_args!("\n{title}:"));
    let mut table = Table::new(["stage", "runs", "ms", "share", "TFLOP/s"]).right(&[1, 2, 3, 4]);
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
        ]);
    }
    ui.table(&table);
}
