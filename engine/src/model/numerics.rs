//! How a model computes: whose kernels, and in which type they multiply.

use bellows_kernels::{Compute, Kernels};

/// Set once, where a model is made ([`super::Init::with_numerics`]); the decoder and each of its parts
/// hold a copy. Moments, the residual stream, routers and normalisations are f32 whatever it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
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
    /// Let the head make the logits of all tokens at once, as is common, instead of some tokens at
    /// a time: for comparison.
    pub full_logits: bool,
}
