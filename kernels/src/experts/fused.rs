//! The experts' own kernels behind Burn tensors: forward and backward passes without autodiff.
//!
//! A bank is a list of tensors, which Burn's backend extensions do not pass on: their buffers are
//! taken here, after what Burn's fusion may have in its queue.

use burn::backend::DispatchTensorKind;
use burn::tensor::{Int, Tensor};
use burn_cubecl::tensor::CubeTensor;

use super::launch::{self, Matrices, Operands};
pub use super::reference::Gradients;
use super::reference::Inputs;
use super::{Bank, Block, Settings};
use crate::Kernels;
use crate::convert::convert;
use crate::gpu::{buffer, primitive, tensor};
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

/// What every sorted row gave.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    /// `[rows, H]` in the compute type.
    pub out: Tensor<2>,
    /// The pre-activation `[rows, 2F]` in the compute type, unless it is computed again.
    pub kept: Option<Tensor<2>>,
}

/// The buffer of a plan's list.
fn indices(list: &Tensor<1, Int>) -> CubeTensor {
    buffer(list.clone().into_dispatch()).expect("a plan lies where its tokens do")
}

/// The tensors of a call on the device.
fn operands(x: &Tensor<2>, plan: &Plan, bank: &Bank) -> Operands {
    let matrices = |block: &Block| Matrices {
        gate_up: primitive(block.gate_up.clone()),
        down: primitive(block.down.clone()),
    };
    Operands {
        x: primitive(x.clone()),
        offsets: indices(&plan.offsets),
        slots: indices(&plan.slots),
        blocks: bank.blocks().iter().map(matrices).collect(),
    }
}

/// The products of a forward pass: every row's output, not yet combined.
pub(crate) fn rows(x: &Tensor<2>, plan: &Plan, bank: &Bank, settings: Settings) -> Rows {
    let (out, pre) = launch::forward(&operands(x, plan, bank), settings.compute);
    Rows {
        out: tensor(out),
        kept: (!settings.recompute).then(|| tensor(pre)),
    }
}

/// Sums each token's rows to `[T, H]` f32: by `weights`, and on top of `residual`, if given.
pub(crate) fn combine(
    rows: Tensor<2>,
    plan: &Plan,
    weights: Option<Tensor<2>>,
    residual: Option<Tensor<2>>,
) -> Tensor<2> {
    tensor(launch::combine(
        &primitive(rows),
        &indices(&plan.positions),
        plan.top_k,
        weights.map(primitive),
        residual.map(primitive),
    ))
}

/// Gradients before those of a token's rows are summed, and what those of the matrices need.
#[derive(Debug)]
pub(crate) struct RowGradients {
    /// Of every row of the input that was read `[rows, H]`, in the compute type.
    pub rows: Tensor<2>,
    /// Of the weights `[T, k]`, f32.
    pub weights: Tensor<2>,
    /// For [`weight_gradients`].
    pub rest: Rest,
}

/// What the first half of a backward pass leaves to the second, in the compute type.
#[derive(Debug)]
pub(crate) struct Rest {
    /// The gradient of the output `[T, H]`.
    dy: CubeTensor,
    /// That of the pre-activation `[rows, 2F]`.
    pre: CubeTensor,
    /// Activations times their weights `[rows, F]`.
    activation: CubeTensor,
}

/// The first half of a backward pass: what goes on to the layers before. The gradients of the
/// matrices come second, so that those of the rows need not lie beside them.
pub(crate) fn rows_backward(
    dy: Tensor<2>,
    x: &Tensor<2>,
    weights: &Tensor<2>,
    plan: &Plan,
    bank: &Bank,
    kept: Option<Tensor<2>>,
    settings: Settings,
) -> RowGradients {
    let dy = primitive(convert(dy, settings.compute));
    let launch::RowGradients {
        rows,
        weights,
        pre,
        activation,
    } = launch::rows_backward(
        &dy,
        &operands(x, plan, bank),
        primitive(weights.clone()),
        &indices(&plan.positions),
        kept.map(primitive),
        settings.compute,
    );
    RowGradients {
        rows: tensor(rows),
        weights: tensor(weights),
        rest: Rest {
            dy,
            pre,
            activation,
        },
    }
}

/// The second half: the gradients of the matrices, added into `sums` or fresh.
pub(crate) fn weight_gradients(
    rest: Rest,
    x: &Tensor<2>,
    plan: &Plan,
    bank: &Bank,
    sums: Option<Bank>,
    settings: Settings,
) -> Bank {
    let sums = sums.map(|sums| {
        let matrices = |block: Block| Matrices {
            gate_up: primitive(block.gate_up),
            down: primitive(block.down),
        };
        sums.into_blocks().into_iter().map(matrices).collect()
    });
    let Rest {
        dy,
        pre,
        activation,
    } = rest;
    let operands = operands(x, plan, bank);
    let sums = launch::weight_gradients(dy, &operands, pre, activation, sums, settings.compute);
    let block = |sums: Matrices| Block {
        gate_up: tensor(sums.gate_up),
        down: tensor(sums.down),
    };
    Bank::new(sums.into_iter().map(block).collect())
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
    let Rows { out, kept } = rows(&inputs.x, plan, &inputs.experts, settings);
    ForwardPass {
        y: combine(out, plan, Some(inputs.weights.clone()), residual),
        kept,
    }
}

/// The backward pass that goes with [`forward`]: gradients from that of `y`, without the
/// residual's, which is `dy` itself. `kept` is taken: its memory holds gradients afterwards.
/// With `sums`, f32 in the blocks of the experts, the weight gradients are added into these buffers
/// and returned as them.
///
/// # Panics
/// As [`forward`].
pub fn backward(
    dy: Tensor<2>,
    inputs: &Inputs,
    plan: &Plan,
    kept: Option<Tensor<2>>,
    sums: Option<Bank>,
    settings: Settings,
) -> Gradients {
    let (x, weights, bank) = (&inputs.x, &inputs.weights, &inputs.experts);
    let gradients = rows_backward(dy, x, weights, plan, bank, kept, settings);
    let dx = combine(gradients.rows, plan, None, None);
    Gradients {
        x: dx,
        weights: gradients.weights,
        experts: weight_gradients(gradients.rest, x, plan, bank, sums, settings),
    }
}
