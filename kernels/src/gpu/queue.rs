//! Between Burn's tensors and the buffers behind them.
//!
//! With the `fusion` feature Burn keeps what it is asked for in a queue of the calling thread, and
//! runs it later in a thread of the device's: a tensor has a buffer once the queue was run. Without
//! it every tensor is its buffer.

use burn::backend::Cube;
use burn::backend::tensor::FloatTensor;
use burn_cubecl::tensor::CubeTensor;

/// What Burn holds of a tensor, floats and integers alike.
pub type Queued = FloatTensor<Cube>;

#[cfg(not(feature = "fusion"))]
mod at_once {
    use super::{CubeTensor, Queued};

    /// The buffer of a tensor.
    pub fn buffer(tensor: Queued) -> CubeTensor {
        tensor
    }

    /// The tensor of a buffer.
    pub fn queued(buffer: CubeTensor) -> Queued {
        buffer
    }

    /// Something on the device of a tensor.
    pub fn probe(tensor: Queued) -> CubeTensor {
        tensor
    }

    /// Runs what this thread has in its queue.
    pub fn settle() {}

    /// Notes a tensor that kernels are about to take.
    pub fn seen(_tensor: &Queued) {}
}

#[cfg(feature = "fusion")]
mod later {
    use std::sync::{Mutex, PoisonError};

    use burn::backend::fusion::{NoOp, get_client};
    use burn::backend::ir::{InitOperationIr, OperationIr};
    use burn::backend::{DType, StreamId, TensorMetadata};
    use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
    use burn_cubecl::{CubeBackend, CubeDevice};

    use super::{CubeTensor, Queued};

    /// Devices whose tensors came by.
    static DEVICES: Mutex<Vec<CubeDevice>> = Mutex::new(Vec::new());

    /// The buffer of a tensor, after what this thread has in its queue.
    pub fn buffer(tensor: Queued) -> CubeTensor {
        // The name of the method is about Burn's kinds of tensors; the buffers of all are one type.
        let client = tensor.client.clone();
        client.resolve_tensor_float::<CubeBackend>(tensor)
    }

    /// The tensor of a buffer.
    pub fn queued(buffer: CubeTensor) -> Queued {
        let client = get_client::<CubeBackend>(&buffer.device);
        let (shape, dtype) = (buffer.shape(), buffer.dtype);
        let handle = buffer.into();
        let made = InitOperationIr::create(shape, dtype, || client.register_tensor_handle(handle));
        let operation = NoOp::<CubeBackend>::new();
        let mut tensors = client.register(StreamId::current(), OperationIr::Init(made), operation);
        tensors.remove(0)
    }

    /// Something on the device of a tensor; the queue stays what it is.
    pub fn probe(tensor: Queued) -> CubeTensor {
        let device = tensor.device();
        empty_device_contiguous_dtype(device.client(), device, [1].into(), DType::F32)
    }

    /// Runs what this thread has in its queue.
    pub fn settle() {
        let devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
        let devices = devices.clone();
        for device in &devices {
            get_client::<CubeBackend>(device).sync(|| ());
        }
    }

    /// Notes a tensor that kernels are about to take.
    pub fn seen(tensor: &Queued) {
        let device = tensor.client.device();
        let mut devices = DEVICES.lock().unwrap_or_else(PoisonError::into_inner);
        if devices.iter().all(|known| known.to_id() != device.to_id()) {
            devices.push(device.clone());
        }
    }
}

#[cfg(not(feature = "fusion"))]
pub use at_once::{buffer, probe, queued, seen, settle};
#[cfg(feature = "fusion")]
pub use later::{buffer, probe, queued, seen, settle};
