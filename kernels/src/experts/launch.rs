//! The fused experts on a CubeCL device: four launches forward and nine backward, and one each
//! that combines a token's rows. Of these the products, two and four, are launched once a block of
//! experts.

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
    fn experts(&self) -> usize {
        self.down.shape()[0]
    }
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
        let all: usize = operands.blocks.iter().map(Matrices::experts).sum();
        let shared = all - experts;
        let inner = dims(&operands.blocks[0].down, 2);
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

    fn gate_up(&self, block: &Matrices) -> Stacked {
        Stacked {
            buffer: self.converted(&block.gate_up),
            rows: 2 * self.inner,
            columns: self.hidden,
        }
    }

    fn down(&self, block: &Matrices) -> Stacked {
        Stacked {
            buffer: self.converted(&block.down),
            rows: self.hidden,
            columns: self.inner,
        }
    }

    /// Takes `product`, the stage called `name` with matrices of the hidden width by `width`, block
    /// by block: of a block's groups, with the block's matrices as `of` gives them.
    fn by_block<M>(
        &self,
        name: &'static str,
        width: usize,
        of: impl Fn(usize, &Matrices) -> M,
        product: impl Fn(&Groups, &M),
    ) {
        let mut first = 0;
        for (number, block) in self.operands.blocks.iter().enumerate() {
            let groups = self.groups.some(first, block.experts());
            first += groups.count;
            let matrices = of(number, block);
            let share = groups.count as f64 / self.groups.count as f64;
            let operations = share * self.operations(width);
            stage(&self.operands.x, name, operations, || {
                product(&groups, &matrices);
            });
        }
    }

    /// The pre-activation `[rows, 2F]` and the activation `[rows, F]`.
    fn activate(&self) -> (CubeTensor, CubeTensor) {
        let x = self.converted(&self.operands.x);
        let (pre, activation) = (self.rows(2 * self.inner), self.rows(self.inner));
        self.by_block(
            "gate, up and SwiGLU",
            2 * self.inner,
            |_, block| self.gate_up(block),
            |groups, gate_up| {
                let access = Access::ROWS.gathered();
                swiglu_rows(groups, self.tier, &x, access, gate_up, &pre, &activation);
            },
        );
        (pre, activation)
    }
}

/// Sums each token's rows `[rows, H]`, found by `positions` `[T · k]`, to f32 `[T, H]`: those of
/// choices by `weights` `[T, k]`, where given, on top of `residual` `[T, H]`, where given.
pub(super) fn combine(
    rows: &CubeTensor,
    positions: &CubeTensor,
    top_k: usize,
    weights: Option<CubeTensor>,
    residual: Option<CubeTensor>,
) -> CubeTensor {
    let slots = count(positions);
    let tokens = slots / top_k;
    let hidden = rows.shape()[1];
    let shared = (rows.shape()[0] - slots) / tokens;
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
            top_k,
            shared,
            weights.is_some(),
            residual.is_some(),
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
    ready.by_block(
        "down",
        ready.inner,
        |_, block| ready.down(block),
        |groups, down| {
            let access = Access::ROWS;
            rows(groups, ready.tier, &activation, access, down, access, &out);
        },
    );
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
    ready.by_block(
        "backward of down and SwiGLU",
        inner,
        |_, block| ready.down(block),
        |groups, down| {
            swiglu_rows_backward(
                groups,
                tier,
                &dy,
                Access::ROWS.gathered(),
                down,
                &row_weights,
                &pre,
                &activation,
                &shares,
            );
        },
    );
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
    ready.by_block(
        "gradient of rows",
        2 * inner,
        |_, block| ready.gate_up(block),
        |groups, gate_up| {
            let (a, b) = (Access::ROWS, Access::K_ROWS);
            rows(groups, tier, &pre, a, gate_up, b, &dx_rows);
        },
    );
    RowGradients {
        rows: dx_rows,
        weights: dweights,
        pre,
        activation,
    }
}

/// The gradients of each block's matrices, f32, from `dy` in the compute type and what
/// [`rows_backward`] left. With `sums` they are added into these instead of into fresh buffers.
pub(super) fn weight_gradients(
    dy: CubeTensor,
    operands: &Operands,
    pre: CubeTensor,
    activation: CubeTensor,
    sums: Option<Vec<Matrices>>,
    compute: Compute,
) -> Vec<Matrices> {
    let ready = Ready::new(operands, compute);
    let (hidden, inner) = (ready.hidden, ready.inner);
    let accumulate = sums.is_some();
    let (given_gate_up, given_down): (Vec<_>, Vec<_>) = sums
        .into_iter()
        .flatten()
        .map(|Matrices { gate_up, down }| (gate_up, down))
        .unzip();
    let dy = contiguous(dy);
    // The larger gradients first: then the pre-activation's, which is the larger operand, makes room
    // for the others.
    let all = |given: Vec<CubeTensor>, rows: usize, columns: usize| match accumulate {
        true => given,
        false => {
            let blocks = operands.blocks.iter().map(Matrices::experts);
            let fresh = |experts| empty(&operands.x, [experts, rows, columns], DType::F32);
            blocks.map(fresh).collect()
        }
    };
    let gate_up = all(given_gate_up, 2 * inner, hidden);
    let x = ready.converted(&operands.x);
    ready.by_block(
        "gradient of gate and up",
        2 * inner,
        |number, _| gate_up[number].clone(),
        |groups, out| {
            gradient(
                groups,
                ready.tier,
                &pre,
                Access::K_ROWS,
                2 * inner,
                2 * inner,
                &x,
                Access::K_ROWS.gathered(),
                hidden,
                out,
                accumulate,
            );
        },
    );
    drop((pre, x));
    let down = all(given_down, hidden, inner);
    ready.by_block(
        "gradient of down",
        inner,
        |number, _| down[number].clone(),
        |groups, out| {
            gradient(
                groups,
                ready.tier,
                &dy,
                Access::K_ROWS.gathered(),
                hidden,
                hidden,
                &activation,
                Access::K_ROWS,
                inner,
                out,
                accumulate,
            );
        },
    );
    let both = |(gate_up, down)| Matrices { gate_up, down };
    gate_up.into_iter().zip(down).map(both).collect()
}
