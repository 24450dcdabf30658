//! What every kernel launch shares: contiguous operands, fresh buffers, grids within limits.

use burn::backend::{
    BackendTensor, Cube, DType, DispatchKindConversion, DispatchTensor, DispatchTensorKind, Shape,
    TensorMetadata,
};
use burn::tensor::kind::Basic;
use burn::tensor::{Device, Int, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::{BufferArg, CubeCount};

use crate::memcheck;

mod queue;
#[cfg(feature = "fusion")]
pub mod spec;

use queue::Queued;
pub use queue::settle;

/// Launches a kernel, `launch!(kernel(client, grid, units, arguments…))`: without bounds checks of
/// CubeCL's unless a [memory check](crate::memcheck) asks for them; counted. Unsafe as the kernel's
/// `launch_unchecked` is.
macro_rules! launch {
    ($($kernel:ident)::+ ($($argument:tt)*)) => {{
        $crate::profile::launched();
        if $crate::memcheck::checks_bounds() {
            $($kernel)::+::launch($($argument)*)
        } else {
            $($kernel)::+::launch_unchecked($($argument)*)
        }
    }};
}
pub(crate) use launch;

/// Workgroups that WebGPU takes in one dimension of a dispatch.
pub const MAX_GRID: usize = 65_535;

/// A tensor whose rows lie one after another from the start of its buffer: strided inputs are
/// copied, others pass.
pub fn contiguous(tensor: CubeTensor) -> CubeTensor {
    into_contiguous(tensor)
}

/// Whether `tensor` lies on a device that CubeCL programs.
pub fn on_cube<const D: usize, K: Basic>(tensor: &Tensor<D, K>) -> bool {
    queued_of(tensor.clone().into_dispatch()).is_some()
}

/// What Burn holds of a tensor on such a device.
fn queued_of(tensor: DispatchTensor) -> Option<Queued> {
    let kind = match tensor.kind {
        DispatchTensorKind::Autodiff(inner) => *inner,
        kind => kind,
    };
    let DispatchTensorKind::Cube(tensor) = kind else {
        return None;
    };
    let queued = match tensor {
        BackendTensor::Autodiff(tensor) => tensor.into_primitive(),
        BackendTensor::Float(tensor)
        | BackendTensor::Int(tensor)
        | BackendTensor::Bool(tensor)
        | BackendTensor::Quantized(tensor) => tensor,
    };
    queue::seen(&queued);
    Some(queued)
}

/// The buffer of a tensor on such a device.
pub fn buffer(tensor: DispatchTensor) -> Option<CubeTensor> {
    queued_of(tensor).map(queue::buffer)
}

/// Something on the device of a tensor on such a device, to ask the device through.
pub fn probe<const D: usize>(tensor: &Tensor<D>) -> Option<CubeTensor> {
    queued_of(tensor.clone().into_dispatch()).map(queue::probe)
}

/// The primitive of a tensor without autodiff on such a device.
///
/// # Panics
/// If the tensor takes part in autodiff or lies elsewhere: ask [`on_cube`] first.
pub fn primitive<const D: usize>(tensor: Tensor<D>) -> CubeTensor {
    queue::buffer(
        <DispatchTensor as DispatchKindConversion<Cube>>::try_into_backend(tensor.into_dispatch())
            .expect("a tensor without autodiff on a CubeCL device")
            .float(),
    )
}

/// Bytes of the largest buffer that `device` makes: what a kernel can be given, or the heap where
/// addresses have 64 bits. `None` where CubeCL does not run: there memory is the only limit.
pub fn largest_buffer(device: &Device) -> Option<u64> {
    on_device(device).map(|probe| probe.client.properties().memory.max_page_size)
}

/// Something on `device`, to ask it through, where CubeCL programs it.
pub fn on_device(device: &Device) -> Option<CubeTensor> {
    probe(&Tensor::<1>::empty([1], &device.clone().without_autodiff()))
}

/// A float tensor of a primitive.
pub fn tensor<const D: usize>(primitive: CubeTensor) -> Tensor<D> {
    Tensor::from_dispatch(
        <DispatchTensor as DispatchKindConversion<Cube>>::from_backend(BackendTensor::Float(
            queue::queued(primitive),
        )),
    )
}

/// An integer tensor of a primitive.
pub fn integers<const D: usize>(primitive: CubeTensor) -> Tensor<D, Int> {
    Tensor::from_dispatch(
        <DispatchTensor as DispatchKindConversion<Cube>>::from_backend(BackendTensor::Int(
            queue::queued(primitive),
        )),
    )
}

/// Memory of `shape` on the device of `like`, its content undefined.
pub fn empty<const D: usize>(like: &CubeTensor, shape: [usize; D], dtype: DType) -> CubeTensor {
    let shape = Shape::from(shape.to_vec());
    let bytes = shape.num_elements() * dtype.size();
    let fresh = match memcheck::buffer(&like.client, bytes) {
        Some(guarded) => CubeTensor::new_contiguous(
            like.client.clone(),
            like.device.clone(),
            shape,
            guarded,
            dtype,
        ),
        None => {
            empty_device_contiguous_dtype(like.client.clone(), like.device.clone(), shape, dtype)
        }
    };
    crate::memory::note_primitive(&fresh);
    fresh
}

/// Memory in the shape of `like`, contiguous, its content undefined.
pub fn shaped_like(like: &CubeTensor, dtype: DType) -> CubeTensor {
    let flat = empty(like, [count(like)], dtype);
    CubeTensor::new_contiguous(
        flat.client,
        flat.device,
        like.shape(),
        flat.handle,
        flat.dtype,
    )
}

/// A contiguous tensor that may be written: the one given where nobody else holds it, else a copy.
pub fn own(tensor: CubeTensor) -> CubeTensor {
    let tensor = contiguous(tensor);
    match tensor.can_mut() {
        true => tensor,
        false => tensor.copy(),
    }
}

/// Elements that are read at once where rows are `width` long.
pub fn lanes(width: usize) -> usize {
    if width.is_multiple_of(4) { 4 } else { 1 }
}

/// Elements of a tensor.
pub fn count(tensor: &CubeTensor) -> usize {
    tensor.shape().num_elements()
}

/// A contiguous tensor as a kernel's slice of vectors of `width` elements.
pub fn arg(tensor: &CubeTensor, width: usize) -> BufferArg {
    let length = count(tensor);
    debug_assert_eq!(length % width, 0, "vectors of {width} divide {length}");
    // SAFETY: a contiguous tensor's buffer holds all of its elements.
    unsafe { BufferArg::from_raw_parts(tensor.handle.clone(), length / width) }
}

/// A grid of at least `cubes` workgroups, numbered by `CUBE_POS`. What goes beyond, when the
/// count is split over two dimensions, must do nothing.
pub fn grid(cubes: usize) -> CubeCount {
    let x = cubes.clamp(1, MAX_GRID);
    CubeCount::Static(x as u32, cubes.div_ceil(x).max(1) as u32, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_covers_its_count_within_the_limit() {
        for cubes in [0, 1, 65_535, 65_536, 10_000_000] {
            let CubeCount::Static(x, y, z) = grid(cubes) else {
                panic!("static");
            };
            assert!(x as usize <= MAX_GRID && y as usize <= MAX_GRID && z == 1);
            assert!(x as usize * y as usize >= cubes);
        }
    }
}
