//! Launch of the look-up.

use burn::backend::ops::IntTensorOps;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, DType, TensorMetadata, backend_extension};
use burn::tensor::IntDType;
use burn_cubecl::CubeBackend;
use cubecl::prelude::CubeDim;

use super::device::{self, UNITS};
use crate::convert::element;
#[cfg(feature = "fusion")]
use crate::gpu::spec;
use crate::gpu::{arg, contiguous, empty, grid, lanes, launch};
use crate::profile::stage;

/// The look-up without autodiff, of one token at least.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait EmbeddingBackend: Backend {
    /// The rows `ids` `[T]` of `weight` `[V, H]` in f32.
    #[fusion(meta = |weight, ids| spec::floats([ids.shape[0], weight.shape[1]]))]
    fn embedding_rows(weight: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self>;
}

impl EmbeddingBackend for CubeBackend {
    fn embedding_rows(weight: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self> {
        let weight = contiguous(weight);
        let ids = contiguous(CubeBackend::int_cast(ids, IntDType::I32));
        let (matrix_rows, width) = (weight.shape()[0], weight.shape()[1]);
        let tokens = ids.shape()[0];
        let y = empty(&weight, [tokens, width], DType::F32);
        let lanes = lanes(width);
        let vectors = width / lanes;
        let count = tokens * vectors;
        // SAFETY: the kernel writes `count` vectors, which `y` has, and holds row numbers within
        // the matrix.
        stage(&weight, "embedding", 0.0, || unsafe {
            launch!(device::rows(
                &weight.client,
                grid(count.div_ceil(UNITS)),
                CubeDim::new_1d(UNITS as u32),
                lanes,
                arg(&weight, lanes),
                arg(&ids, 1),
                arg(&y, lanes),
                vectors,
                matrix_rows,
                count,
                element(&weight),
            ));
        });
        y
    }
}
