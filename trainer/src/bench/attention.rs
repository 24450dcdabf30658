//! Times attention alone, forward and backward.

use bellows_engine::kernels::attention::{
    Scope, Settings, Tier, Tile, Tiles, Visible, backward, forward, reference,
};
use bellows_engine::kernels::profile::Stage;
use bellows_engine::kernels::{Compute, Kernels, convert};
use burn::tensor::{Device, Distribution, Tensor};
use serde::Serialize;

use super::{Measurement, Passes, figures, stages};

/// Heads over a causal sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AttentionShape {
    /// Name of the shape.
    pub name: String,
    /// Tokens of the one sequence.
    pub tokens: usize,
    /// Query heads.
    pub heads: usize,
    /// Heads of keys and values.
    pub groups: usize,
    /// Features of a query or key.
    pub width: usize,
    /// Features of a value.
    pub value_width: usize,
    /// Most tokens that a query sees.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// The shapes that `bellows bench` knows by name.
    pub fn known() -> Vec<Self> {
        [
            ("attention-2k", 2048, 16, 8, 128, 128, None),
            ("attention-8k", 8192, 16, 8, 128, 128, None),
            ("attention-32k", 32768, 16, 8, 128, 128, None),
            ("attention-64", 8192, 16, 16, 64, 64, None),
            ("attention-256", 8192, 8, 8, 256, 256, None),
            ("attention-latent", 8192, 16, 16, 192, 128, None),
            ("attention-window", 32768, 16, 8, 128, 128, Some(4096)),
            ("attention-lavapipe", 512, 4, 2, 64, 64, None),
        ]
        .into_iter()
        .map(
            |(name, tokens, heads, groups, width, value_width, window)| Self {
                name: name.to_owned(),
                tokens,
                heads,
                groups,
                width,
                value_width,
                window,
            },
        )
        .collect()
    }

    /// Pairs of a query and a key that it sees.
    fn pairs(&self) -> f64 {
        let window = self.window.unwrap_or(self.tokens).min(self.tokens) as f64;
        let tokens = self.tokens as f64;
        self.heads as f64 * (window * (window + 1.0) / 2.0 + (tokens - window) * window)
    }

    /// Floating-point operations of a forward and a backward pass that computes each score once:
    /// four products as wide as queries, three as wide as values.
    pub fn operations(&self) -> f64 {
        2.0 * self.pairs() * (4 * self.width + 3 * self.value_width) as f64
    }
}

/// The tiles that a sweep tries: first the rule's own, then all others that the device runs.
pub fn tiles_to_try(
    shape: &AttentionShape,
    found: Tiles,
    compute: Compute,
    device: &Device,
) -> Vec<Tiles> {
    let mut all = Vec::new();
    use Scope::{Subgroup, Workgroup};
    for (scope, subgroups, columns) in [
        (Subgroup, 4, 32),
        (Subgroup, 4, 64),
        (Subgroup, 8, 16),
        (Subgroup, 8, 32),
        (Subgroup, 16, 32),
        (Workgroup, 4, 32),
        (Workgroup, 4, 64),
        (Workgroup, 8, 32),
        (Workgroup, 8, 64),
    ] {
        for (joint, held) in [(true, true), (true, false), (false, true), (false, false)] {
            let tile = Tile {
                scope,
                subgroups,
                columns,
            };
            all.push(Tiles {
                forward: tile,
                query: tile,
                keys: tile,
                joint,
                held,
            });
        }
    }
    let (width, value_width) = (shape.width, shape.value_width);
    all.retain(|tiles| *tiles != found && tiles.run_on(device, compute, width, value_width));
    all.insert(0, found);
    all
}

/// Attention on a device: queries, keys and values in the compute type, a gradient of the result.
struct Heads {
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    dy: Tensor<4>,
    visible: Visible,
    scale: f64,
    settings: Settings,
}

impl Heads {
    fn new(shape: &AttentionShape, settings: Settings, device: &Device) -> Self {
        let noise = Distribution::Normal(0.0, 1.0);
        let compute = match settings.kernels {
            Kernels::Fused => settings.compute,
            Kernels::Reference => Compute::F32,
        };
        let random = |heads: usize, width: usize| {
            let values = Tensor::random([1, heads, shape.tokens, width], noise, device);
            convert::convert(values, compute)
        };
        let AttentionShape {
            heads,
            groups,
            width,
            value_width,
            ..
        } = *shape;
        let laid = [1, shape.tokens, heads, value_width];
        Self {
            query: random(heads, width),
            key: random(groups, width),
            value: random(groups, value_width),
            dy: Tensor::random(laid, noise, device).swap_dims(1, 2),
            visible: Visible {
                window: shape.window,
                starts: None,
            },
            scale: (width as f64).powf(-0.5),
            settings,
        }
    }

    /// Result and gradients, as far as asked.
    fn results(&self, with_backward: bool) -> Vec<Tensor<4>> {
        let [query, key, value] = [&self.query, &self.key, &self.value].map(Tensor::clone);
        let (visible, scale) = (&self.visible, self.scale);
        let pass = forward(
            query.clone(),
            key.clone(),
            value.clone(),
            visible,
            scale,
            self.settings,
        );
        if let Some(pass) = pass {
            let y = pass.y.clone();
            if !with_backward {
                return vec![y];
            }
            let (dquery, dkey, dvalue) = backward(self.dy.clone(), pass);
            return vec![y, dquery, dkey, dvalue];
        }
        let (y, log_sums) =
            reference::forward(query.clone(), key.clone(), value.clone(), visible, scale);
        if !with_backward {
            return vec![y];
        }
        let kept = reference::Kept {
            query,
            key,
            value,
            y: y.clone(),
            log_sums,
        };
        let (dquery, dkey, dvalue) =
            reference::backward(self.dy.clone(), kept, None, visible, scale);
        vec![y, dquery, dkey, dvalue]
    }
}

impl Passes for Heads {
    fn pass(&self, with_backward: bool) -> Vec<Tensor<1>> {
        let results = self.results(with_backward).into_iter();
        // The result lies as the projection behind it reads it: flattened like that, it is no copy.
        results
            .enumerate()
            .map(|(at, tensor)| {
                if at == 0 {
                    tensor.swap_dims(1, 2)
                } else {
                    tensor
                }
            })
            .map(|tensor| tensor.flatten(0, 3))
            .collect()
    }
}

/// Where a forward and a backward pass spend their time; empty where plain operations compute.
///
/// # Errors
/// As [`measure`].
pub fn profile(
    shape: &AttentionShape,
    settings: Settings,
    device: &Device,
) -> Result<Vec<Stage>, String> {
    stages(&Heads::new(shape, settings, device), device)
}

/// Times attention on a device without autodiff: `repeats` passes a figure, after a warm-up.
/// Operands are in the compute type, the result's gradient and all results in f32.
///
/// # Errors
/// What the device says when a kernel fails on it.
pub fn measure(
    shape: &AttentionShape,
    settings: Settings,
    device: &Device,
    repeats: usize,
) -> Result<Measurement, String> {
    let heads = Heads::new(shape, settings, device);
    let operations = shape.operations();
    figures(&heads, operations, device, repeats)
}

/// The tiles that the device's cooperative kernels use for a shape.
pub fn cooperative(shape: &AttentionShape, compute: Compute, device: &Device) -> Option<Tiles> {
    Tier::cooperative(device, compute, shape.width, shape.value_width).ok()
}
