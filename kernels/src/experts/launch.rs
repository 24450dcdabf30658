//! The fused experts on a CubeCL device: four launches forward and seven backward, and one each
//! that combines a token's rows.

use burn::backend::{DType, TensorMetadata};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::device;
use crate::Compute;
use crate::convert::{convert_primitive as convert, element};
use crate::gpu::{arg, contiguous, count, empty, grid};
use crate::matmul::launch::{
    Stacked, gradient, rows, share_count, swiglu_rows, swiglu_rows_backward,
};
use crate::matmul::{Access, Groups, Tier};

/// Units of a workgroup that goes through elements.
const UNITS: usize = 256;

/// The tensors of one call.
#[derive(Clone, Debug)]
pub(super) struct Operands {
    /// `[T, H]`.
    pub x: CubeTensor,
    /// `[E + 1]`.
    pub offsets: CubeTensor,
    /// `[T · k]`.
    pub slots: CubeTensor,
    /// `[G, 2F, H]`, routed experts first, then shared ones.
    pub gate_up: CubeTensor,
    /// `[G, H, F]`.
    pub down: CubeTensor,
}

/// An [`Operands`] made ready: contiguous, matrices in the compute type, rows grouped.
struct Ready {
    x: CubeTensor,
    gate_up: CubeTensor,
    down: CubeTensor,
    groups: Groups,
    tier: Tier,
    tokens: usize,
    hidden: usize,
    inner: usize,
    top_k: usize,
    dtype: DType,
}

/// Gradients of the operands, f32 but for the rows.
pub(super) struct Gradients {
    /// Of each row of `x` that was read `[rows, H]`, in the compute type.
    pub rows: CubeTensor,
    /// `[T, k]`.
    pub weights: CubeTensor,
    pub gate_up: CubeTensor,
    pub down: CubeTensor,
}

impl Ready {
    fn new(operands: &Operands, compute: Compute) -> Self {
        let dims = |tensor: &CubeTensor, axis: usize| tensor.shape()[axis];
        let (tokens, hidden) = (dims(&operands.x, 0), dims(&operands.x, 1));
        let top_k = dims(&operands.slots, 0) / tokens;
        let experts = dims(&operands.offsets, 0) - 1;
        let groups = dims(&operands.gate_up, 0);
        let inner = dims(&operands.down, 2);
        let shared = groups - experts;
        let dtype = compute.dtype();
        let rows_a_group = (tokens * top_k).div_ceil(experts.max(1));
        let tier = Tier::of(&operands.x, compute, &[hidden, inner], rows_a_group);
        Self {
            x: convert(operands.x.clone(), dtype),
            gate_up: convert(operands.gate_up.clone(), dtype),
            down: convert(operands.down.clone(), dtype),
            groups: Groups::new(
                &operands.offsets,
                &operands.slots,
                top_k,
                tokens,
                shared,
                tier.edge(),
            ),
            tier,
            tokens,
            hidden,
            inner,
            top_k,
            dtype,
        }
    }

    fn rows(&self, width: usize) -> CubeTensor {
        empty(&self.x, [self.groups.rows, width], self.dtype)
    }

    fn gate_up(&self) -> Stacked<'_> {
        Stacked {
            buffer: &self.gate_up,
            rows: 2 * self.inner,
            columns: self.hidden,
        }
    }

    fn down(&self) -> Stacked<'_> {
        Stacked {
            buffer: &self.down,
            rows: self.hidden,
            columns: self.inner,
        }
    }

    /// The pre-activation `[rows, 2F]` and the activation `[rows, F]`.
    fn activate(&self) -> (CubeTensor, CubeTensor) {
        let (pre, activation) = (self.rows(2 * self.inner), self.rows(self.inner));
        swiglu_rows(
            &self.groups,
            self.tier,
            &self.x,
            Access::ROWS.gathered(),
            self.gate_up(),
            &pre,
            &activation,
        );
        (pre, activation)
    }
}

/// How [`combine`] sums a token's rows.
#[derive(Clone, Copy, Debug)]
pub struct Combine {
    /// Choices of a token.
    pub top_k: usize,
    /// Each row of a choice counts by its weight.
    pub weighted: bool,
    /// The residual is added.
    pub residual: bool,
}

/// Sums each token's rows `[rows, H]`, found by `positions` `[T · k]`, to f32 `[T, H]`. Of what
/// does not count, any tensor is taken.
pub(super) fn combine(
    rows: &CubeTensor,
    positions: &CubeTensor,
    weights: CubeTensor,
    residual: CubeTensor,
    how: Combine,
) -> CubeTensor {
    let slots = count(positions);
    let tokens = slots / how.top_k;
    let hidden = rows.shape()[1];
    let shared = (rows.shape()[0] - slots) / tokens;
    let out = empty(rows, [tokens, hidden], DType::F32);
    let lanes = if hidden.is_multiple_of(4) { 4 } else { 1 };
    let width = hidden / lanes;
    let (weights, residual) = (contiguous(weights), contiguous(residual));
    let unread = |tensor: &CubeTensor, read: bool, lanes: usize| {
        if read {
            arg(tensor, lanes)
        } else {
            arg(rows, lanes)
        }
    };
    // SAFETY: positions are rows or past them, which the kernel checks.
    unsafe {
        device::combine::launch_unchecked(
            &rows.client,
            grid((tokens * width).div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            lanes,
            arg(rows, lanes),
            arg(positions, 1),
            unread(&weights, how.weighted, 1),
            unread(&residual, how.residual, lanes),
            arg(&out, lanes),
            tokens,
            width,
            slots,
            how.top_k,
            shared,
            how.weighted,
            how.residual,
            element(rows),
        );
    }
    out
}

/// Every row's output `[rows, H]` and pre-activation `[rows, 2F]`, in the compute type.
pub(super) fn forward(operands: &Operands, compute: Compute) -> (CubeTensor, CubeTensor) {
    let ready = Ready::new(operands, compute);
    let (pre, activation) = ready.activate();
    let out = ready.rows(ready.hidden);
    rows(
        &ready.groups,
        ready.tier,
        &activation,
        Access::ROWS,
        ready.down(),
        Access::ROWS,
        &out,
    );
    (out, pre)
}

/// Buffers that weight gradients are added into, f32, in the weights' shapes.
pub(super) struct Sums {
    pub gate_up: CubeTensor,
    pub down: CubeTensor,
}

/// Gradients from that of `y`; `pre` as [`forward`] gave it, or `None` to compute it again. With
/// `sums`, weight gradients are added into them instead of into fresh buffers.
pub(super) fn backward(
    dy: CubeTensor,
    operands: &Operands,
    weights: CubeTensor,
    positions: &CubeTensor,
    pre: Option<CubeTensor>,
    sums: Option<Sums>,
    compute: Compute,
) -> Gradients {
    let ready = Ready::new(operands, compute);
    let (groups, tier) = (&ready.groups, ready.tier);
    let (hidden, inner) = (ready.hidden, ready.inner);
    let slots = ready.tokens * ready.top_k;
    let dy = convert(dy, ready.dtype);
    let (pre, activation) = match pre {
        // Its memory takes the gradient, unless someone else still reads it.
        Some(pre) if pre.can_mut() => (pre, ready.rows(inner)),
        Some(pre) => (pre.copy(), ready.rows(inner)),
        None => ready.activate(),
    };
    let weights = contiguous(weights);
    let row_weights = empty(&dy, [groups.rows.max(1)], DType::F32);
    let share_count = share_count(tier, inner);
    let shares = empty(&dy, [share_count, groups.rows.max(1)], DType::F32);
    // SAFETY: the kernel checks rows and slots.
    unsafe {
        device::row_weights::launch_unchecked(
            &dy.client,
            grid(groups.rows.div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            arg(&weights, 1),
            arg(&operands.slots, 1),
            arg(&row_weights, 1),
            slots,
            groups.rows,
        );
    }
    swiglu_rows_backward(
        groups,
        tier,
        &dy,
        Access::ROWS.gathered(),
        ready.down(),
        &row_weights,
        &pre,
        &activation,
        &shares,
    );
    // Taken now, it finds the memory that the forward pass left; taken later, the gradients of the
    // weights would lie there, and the peak would be higher by all of it.
    let dx_rows = ready.rows(hidden);
    let accumulate = sums.is_some();
    let Sums {
        gate_up: dgate_up,
        down: ddown,
    } = sums.unwrap_or_else(|| Sums {
        gate_up: empty(&dy, [groups.count, 2 * inner, hidden], DType::F32),
        down: empty(&dy, [groups.count, hidden, inner], DType::F32),
    });
    gradient(
        groups,
        tier,
        &dy,
        Access::K_ROWS.gathered(),
        hidden,
        &activation,
        Access::K_ROWS,
        inner,
        &ddown,
        accumulate,
    );
    drop((activation, dy));
    gradient(
        groups,
        tier,
        &pre,
        Access::K_ROWS,
        2 * inner,
        &ready.x,
        Access::K_ROWS.gathered(),
        hidden,
        &dgate_up,
        accumulate,
    );
    rows(
        groups,
        tier,
        &pre,
        Access::ROWS,
        ready.gate_up(),
        Access::K_ROWS,
        &dx_rows,
    );
    drop(pre);
    let dweights = empty(&dx_rows, [ready.tokens, ready.top_k], DType::F32);
    // SAFETY: the kernel checks slots, and positions past the slots.
    unsafe {
        device::weight_gradient::launch_unchecked(
            &dx_rows.client,
            grid(slots.div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            arg(&shares, 1),
            arg(positions, 1),
            arg(&dweights, 1),
            slots,
            groups.rows,
            share_count,
        );
    }
    Gradients {
        rows: dx_rows,
        weights: dweights,
        gate_up: dgate_up,
        down: ddown,
    }
}
