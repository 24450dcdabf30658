//! The cooperative matrix product, tile by tile: what the kernels' rule for choosing one is made of.

use std::time::Instant;

use bellows_engine::kernels::convert::convert;
use bellows_engine::kernels::experts::Settings;
use bellows_engine::kernels::host::floats;
use bellows_engine::kernels::linear::linear;
use bellows_engine::kernels::tuning::{tiles, with_tile};
use bellows_engine::kernels::{Compute, Kernels};
use burn::tensor::{Device, Distribution, Tensor};
use serde::Serialize;

use super::{LayerShape, Measurement, measure, median};
use crate::device::contain;

/// Edge of the square matrices whose product is timed.
const EDGE: usize = 4096;
/// Seconds of products that are waited for together: a wait takes as long as a short product.
const BURST: f64 = 0.02;
/// Tokens, inputs and outputs of the product that is checked: tails of every tile in each.
const CHECKED: [usize; 3] = [300, 200, 392];
/// A tile whose product is slower than this part of the best one's is not worth a layer's time.
const NEAR: f64 = 0.85;

/// What a tile gave.
#[derive(Clone, Debug, Serialize)]
pub struct TileMeasurement {
    /// The tile's name.
    pub tile: &'static str,
    /// Operations a second of a product of 4096×4096 matrices, in 10¹².
    pub tera_operations: f64,
    /// The largest difference of a small product and its gradients from plain operations, relative
    /// to the largest value.
    pub error: f32,
    /// What [`TileMeasurement::error`] may be by the type's rounding.
    pub allowed: f32,
    /// Layers with this tile, where its product is near the best; and the layer's name.
    pub layers: Vec<(String, Measurement)>,
    /// What the device or its driver said where the tile failed.
    pub failed: Option<String>,
}

impl TileMeasurement {
    /// Whether the tile computes what it should.
    pub fn is_right(&self) -> bool {
        // Written so that NaN is wrong.
        self.error <= self.allowed
    }
}

/// Times every tile that `device` takes for `compute`; none where plain tiles are all there is.
/// `told` hears of each product and layer as it is measured: a driver that fails takes what comes
/// after with it.
pub fn measure_tiles(
    shapes: &[LayerShape],
    compute: Compute,
    device: &Device,
    repeats: usize,
    told: &dyn Fn(&str),
) -> Vec<TileMeasurement> {
    let mut measured: Vec<TileMeasurement> = Vec::new();
    for tile in tiles(device, compute) {
        let found = contained(tile, || {
            Ok((
                rate(EDGE, compute, device, repeats)?,
                error(compute, device),
            ))
        });
        let (rate, error, failed) = match found {
            Ok((rate, error)) => (rate, error, None),
            Err(reason) => (0.0, f32::NAN, Some(reason)),
        };
        let tera_operations = rate / 1e12;
        told(&match &failed {
            None => format!("{tile}: {tera_operations:.1} TFLOP/s, error {error:.1e}"),
            Some(reason) => format!("{tile}: {reason}"),
        });
        measured.push(TileMeasurement {
            tile,
            tera_operations,
            error,
            allowed: 4.0 * compute.rounding(),
            layers: Vec::new(),
            failed,
        });
    }
    let best = measured
        .iter()
        .map(|tile| tile.tera_operations)
        .fold(0.0, f64::max);
    let settings = Settings {
        kernels: Kernels::Fused,
        compute,
        recompute: false,
    };
    for tile in &mut measured {
        if tile.tera_operations < NEAR * best || !tile.is_right() {
            continue;
        }
        for shape in shapes {
            let found = contained(tile.tile, || measure(shape, settings, device, repeats));
            match found {
                Ok(found) => {
                    let ms = found.seconds * 1e3;
                    told(&format!("{}: {} in {ms:.2} ms", tile.tile, shape.name));
                    tile.layers.push((shape.name.clone(), found));
                }
                Err(reason) => tile.failed = Some(reason),
            }
        }
    }
    measured
}

/// Runs `work` with a tile; a panic is an error.
fn contained<T>(tile: &'static str, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    contain(|| with_tile(tile, work))?
}

/// Operations a second of a product of square matrices of `edge`, in the kernels' own product;
/// median of `repeats`.
///
/// # Errors
/// What the device says when a kernel fails on it.
pub fn rate(edge: usize, compute: Compute, device: &Device, repeats: usize) -> Result<f64, String> {
    let noise = Distribution::Uniform(-1.0, 1.0);
    let operand = || convert(Tensor::<2>::random([edge, edge], noise, device), compute);
    let (x, weight) = (operand(), operand());
    let product = || linear(x.clone(), weight.clone(), compute, Kernels::Fused);
    let sync = || device.sync().map_err(|error| error.to_string());
    let burst = |products: usize| {
        let start = Instant::now();
        for _ in 0..products {
            drop(product());
        }
        sync()?;
        Ok::<f64, String>(start.elapsed().as_secs_f64())
    };
    // The first compiles.
    burst(1)?;
    let products = (BURST / burst(1)?.max(1e-6)).ceil().min(100.0) as usize;
    // Clocks rise with work.
    let warm = Instant::now();
    while warm.elapsed().as_secs_f64() < 0.5 {
        burst(products)?;
    }
    let mut seconds = Vec::with_capacity(repeats);
    for _ in 0..repeats.max(1) {
        seconds.push(burst(products)? / products as f64);
    }
    Ok(2.0 * (edge as f64).powi(3) / median(seconds))
}

/// How far a small projection and its gradients are from plain operations, relative to the largest
/// value of each.
fn error(compute: Compute, device: &Device) -> f32 {
    let [tokens, inputs, outputs] = CHECKED;
    let noise = Distribution::Uniform(-1.0, 1.0);
    let x = Tensor::<2>::random([tokens, inputs], noise, device);
    let weight = Tensor::<2>::random([outputs, inputs], noise, device);
    let upstream = Tensor::<2>::random([tokens, outputs], noise, device);
    let run = |kernels: Kernels| {
        let leaf = |tensor: &Tensor<2>| tensor.clone().autodiff().require_grad();
        let (x, weight) = (leaf(&x), leaf(&weight));
        let y = linear(x.clone(), weight.clone(), compute, kernels);
        let upstream = upstream.clone().autodiff();
        let gradients = y.clone().mul(upstream).sum().backward();
        let gradient = |leaf: &Tensor<2>| leaf.grad(&gradients).map(floats).unwrap_or_default();
        [floats(y), gradient(&x), gradient(&weight)]
    };
    let pairs = run(Kernels::Fused).into_iter().zip(run(Kernels::Reference));
    pairs
        .map(|(found, wanted)| {
            let largest = wanted
                .iter()
                .fold(0.0, |most: f32, value| most.max(value.abs()));
            let difference = found
                .iter()
                .zip(&wanted)
                .map(|(found, wanted)| (found - wanted).abs());
            worst(difference) / largest
        })
        .fold(0.0, |most, error| worst([most, error].into_iter()))
}

/// The largest value; NaN, which a plain maximum passes over, if there is one.
fn worst(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, |most, value| if value <= most { most } else { value })
}
