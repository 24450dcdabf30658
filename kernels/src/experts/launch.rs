//! The fused experts on a CubeCL device: four launches forward and nine backward, and one each
//! that combines a token's rows.

use burn::backend::{DType, TensorMetadata};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::device;
use crate::Compute;
use crate::convert::{convert_primitive as convert, element};
use crate::gpu::{arg, contiguous, count, empty, grid, lanes, launch};
use crate::matmul::launch::{
    Stacked, gradient, rows, share_count, swiglu_rows, swiglu_rows_backward,
};
use crate::matmul::{Access, Groups, Tier};
use crate::profile::stage;

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

/// A call's tensors and how it is laid out. Operands are converted where they are used: what a
/// pass does not read takes no memory.
struct Ready<'a> {
    operands: &'a Operands,
    groups: Groups,
    tier: Tier,
    tokens: usize,
    hidden: usize,
    inner: usize,
    top_k: usize,
    dtype: DType,
}

impl<'a> Ready<'a> {
    fn new(operands: &'a Operands, compute: Compute) -> Self {
        let dims = |tensor: &CubeTensor, axis: usize| tensor.shape()[axis];
        let (tokens, hidden) = (dims(&operands.x, 0), dims(&operands.x, 1));
        let top_k = dims(&operands.slots, 0) / tokens;
        let experts = dims(&operands.offsets, 0) - 1;
        let shared = dims(&operands.gate_up, 0) - experts;
        let inner = dims(&operands.down, 2);
        let rows_a_group = (tokens * top_k).div_ceil(experts.max(1));
        let tier = Tier::of(&operands.x, compute, &[hidden, inner], rows_a_group);
        let (offsets, slots) = (&operands.offsets, &operands.slots);
        Self {
            operands,
            groups: stage(offsets, "groups", 0.0, || {
                Groups::new(offsets, slots, top_k, tokens, shared, tier.rows())
            }),
            tier,
            tokens,
            hidden,
            inner,
            top_k,
            dtype: compute.dtype(),
        }
    }

    /// Memory of `width` numbers a row.
    fn rows(&self, width: usize) -> CubeTensor {
        empty(&self.operands.x, [self.groups.rows, width], self.dtype)
    }

    /// Operations of a product of all rows with matrices of the hidden width by `width`.
    fn operations(&self, width: usize) -> f64 {
        2.0 * self.groups.rows as f64 * (self.hidden * width) as f64
    }

    fn converted(&self, tensor: &CubeTensor) -> CubeTensor {
        convert(tensor.clone(), self.dtype)
    }

    fn gate_up(&self) -> Stacked {
        Stacked {
            buffer: self.converted(&self.operands.gate_up),
            rows: 2 * self.inner,
            columns: self.hidden,
        }
    }

    fn down(&self) -> Stacked {
        Stacked {
            buffer: self.converted(&self.operands.down),
            rows: self.hidden,
            columns: self.inner,
        }
    }

    /// The pre-activation `[rows, 2F]` and the activation `[rows, F]`.
    fn activate(&self) -> (CubeTensor, CubeTensor) {
        let (x, gate_up) = (self.converted(&self.operands.x), self.gate_up());
        let (pre, activation) = (self.rows(2 * self.inner), self.rows(self.inner));
        let operations = self.operations(2 * self.inner);
        stage(&pre, "gate, up and SwiGLU", operations, || {
            swiglu_rows(
                &self.groups,
                self.tier,
                &x,
                Access::ROWS.gathered(),
                &gate_up,
                &pre,
                &activation,
            );
        });
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
    let lanes = lanes(hidden);
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
    stage(rows, "combine", 0.0, || unsafe {
        launch!(device::combine(
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
        ));
    });
    out
}

/// Every row's output `[rows, H]` and pre-activation `[rows, 2F]`, in the compute type.
pub(super) fn forward(operands: &Operands, compute: Compute) -> (CubeTensor, CubeTensor) {
    let ready = Ready::new(operands, compute);
    let (pre, activation) = ready.activate();
    let out = ready.rows(ready.hidden);
    let down = ready.down();
    stage(&out, "down", ready.operations(ready.inner), || {
        rows(
            &ready.groups,
            ready.tier,
            &activation,
            Access::ROWS,
            &down,
            Access::ROWS,
            &out,
        );
    });
    (out, pre)
}

/// What the first half of backward gives.
pub(super) struct RowGradients {
    /// Of each row of `x` that was read `[rows, H]`, in the compute type.
    pub rows: CubeTensor,
    /// Of the weights `[T, k]`, f32.
    pub weights: CubeTensor,
    /// Of the pre-activation `[rows, 2F]`, in the compute type.
    pub pre: CubeTensor,
    /// Activations times their row's weight `[rows, F]`, in the compute type.
    pub activation: CubeTensor,
}

/// The gradients of rows and weights from that of the combined outputs, `dy` `[T, H]` in the
/// compute type; `pre` as [`forward`] gave it, or `None` to compute it again.
pub(super) fn rows_backward(
    dy: &CubeTensor,
    operands: &Operands,
    weights: CubeTensor,
    positions: &CubeTensor,
    pre: Option<CubeTensor>,
    compute: Compute,
) -> RowGradients {
    let ready = Ready::new(operands, compute);
    let (groups, tier) = (&ready.groups, ready.tier);
    let (hidden, inner) = (ready.hidden, ready.inner);
    let slots = ready.tokens * ready.top_k;
    let dy = contiguous(dy.clone());
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
        launch!(device::row_weights(
            &dy.client,
            grid(groups.rows.div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            arg(&weights, 1),
            arg(&operands.slots, 1),
            arg(&row_weights, 1),
            slots,
            groups.rows,
        ));
    }
    let down = ready.down();
    let operations = ready.operations(inner);
    stage(&dy, "backward of down and SwiGLU", operations, || {
        swiglu_rows_backward(
            groups,
            tier,
            &dy,
            Access::ROWS.gathered(),
            &down,
            &row_weights,
            &pre,
            &activation,
            &shares,
        );
    });
    drop(down);
    let dweights = empty(&dy, [ready.tokens, ready.top_k], DType::F32);
    // SAFETY: the kernel checks slots, and positions past the slots.
    unsafe {
        launch!(device::weight_gradient(
            &dy.client,
            grid(slots.div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            arg(&shares, 1),
            arg(positions, 1),
            arg(&dweights, 1),
            slots,
            groups.rows,
            share_count,
        ));
    }
    drop((shares, row_weights));
    let dx_rows = ready.rows(hidden);
    let gate_up = ready.gate_up();
    let operations = ready.operations(2 * inner);
    stage(&pre, "gradient of rows", operations, || {
        rows(
            groups,
            tier,
            &pre,
            Access::ROWS,
            &gate_up,
            Access::K_ROWS,
            &dx_rows,
        );
    });
    RowGradients {
        rows: dx_rows,
        weights: dweights,
        pre,
        activation,
    }
}

/// Gradients of the matrices, or buffers that these are added into: f32, in the matrices' shapes.
pub(super) struct Sums {
    pub gate_up: CubeTensor,
    pub down: CubeTensor,
}

/// The gradients of `gate_up` and `down` from `dy` in the compute type and what
/// [`rows_backward`] left. With `sums` they are added into these instead of into fresh buffers.
pub(super) fn weight_gradients(
    dy: CubeTensor,
    operands: &Operands,
    pre: CubeTensor,
    activation: CubeTensor,
    sums: Option<Sums>,
    compute: Compute,
) -> Sums {
    let ready = Ready::new(operands, compute);
    let (groups, tier) = (&ready.groups, ready.tier);
    let (hidden, inner) = (ready.hidden, ready.inner);
    let accumulate = sums.is_some();
    let (gate_up, down) = match sums {
        Some(Sums { gate_up, down }) => (Some(gate_up), Some(down)),
        None => (None, None),
    };
    let fresh =
        |rows: usize, columns: usize| empty(&operands.x, [groups.count, rows, columns], DType::F32);
    let dy = contiguous(dy);
    // The larger gradient first: then the pre-activation's, which is the larger operand, makes room
    // for the other.
    let gate_up = gate_up.unwrap_or_else(|| fresh(2 * inner, hidden));
    let x = ready.converted(&operands.x);
    let operations = ready.operations(2 * inner);
    stage(&x, "gradient of gate and up", operations, || {
        gradient(
            groups,
            tier,
            &pre,
            Access::K_ROWS,
            2 * inner,
            2 * inner,
            &x,
            Access::K_ROWS.gathered(),
            hidden,
            &gate_up,
            accumulate,
        );
    });
    drop((pre, x));
    let down = down.unwrap_or_else(|| fresh(hidden, inner));
    stage(&dy, "gradient of down", ready.operations(inner), || {
        gradient(
            groups,
            tier,
            &dy,
            Access::K_ROWS.gathered(),
            hidden,
            hidden,
            &activation,
            Access::K_ROWS,
            inner,
            &down,
            accumulate,
        );
    });
    Sums { gate_up, down }
}
