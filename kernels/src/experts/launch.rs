//! The fused experts on a CubeCL device: four launches forward and nine backward, and one each
//! that combines a token's rows. Of these the products, two and four, are launched once a block of
//! experts; and all once a part, where rows are taken in [parts].

use std::ops::Range;

use burn::backend::{DType, TensorMetadata};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::ready::{Ready, UNITS};
use super::{device, parts};
use crate::Compute;
use crate::convert::element;
use crate::gpu::{arg, contiguous, count, empty, grid, lanes, launch};
use crate::profile::stage;

/// The tensors of one call.
#[derive(Clone, Debug)]
pub(super) struct Operands {
    /// `[T, H]`.
    pub x: CubeTensor,
    /// `[E + 1]`.
    pub offsets: CubeTensor,
    /// `[T · k]`.
    pub slots: CubeTensor,
    /// Routed experts first, then shared ones.
    pub blocks: Vec<Matrices>,
}

/// Matrices of some experts, or f32 sums of their gradients.
#[derive(Clone, Debug)]
pub(super) struct Matrices {
    /// `[n, 2F, H]`.
    pub gate_up: CubeTensor,
    /// `[n, H, F]`.
    pub down: CubeTensor,
}

impl Matrices {
    pub fn experts(&self) -> usize {
        self.down.shape()[0]
    }
}

/// Sums each token's rows `[rows, H]`, found by `positions` `[T · k]`, to f32 `[T, H]`: those of
/// choices by `weights` `[T, k]`, where given, on top of `residual` `[T, H]`, where given. Of `all`
/// rows, `rows` holds those of `part`: others add nothing.
pub(super) fn combine(
    rows: &CubeTensor,
    part: &Range<usize>,
    all: usize,
    positions: &CubeTensor,
    top_k: usize,
    weights: Option<CubeTensor>,
    residual: Option<CubeTensor>,
) -> CubeTensor {
    let slots = count(positions);
    let tokens = slots / top_k;
    let hidden = rows.shape()[1];
    let shared = (all - slots) / tokens;
    let out = empty(rows, [tokens, hidden], DType::F32);
    let lanes = lanes(hidden);
    let width = hidden / lanes;
    let (weights, residual) = (weights.map(contiguous), residual.map(contiguous));
    // What is not there is not read: any buffer is bound in its place.
    let or_any = |tensor: &Option<CubeTensor>, lanes: usize| match tensor {
        Some(tensor) => arg(tensor, lanes),
        None => arg(rows, lanes),
    };
    // SAFETY: positions are rows or past them, which the kernel checks.
    stage(rows, "combine", 0.0, || unsafe {
        launch!(device::combine(
            &rows.client,
            grid((tokens * width).div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            lanes,
            arg(rows, lanes),
            arg(positions, 1),
            or_any(&weights, 1),
            or_any(&residual, lanes),
            arg(&out, lanes),
            tokens,
            width,
            slots,
            part.start,
            part.end,
            top_k,
            shared,
            weights.is_some(),
            residual.is_some(),
            element(rows),
        ));
    });
    out
}

/// Every row's output `[rows, H]` and, if it is to be kept, the pre-activation `[rows, 2F]`, in the
/// compute type.
pub(super) fn forward(
    operands: &Operands,
    compute: Compute,
    keep: bool,
) -> (CubeTensor, Option<CubeTensor>) {
    let ready = Ready::new(operands, compute);
    let keep = keep && !parts::taken(operands);
    let length = parts::length(operands, ready.count);
    let mut out = None;
    let mut kept = None;
    for part in parts::of(ready.count, length) {
        let groups = ready.groups(&part);
        let (pre, activation) = ready.activate(&groups);
        kept = keep.then_some(pre);
        let out = out.get_or_insert_with(|| ready.rows(ready.count, ready.hidden));
        ready.project(&groups, &activation, &parts::view(out, &part));
    }
    (out.expect("there is a part"), kept)
}

/// What the first half of backward gives.
pub(super) struct RowGradients {
    /// Of rows of `x`, `top_k` of a token and then one of each shared expert: of each that was read
    /// `[rows, H]`, in the compute type, or already summed, one a token `[T, H]`, in f32.
    pub rows: CubeTensor,
    /// Whether they are summed.
    pub summed: bool,
    /// Of the weights `[T, k]`, f32.
    pub weights: CubeTensor,
    /// For [`weight_gradients`].
    pub rest: Rest,
}

/// What the matrices' gradients need.
#[expect(
    clippy::large_enum_variant,
    reason = "a layer has one at a time, and moves it once"
)]
#[derive(Debug)]
pub(super) enum Rest {
    /// They are to be made.
    Left {
        /// The gradient of the pre-activation `[rows, 2F]`, in the compute type.
        pre: CubeTensor,
        /// Activations times their row's weight `[rows, F]`, in the compute type.
        activation: CubeTensor,
        /// What they are added to.
        sums: Option<Vec<Matrices>>,
    },
    /// They are made.
    Made(Vec<Matrices>),
}

/// The gradients of rows and weights from that of the combined outputs, `dy` `[T, H]` in the
/// compute type; `pre` as [`forward`] gave it, or `None` to compute it again. The matrices'
/// gradients are added into `sums`, if given, now or by [`weight_gradients`].
pub(super) fn rows_backward(
    dy: &CubeTensor,
    operands: &Operands,
    weights: CubeTensor,
    positions: &CubeTensor,
    pre: Option<CubeTensor>,
    sums: Option<Vec<Matrices>>,
    compute: Compute,
) -> RowGradients {
    let ready = Ready::new(operands, compute);
    let dy = contiguous(dy.clone());
    if pre.is_none() && parts::taken(operands) {
        return parts::backward(&ready, &dy, weights, positions, sums);
    }
    let groups = ready.groups(&(0..ready.count));
    let (pre, activation) = match pre {
        // Its memory takes the gradient, unless someone else still reads it.
        Some(pre) if pre.can_mut() => (pre, ready.rows(ready.count, ready.inner)),
        Some(pre) => (pre.copy(), ready.rows(ready.count, ready.inner)),
        None => ready.activate(&groups),
    };
    let row_weights = ready.row_weights(weights);
    let shares = empty(&dy, [ready.share_count(), ready.count.max(1)], DType::F32);
    ready.backward_of_swiglu(&groups, &dy, &row_weights, &pre, &activation, &shares);
    let weights = ready.weight_gradient(&shares, positions, ready.count);
    drop((shares, row_weights));
    RowGradients {
        rows: ready.gradient_of_rows(&groups, &pre),
        summed: false,
        weights,
        rest: Rest::Left {
            pre,
            activation,
            sums,
        },
    }
}

/// The gradients of each block's matrices, f32, from `dy` in the compute type and what
/// [`rows_backward`] left.
pub(super) fn weight_gradients(
    dy: CubeTensor,
    operands: &Operands,
    rest: Rest,
    compute: Compute,
) -> Vec<Matrices> {
    let (pre, activation, sums) = match rest {
        Rest::Made(gradients) => return gradients,
        Rest::Left {
            pre,
            activation,
            sums,
        } => (pre, activation, sums),
    };
    let ready = Ready::new(operands, compute);
    let groups = ready.groups(&(0..ready.count));
    let accumulate = sums.is_some();
    let (gate_up, down) = sums.map(apart).unzip();
    let dy = contiguous(dy);
    // The larger gradients first: then the pre-activation's, which is the larger operand, makes room
    // for the others.
    let gate_up = gate_up.unwrap_or_else(|| ready.fresh_gate_up());
    ready.gradient_of_gate_up(&groups, &pre, &gate_up, accumulate);
    drop(pre);
    let down = down.unwrap_or_else(|| ready.fresh_down());
    ready.gradient_of_down(&groups, &dy, &activation, &down, accumulate);
    together(gate_up, down)
}

/// The buffers of each kind.
pub(super) fn apart(blocks: Vec<Matrices>) -> (Vec<CubeTensor>, Vec<CubeTensor>) {
    let both = |Matrices { gate_up, down }| (gate_up, down);
    blocks.into_iter().map(both).unzip()
}

/// The buffers of each block.
pub(super) fn together(gate_up: Vec<CubeTensor>, down: Vec<CubeTensor>) -> Vec<Matrices> {
    let both = |(gate_up, down)| Matrices { gate_up, down };
    gate_up.into_iter().zip(down).map(both).collect()
}
