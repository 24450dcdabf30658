//! The products of the experts and what surrounds them, each for the rows of some groups.

use std::ops::Range;

use burn::backend::{DType, TensorMetadata};
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::device;
use super::launch::{Matrices, Operands};
use crate::Compute;
use crate::convert::convert_primitive as convert;
use crate::gpu::{arg, contiguous, empty, grid, launch};
use crate::matmul::launch::{
    Stacked, gradient, rows, share_count, swiglu_rows, swiglu_rows_backward,
};
use crate::matmul::{Access, Groups, Tier};
use crate::profile::stage;

/// Units of a workgroup that goes through elements.
pub(super) const UNITS: usize = 256;

/// A call's tensors and how it is laid out. Operands are converted where they are used: what a
/// pass does not read takes no memory.
pub(super) struct Ready<'a> {
    pub operands: &'a Operands,
    pub tier: Tier,
    /// Sorted rows: those of the choices, then one a token and shared expert.
    pub count: usize,
    shared: usize,
    pub tokens: usize,
    pub hidden: usize,
    pub inner: usize,
    pub top_k: usize,
    dtype: DType,
}

impl<'a> Ready<'a> {
    pub fn new(operands: &'a Operands, compute: Compute) -> Self {
        let dims = |tensor: &CubeTensor, axis: usize| tensor.shape()[axis];
        let (tokens, hidden) = (dims(&operands.x, 0), dims(&operands.x, 1));
        let top_k = dims(&operands.slots, 0) / tokens;
        let experts = dims(&operands.offsets, 0) - 1;
        let all: usize = operands.blocks.iter().map(Matrices::experts).sum();
        let shared = all - experts;
        let inner = dims(&operands.blocks[0].down, 2);
        let rows_a_group = (tokens * top_k).div_ceil(experts.max(1));
        let tier = Tier::of(&operands.x, compute, &[hidden, inner], rows_a_group);
        Self {
            operands,
            tier,
            count: tokens * (top_k + shared),
            shared,
            tokens,
            hidden,
            inner,
            top_k,
            dtype: compute.dtype(),
        }
    }

    /// All groups, with the rows of `part`.
    pub fn groups(&self, part: &Range<usize>) -> Groups {
        let Operands { offsets, slots, .. } = self.operands;
        let (top_k, tokens, edge) = (self.top_k, self.tokens, self.tier.rows());
        stage(offsets, "groups", 0.0, || {
            Groups::new(offsets, slots, top_k, tokens, self.shared, edge, part)
        })
    }

    /// Memory of `width` numbers for each of `count` rows.
    pub fn rows(&self, count: usize, width: usize) -> CubeTensor {
        empty(&self.operands.x, [count, width], self.dtype)
    }

    pub fn converted(&self, tensor: &CubeTensor) -> CubeTensor {
        convert(tensor.clone(), self.dtype)
    }

    pub fn gate_up(&self, block: &Matrices) -> Stacked {
        Stacked {
            buffer: self.converted(&block.gate_up),
            rows: 2 * self.inner,
            columns: self.hidden,
        }
    }

    pub fn down(&self, block: &Matrices) -> Stacked {
        Stacked {
            buffer: self.converted(&block.down),
            rows: self.hidden,
            columns: self.inner,
        }
    }

    /// Takes `product`, the stage called `name` with matrices of the hidden width by `width`, block
    /// by block: of a block's groups, with the block's matrices as `of` gives them.
    pub fn by_block<M>(
        &self,
        name: &'static str,
        all: &Groups,
        width: usize,
        of: impl Fn(usize, &Matrices) -> M,
        product: impl Fn(&Groups, &M),
    ) {
        let mut first = 0;
        for (number, block) in self.operands.blocks.iter().enumerate() {
            let groups = all.some(first, block.experts());
            first += groups.count;
            let matrices = of(number, block);
            let share = groups.count as f64 / all.count as f64;
            let operations = share * 2.0 * all.rows as f64 * (self.hidden * width) as f64;
            stage(&self.operands.x, name, operations, || {
                product(&groups, &matrices);
            });
        }
    }

    /// The pre-activation `[rows, 2F]` and the activation `[rows, F]` of the rows of `groups`.
    pub fn activate(&self, groups: &Groups) -> (CubeTensor, CubeTensor) {
        let x = self.converted(&self.operands.x);
        let pre = self.rows(groups.rows, 2 * self.inner);
        let activation = self.rows(groups.rows, self.inner);
        self.by_block(
            "gate, up and SwiGLU",
            groups,
            2 * self.inner,
            |_, block| self.gate_up(block),
            |groups, gate_up| {
                let access = Access::ROWS.gathered();
                swiglu_rows(groups, self.tier, &x, access, gate_up, &pre, &activation);
            },
        );
        (pre, activation)
    }

    /// The outputs `[rows, H]` of activations, in `out`.
    pub fn project(&self, groups: &Groups, activation: &CubeTensor, out: &CubeTensor) {
        self.by_block(
            "down",
            groups,
            self.inner,
            |_, block| self.down(block),
            |groups, down| {
                let access = Access::ROWS;
                rows(groups, self.tier, activation, access, down, access, out);
            },
        );
    }

    /// The router's weight of every row, f32.
    pub fn row_weights(&self, weights: CubeTensor) -> CubeTensor {
        let weights = contiguous(weights);
        let out = empty(&weights, [self.count.max(1)], DType::F32);
        // SAFETY: the kernel checks rows and slots.
        unsafe {
            launch!(device::row_weights(
                &weights.client,
                grid(self.count.div_ceil(UNITS)),
                CubeDim::new_1d(UNITS as u32),
                arg(&weights, 1),
                arg(&self.operands.slots, 1),
                arg(&out, 1),
                self.tokens * self.top_k,
                self.count,
            ));
        }
        out
    }

    /// Back through the down projection and SwiGLU: `pre` becomes its gradient, `activation` gets
    /// activations times `weights`, and `shares` parts of the gradients of these.
    pub fn backward_of_swiglu(
        &self,
        groups: &Groups,
        dy: &CubeTensor,
        weights: &CubeTensor,
        pre: &CubeTensor,
        activation: &CubeTensor,
        shares: &CubeTensor,
    ) {
        self.by_block(
            "backward of down and SwiGLU",
            groups,
            self.inner,
            |_, block| self.down(block),
            |groups, down| {
                let access = Access::ROWS.gathered();
                swiglu_rows_backward(
                    groups, self.tier, dy, access, down, weights, pre, activation, shares,
                );
            },
        );
    }

    /// Numbers a row of the shares.
    pub fn share_count(&self) -> usize {
        share_count(self.tier, self.inner)
    }

    /// The gradients of the weights `[T, k]` from shares that lie in parts of `part` rows.
    pub fn weight_gradient(
        &self,
        shares: &CubeTensor,
        positions: &CubeTensor,
        part: usize,
    ) -> CubeTensor {
        let out = empty(shares, [self.tokens, self.top_k], DType::F32);
        let slots = self.tokens * self.top_k;
        // SAFETY: the kernel checks slots, and positions past the slots.
        unsafe {
            launch!(device::weight_gradient(
                &shares.client,
                grid(slots.div_ceil(UNITS)),
                CubeDim::new_1d(UNITS as u32),
                arg(shares, 1),
                arg(positions, 1),
                arg(&out, 1),
                slots,
                self.count,
                part.max(1),
                self.share_count(),
            ));
        }
        out
    }

    /// The gradients of the rows of `x` that were read `[rows, H]`.
    pub fn gradient_of_rows(&self, groups: &Groups, pre: &CubeTensor) -> CubeTensor {
        let out = self.rows(groups.rows, self.hidden);
        self.by_block(
            "gradient of rows",
            groups,
            2 * self.inner,
            |_, block| self.gate_up(block),
            |groups, gate_up| {
                let (a, b) = (Access::ROWS, Access::K_ROWS);
                rows(groups, self.tier, pre, a, gate_up, b, &out);
            },
        );
        out
    }

    /// Fresh f32 buffers `[n, rows, columns]`, one a block.
    pub fn fresh(&self, rows: usize, columns: usize) -> Vec<CubeTensor> {
        let blocks = self.operands.blocks.iter().map(Matrices::experts);
        let fresh = |experts| empty(&self.operands.x, [experts, rows, columns], DType::F32);
        blocks.map(fresh).collect()
    }

    /// Fresh buffers for the gradients of gate and up projections.
    pub fn fresh_gate_up(&self) -> Vec<CubeTensor> {
        self.fresh(2 * self.inner, self.hidden)
    }

    /// Fresh buffers for the gradients of down projections.
    pub fn fresh_down(&self) -> Vec<CubeTensor> {
        self.fresh(self.hidden, self.inner)
    }

    /// The gradients of gate and up projections, into one buffer a block.
    pub fn gradient_of_gate_up(
        &self,
        groups: &Groups,
        pre: &CubeTensor,
        into: &[CubeTensor],
        accumulate: bool,
    ) {
        let (hidden, wide) = (self.hidden, 2 * self.inner);
        let x = self.converted(&self.operands.x);
        self.by_block(
            "gradient of gate and up",
            groups,
            wide,
            |number, _| into[number].clone(),
            |groups, out| {
                let (a, b) = (Access::K_ROWS, Access::K_ROWS.gathered());
                gradient(
                    groups, self.tier, pre, a, wide, wide, &x, b, hidden, out, accumulate,
                );
            },
        );
    }

    /// The gradients of down projections, into one buffer a block.
    pub fn gradient_of_down(
        &self,
        groups: &Groups,
        dy: &CubeTensor,
        activation: &CubeTensor,
        into: &[CubeTensor],
        accumulate: bool,
    ) {
        let (hidden, inner) = (self.hidden, self.inner);
        self.by_block(
            "gradient of down",
            groups,
            inner,
            |number, _| into[number].clone(),
            |groups, out| {
                let (a, b) = (Access::K_ROWS.gathered(), Access::K_ROWS);
                gradient(
                    groups, self.tier, dy, a, hidden, hidden, activation, b, inner, out, accumulate,
                );
            },
        );
    }
}
