//! Times one mixture-of-experts layer, router included, forward and backward.

use std::time::Instant;

use bellows_engine::kernels::experts::reference::Inputs;
use bellows_engine::kernels::experts::{Settings, backward, forward};
use bellows_engine::kernels::peak::peak_during;
use bellows_engine::kernels::routing::{Router, ScoreFunction, route};
use bellows_engine::kernels::{Compute, Kernels, convert};
use burn::tensor::{Device, Distribution, Tensor};
use serde::Serialize;

/// The shape of a layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerShape {
    /// Name of the shape.
    pub name: String,
    /// Tokens.
    pub tokens: usize,
    /// Hidden width.
    pub hidden: usize,
    /// Inner width of an expert.
    pub inner: usize,
    /// Experts.
    pub experts: usize,
    /// Experts a token chooses.
    pub top_k: usize,
}

impl LayerShape {
    /// The shapes that `bellows bench` knows by name.
    pub fn known() -> Vec<Self> {
        [
            ("coe-paper", 32768, 1024, 704, 64, 8),
            ("coe-half", 32768, 1024, 704, 64, 4),
            ("olmoe", 16384, 2048, 1024, 64, 8),
            ("mixtral-ish", 16384, 2048, 7168, 8, 2),
            ("tiny", 8192, 512, 352, 32, 4),
            ("lavapipe", 2048, 256, 256, 16, 4),
        ]
        .into_iter()
        .map(|(name, tokens, hidden, inner, experts, top_k)| Self {
            name: name.to_owned(),
            tokens,
            hidden,
            inner,
            experts,
            top_k,
        })
        .collect()
    }

    /// Floating-point operations of the experts forward: three products of `tokens · top_k` rows.
    pub fn forward_operations(&self) -> f64 {
        6.0 * (self.tokens * self.top_k) as f64 * (self.hidden * self.inner) as f64
    }
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// Seconds of the first forward and backward: kernels are compiled in it.
    pub first_seconds: f64,
    /// Median seconds of a forward pass.
    pub forward_seconds: f64,
    /// Median seconds of forward and backward.
    pub seconds: f64,
    /// Operations a second of forward and backward, in 10¹².
    pub tera_operations: f64,
    /// The most bytes in use at one time beyond inputs and weights; output and gradients are
    /// among them. `None` on the CPU. Of plain operations: what the device's pools grew by.
    pub extra_bytes: Option<u64>,
}

/// A layer's tensors on a device.
struct Layer {
    logits: Tensor<2>,
    gate_up: Tensor<3>,
    down: Tensor<3>,
    x: Tensor<2>,
    dy: Tensor<2>,
    shape: LayerShape,
    settings: Settings,
}

impl Layer {
    fn new(shape: &LayerShape, settings: Settings, device: &Device) -> Self {
        let noise = Distribution::Normal(0.0, 0.02);
        let unit = Distribution::Normal(0.0, 1.0);
        let &LayerShape {
            tokens,
            hidden,
            inner,
            experts,
            ..
        } = shape;
        let fused = settings.kernels == Kernels::Fused && settings.compute != Compute::F32;
        let matrices = |matrix: Tensor<3>| {
            if fused {
                convert::convert(matrix, settings.compute)
            } else {
                matrix
            }
        };
        let rows = |rows: Tensor<2>| {
            if fused {
                convert::convert(rows, settings.compute)
            } else {
                rows
            }
        };
        Self {
            logits: Tensor::random([tokens, experts], unit, device),
            gate_up: matrices(Tensor::random([experts, 2 * inner, hidden], noise, device)),
            down: matrices(Tensor::random([experts, hidden, inner], noise, device)),
            x: rows(Tensor::random([tokens, hidden], unit, device)),
            dy: rows(Tensor::random([tokens, hidden], noise, device)),
            shape: shape.clone(),
            settings,
        }
    }

    /// Runs forward, and backward if asked; returns what a caller would hold afterwards.
    fn pass(&self, with_backward: bool) -> Vec<Tensor<1>> {
        use bellows_engine::kernels::experts::reference::{self, Layout};
        let router = Router {
            scores: ScoreFunction::Softmax,
            top_k: self.shape.top_k,
            group_limit: None,
            normalise: true,
            scale: 1.0,
            capacity_factor: None,
        };
        let kernels = self.settings.kernels;
        let routing = route(self.logits.clone(), None, &router, 1, kernels);
        let inputs = Inputs {
            x: self.x.clone(),
            weights: routing.weights.clone(),
            gate_up: self.gate_up.clone(),
            down: self.down.clone(),
        };
        let flat = |gradients: bellows_engine::kernels::experts::Gradients| {
            vec![
                gradients.x.flatten(0, 1),
                gradients.weights.flatten(0, 1),
                gradients.gate_up.flatten(0, 2),
                gradients.down.flatten(0, 2),
            ]
        };
        if kernels == Kernels::Reference {
            let layout = Layout::new(&routing.plan, &self.x.device());
            let (y, pre) = reference::forward(&inputs, &layout);
            let mut held = vec![y.flatten(0, 1)];
            if with_backward {
                held.extend(flat(reference::backward(
                    self.dy.clone(),
                    &inputs,
                    &layout,
                    pre,
                )));
            }
            return held;
        }
        let pass = forward(&inputs, &routing.plan, None, self.settings);
        let mut held = vec![pass.y.flatten(0, 1)];
        if with_backward {
            held.extend(flat(backward(
                self.dy.clone(),
                &inputs,
                &routing.plan,
                pass.kept,
                None,
                self.settings,
            )));
        }
        held
    }
}

fn reserved(device: &Device) -> Option<u64> {
    device.sync().ok()?;
    device.memory_pool_usage().map(|usage| usage.bytes_reserved)
}

/// Times a layer on a device without autodiff: `repeats` passes a figure, after a warm-up.
///
/// # Errors
/// What the device says when a kernel fails on it.
pub fn measure(
    shape: &LayerShape,
    settings: Settings,
    device: &Device,
    repeats: usize,
) -> Result<Measurement, String> {
    let sync = || device.sync().map_err(|error| error.to_string());
    let layer = Layer::new(shape, settings, device);
    device.memory_cleanup();
    let before = reserved(device);
    let start = Instant::now();
    let held = layer.pass(true);
    sync()?;
    let first_seconds = start.elapsed().as_secs_f64();
    let after = reserved(device);
    drop(held);
    let extra_bytes = if settings.kernels == Kernels::Fused {
        sync()?;
        let in_use = device.memory_pool_usage().map(|usage| usage.bytes_in_use);
        let (held, peak) = peak_during(|| layer.pass(true));
        sync()?;
        drop(held);
        in_use.map(|before| peak.saturating_sub(before))
    } else {
        before
            .zip(after)
            .map(|(before, after)| after.saturating_sub(before))
    };
    let time = |with_backward: bool| -> Result<f64, String> {
        // Clocks rise with work: warm up by time, not by count.
        let warm = Instant::now();
        let mut passes = 0;
        while passes < 2 || (warm.elapsed().as_secs_f64() < 0.3 && passes < 200) {
            drop(layer.pass(with_backward));
            sync()?;
            passes += 1;
        }
        let mut seconds = Vec::with_capacity(repeats);
        for _ in 0..repeats {
            let start = Instant::now();
            let held = layer.pass(with_backward);
            sync()?;
            seconds.push(start.elapsed().as_secs_f64());
            drop(held);
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[seconds.len() / 2])
    };
    let forward_seconds = time(false)?;
    let seconds = time(true)?;
    Ok(Measurement {
        first_seconds,
        forward_seconds,
        seconds,
        tera_operations: 3.0 * shape.forward_operations() / seconds / 1e12,
        extra_bytes,
    })
}
