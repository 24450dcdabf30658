//! The memory that a training step will need, before anything is made.
//!
//! A step is simulated: `step` and `layer` take and give back, on a `tape`, what the engine
//! and the kernels will, in the same order and under the same rules, with sizes alone. What each
//! family of kernels takes and keeps is told in one file a family, in `families`. So the fullest
//! moment of every phase and layer is known by kind, for each way to backpropagate, and
//! [`choose()`] finds the way, the longest sequence and the largest batch that fit. No device is
//! needed, and no tensor is made.
//!
//! What is counted are bytes in use, as allocators count them. What an allocator reserves beyond
//! them, for its pages and what lies between buffers, is an allowance ([`Target::reserved`]).

mod choose;
mod families;
mod layer;
mod parameter;
mod projections;
mod sim;
mod step;
mod tape;

pub use choose::{
    Candidate, Chunks, MOST_TOKENS, Mode, Nearest, Plan, Question, ample_chunk, choose, largest,
};
pub use parameter::{Parameter, largest_parameter};
pub use tape::{ByKind, Fullest, Phase};

use bellows_kernels::cross_entropy::WORKSPACE;
use bellows_kernels::experts::in_parts;
use bellows_kernels::memory::Kind;
use bellows_kernels::{Compute, Kernels, largest_buffer, linear};
use burn::tensor::Device;

use crate::config::ModelConfig;
use crate::model::Numerics;
use crate::step::Backpropagation;

/// What the memory of a step depends on beside the model: whose kernels run, in which type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whether it is anything but the CPU backend.
    pub gpu: bool,
    /// Whether the kernels of CubeCL devices compute, or the references.
    pub cube: bool,
    /// The type in which matrices are stored and multiplied; the references take f32 alone.
    pub compute: Compute,
    /// Whether the device has matrix units for the type, so that linear projections are converted
    /// to it.
    pub accelerated: bool,
    /// The type in which matrices are held.
    pub weights: Compute,
    /// Whether the experts' pre-activations are computed again instead of being kept.
    pub recompute_experts: bool,
    /// Whether the experts' rows are taken in parts, as [`in_parts`] says.
    pub experts_in_parts: bool,
    /// Bytes that the head may take for logits, as [`Numerics::head_workspace`] says.
    pub head_workspace: usize,
    /// Bytes of the device's largest buffer; `None`: nothing limits it, or it is not known.
    pub largest_buffer: Option<u64>,
}

/// CubeCL's page of small buffers.
const SMALL_PAGE: u64 = 8 << 20;

impl Target {
    /// A GPU that multiplies in `compute`, with matrix units for f16 and bf16.
    pub fn gpu(compute: Compute) -> Self {
        Self {
            gpu: true,
            cube: true,
            compute,
            accelerated: compute != Compute::F32,
            weights: Compute::F32,
            recompute_experts: false,
            experts_in_parts: false,
            head_workspace: WORKSPACE,
            largest_buffer: None,
        }
    }

    /// The CPU backend.
    pub fn cpu() -> Self {
        Self {
            gpu: false,
            cube: false,
            compute: Compute::F32,
            accelerated: false,
            weights: Compute::F32,
            recompute_experts: false,
            experts_in_parts: false,
            head_workspace: WORKSPACE,
            largest_buffer: None,
        }
    }

    /// `device`, where a model computes as `numerics` says.
    pub fn of(device: &Device, numerics: Numerics) -> Self {
        let gpu = *device != Device::flex();
        let cube = gpu && numerics.kernels == Kernels::Fused;
        let head_workspace = numerics.head_workspace;
        let largest_buffer = largest_buffer(device);
        if !cube {
            return Self {
                gpu,
                head_workspace,
                largest_buffer,
                ..Self::cpu()
            };
        }
        Self {
            accelerated: linear::accelerated(device, numerics.compute),
            weights: numerics.weights,
            recompute_experts: numerics.recompute_experts,
            experts_in_parts: in_parts(device),
            head_workspace,
            largest_buffer,
            ..Self::gpu(numerics.compute)
        }
    }

    /// What the allocator has reserved when so many bytes are in use at most. CubeCL's pages are as
    /// large as the largest buffer and never quite full, and small buffers have pages of their
    /// own; the CPU's blocks are rounded up.
    pub fn reserved(self, bytes: u64) -> u64 {
        match self.cube {
            true => bytes + bytes / 8 + SMALL_PAGE,
            false => bytes + bytes / 32,
        }
    }

    /// Bytes of a model's weights: its matrices in the type that they are held in; norms, biases
    /// and routers, which are f32, are left out of the account.
    pub fn weight_bytes(self, model: &ModelConfig) -> u64 {
        let element = match self.weights {
            Compute::F16 | Compute::Bf16 if self.cube => 2,
            _ => families::F32,
        };
        element * model.parameter_counts().total as u64
    }

    /// Whether matrices are held as they are multiplied, so that nothing converts them.
    fn holds_compute(self) -> bool {
        self.cube && self.weights == self.compute
    }

    /// Bytes of a matrix of `elements` in the type that kernels multiply in: none where it is held
    /// in it, or f32 is multiplied as it is.
    fn converted_matrix(self, elements: usize) -> u64 {
        match self.element() {
            families::F32 => 0,
            _ if self.holds_compute() => 0,
            element => element * elements as u64,
        }
    }

    /// Bytes of an element of the compute type.
    fn element(self) -> u64 {
        match self.compute {
            Compute::F16 | Compute::Bf16 if self.cube => 2,
            _ => families::F32,
        }
    }

    /// Whether a projection goes through the kernels, which convert.
    fn projects(self, inputs: usize, outputs: usize) -> bool {
        self.cube
            && self.accelerated
            && self.compute != Compute::F32
            && inputs.is_multiple_of(8)
            && outputs.is_multiple_of(8)
    }
}

/// What a step is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Sequences of a micro-batch.
    pub batch: usize,
    /// Tokens of a sequence.
    pub time: usize,
    /// Micro-batches.
    pub micro_batches: usize,
    /// Whether sequences hold several documents that do not see each other.
    pub documents: bool,
    /// Whether an optimizer follows; else only gradients are made.
    pub training: bool,
    /// Whether the objective is a function of log-probabilities, so that the head goes through the
    /// tokens once without gradients first: DPO, GRPO.
    pub head_twice: bool,
}

/// What a step needs.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// How it backpropagates.
    pub way: Backpropagation,
    /// The fullest moment of each phase and layer.
    pub moments: Vec<Fullest>,
    /// Bytes of the largest buffer for the rows of a mixture's choices: at most so many lie in one as
    /// the device gives a kernel.
    pub largest_rows: u64,
    /// What the allocator will have reserved of the device at the peak.
    reserved: u64,
}

impl Prediction {
    /// The fullest moment of the step.
    pub fn peak(&self) -> &Fullest {
        let fullest = self.moments.iter().max_by_key(|moment| moment.total());
        fullest.expect("a step has moments")
    }

    /// The fullest moment of a phase.
    pub fn of(&self, phase: Phase) -> Option<&Fullest> {
        let moments = self.moments.iter().filter(|moment| moment.phase == phase);
        moments.max_by_key(|moment| moment.total())
    }

    /// Bytes of the weights.
    pub fn weights(&self) -> u64 {
        self.peak().bytes[Kind::Weights as usize]
    }

    /// Bytes of what stays between steps: weights and the optimizer's moments.
    pub fn resident(&self) -> u64 {
        self.weights() + self.peak().bytes[Kind::Optimizer as usize]
    }

    /// What has to be free on the device for it: the peak, and what the allocator will reserve
    /// beyond.
    pub fn needed(&self) -> u64 {
        self.reserved
    }
}

/// The memory that a step needs which backpropagates in `way`.
pub fn predict(
    model: &ModelConfig,
    load: &Load,
    target: Target,
    way: Backpropagation,
) -> Prediction {
    let tape::Taken {
        fullest: moments,
        largest_buffer: largest_rows,
    } = step::run(model, load, target, way);
    let peak = moments.iter().map(Fullest::total).max().unwrap_or(0);
    Prediction {
        way,
        moments,
        largest_rows,
        reserved: target.reserved(peak),
    }
}
