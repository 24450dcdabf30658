//! The experts' own kernels behind Burn tensors: forward and backward passes without autodiff.

use burn::backend::{Dispatch, DispatchTensorKind};
use burn::tensor::Tensor;

use super::Settings;
use super::backend::ExpertsBackend;
pub use super::reference::Gradients;
use super::reference::Inputs;
use crate::Kernels;
use crate::routing::Plan;

/// Whether the kernels take tensors on the device of `tensor`.
pub(super) fn computes(tensor: &Tensor<2>, kernels: Kernels) -> bool {
    kernels == Kernels::Fused
        && matches!(
            tensor.clone().into_dispatch().kind,
            DispatchTensorKind::Cube(_)
        )
}

/// What a forward pass returns.
#[derive(Clone, Debug)]
pub struct ForwardPass {
    /// The layer's output `[T, H]`, f32.
    pub y: Tensor<2>,
    /// The pre-activation `[rows, 2F]` in the compute type, unless it is computed again.
    pub kept: Option<Tensor<2>>,
}

/// Buffers that weight gradients are added into, f32, in the shapes of the weights.
#[derive(Clone, Debug)]
pub struct WeightSums {
    /// `[G, 2F, H]`.
    pub gate_up: Tensor<3>,
    /// `[G, H, F]`.
    pub down: Tensor<3>,
}

/// The forward pass on a CubeCL device, for callers that run backward themselves. `residual`
/// `[T, H]` is added to the output.
///
/// # Panics
/// If the tensors take part in autodiff or live on a device without CubeCL.
pub fn forward(
    inputs: &Inputs,
    plan: &Plan,
    residual: Option<Tensor<2>>,
    settings: Settings,
) -> ForwardPass {
    let with_residual = residual.is_some();
    let residual = residual.unwrap_or_else(|| inputs.x.clone());
    let (y, pre) = <Dispatch as ExpertsBackend>::experts_forward(
        inputs.x.clone().into_dispatch(),
        inputs.weights.clone().into_dispatch(),
        plan.offsets.clone().into_dispatch(),
        plan.slots.clone().into_dispatch(),
        plan.positions.clone().into_dispatch(),
        inputs.gate_up.clone().into_dispatch(),
        inputs.down.clone().into_dispatch(),
        residual.into_dispatch(),
        with_residual,
        settings,
    );
    ForwardPass {
        y: Tensor::from_dispatch(y),
        kept: (!settings.recompute).then(|| Tensor::from_dispatch(pre)),
    }
}

/// The backward pass that goes with [`forward`]: gradients from that of `y`, without the
/// residual's, which is `dy` itself. `kept` is taken: its memory holds gradients afterwards.
/// With `sums` the weight gradients are added into these buffers and returned as them.
///
/// # Panics
/// As [`forward`].
pub fn backward(
    dy: Tensor<2>,
    inputs: &Inputs,
    plan: &Plan,
    kept: Option<Tensor<2>>,
    sums: Option<WeightSums>,
    settings: Settings,
) -> Gradients {
    let has_kept = kept.is_some();
    // Operations take tensors; one that does not count is any that is at hand.
    let pre = kept.unwrap_or_else(|| inputs.x.clone());
    let accumulate = sums.is_some();
    let sums = sums.unwrap_or_else(|| WeightSums {
        gate_up: inputs.gate_up.clone(),
        down: inputs.down.clone(),
    });
    let (x, weights, gate_up, down) = <Dispatch as ExpertsBackend>::experts_backward(
        dy.into_dispatch(),
        inputs.x.clone().into_dispatch(),
        inputs.weights.clone().into_dispatch(),
        plan.offsets.clone().into_dispatch(),
        plan.slots.clone().into_dispatch(),
        plan.positions.clone().into_dispatch(),
        inputs.gate_up.clone().into_dispatch(),
        inputs.down.clone().into_dispatch(),
        pre.into_dispatch(),
        has_kept,
        sums.gate_up.into_dispatch(),
        sums.down.into_dispatch(),
        accumulate,
        settings,
    );
    Gradients {
        x: Tensor::from_dispatch(x),
        weights: Tensor::from_dispatch(weights),
        gate_up: Tensor::from_dispatch(gate_up),
        down: Tensor::from_dispatch(down),
    }
}
