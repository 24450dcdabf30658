//! Reads of a device's memory, every one of them here, counted.
//!
//! A read waits until the device has done all that it was given, so a training step can afford
//! one of them, not one a layer. What has to be known together is read together.

use std::cell::Cell;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Int, Tensor, TensorData, Transaction};
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::server::CopyDescriptor;

thread_local! {
    static READS: Cell<u64> = const { Cell::new(0) };
    static WAITED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// How often this thread has waited for a device.
pub fn reads() -> u64 {
    READS.get()
}

/// How long this thread has waited for a device in [`Reading::finish`], where a training step waits:
/// what is left of a step's time is the host's own work.
pub fn waited() -> Duration {
    WAITED.get()
}

/// Waits until the device of `on` has done all that it was given: for measuring alone, counted as a
/// read. A device that fails here fails the caller's next read as well, which reports it.
pub(crate) fn wait(on: &CubeTensor) {
    READS.set(READS.get() + 1);
    drop(cubecl::future::block_on(on.client.sync()));
}

/// Tensors to be read in one go. Its default holds none.
#[derive(Default)]
pub struct Reading {
    transaction: Transaction,
    tensors: usize,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reading of {} tensors", self.tensors)
    }
}

impl Reading {
    /// Adds floats; returns their place among the results.
    pub fn floats<const D: usize>(&mut self, tensor: Tensor<D>) -> usize {
        let transaction = std::mem::take(&mut self.transaction);
        self.transaction = transaction.register(tensor.without_autodiff());
        self.tensors += 1;
        self.tensors - 1
    }

    /// Adds integers; returns their place among the results.
    pub fn integers<const D: usize>(&mut self, tensor: Tensor<D, Int>) -> usize {
        let transaction = std::mem::take(&mut self.transaction);
        self.transaction = transaction.register(tensor);
        self.tensors += 1;
        self.tensors - 1
    }

    /// Waits for the device and returns everything added, by place. Reads nothing, and does not
    /// wait, where nothing was added.
    ///
    /// # Panics
    /// If the device is lost or failed: nothing that it holds can be had any more.
    pub fn finish(self) -> Read {
        if self.tensors == 0 {
            return Read(Vec::new());
        }
        READS.set(READS.get() + 1);
        let start = Instant::now();
        let read = Read(self.transaction.execute());
        WAITED.set(WAITED.get() + start.elapsed());
        read
    }
}

/// What a [`Reading`] gave.
#[derive(Clone, Debug)]
pub struct Read(Vec<TensorData>);

impl Read {
    /// The floats at `place`, row by row.
    pub fn floats(&self, place: usize) -> Vec<f32> {
        self.0[place].iter::<f32>().collect()
    }

    /// The integers at `place`, row by row.
    pub fn integers(&self, place: usize) -> Vec<i64> {
        self.0[place].iter::<i64>().collect()
    }
}

/// The values of one tensor, row by row.
pub fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    READS.set(READS.get() + 1);
    let data = tensor.without_autodiff().into_data().convert::<f32>();
    data.try_into_vec::<f32>().expect("converted to f32")
}

/// The values of one integer tensor, row by row.
pub fn integers<const D: usize>(tensor: Tensor<D, Int>) -> Vec<i64> {
    READS.set(READS.get() + 1);
    let data = tensor.into_data().convert::<i64>();
    data.try_into_vec::<i64>().expect("converted to i64")
}

/// A tensor's values in host memory, to come back later.
#[derive(Clone, Debug)]
pub struct Moved<const D: usize>(TensorData);

impl<const D: usize> Moved<D> {
    /// Copies `tensor` to the host and frees its memory on the device, unless somebody else holds
    /// it. Waits for the device.
    pub fn new(tensor: Tensor<D>) -> Self {
        READS.set(READS.get() + 1);
        let data = tensor.without_autodiff().into_data();
        // CubeCL copies at the first look, and holds the device's memory until these bytes go.
        let bytes = data.bytes().to_vec();
        Self(TensorData::from_bytes_vec(
            bytes,
            data.shape().clone(),
            data.dtype(),
        ))
    }

    /// The tensor on `device` again. The upload is queued; nothing waits for it.
    pub fn restore(&self, device: &Device) -> Tensor<D> {
        Tensor::from_data(self.0.clone(), device)
    }
}

/// The bytes of parts of buffers, for memory checks. Waits for the device.
///
/// # Panics
/// As [`Reading::finish`].
pub(crate) fn bytes(client: &Client, parts: Vec<CopyDescriptor>) -> Vec<Vec<u8>> {
    READS.set(READS.get() + 1);
    let read = client.read_tensor(parts).expect("the device works");
    read.iter().map(|bytes| bytes.to_vec()).collect()
}
