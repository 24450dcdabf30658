//! Initial weights: the same on every device, from the seed and the order of creation.

use bellows_kernels::Kernels;
use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

use super::Numerics;

/// Makes the parameters of a model.
#[derive(Debug)]
pub struct Init {
    device: Device,
    /// `None`: weights are zero, to be loaded.
    source: Option<(ChaCha8Rng, Normal<f32>)>,
    numerics: Numerics,
}

impl Init {
    /// Weights drawn from a normal distribution with standard deviation `std`.
    ///
    /// # Panics
    /// If `std` is negative or not finite; a validated configuration has neither.
    pub fn random(device: &Device, seed: u64, std: f64) -> Self {
        let normal = Normal::new(0.0, std as f32).expect("a validated standard deviation");
        Self {
            device: device.clone(),
            source: Some((ChaCha8Rng::seed_from_u64(seed), normal)),
            numerics: Numerics::default(),
        }
    }

    /// Weights that will be loaded.
    pub fn empty(device: &Device) -> Self {
        Self {
            device: device.clone(),
            source: None,
            numerics: Numerics::default(),
        }
    }

    /// Makes parts that compute as `numerics` says, instead of with the device's kernels in f32.
    pub fn with_numerics(self, numerics: Numerics) -> Self {
        Self { numerics, ..self }
    }

    /// Makes the parts to come compute with `kernels`.
    pub(super) fn use_kernels(&mut self, kernels: Kernels) {
        self.numerics.kernels = kernels;
    }

    /// How the parts compute.
    pub fn numerics(&self) -> Numerics {
        self.numerics
    }

    /// A parameter of random weights.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D]) -> Param<Tensor<D>> {
        let count = shape.iter().product();
        let tensor = match &mut self.source {
            None => Tensor::zeros(shape, &self.device),
            Some((rng, normal)) => {
                let values: Vec<f32> = normal.sample_iter(rng).take(count).collect();
                Tensor::from_data(TensorData::new(values, shape), &self.device)
            }
        };
        Param::from_tensor(tensor)
    }

    /// A parameter that starts at `value` everywhere.
    pub fn constant<const D: usize>(&mut self, shape: [usize; D], value: f32) -> Param<Tensor<D>> {
        Param::from_tensor(Tensor::full(shape, value, &self.device))
    }
}
