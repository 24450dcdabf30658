//! `bellows bench`: what this machine makes of a mixture-of-experts layer, of attention, or of a head.

mod attention;
mod print;
mod tiles;

use bellows_engine::kernels::cross_entropy;
use bellows_engine::kernels::experts::Settings;
use bellows_engine::kernels::profile::Stage;
use bellows_engine::kernels::{Compute, Kernels};
use burn::tensor::Device;
use serde::Serialize;

use crate::bench::{
    HeadShape, LayerShape, Measurement, ceiling, measure, measure_head, profile, profile_head,
};
use crate::cli::BenchArgs;
use crate::error::Error;
use crate::ui::Ui;

#[derive(Serialize)]
struct Report {
    device: String,
    /// What the device multiplies at its best, by type.
    ceilings: Vec<Ceiling>,
    results: Vec<Line<LayerShape>>,
    heads: Vec<Line<HeadShape>>,
    /// A chain's time against that of the mixture that does the same work, by type.
    chains: Vec<Chain>,
}

/// Two iterations of half the choices against one of all of them, on the same weights.
#[derive(Serialize)]
struct Chain {
    precision: &'static str,
    /// Seconds of the chain by those of the mixture, forward and backward.
    ratio: f64,
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

/// Operations a second that the device reaches in a type, in 10¹².
#[derive(Serialize)]
struct Ceiling {
    precision: &'static str,
    tera_operations: f64,
}

impl<Shape> Line<Shape> {
    fn new(
        shape: Shape,
        (compute, kernels): (Compute, Kernels),
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
}

impl Report {
    /// The part of the device's best that a line reaches.
    fn share<Shape>(&self, line: &Line<Shape>) -> Option<f64> {
        let ceiling = self
            .ceilings
            .iter()
            .find(|ceiling| ceiling.precision == line.precision)?;
        Some(line.measured.as_ref()?.tera_operations / ceiling.tera_operations)
    }
}

impl Report {
    /// The chain against the mixture in every type in which both were timed.
    fn chains(&self) -> Vec<Chain> {
        let seconds = |layer: &str, precision: &str| {
            let of =
                |line: &&Line<LayerShape>| line.shape.name == layer && line.precision == precision;
            let line = self.results.iter().find(of)?;
            Some(line.measured.as_ref()?.seconds)
        };
        TYPES
            .into_iter()
            .map(name)
            .filter_map(|precision| {
                let chain = seconds("coe-chain", precision)?;
                let mixture = seconds("coe-paper", precision)?;
                Some(Chain {
                    precision,
                    ratio: chain / mixture,
                })
            })
            .collect()
    }
}

/// A stage of a layer's forward and backward pass.
#[derive(Serialize)]
struct StageLine {
    name: &'static str,
    runs: usize,
    seconds: f64,
    tera_operations: f64,
    /// Bytes in use when it ended.
    bytes: u64,
}

impl StageLine {
    fn new(stage: &Stage) -> Self {
        Self {
            name: stage.name,
            runs: stage.runs,
            seconds: stage.seconds,
            tera_operations: stage.operations / stage.seconds / 1e12,
            bytes: stage.bytes,
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

    /// Types, and whose kernels multiply in them.
    fn ways(&self, on_cpu: bool, device: &Device) -> Vec<(Compute, Kernels)> {
        let mut ways = Vec::new();
        for compute in TYPES {
            if !self.takes(compute, on_cpu, device) {
                continue;
            }
            ways.push(if on_cpu {
                (compute, Kernels::Reference)
            } else {
                (compute, Kernels::Fused)
            });
            if self.reference && !on_cpu && compute == Compute::F32 {
                ways.push((compute, Kernels::Reference));
            }
        }
        ways
    }
}

/// Times the shapes that were asked for, in every type that the device stores, and prints a table
/// that can be shared.
///
/// # Errors
/// If a shape has no known name, or the device does not open.
pub fn run(args: BenchArgs, ui: &Ui) -> Result<(), Error> {
    let known = LayerShape::known();
    if args.shapes.iter().any(|name| attention::knows(name)) {
        return attention::run(args, ui);
    }
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
                "no layer shape is called {wanted}; choose of {}, head:TOKENSxHIDDENxVOCABULARY, or \
                 of attention, {}",
                layers.chain(heads).collect::<Vec<_>>().join(", "),
                attention::names()
            )));
        }
    }
    if args.tiles && !heads.is_empty() {
        return Err(Error::input(
            "--tiles times layers with each tile; leave heads out".to_owned(),
        ));
    }
    if shapes.is_empty() && heads.is_empty() {
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
        heads: Vec::new(),
        chains: Vec::new(),
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
    let ways = args.ways(on_cpu, &device);
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
            let stages = if args.profile && result.is_ok() {
                profile(&shape, settings, &device).unwrap_or_default()
            } else {
                Vec::new()
            };
            drop(spinner);
            let line = Line::new(shape.clone(), (compute, kernels), result, &stages);
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
            let stages = if args.profile && result.is_ok() {
                profile_head(&shape, settings, &device).unwrap_or_default()
            } else {
                Vec::new()
            };
            drop(spinner);
            let line = Line::new(shape.clone(), (compute, kernels), result, &stages);
            report.heads.push(line);
        }
    }
    report.chains = report.chains();
    if args.json {
        ui.json(&report);
    } else {
        print::report(&report, ui);
    }
    Ok(())
}
