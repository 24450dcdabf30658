//! Initial weights: the same on every device, from the seed and the order of creation.

use bellows_kernels::convert::convert;
use bellows_kernels::{Compute, Kernels, largest_buffer};
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
    largest_buffer: Option<u64>,
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
            largest_buffer: largest_buffer(device),
        }
    }

    /// Weights that will be loaded.
    pub fn empty(device: &Device) -> Self {
        Self {
            device: device.clone(),
            source: None,
            numerics: Numerics::default(),
            largest_buffer: largest_buffer(device),
        }
    }

    /// Makes parts that compute as `numerics` says, instead of with the device's kernels in f32.
    pub fn with_numerics(self, numerics: Numerics) -> Self {
        Self { numerics, ..self }
    }

    /// Makes parameters of at most so many bytes where they can be divided, instead of as large as the
    /// device's buffers: the experts of a layer are several blocks then.
    pub fn with_largest_buffer(self, bytes: u64) -> Self {
        Self {
            largest_buffer: Some(bytes),
            ..self
        }
    }

    /// The most bytes that a parameter may have; `None`: nothing limits it.
    pub(super) fn largest_buffer(&self) -> Option<u64> {
        self.largest_buffer
    }

    /// Makes the parts to come compute with `kernels`; plain operations take f32 alone.
    pub(super) fn use_kernels(&mut self, kernels: Kernels) {
        self.numerics.kernels = kernels;
        if kernels == Kernels::Reference {
            self.numerics.weights = Compute::F32;
        }
    }

    /// How the parts compute.
    pub fn numerics(&self) -> Numerics {
        self.numerics
    }

    /// A matrix of random weights, held in the type that the numerics say.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D]) -> Param<Tensor<D>> {
        let weights = self.numerics.weights;
        self.normal_in(shape, weights)
    }

    /// A matrix of random weights in f32, whatever the others are held in.
    pub fn normal_in_f32<const D: usize>(&mut self, shape: [usize; D]) -> Param<Tensor<D>> {
        self.normal_in(shape, Compute::F32)
    }

    fn normal_in<const D: usize>(&mut self, shape: [usize; D], held: Compute) -> Param<Tensor<D>> {
        let count = shape.iter().product();
        let tensor = match &mut self.source {
            None => Tensor::zeros(shape, &self.device),
            Some((rng, normal)) => {
                let values: Vec<f32> = normal.sample_iter(rng).take(count).collect();
                Tensor::from_data(TensorData::new(values, shape), &self.device)
            }
        };
        Param::from_tensor(hold(tensor, held))
    }

    /// A parameter that starts at `value` everywhere.
    pub fn constant<const D: usize>(&mut self, shape: [usize; D], value: f32) -> Param<Tensor<D>> {
        Param::from_tensor(Tensor::full(shape, value, &self.device))
    }
}

/// `tensor` held in another type: a leaf of autodiff again, where it was one.
pub(crate) fn hold<const D: usize>(tensor: Tensor<D>, held: Compute) -> Tensor<D> {
    if held == Compute::F32 {
        return tensor;
    }
    let tracks = tensor.device().is_autodiff();
    let plain = convert(tensor.without_autodiff(), held);
    match tracks {
        true => Tensor::from_inner(plain),
        false => plain,
    }
}
