//! The linear projection `y = x Wᵀ` with operands in the compute type.
//!
//! | tensor | shape |
//! | --- | --- |
//! | `x` | `[T, K]`, f32 |
//! | `weight` | `[N, K]`, f32 or the compute type |
//! | `y` | `[T, N]`, f32 |
//!
//! Kept for backward: `x` and `weight`, shared with the caller; copies in the compute type live
//! only while a product runs.
//!
//! The kernels take over where cooperative matrices multiply the type: there Burn's own product
//! reaches 126 TFLOP/s on an H200 and this one 240. Everywhere else, f32 included, Burn's product
//! in f32 computes it, of a matrix that is held in 16 bits a copy in f32 at a time.

mod launch;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, backend_extension};
use burn::tensor::{Device, Tensor};
use burn_cubecl::CubeBackend;

use crate::calls::{Path, note};
use crate::convert::convert;
use crate::gpu::on_cube;
#[cfg(feature = "fusion")]
use crate::gpu::spec;
use crate::memory::own_gradient;
use crate::vjp::custom_vjp;
use crate::{Compute, Kernels};
#[cfg(feature = "fusion")]
use burn::backend::DType;

/// The projection as operations of a Burn backend.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait LinearBackend: Backend {
    /// `x` `[T, K]` by `weight` `[N, K]`.
    #[fusion(meta = |x, weight, _| spec::floats([x.shape[0], weight.shape[0]]))]
    fn linear_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        compute: Compute,
    ) -> FloatTensor<Self>;

    /// Gradients of `x` and `weight` from that of `y`.
    #[fusion(meta = |_, x, weight, _| (spec::like(x, DType::F32), spec::like(weight, DType::F32)))]
    fn linear_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        compute: Compute,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl LinearBackend for CubeBackend {
    fn linear_forward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        compute: Compute,
    ) -> FloatTensor<Self> {
        launch::forward(x, weight, compute)
    }

    fn linear_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        compute: Compute,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        launch::backward(dy, x, weight, compute)
    }
}

/// Whether `device` has cooperative matrices for `compute`, so that the kernels take a projection
/// whose widths are multiples of 8.
pub fn accelerated(device: &Device, compute: Compute) -> bool {
    launch::takes(device, compute, 8, 8)
}

/// `x Wᵀ`. Shapes as in the module's table.
pub fn linear(x: Tensor<2>, weight: Tensor<2>, compute: Compute, kernels: Kernels) -> Tensor<2> {
    let [_, inputs] = x.dims();
    let [outputs, _] = weight.dims();
    let fused = kernels == Kernels::Fused
        && on_cube(&x)
        && launch::takes(&x.device(), compute, inputs, outputs);
    let path = match (fused, kernels) {
        (true, _) => Path::Kernels("cooperative matrices"),
        // The rule above, not a want of kernels.
        (false, Kernels::Fused) => Path::Burn("matrix multiply"),
        (false, Kernels::Reference) => Path::Reference,
    };
    note("linear", path);
    let (input, matrix) = (
        x.clone().without_autodiff(),
        weight.clone().without_autodiff(),
    );
    if !fused {
        let in_f32 = |matrix: Tensor<2>| convert(matrix, Compute::F32);
        let y = input.clone().matmul(in_f32(matrix.clone()).transpose());
        return custom_vjp([x.into(), weight.into()], y, move |dy, needs| {
            let dx = needs[0].then(|| dy.clone().matmul(in_f32(matrix)).into());
            let dweight = needs[1].then(|| {
                let dweight = dy.transpose().matmul(input);
                own_gradient(&dweight);
                dweight.into()
            });
            [dx, dweight]
        });
    }
    let y = Tensor::from_dispatch(<Dispatch as LinearBackend>::linear_forward(
        input.clone().into_dispatch(),
        matrix.clone().into_dispatch(),
        compute,
    ));
    custom_vjp([x.into(), weight.into()], y, move |dy, _| {
        let (dx, dweight) = <Dispatch as LinearBackend>::linear_backward(
            dy.into_dispatch(),
            input.into_dispatch(),
            matrix.into_dispatch(),
            compute,
        );
        let dweight = Tensor::<2>::from_dispatch(dweight);
        own_gradient(&dweight);
        [
            Some(Tensor::<2>::from_dispatch(dx).into()),
            Some(dweight.into()),
        ]
    })
}
