//! Dense SwiGLU by a kernel of its own: one pass over the operands each way.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use cubecl::prelude::*;

use crate::gpu::{arg, contiguous, count, grid, launch, on_cube, own, shaped_like};
use crate::matmul::Four;
use crate::matmul::epilogue::{swiglu, swiglu_slopes};
use crate::profile::stage;

/// Units of a workgroup.
const UNITS: usize = 256;

/// SwiGLU of any shape, as long as four elements make a piece, without autodiff.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait SwigluBackend: Backend {
    /// `silu(gate) ⊙ up`.
    #[fusion(meta = |gate, _| gate.clone())]
    fn swiglu_forward(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Gradients of `gate` and `up` from that of the result; they take the operands' memory where
    /// nobody else holds it.
    #[fusion(meta = |_, gate, up| (gate.clone(), up.clone()))]
    fn swiglu_backward(
        dy: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl SwigluBackend for CubeBackend {
    fn swiglu_forward(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let (gate, up) = (contiguous(gate), contiguous(up));
        let y = shaped_like(&gate, DType::F32);
        let vectors = count(&gate) / 4;
        // SAFETY: all three hold `vectors` vectors.
        stage(&gate, "SwiGLU", 0.0, || unsafe {
            launch!(forward(
                &gate.client,
                grid(vectors.div_ceil(UNITS)),
                CubeDim::new_1d(UNITS as u32),
                arg(&gate, 4),
                arg(&up, 4),
                arg(&y, 4),
                vectors,
            ));
        });
        y
    }

    fn swiglu_backward(
        dy: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let dy = contiguous(dy);
        let (gate, up) = (own(gate), own(up));
        let vectors = count(&gate) / 4;
        // SAFETY: all three hold `vectors` vectors; a unit reads its own before it writes them.
        stage(&gate, "gradient of SwiGLU", 0.0, || unsafe {
            launch!(backward(
                &gate.client,
                grid(vectors.div_ceil(UNITS)),
                CubeDim::new_1d(UNITS as u32),
                arg(&dy, 4),
                arg(&gate, 4),
                arg(&up, 4),
                vectors,
            ));
        });
        (gate, up)
    }
}

#[cube(launch, launch_unchecked)]
fn forward(
    gate: &[Vector<f32, Four>],
    up: &[Vector<f32, Four>],
    y: &mut [Vector<f32, Four>],
    vectors: usize,
) {
    let position = CUBE_POS * UNITS + UNIT_POS as usize;
    if position < vectors {
        y[position] = swiglu(gate[position], up[position]);
    }
}

/// `gate` and `up` become their gradients.
#[cube(launch, launch_unchecked)]
fn backward(
    dy: &[Vector<f32, Four>],
    gate: &mut [Vector<f32, Four>],
    up: &mut [Vector<f32, Four>],
    vectors: usize,
) {
    let position = CUBE_POS * UNITS + UNIT_POS as usize;
    if position < vectors {
        let slopes = swiglu_slopes(gate[position], up[position]);
        let dy = dy[position];
        gate[position] = dy * slopes.gate;
        up[position] = dy * slopes.up;
    }
}

/// Whether the kernel takes operands like `tensor`.
pub(super) fn computes<const D: usize>(tensor: &Tensor<D>) -> bool {
    let elements: usize = tensor.dims().iter().product();
    on_cube(tensor) && tensor.dtype() == DType::F32 && elements > 0 && elements.is_multiple_of(4)
}

/// [`super::swiglu`] without autodiff.
pub(super) fn swiglu_forward<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as SwigluBackend>::swiglu_forward(
        gate.into_dispatch(),
        up.into_dispatch(),
    ))
}

/// Gradients of `gate` and `up`.
pub(super) fn swiglu_backward<const D: usize>(
    dy: Tensor<D>,
    gate: Tensor<D>,
    up: Tensor<D>,
) -> (Tensor<D>, Tensor<D>) {
    let (dgate, dup) = <Dispatch as SwigluBackend>::swiglu_backward(
        dy.into_dispatch(),
        gate.into_dispatch(),
        up.into_dispatch(),
    );
    (Tensor::from_dispatch(dgate), Tensor::from_dispatch(dup))
}
