//! The experts' own kernels behind Burn tensors: forward and backward passes without autodiff.
//!
//! A bank is a list of tensors, which Burn's backend extensions do not pass on: their buffers are
//! taken here, after what Burn's fusion may have in its queue.

use burn::backend::{DispatchTensorKind, TensorMetadata};
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
    let operands = operands(x, plan, bank);
    let (out, pre) = launch::forward(&operands, settings.compute, !settings.recompute);
    Rows {
        out: tensor(out),
        kept: pre.map(tensor),
    }
}

/// Sums each token's rows to `[T, H]` f32: by `weights`, and on top of `residual`, if given.
pub(crate) fn combine(
    rows: Tensor<2>,
    plan: &Plan,
    weights: Option<Tensor<2>>,
    residual: Option<Tensor<2>>,
) -> Tensor<2> {
    let rows = primitive(rows);
    let all = rows.shape()[0];
    tensor(launch::combine(
        &rows,
        &(0..all),
        all,
        &indices(&plan.positions),
        plan.top_k,
        weights.map(primitive),
        residual.map(primitive),
    ))
}

/// Gradients before those of a token's rows are summed, and what those of the matrices need.
#[derive(Debug)]
pub(crate) struct RowGradients {
    /// Of rows of the input: of every row that was read `[rows, H]`, in the compute type, or one a
    /// token `[T, H]`.
    pub rows: Tensor<2>,
    /// The rows of each token's choices, and how many a token has.
    pub positions: (Tensor<1, Int>, usize),
    /// Of the weights `[T, k]`, f32.
    pub weights: Tensor<2>,
    /// For [`weight_gradients`].
    pub rest: Rest,
}

impl RowGradients {
    /// Whether there is one row a token.
    fn summed(&self) -> bool {
        matches!(self.rest.rest, launch::Rest::Made(_))
    }
}

/// What the first half of a backward pass leaves to the second.
#[derive(Debug)]
pub(crate) struct Rest {
    /// The gradient of the output `[T, H]`, in the compute type.
    dy: CubeTensor,
    rest: launch::Rest,
}

/// The first half of a backward pass: what goes on to the layers before. The gradients of the
/// matrices come second, so that those of the rows need not lie beside them, unless rows are taken
/// in parts. They are added into `sums`, or fresh.
pub(crate) fn rows_backward(
    dy: Tensor<2>,
    x: &Tensor<2>,
    weights: &Tensor<2>,
    plan: &Plan,
    bank: &Bank,
    kept: Option<Tensor<2>>,
    sums: Option<Bank>,
    settings: Settings,
) -> RowGradients {
    let dy = primitive(convert(dy, settings.compute));
    let sums = sums.map(|sums| {
        let matrices = |block: Block| Matrices {
            gate_up: primitive(block.gate_up),
            down: primitive(block.down),
        };
        sums.into_blocks().into_iter().map(matrices).collect()
    });
    let launch::RowGradients {
        rows,
        summed,
        weights,
        rest,
    } = launch::rows_backward(
        &dy,
        &operands(x, plan, bank),
        primitive(weights.clone()),
        &indices(&plan.positions),
        kept.map(primitive),
        sums,
        settings.compute,
    );
    let tokens = x.dims()[0];
    RowGradients {
        rows: tensor(rows),
        positions: match summed {
            true => (Tensor::arange(0..tokens as i64, &x.device()), 1),
            false => (plan.positions.clone(), plan.top_k),
        },
        weights: tensor(weights),
        rest: Rest { dy, rest },
    }
}

/// The second half: the gradients of the matrices.
pub(crate) fn weight_gradients(
    rest: Rest,
    x: &Tensor<2>,
    plan: &Plan,
    bank: &Bank,
    settings: Settings,
) -> Bank {
    let Rest { dy, rest } = rest;
    let operands = operands(x, plan, bank);
    let gradients = launch::weight_gradients(dy, &operands, rest, settings.compute);
    let block = |gradients: Matrices| Block {
        gate_up: tensor(gradients.gate_up),
        down: tensor(gradients.down),
    };
    Bank::new(gradients.into_iter().map(block).collect())
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
    let gradients = rows_backward(dy, x, weights, plan, bank, kept, sums, settings);
    let dx = match gradients.summed() {
        true => gradients.rows,
        false => combine(gradients.rows, plan, None, None),
    };
    Gradients {
        x: dx,
        weights: gradients.weights,
        experts: weight_gradients(gradients.rest, x, plan, bank, settings),
    }
}
