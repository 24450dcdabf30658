//! Launch of the rotation: one, whatever the layout of the input.

use burn::backend::{Backend, DType, TensorMetadata, backend_extension, tensor::FloatTensor};
use burn_cubecl::CubeBackend;
use cubecl::prelude::{BufferArg, CubeDim};

use super::device::{self, StridesLaunch, UNITS};
use crate::gpu::{arg, contiguous, empty, grid, launch};
use crate::profile::stage;

/// The rotation without autodiff. Tensors are f32 and hold at least one element, and fewer than
/// 2³² of them.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait RopeBackend: Backend {
    /// `x`: `[batch, heads, time, width]`; `cos`, `sin`: `[batch or 1, 1, time, pairs]`.
    #[fusion(meta = |x, _, _, _, _| x.clone())]
    fn rope_rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        interleaved: bool,
        inverse: bool,
    ) -> FloatTensor<Self>;
}

impl RopeBackend for CubeBackend {
    fn rope_rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        interleaved: bool,
        inverse: bool,
    ) -> FloatTensor<Self> {
        let (cos, sin) = (contiguous(cos), contiguous(sin));
        let shape = x.shape();
        let [batch, heads, time, width] = [shape[0], shape[1], shape[2], shape[3]];
        let (rows_of_angles, pairs) = (cos.shape()[0], cos.shape()[3]);
        let y = empty(&x, [batch, heads, time, width], DType::F32);
        let items = batch * heads * time * (width - pairs);
        let strides = x.meta.strides();
        let [by_batch, by_head, by_time, by_feature] =
            [strides[0], strides[1], strides[2], strides[3]];
        let last = [batch, heads, time, width]
            .into_iter()
            .zip([by_batch, by_head, by_time, by_feature])
            .map(|(size, stride)| (size - 1) * stride)
            .sum::<usize>();
        // SAFETY: the kernel reads `x` at sums of index times stride, the last of which is `last`;
        // angles below `rows_of_angles · time · pairs`; it writes each element of `y` once.
        stage(&x, "rotary", 0.0, || unsafe {
            launch!(device::rotate(
                &x.client,
                grid(items.div_ceil(UNITS)),
                CubeDim::new_1d(UNITS as u32),
                BufferArg::from_raw_parts(x.handle.clone(), last + 1),
                arg(&cos, 1),
                arg(&sin, 1),
                arg(&y, 1),
                StridesLaunch::new(
                    by_batch as u32,
                    by_head as u32,
                    by_time as u32,
                    by_feature as u32,
                ),
                heads as u32,
                time as u32,
                width as u32,
                pairs as u32,
                if rows_of_angles == 1 {
                    0
                } else {
                    (time * pairs) as u32
                },
                items as u32,
                interleaved,
                inverse,
            ));
        });
        y
    }
}
