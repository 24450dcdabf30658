//! The head with its loss: from hidden states to loss per token and both gradients.

use bellows_engine::kernels::cross_entropy::{Settings, forward, forward_backward};
use bellows_engine::kernels::profile::Stage;
use bellows_engine::kernels::{Compute, Kernels, convert};
use burn::tensor::{Device, Distribution, Int, Tensor};
use serde::Serialize;

use super::{Measurement, Passes, figures, stages};

/// The shape of a head and of what it is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeadShape {
    /// Name of the shape.
    pub name: String,
    /// Tokens.
    pub tokens: usize,
    /// Hidden width.
    pub hidden: usize,
    /// Entries of the vocabulary.
    pub vocabulary: usize,
}

impl HeadShape {
    /// The shapes that `bellows bench` knows by name.
    pub fn known() -> Vec<Self> {
        [
            ("head", 8192, 1024, 151_936),
            ("head-32k", 8192, 1024, 32_000),
            ("head-small", 512, 128, 4096),
        ]
        .into_iter()
        .map(|(name, tokens, hidden, vocabulary)| Self {
            name: name.to_owned(),
            tokens,
            hidden,
            vocabulary,
        })
        .collect()
    }

    /// The shape called `name`, or written out as `head:TOKENSxHIDDENxVOCABULARY`.
    pub fn parse(name: &str) -> Option<Self> {
        if let Some(known) = Self::known().into_iter().find(|shape| shape.name == name) {
            return Some(known);
        }
        let sizes = name.strip_prefix("head:")?.split('x');
        let sizes: Option<Vec<usize>> = sizes
            .map(|size| size.parse().ok().filter(|&size| size > 0))
            .collect();
        let [tokens, hidden, vocabulary] = sizes?.try_into().ok()?;
        Some(Self {
            name: name.to_owned(),
            tokens,
            hidden,
            vocabulary,
        })
    }

    /// Floating-point operations of forward and backward: three products.
    fn operations(&self) -> f64 {
        6.0 * self.tokens as f64 * (self.hidden * self.vocabulary) as f64
    }
}

/// A head on a device: hidden states in f32, as the residual stream has them, the head in the
/// compute type.
struct Head {
    hidden: Tensor<2>,
    head: Tensor<2>,
    labels: Tensor<1, Int>,
    weights: Tensor<1>,
    settings: Settings,
}

impl Head {
    fn new(shape: &HeadShape, settings: Settings, device: &Device) -> Self {
        let &HeadShape {
            tokens,
            hidden,
            vocabulary,
            ..
        } = shape;
        let noise = Distribution::Normal(0.0, 0.02);
        let head = Tensor::random([vocabulary, hidden], noise, device);
        let halved = settings.kernels == Kernels::Fused && settings.compute != Compute::F32;
        let any = Distribution::Uniform(0.0, vocabulary as f64);
        Self {
            hidden: Tensor::random([tokens, hidden], Distribution::Normal(0.0, 1.0), device),
            head: if halved {
                convert::convert(head, settings.compute)
            } else {
                head
            },
            labels: Tensor::<1>::random([tokens], any, device)
                .int()
                .clamp_max(vocabulary as i64 - 1),
            weights: Tensor::full([tokens], 1.0 / tokens as f64, device),
            settings,
        }
    }
}

impl Passes for Head {
    fn pass(&self, with_backward: bool) -> Vec<Tensor<1>> {
        let (hidden, head) = (self.hidden.clone(), self.head.clone());
        let labels = self.labels.clone();
        if !with_backward {
            return vec![forward(hidden, head, labels, &self.settings).losses];
        }
        let weights = self.weights.clone();
        let pass = forward_backward(hidden, head, labels, weights, None, &self.settings);
        vec![
            pass.objective,
            pass.losses.losses,
            pass.gradients.hidden.flatten(0, 1),
            pass.gradients.head.flatten(0, 1),
        ]
    }
}

/// What [`super::measure`] tells of a layer, of a head.
///
/// # Errors
/// What the device says when a kernel fails on it.
pub fn measure_head(
    shape: &HeadShape,
    settings: Settings,
    device: &Device,
    repeats: usize,
) -> Result<Measurement, String> {
    let head = Head::new(shape, settings, device);
    let operations = shape.operations();
    figures(&head, operations, device, repeats)
}

/// Where a forward and a backward pass spend their time; empty where plain operations compute.
///
/// # Errors
/// As [`measure_head`].
pub fn profile_head(
    shape: &HeadShape,
    settings: Settings,
    device: &Device,
) -> Result<Vec<Stage>, String> {
    stages(&Head::new(shape, settings, device), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_a_name_or_three_sizes() {
        assert_eq!(
            HeadShape::parse("head").map(|s| s.vocabulary),
            Some(151_936)
        );
        let written = HeadShape::parse("head:7x8x9").expect("three sizes");
        assert_eq!(
            (written.tokens, written.hidden, written.vocabulary),
            (7, 8, 9)
        );
        for wrong in [
            "head:",
            "head:7x8",
            "head:7x8x9x1",
            "head:0x8x9",
            "tiny",
            "head:axbxc",
        ] {
            assert_eq!(HeadShape::parse(wrong), None, "{wrong}");
        }
    }
}
