//! `bellows bench attention`: flash attention alone.

use bellows_engine::kernels::attention::{Scope, Settings, Tier, Tile, Tiles};
use bellows_engine::kernels::profile::Stage;
use bellows_engine::kernels::{Compute, Kernels};
use burn::tensor::Device;
use serde::Serialize;

use super::{StageLine, name};
use crate::bench::Measurement;
use crate::bench::attention::{AttentionShape, cooperative, measure, profile, tiles_to_try};
use crate::cli::BenchArgs;
use crate::error::Error;
use crate::ui::{Table, Ui, bytes};

/// All shapes at once.
const ALL: &str = "attention";

#[derive(Serialize)]
struct Report {
    device: String,
    results: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    shape: AttentionShape,
    precision: &'static str,
    kernels: String,
    #[serde(flatten)]
    measured: Option<Measurement>,
    failed: Option<String>,
    stages: Vec<StageLine>,
}

/// Whether `wanted` names attention, or a shape of it.
pub fn knows(wanted: &str) -> bool {
    wanted == ALL || AttentionShape::known().iter().any(|s| s.name == wanted)
}

/// The shapes' names, in words.
pub fn names() -> String {
    let names: Vec<_> = AttentionShape::known()
        .into_iter()
        .map(|shape| shape.name)
        .collect();
    names.join(", ")
}

fn shapes(args: &BenchArgs) -> Result<Vec<AttentionShape>, Error> {
    let known = AttentionShape::known();
    if args.shapes.iter().any(|name| name == ALL) {
        // The last one is for software drivers.
        return Ok(known[..known.len() - 1].to_vec());
    }
    args.shapes
        .iter()
        .map(|wanted| {
            known
                .iter()
                .find(|shape| shape.name == *wanted)
                .cloned()
                .ok_or_else(|| {
                    Error::input(format!(
                        "{wanted} is no shape of attention, and layers are timed apart from \
                         attention; choose of {}",
                        names()
                    ))
                })
        })
        .collect()
}

/// Times attention as [`super::run`] times layers.
///
/// # Errors
/// If a shape has no known name, or the device does not open.
pub fn run(args: BenchArgs, ui: &Ui) -> Result<(), Error> {
    let shapes = shapes(&args)?;
    let opened = args.device.open()?;
    let device = opened.device.clone().without_autodiff();
    let on_cpu = opened.adapter.is_none();
    let mut report = Report {
        device: opened.name().to_owned(),
        results: Vec::new(),
    };
    for shape in shapes {
        for compute in [Compute::Bf16, Compute::F16, Compute::F32] {
            let asked =
                args.precision.is_empty() || args.precision.iter().any(|p| p == name(compute));
            let possible = compute == Compute::F32 || (!on_cpu && compute.stored_by(&device));
            if !asked || !possible {
                continue;
            }
            for (kernels, settings) in ways(&args, &shape, compute, on_cpu, &device) {
                let spinner = ui.spinner(format!("{} {} {kernels}", shape.name, name(compute)));
                let result = measure(&shape, settings, &device, usize::from(args.repeats));
                let stages: Vec<Stage> = if (args.profile || args.sweep) && result.is_ok() {
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
                    kernels,
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

/// What is to be timed of a shape, each with its name.
fn ways(
    args: &BenchArgs,
    shape: &AttentionShape,
    compute: Compute,
    on_cpu: bool,
    device: &Device,
) -> Vec<(String, Settings)> {
    let settings = |kernels, tier| Settings {
        kernels,
        compute,
        tier,
    };
    let plain = ("reference".to_owned(), settings(Kernels::Reference, None));
    if on_cpu {
        return vec![plain];
    }
    let found = cooperative(shape, compute, device).filter(|_| !args.plain_tiles);
    let mut ways = match found {
        None => vec![(
            Tier::Plain.name().to_owned(),
            settings(Kernels::Fused, Some(Tier::Plain)),
        )],
        Some(tiles) if args.sweep => tiles_to_try(shape, tiles, compute, device)
            .into_iter()
            .map(|tiles| {
                let tier = Some(Tier::Cooperative(tiles));
                (described(tiles), settings(Kernels::Fused, tier))
            })
            .collect(),
        Some(tiles) => vec![(described(tiles), settings(Kernels::Fused, None))],
    };
    if args.reference && compute == Compute::F32 {
        ways.push(plain);
    }
    ways
}

fn described(tiles: Tiles) -> String {
    let tile = |tile: Tile| {
        let scope = match tile.scope {
            Scope::Subgroup => "",
            Scope::Workgroup => "workgroup ",
        };
        format!("{scope}{}x{}", 16 * tile.subgroups, tile.columns)
    };
    let mut sizes = vec![tile(tiles.forward), tile(tiles.query), tile(tiles.keys)];
    sizes.dedup();
    let joint = if tiles.joint { "" } else { " apart" };
    let held = if tiles.held { " held" } else { "" };
    format!("cooperative {}{joint}{held}", sizes.join(" "))
}

fn print(report: &Report, ui: &Ui) {
    ui.print(format_args!("device: {}", report.device));
    let mut table = Table::new([
        "shape",
        "T",
        "heads",
        "groups",
        "width",
        "type",
        "kernels",
        "forward ms",
        "fwd+bwd ms",
        "TFLOP/s",
        "extra memory",
        "first s",
    ])
    .right(&[1, 2, 3, 7, 8, 9, 10, 11]);
    for line in &report.results {
        let shape = &line.shape;
        let figures = match &line.measured {
            Some(found) => [
                format!("{:.3}", found.forward_seconds * 1e3),
                format!("{:.3}", found.seconds * 1e3),
                format!("{:.1}", found.tera_operations),
                found.extra_bytes.map_or_else(|| "?".to_owned(), bytes),
                format!("{:.1}", found.first_seconds),
            ],
            None => ["failed", "", "", "", ""].map(str::to_owned),
        };
        let [forward, both, rate, memory, first] = figures;
        let width = if shape.width == shape.value_width {
            shape.width.to_string()
        } else {
            format!("{}/{}", shape.width, shape.value_width)
        };
        table.row([
            shape.name.clone(),
            shape.tokens.to_string(),
            shape.heads.to_string(),
            shape.groups.to_string(),
            width,
            line.precision.to_owned(),
            line.kernels.clone(),
            forward,
            both,
            rate,
            memory,
            first,
        ]);
    }
    ui.table(&table);
    for line in report.results.iter().filter(|line| !line.stages.is_empty()) {
        let title = format!("{} {} {}", line.shape.name, line.precision, line.kernels);
        super::print::stages(&title, &line.stages, ui);
    }
    for line in &report.results {
        if let Some(reason) = &line.failed {
            ui.warn(format_args!(
                "{} {} {}: {reason}",
                line.shape.name, line.precision, line.kernels
            ));
        }
    }
}
