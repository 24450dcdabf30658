//! Initial weights: the same on every device, from the seed and the order of creation.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};

/// Makes the parameters of a model.
#[derive(Debug)]
pub struct Init {
    device: Device,
    /// `None`: weights are zero, to be loaded.
    source: Option<(ChaCha8Rng, Normal<f32>)>,
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
        }
    }

    /// Weights that will be loaded.
    pub fn empty(device: &Device) -> Self {
        Self {
            device: device.clone(),
            source: None,
        }
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
