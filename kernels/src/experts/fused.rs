//! The experts' own kernels behind Burn tensors: forward and backward passes without autodiff.

use burn::backend::{Dispatch, DispatchTensorKind};
use burn::tensor::Tensor;

use super::Settings;
use super::backend::{Combine, ExpertsBackend};
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

/// The matrices of a layer's experts, without autodiff, in f32 or in the compute type.
#[derive(Clone, Debug)]
pub(crate) struct Matrices {
    /// `[G, 2F, H]`.
    pub gate_up: Tensor<3>,
    /// `[G, H, F]`.
    pub down: Tensor<3>,
}

/// What every sorted row gave.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    /// `[rows, H]` in the compute type.
    pub out: Tensor<2>,
    /// The pre-activation `[rows, 2F]` in the compute type, unless it is computed again.
    pub kept: Option<Tensor<2>>,
}

/// The products of a forward pass: every row's output, not yet combined.
pub(crate) fn rows(x: &Tensor<2>, plan: &Plan, matrices: &Matrices, settings: Settings) -> Rows {
    let (out, pre) = <Dispatch as ExpertsBackend>::experts_rows(
        x.clone().into_dispatch(),
        plan.offsets.clone().into_dispatch(),
        plan.slots.clone().into_dispatch(),
        matrices.gate_up.clone().into_dispatch(),
        matrices.down.clone().into_dispatch(),
        settings,
    );
    Rows {
        out: Tensor::from_dispatch(out),
        kept: (!settings.recompute).then(|| Tensor::from_dispatch(pre)),
    }
}

/// Sums each token's rows to `[T, H]` f32: by `weights`, and on top of `residual`, if given.
pub(crate) fn combine(
    rows: Tensor<2>,
    plan: &Plan,
    weights: Option<Tensor<2>>,
    residual: Option<Tensor<2>>,
) -> Tensor<2> {
    let how = Combine {
        top_k: plan.top_k,
        weighted: weights.is_some(),
        residual: residual.is_some(),
    };
    // Operations take tensors; one that does not count is any that is at hand.
    let unread = || rows.clone();
    Tensor::from_dispatch(<Dispatch as ExpertsBackend>::experts_combine(
        rows.clone().into_dispatch(),
        plan.positions.clone().into_dispatch(),
        weights.unwrap_or_else(unread).into_dispatch(),
        residual.unwrap_or_else(unread).into_dispatch(),
        how,
    ))
}

/// Gradients before those of a token's rows are summed.
#[derive(Clone, Debug)]
pub(crate) struct RowGradients {
    /// Of every row of the input that was read `[rows, H]`, in the compute type.
    pub rows: Tensor<2>,
    /// Of the weights `[T, k]`, f32.
    pub weights: Tensor<2>,
    /// Of the matrices, f32.
    pub sums: WeightSums,
}

/// The products of a backward pass, as [`backward`].
pub(crate) fn rows_backward(
    dy: Tensor<2>,
    x: &Tensor<2>,
    weights: &Tensor<2>,
    plan: &Plan,
    matrices: &Matrices,
    kept: Option<Tensor<2>>,
    sums: Option<WeightSums>,
    settings: Settings,
) -> RowGradients {
    let has_kept = kept.is_some();
    let pre = kept.unwrap_or_else(|| x.clone());
    let accumulate = sums.is_some();
    let sums = sums.unwrap_or_else(|| WeightSums {
        gate_up: matrices.gate_up.clone(),
        down: matrices.down.clone(),
    });
    let (rows, weights, gate_up, down) = <Dispatch as ExpertsBackend>::experts_rows_backward(
        dy.into_dispatch(),
        x.clone().into_dispatch(),
        weights.clone().into_dispatch(),
        plan.offsets.clone().into_dispatch(),
        plan.slots.clone().into_dispatch(),
        plan.positions.clone().into_dispatch(),
        matrices.gate_up.clone().into_dispatch(),
        matrices.down.clone().into_dispatch(),
        pre.into_dispatch(),
        has_kept,
        sums.gate_up.into_dispatch(),
        sums.down.into_dispatch(),
        accumulate,
        settings,
    );
    RowGradients {
        rows: Tensor::from_dispatch(rows),
        weights: Tensor::from_dispatch(weights),
        sums: WeightSums {
            gate_up: Tensor::from_dispatch(gate_up),
            down: Tensor::from_dispatch(down),
        },
    }
}

impl Inputs {
    fn matrices(&self) -> Matrices {
        Matrices {
            gate_up: self.gate_up.clone(),
            down: self.down.clone(),
        }
    }
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
    let Rows { out, kept } = rows(&inputs.x, plan, &inputs.matrices(), settings);
    ForwardPass {
        y: combine(out, plan, Some(inputs.weights.clone()), residual),
        kept,
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
    let matrices = inputs.matrices();
    let (x, weights) = (&inputs.x, &inputs.weights);
    let gradients = rows_backward(dy, x, weights, plan, &matrices, kept, sums, settings);
    Gradients {
        x: combine(gradients.rows, plan, None, None),
        weights: gradients.weights,
        gate_up: gradients.sums.gate_up,
        down: gradients.sums.down,
    }
}
