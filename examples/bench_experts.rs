//! A mixture-of-experts layer through the kernels, through plain tensor operations on the same
//! device, and in PyTorch where it finds a CUDA device, all in one call.
//!
//! `cargo xtask bench experts` runs it, or
//! `cargo run --release --example bench_experts -- DEVICE [LAYER ...]`.

use std::process::Command;

use bellows::bench::{LayerShape, Measurement, measure};
use bellows::device::DeviceChoice;
use bellows_engine::kernels::experts::Settings;
use bellows_engine::kernels::{Compute, Kernels};

const REPEATS: usize = 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let device = arguments.first().map_or("gpu", String::as_str);
    let opened = device.parse::<DeviceChoice>()?.open()?;
    let device = opened.device.clone();
    // Without names, what a software renderer gets through in a minute; a GPU's user names more.
    let names: Vec<&str> = match arguments.get(1..) {
        Some(names) if !names.is_empty() => names.iter().map(String::as_str).collect(),
        _ => vec!["lavapipe"],
    };
    println!("device: {}", opened.name());
    println!(
        "| layer | type | kernels | forward ms | fwd+bwd ms | TFLOP/s | extra MiB | first s |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut fused_seconds = Vec::new();
    for shape in LayerShape::known() {
        if !names.contains(&shape.name.as_str()) {
            continue;
        }
        for compute in [Compute::F32, Compute::F16, Compute::Bf16] {
            if !compute.stored_by(&device) {
                continue;
            }
            let fused = run(&shape, compute, Kernels::Fused, &device)?;
            fused_seconds.push((shape.name.clone(), compute, fused.seconds));
            if compute == Compute::F32 {
                let reference = run(&shape, compute, Kernels::Reference, &device)?;
                println!(
                    "{}: {:.2} times as fast as plain operations, {:.2} of their extra memory in use, \
                     {:.2} of what the pools grew by",
                    shape.name,
                    reference.seconds / fused.seconds,
                    ratio(fused.extra_bytes, reference.extra_bytes),
                    ratio(fused.pool_bytes, reference.pool_bytes),
                );
            }
        }
    }
    // Two iterations of half the experts each do the work of one iteration of all.
    for (name, compute, seconds) in &fused_seconds {
        let whole = fused_seconds
            .iter()
            .find(|(other, own, _)| other == "coe-paper" && own == compute);
        if let (true, Some((.., whole))) = (name == "coe-chain", whole) {
            println!(
                "chain of 2 × 4 experts against 8 at once, {compute:?}: {:.3} times the time",
                seconds / whole
            );
        }
    }
    let peer = concat!(env!("CARGO_MANIFEST_DIR"), "/../xtask/peers/moe_layer.py");
    let cuda = "import sys, torch; sys.exit(not torch.cuda.is_available())";
    let found = Command::new("python3").args(["-c", cuda]).output();
    if found.is_ok_and(|output| output.status.success()) {
        let known = names.iter().filter(|name| **name != "lavapipe");
        Command::new("python3").arg(peer).args(known).status()?;
    } else {
        println!("PyTorch with CUDA is not here: nothing to compare with");
    }
    Ok(())
}

fn ratio(part: Option<u64>, whole: Option<u64>) -> f64 {
    part.zip(whole)
        .map_or(f64::NAN, |(part, whole)| part as f64 / whole.max(1) as f64)
}

fn run(
    shape: &LayerShape,
    compute: Compute,
    kernels: Kernels,
    device: &burn::tensor::Device,
) -> Result<Measurement, String> {
    let settings = Settings {
        kernels,
        compute,
        recompute: false,
    };
    let found = measure(shape, settings, device, REPEATS)?;
    println!(
        "| {} | {compute:?} | {kernels:?} | {:.2} | {:.2} | {:.3} | {} | {:.1} |",
        shape.name,
        found.forward_seconds * 1e3,
        found.seconds * 1e3,
        found.tera_operations,
        found.extra_bytes.map_or(0, |bytes| bytes >> 20),
        found.first_seconds,
    );
    Ok(found)
}
