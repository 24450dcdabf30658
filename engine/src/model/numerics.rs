//! How a model computes: whose kernels, and in which type they multiply.

use bellows_kernels::cross_entropy::WORKSPACE;
use bellows_kernels::{Compute, Kernels};

/// Set once, where a model is made ([`super::Init::with_numerics`]); the decoder and each of its parts
/// hold a copy. Moments, the residual stream, routers and normalisations are f32 whatever it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Numerics {
    /// Which implementation computes each family of operations.
    pub kernels: Kernels,
    /// The type in which linear projections, attention and experts store and multiply their operands.
    pub compute: Compute,
    /// The type in which matrices are held: embedding, projections, experts, head. f16 and bf16 halve
    /// the memory of the weights; the gradients stay f32. An optimizer wants f32, or what it adds is
    /// lost in rounding; backends and kernels that know f32 alone hold f32.
    pub weights: Compute,
    /// Compute the experts' pre-activations again in backward instead of keeping them.
    pub recompute_experts: bool,
    /// Bytes that the head may take for logits: it makes those of as many tokens at a time as fit.
    /// With `usize::MAX` it makes all of them at once, as is common: for comparison.
    pub head_workspace: usize,
}

impl Default for Numerics {
    fn default() -> Self {
        Self {
            kernels: Kernels::default(),
            compute: Compute::default(),
            weights: Compute::default(),
            recompute_experts: false,
            head_workspace: WORKSPACE,
        }
    }
}
