//! How a model computes: whose kernels, and in which type they multiply.

use bellows_kernels::{Compute, Kernels};

/// Set once, where a model is made ([`super::Init::with_numerics`]); the decoder and each of its parts
/// hold a copy. Weights, moments, the residual stream, routers and normalisations are f32 whatever
/// it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Numerics {
    /// Which implementation computes each family of operations.
    pub kernels: Kernels,
    /// The type in which linear projections, attention and experts store and multiply their operands.
    pub compute: Compute,
    /// Compute the experts' pre-activations again in backward instead of keeping them.
    pub recompute_experts: bool,
}
