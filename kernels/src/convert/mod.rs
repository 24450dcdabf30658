//! Conversion between the types that tensors are stored in.
//!
//! bf16 tensors are storage alone on most devices: no Burn operation may receive one, and these
//! conversions and the families' matrix products are what takes them.

mod device;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, DType, Dispatch, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

use crate::Compute;
#[cfg(feature = "fusion")]
use crate::gpu::spec;
use crate::gpu::{arg, contiguous, count, grid, lanes, launch, shaped_like};
use crate::profile::stage;

/// Units of a workgroup that goes through elements.
const UNITS: usize = 256;

/// Conversion as an operation of a Burn backend.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait ConvertBackend: Backend {
    /// The values of `tensor` in another storage type, rounded to nearest.
    #[fusion(meta = |tensor, to| spec::like(tensor, to.dtype()))]
    fn convert_float(tensor: FloatTensor<Self>, to: Compute) -> FloatTensor<Self>;
}

impl ConvertBackend for CubeBackend {
    fn convert_float(tensor: FloatTensor<Self>, to: Compute) -> FloatTensor<Self> {
        convert_primitive(tensor, to.dtype())
    }
}

/// `tensor` stored in another type, rounded to nearest. On devices without CubeCL, which multiply
/// in f32 whatever is asked for, it stays what it is.
///
/// # Panics
/// If the tensor takes part in autodiff or its CubeCL device lacks the type
/// ([`Compute::stored_by`]).
pub fn convert<const D: usize>(tensor: Tensor<D>, to: Compute) -> Tensor<D> {
    if !crate::gpu::on_cube(&tensor) {
        return tensor;
    }
    Tensor::from_dispatch(<Dispatch as ConvertBackend>::convert_float(
        tensor.into_dispatch(),
        to,
    ))
}

/// Element type of a tensor as kernels name it.
pub(crate) fn element(tensor: &CubeTensor) -> ElemType {
    ElemType::Float(match tensor.dtype {
        DType::F16 => FloatKind::F16,
        DType::BF16 => FloatKind::BF16,
        _ => FloatKind::F32,
    })
}

/// A tensor in `dtype`, contiguous: itself, or converted.
pub(crate) fn convert_primitive(tensor: CubeTensor, dtype: DType) -> CubeTensor {
    let tensor = contiguous(tensor);
    if tensor.dtype == dtype {
        return tensor;
    }
    let out = shaped_like(&tensor, dtype);
    let lanes = lanes(count(&tensor));
    let vectors = count(&tensor) / lanes;
    // SAFETY: both buffers hold `vectors` vectors.
    stage(&tensor, "convert", 0.0, || unsafe {
        launch!(device::convert(
            &tensor.client,
            grid(vectors.div_ceil(UNITS)),
            CubeDim::new_1d(UNITS as u32),
            lanes,
            arg(&tensor, lanes),
            arg(&out, lanes),
            vectors,
            [element(&tensor), element(&out)],
        ));
    });
    out
}
