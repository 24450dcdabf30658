//! Times parts of a model, forward and backward: one mixture or chain of experts, routers included,
//! attention, or the head with its loss; and what the device reaches at its best, to compare with.

pub mod attention;
mod ceiling;
mod head;
mod tiles;

pub use ceiling::ceiling;
pub use head::{HeadShape, measure_head, profile_head};
pub use tiles::{TileMeasurement, measure_tiles};

use std::time::Instant;

use bellows_engine::kernels::chain::{Inputs, Rule, backward, forward, reference};
use bellows_engine::kernels::experts::{Bank, Settings};
use bellows_engine::kernels::memory::peak_during;
use bellows_engine::kernels::profile::{Stage, launches, stages_of};
use bellows_engine::kernels::routing::{Router, ScoreFunction};
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
    /// Experts a token chooses in an iteration.
    pub top_k: usize,
    /// Iterations of the chain; 1: a mixture.
    pub iterations: usize,
}

impl LayerShape {
    /// The shapes that `bellows bench` knows by name.
    pub fn known() -> Vec<Self> {
        [
            ("coe-paper", 32768, 1024, 704, 64, 8, 1),
            ("coe-chain", 32768, 1024, 704, 64, 4, 2),
            ("coe-half", 32768, 1024, 704, 64, 4, 1),
            ("olmoe", 16384, 2048, 1024, 64, 8, 1),
            ("mixtral-ish", 16384, 2048, 7168, 8, 2, 1),
            ("tiny", 8192, 512, 352, 32, 4, 1),
            ("lavapipe", 2048, 256, 256, 16, 4, 1),
        ]
        .into_iter()
        .map(
            |(name, tokens, hidden, inner, experts, top_k, iterations)| Self {
                name: name.to_owned(),
                tokens,
                hidden,
                inner,
                experts,
                top_k,
                iterations,
            },
        )
        .collect()
    }

    /// Floating-point operations of the experts forward: three products of `tokens · top_k` rows
    /// an iteration.
    pub fn forward_operations(&self) -> f64 {
        let rows = self.tokens * self.top_k * self.iterations;
        6.0 * rows as f64 * (self.hidden * self.inner) as f64
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
    /// Median seconds until the host had handed forward and backward to the device, without waiting.
    pub host_seconds: f64,
    /// Launches of the kernels in forward and backward; 0 where plain operations compute.
    pub launches: u64,
    /// The most bytes in use at one time beyond inputs and weights; output and gradients are
    /// among them. `None` on the CPU.
    pub extra_bytes: Option<u64>,
    /// Bytes that the first forward and backward made the device's pools take from it, beyond what
    /// they had: whole pages. `None` on the CPU.
    pub pool_bytes: Option<u64>,
}

/// A layer on a device: tokens, their gradients and routers in f32, as the residual stream has
/// them, matrices of experts in the compute type.
struct Layer {
    inputs: Inputs,
    dy: Tensor<2>,
    rule: Rule,
}

impl Layer {
    fn new(shape: &LayerShape, settings: Settings, device: &Device) -> Self {
        let noise = Distribution::Normal(0.0, 0.02);
        let &LayerShape {
            tokens,
            hidden,
            inner,
            experts,
            top_k,
            iterations,
            ..
        } = shape;
        let halved = settings.kernels == Kernels::Fused && settings.compute != Compute::F32;
        let matrices = |shape: [usize; 3]| {
            let values = Tensor::random(shape, noise, device);
            if halved {
                convert::convert(values, settings.compute)
            } else {
                values
            }
        };
        let unit = Distribution::Normal(0.0, 1.0);
        Self {
            inputs: Inputs {
                x: Tensor::random([tokens, hidden], unit, device),
                routers: Tensor::random([iterations, experts, hidden], noise, device),
                experts: Bank::whole(
                    matrices([experts, 2 * inner, hidden]),
                    matrices([experts, hidden, inner]),
                ),
            },
            dy: Tensor::random([tokens, hidden], noise, device),
            rule: Rule {
                router: Router {
                    scores: ScoreFunction::Softmax,
                    top_k,
                    group_limit: None,
                    normalise: true,
                    scale: 1.0,
                    capacity_factor: None,
                },
                iterations,
                residual: iterations > 1,
                sequences: 1,
                settings,
            },
        }
    }

    /// [`Passes::pass`] in plain operations, backward by autodiff.
    fn reference_pass(&self, with_backward: bool) -> Vec<Tensor<1>> {
        if !with_backward {
            let (y, _) = reference::chain(self.inputs.clone(), &[], &self.rule);
            return vec![y.flatten(0, 1)];
        }
        let leaf = |tensor: Tensor<3>| tensor.autodiff().require_grad();
        let tracked = Inputs {
            x: self.inputs.x.clone().autodiff().require_grad(),
            routers: leaf(self.inputs.routers.clone()),
            experts: self.inputs.experts.map(leaf),
        };
        let (y, _) = reference::chain(tracked.clone(), &[], &self.rule);
        let gradients = y.clone().mul(self.dy.clone().autodiff()).sum().backward();
        let (gate_up, down) = (tracked.experts.gate_up(), tracked.experts.down());
        let stacks = [tracked.routers, gate_up, down];
        let x = tracked.x.grad(&gradients).map(|x| x.flatten(0, 1));
        let stacks = stacks.iter().filter_map(|tensor| tensor.grad(&gradients));
        [y.without_autodiff().flatten(0, 1)]
            .into_iter()
            .chain(x)
            .chain(stacks.map(|stack| stack.flatten(0, 2)))
            .collect()
    }
}

/// What can be timed.
trait Passes {
    /// Runs forward, and backward if asked; returns what a caller would hold afterwards.
    fn pass(&self, with_backward: bool) -> Vec<Tensor<1>>;
}

impl Passes for Layer {
    fn pass(&self, with_backward: bool) -> Vec<Tensor<1>> {
        if self.rule.settings.kernels == Kernels::Reference {
            return self.reference_pass(with_backward);
        }
        let pass = forward(&self.inputs, &[], &self.rule);
        let mut held = vec![pass.y.clone().flatten(0, 1)];
        if with_backward {
            let gradients = backward(self.dy.clone(), &self.inputs, pass, None, &self.rule);
            held.extend([
                gradients.x.flatten(0, 1),
                gradients.routers.flatten(0, 2),
                gradients.experts.gate_up().flatten(0, 2),
                gradients.experts.down().flatten(0, 2),
            ]);
        }
        held
    }
}

/// Where a forward and a backward pass spend their time; empty where plain operations compute.
///
/// # Errors
/// As [`measure`].
pub fn profile(
    shape: &LayerShape,
    settings: Settings,
    device: &Device,
) -> Result<Vec<Stage>, String> {
    stages(&Layer::new(shape, settings, device), device)
}

fn stages(layer: &dyn Passes, device: &Device) -> Result<Vec<Stage>, String> {
    let warm = Instant::now();
    while warm.elapsed().as_secs_f64() < 0.3 {
        drop(layer.pass(true));
        device.sync().map_err(|error| error.to_string())?;
    }
    Ok(stages_of(|| layer.pass(true)).1)
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
    let layer = Layer::new(shape, settings, device);
    let operations = 3.0 * shape.forward_operations();
    figures(&layer, operations, device, repeats)
}

/// Times `layer`, whose forward and backward pass are `operations` floating-point operations.
fn figures(
    layer: &dyn Passes,
    operations: f64,
    device: &Device,
    repeats: usize,
) -> Result<Measurement, String> {
    let sync = || device.sync().map_err(|error| error.to_string());
    device.memory_cleanup();
    sync()?;
    let reserved = || device.memory_pool_usage().map(|usage| usage.bytes_reserved);
    let pools = reserved();
    let start = Instant::now();
    drop(layer.pass(true));
    sync()?;
    let first_seconds = start.elapsed().as_secs_f64();
    let pool_bytes = pools
        .zip(reserved())
        .map(|(before, after)| after.saturating_sub(before));
    let before = device.memory_pool_usage().map(|usage| usage.bytes_in_use);
    let (held, peak) = peak_during(device, || layer.pass(true));
    sync()?;
    drop(held);
    let extra_bytes = before.map(|before| peak.in_use.saturating_sub(before));
    let time = timed(device, repeats, |with_backward| layer.pass(with_backward))?;
    Ok(Measurement {
        first_seconds,
        forward_seconds: time.forward,
        seconds: time.both,
        tera_operations: operations / time.both / 1e12,
        host_seconds: time.host,
        launches: time.launches,
        extra_bytes,
        pool_bytes,
    })
}

/// Medians in seconds.
struct Times {
    forward: f64,
    /// Forward and backward, until the device is done.
    both: f64,
    /// The same until the host is done.
    host: f64,
    /// Launches of forward and backward.
    launches: u64,
}

/// Times `repeats` runs of `pass`, forward, and forward and backward; what it returns is dropped
/// after the clock is read.
fn timed<T>(device: &Device, repeats: usize, pass: impl Fn(bool) -> T) -> Result<Times, String> {
    let sync = || device.sync().map_err(|error| error.to_string());
    let time = |with_backward: bool| -> Result<(f64, f64), String> {
        // Clocks rise with work: warm up by time, not by count.
        let warm = Instant::now();
        let mut passes = 0;
        while passes < 2 || (warm.elapsed().as_secs_f64() < 0.3 && passes < 200) {
            drop(pass(with_backward));
            sync()?;
            passes += 1;
        }
        let (mut handed, mut seconds) = (Vec::new(), Vec::new());
        for _ in 0..repeats {
            let start = Instant::now();
            let held = pass(with_backward);
            handed.push(start.elapsed().as_secs_f64());
            sync()?;
            seconds.push(start.elapsed().as_secs_f64());
            drop(held);
        }
        Ok((median(handed), median(seconds)))
    };
    let (_, forward) = time(false)?;
    let (host, both) = time(true)?;
    let before = launches();
    drop(pass(true));
    let launches = launches() - before;
    sync()?;
    Ok(Times {
        forward,
        both,
        host,
        launches,
    })
}

/// The middle of `values`, of which there is one at least.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
