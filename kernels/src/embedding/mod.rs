//! Token embedding: rows of a matrix by number.
//!
//! | tensor | shape |
//! | --- | --- |
//! | `weight` | `[V, H]`, f32, f16 or bf16 |
//! | `ids` | `[T]`, `0..V` |
//! | `y` | `[T, H]`, f32 |
//!
//! The rows of a padding token, where there is one, get no gradient. Kept for backward: the ids. The gradient of the matrix is f32 whatever the matrix is held in;
//! [`add_gradient`] adds that of some tokens to a sum that is there, without another one.

mod device;
mod launch;
pub mod reference;

use burn::backend::Dispatch;
use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor};

pub use launch::EmbeddingBackend;

use crate::calls::{Path, note};
use crate::memory::own_gradient;
use crate::vjp::custom_vjp;
use crate::{Kernels, gpu};

/// The rows `ids` of `weight`; that of `padding` gets no gradient. Shapes as in the module's table.
pub fn embedding(
    weight: Tensor<2>,
    ids: Tensor<1, Int>,
    padding: Option<usize>,
    kernels: Kernels,
) -> Tensor<2> {
    let (matrix, ids) = (weight.clone().without_autodiff(), ids.without_autodiff());
    let shape = matrix.dims();
    let fused = runs_fused(&matrix, &ids, kernels);
    note("embedding", Path::of(fused));
    let y = match fused {
        true => Tensor::from_dispatch(Dispatch::embedding_rows(
            matrix.into_dispatch(),
            ids.clone().into_dispatch(),
        )),
        false => reference::rows(matrix, ids.clone()),
    };
    custom_vjp([weight.into()], y, move |dy, _| {
        let sum = Tensor::zeros(shape, &dy.device());
        let sum = add_gradient(sum, ids, dy, padding);
        own_gradient(&sum);
        [Some(sum.into())]
    })
}

/// Adds the gradient `dy` `[T, H]` of the rows `ids` to `sum` `[V, H]`, f32, without autodiff: in
/// place, where nobody else holds `sum`. A row's tokens are added in their order, those of `padding`
/// not at all.
pub fn add_gradient(
    sum: Tensor<2>,
    ids: Tensor<1, Int>,
    dy: Tensor<2>,
    padding: Option<usize>,
) -> Tensor<2> {
    let dy = match padding {
        None => dy,
        Some(padding) => {
            let padded = ids.clone().equal_scalar(padding as i64);
            let shape = dy.dims();
            dy.mask_fill(padded.reshape([shape[0], 1]).expand(shape), 0.0)
        }
    };
    sum.select_assign(0, ids, dy, IndexingUpdateOp::Add)
}

/// Whether the device's own kernel computes it: where there is anything to compute.
fn runs_fused(weight: &Tensor<2>, ids: &Tensor<1, Int>, kernels: Kernels) -> bool {
    kernels == Kernels::Fused
        && gpu::on_cube(weight)
        && matches!(weight.dtype(), DType::F32 | DType::F16 | DType::BF16)
        && !weight.dims().contains(&0)
        && ids.dims()[0] > 0
}
