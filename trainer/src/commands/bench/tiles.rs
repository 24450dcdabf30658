//! `bellows bench --tiles`: every tile of the cooperative product.

use bellows_engine::kernels::Compute;
use burn::tensor::Device;
use serde::Serialize;

use super::name;
use crate::bench::{LayerShape, TileMeasurement, measure_tiles};
use crate::cli::BenchArgs;
use crate::error::Error;
use crate::ui::{Table, Ui, bytes};

/// Layers that are timed where none is named: the large ones, whose products are what a tile is for.
pub(super) const LAYERS: [&str; 2] = ["coe-paper", "olmoe"];

#[derive(Serialize)]
struct Report {
    device: String,
    types: Vec<Tiles>,
}

#[derive(Serialize)]
struct Tiles {
    precision: &'static str,
    tiles: Vec<TileMeasurement>,
}

/// Times the tiles and prints them; says so where the device has none.
pub(super) fn run(
    args: &BenchArgs,
    shapes: &[LayerShape],
    device_name: &str,
    device: &Device,
    ui: &Ui,
) -> Result<(), Error> {
    let mut report = Report {
        device: device_name.to_owned(),
        types: Vec::new(),
    };
    for compute in [Compute::Bf16, Compute::F16] {
        if !args.takes(compute, false, device) {
            continue;
        }
        let spinner = ui.spinner(format!("tiles of {}", name(compute)));
        let repeats = usize::from(args.repeats);
        let told = |line: &str| ui.note(format_args!("{} {line}", name(compute)));
        let tiles = measure_tiles(shapes, compute, device, repeats, &told);
        drop(spinner);
        report.types.push(Tiles {
            precision: name(compute),
            tiles,
        });
    }
    if args.json {
        ui.json(&report);
    } else {
        print(&report, ui);
    }
    let wrong: Vec<_> = report
        .types
        .iter()
        .flat_map(|types| types.tiles.iter().map(move |tile| (types.precision, tile)))
        .filter(|(_, tile)| !tile.is_right())
        .map(|(precision, tile)| format!("{} in {precision}", tile.tile))
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Error::failed(format!(
        "failed, or differ from plain operations by more than rounding: {}",
        wrong.join("; ")
    )))
}

fn print(report: &Report, ui: &Ui) {
    ui.print(format_args!("device: {}", report.device));
    let mut products = Table::new(["type", "tile", "4096³ TFLOP/s", "error"]).right(&[2, 3]);
    let mut layers = Table::new([
        "type",
        "tile",
        "layer",
        "forward ms",
        "fwd+bwd ms",
        "TFLOP/s",
        "extra memory",
    ])
    .right(&[3, 4, 5, 6]);
    for types in &report.types {
        if types.tiles.is_empty() {
            ui.print(format_args!(
                "{}: no cooperative matrices, plain tiles are all there is",
                types.precision
            ));
        }
        for tile in &types.tiles {
            products.row([
                types.precision.to_owned(),
                tile.tile.to_owned(),
                format!("{:.1}", tile.tera_operations),
                format!("{:.1e}", tile.error),
            ]);
            for (layer, found) in &tile.layers {
                layers.row([
                    types.precision.to_owned(),
                    tile.tile.to_owned(),
                    layer.clone(),
                    format!("{:.2}", found.forward_seconds * 1e3),
                    format!("{:.2}", found.seconds * 1e3),
                    format!("{:.1}", found.tera_operations),
                    found.extra_bytes.map_or_else(|| "?".to_owned(), bytes),
                ]);
            }
        }
    }
    for table in [products, layers] {
        if !table.is_empty() {
            ui.table(&table);
        }
    }
}
