//! Launches of the normalisation's kernels: a plan is a function of the shape alone.

use burn::backend::{Backend, DType, backend_extension, tensor::FloatTensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::CubeDim;

use super::device::{self, COLUMNS, UNITS};
#[cfg(feature = "fusion")]
use crate::gpu::spec;
use crate::gpu::{arg, contiguous, count, empty, grid, lanes, launch, own, shaped_like};
use crate::profile::stage;

/// Most rows of partial sums of the weight's gradient: enough workgroups for a large device,
/// and a small share of the traffic of the rows themselves.
const MAX_BLOCKS: usize = 1024;

/// Fewest rows of a workgroup that sums gradients of the weight, so that its partial sums stay a
/// small share of what it reads.
const MIN_BLOCK: usize = 16;

/// Forward and backward without autodiff. Tensors are f32; rows are what precedes the last axis;
/// no axis is empty.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait NormBackend: Backend {
    /// The normalised rows and `inverse_rms` `[rows]`.
    #[fusion(meta = |x, weight, _| (x.clone(), spec::norms(x, weight)))]
    fn rms_norm_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The sum of `x` and `residual`, its normalised rows and `inverse_rms` `[rows]`.
    #[fusion(meta = |x, _, weight, _| (x.clone(), x.clone(), spec::norms(x, weight)))]
    fn add_rms_norm_forward(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// Gradients of `x` and `weight`.
    #[fusion(meta = |_, x, weight, _| (x.clone(), weight.clone()))]
    fn rms_norm_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        inverse_rms: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The same, with `onto` added to the gradient of `x`, in place where nobody else holds it.
    #[fusion(meta = |_, x, weight, _, _| (x.clone(), weight.clone()))]
    fn rms_norm_backward_onto(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        inverse_rms: FloatTensor<Self>,
        onto: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl NormBackend for CubeBackend {
    fn rms_norm_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (x, weight) = (contiguous(x), contiguous(weight));
        let plan = Plan::new(&x, &weight);
        let y = shaped_like(&x, x.dtype);
        let inverse_rms = empty(&x, [plan.rows], DType::F32);
        // SAFETY: the kernel writes rows below `rows` and columns below the width alone; every
        // buffer holds that many.
        stage(&x, "norm", 0.0, || unsafe {
            launch!(device::forward(
                &x.client,
                grid(plan.rows.div_ceil(plan.slots())),
                CubeDim::new_1d(UNITS as u32),
                plan.vector,
                arg(&x, plan.vector),
                arg(&weight, plan.vector),
                arg(&y, plan.vector),
                arg(&inverse_rms, 1),
                plan.rows as u32,
                plan.width as u32,
                eps as f32,
                plan.lanes,
            ));
        });
        (y, inverse_rms)
    }

    fn add_rms_norm_forward(
        x: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (x, residual, weight) = (contiguous(x), contiguous(residual), contiguous(weight));
        let plan = Plan::new(&x, &weight);
        let (sum, y) = (shaped_like(&x, x.dtype), shaped_like(&x, x.dtype));
        let inverse_rms = empty(&x, [plan.rows], DType::F32);
        // SAFETY: as above.
        stage(&x, "norm", 0.0, || unsafe {
            launch!(device::forward_add(
                &x.client,
                grid(plan.rows.div_ceil(plan.slots())),
                CubeDim::new_1d(UNITS as u32),
                plan.vector,
                arg(&x, plan.vector),
                arg(&residual, plan.vector),
                arg(&weight, plan.vector),
                arg(&sum, plan.vector),
                arg(&y, plan.vector),
                arg(&inverse_rms, 1),
                plan.rows as u32,
                plan.width as u32,
                eps as f32,
                plan.lanes,
            ));
        });
        (sum, y, inverse_rms)
    }

    fn rms_norm_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        inverse_rms: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        backward(dy, x, weight, inverse_rms, None)
    }

    fn rms_norm_backward_onto(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        inverse_rms: FloatTensor<Self>,
        onto: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        backward(dy, x, weight, inverse_rms, Some(onto))
    }
}

fn backward(
    dy: CubeTensor,
    x: CubeTensor,
    weight: CubeTensor,
    inverse_rms: CubeTensor,
    onto: Option<CubeTensor>,
) -> (CubeTensor, CubeTensor) {
    let (dy, x, weight) = (contiguous(dy), contiguous(x), contiguous(weight));
    let plan = Plan::new(&x, &weight);
    let (dx, add) = match onto {
        None => (shaped_like(&x, x.dtype), false),
        // Whoever else holds it must not see it change.
        Some(onto) => (own(onto), true),
    };
    let block = plan
        .rows
        .div_ceil(MAX_BLOCKS)
        .max(MIN_BLOCK)
        .max(plan.slots());
    let blocks = plan.rows.div_ceil(block);
    let partial = empty(&x, [blocks, plan.width], DType::F32);
    let dweight = empty(&x, [plan.width], DType::F32);
    let columns = plan.width / plan.vector;
    // SAFETY: rows below `rows`, columns below the width, and one row of `partial` a workgroup:
    // `blocks` is at most `MAX_BLOCKS`, so the grid has exactly that many.
    stage(&x, "norm, backward", 0.0, || unsafe {
        launch!(device::backward(
            &x.client,
            grid(blocks),
            CubeDim::new_1d(UNITS as u32),
            plan.vector,
            arg(&dy, plan.vector),
            arg(&x, plan.vector),
            arg(&weight, plan.vector),
            arg(&inverse_rms, 1),
            arg(&dx, plan.vector),
            arg(&partial, plan.vector),
            plan.rows as u32,
            plan.width as u32,
            block as u32,
            block.div_ceil(plan.slots()) as u32,
            plan.lanes,
            columns.div_ceil(plan.lanes),
            add,
        ));
        launch!(device::column_sums(
            &x.client,
            grid(columns.div_ceil(COLUMNS)),
            CubeDim::new_1d(UNITS as u32),
            plan.vector,
            arg(&partial, plan.vector),
            arg(&dweight, plan.vector),
            blocks as u32,
        ));
    });
    (dx, dweight)
}

/// How units share the rows of a shape.
struct Plan {
    rows: usize,
    width: usize,
    /// Elements that are read at once.
    vector: usize,
    /// Units of one row, a power of two.
    lanes: usize,
}

impl Plan {
    fn new(x: &CubeTensor, weight: &CubeTensor) -> Self {
        let width = count(weight);
        Self::of(count(x) / width, width)
    }

    fn of(rows: usize, width: usize) -> Self {
        let vector = lanes(width);
        // Some four vectors a unit: fewer units a row mean shorter sums over them.
        let units = (width / vector).div_ceil(4).next_power_of_two();
        Self {
            rows,
            width,
            vector,
            lanes: units.min(UNITS),
        }
    }

    /// Rows of a workgroup at a time.
    fn slots(&self) -> usize {
        UNITS / self.lanes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_divides_the_workgroup_and_covers_every_width() {
        for width in (1..300).chain([1024, 4095, 8192, 8193, 100_000]) {
            let plan = Plan::of(7, width);
            assert_eq!(plan.slots() * plan.lanes, UNITS, "{width}");
            assert_eq!(width % plan.vector, 0, "{width}");
            // One unit keeps its share of the weight's gradient in registers.
            let tiles = (width / plan.vector).div_ceil(plan.lanes);
            assert!(tiles <= 4 || plan.lanes == UNITS, "{width}: {tiles}");
        }
    }
}
