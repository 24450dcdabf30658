//! Buffers of devices that CubeCL programs, by weak handles.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use burn::backend::{DispatchTensor, DispatchTensorKind};
use burn::tensor::Tensor;
use burn_cubecl::tensor::CubeTensor;
use cubecl::server::WeakBufferBinding;

use super::ledger;
use super::owner::{Kind, Place, place};
use crate::gpu;

struct Buffer {
    handle: WeakBufferBinding,
    bytes: u64,
    place: Place,
}

#[derive(Default)]
struct Buffers {
    /// By the allocation's number, which is never used again.
    known: HashMap<usize, Buffer>,
    /// How many are known before those that are gone are let go.
    most: usize,
}

static BUFFERS: LazyLock<Mutex<Buffers>> = LazyLock::new(Mutex::default);

fn remember(tensor: &CubeTensor, place: Place, again: bool) {
    let binding = tensor.handle.clone().binding();
    let number = binding.memory.id().value;
    let mut buffers = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(buffer) = buffers.known.get_mut(&number) {
        if again {
            buffer.place = place;
        }
        return;
    }
    let buffer = Buffer {
        bytes: binding.size(),
        handle: binding.downgrade(),
        place,
    };
    buffers.known.insert(number, buffer);
    if buffers.known.len() > buffers.most {
        // An entry just made may be of memory that the device has still to take.
        buffers
            .known
            .retain(|&other, buffer| other == number || buffer.handle.upgrade().is_some());
        buffers.most = (2 * buffers.known.len()).max(1024);
    }
}

/// Notes a tensor that was just made, as of where the process is at work, if a ledger lives and
/// the tensor is on a device that CubeCL programs. One that is known stays what it is.
pub fn note<const D: usize>(tensor: &Tensor<D>) {
    if ledger::is_kept() {
        note_any(&tensor.clone().without_autodiff().into_dispatch());
    }
}

/// Notes a tensor that is kept for a backward pass, whatever it was before: as of the layer that is
/// at work, under the name `name`.
pub fn keep<const D: usize>(tensor: &Tensor<D>, name: &'static str) {
    if ledger::is_kept() {
        ledger::own_at(tensor, place().named(name).of_kind(Kind::Activations));
    }
}

pub(crate) fn note_any(tensor: &DispatchTensor) {
    if ledger::is_kept()
        && let Some(primitive) = on_device(tensor)
    {
        remember(&primitive, place(), false);
    }
}

/// Bytes of the last buffer that a kernel of this crate asked for.
static LAST_REQUEST: AtomicU64 = AtomicU64::new(0);

/// Bytes of the last buffer that one of this crate's kernels asked for; 0: none did.
pub fn last_request() -> u64 {
    LAST_REQUEST.load(Ordering::Relaxed)
}

pub(crate) fn note_primitive(tensor: &CubeTensor) {
    LAST_REQUEST.store(tensor.handle.size(), Ordering::Relaxed);
    if ledger::is_kept() {
        remember(tensor, place(), false);
    }
}

/// Notes a tensor as the gradient of a parameter of the part that is at work.
pub(crate) fn note_gradient(tensor: &CubeTensor) {
    if ledger::is_kept() {
        remember(tensor, place().of_kind(Kind::Gradients), true);
    }
}

/// Says whose a tensor on such a device is.
pub(super) fn own(tensor: &CubeTensor, place: Place) {
    remember(tensor, place, true);
}

/// The primitive of a float tensor without autodiff on a device that CubeCL programs.
pub(super) fn on_device(tensor: &DispatchTensor) -> Option<CubeTensor> {
    match &tensor.kind {
        DispatchTensorKind::Cube(_) => gpu::buffer(tensor.clone()),
        _ => None,
    }
}

/// The number of the device's memory that a tensor lies in, which no later memory gets; `None`
/// where CubeCL does not program the device.
pub fn address<const D: usize>(tensor: &Tensor<D>) -> Option<usize> {
    let tensor = tensor.clone().without_autodiff().into_dispatch();
    let binding = gpu::buffer(tensor)?.handle.binding();
    Some(binding.memory.id().value)
}

/// Place and size of every buffer that is still held.
pub(super) fn by_place(add: &mut dyn FnMut(Place, u64)) {
    let buffers = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner);
    for buffer in buffers.known.values() {
        if buffer.handle.upgrade().is_some() {
            add(buffer.place, buffer.bytes);
        }
    }
}

/// Forgets all.
pub(super) fn forget() {
    let mut buffers = BUFFERS.lock().unwrap_or_else(PoisonError::into_inner);
    buffers.known = HashMap::new();
    buffers.most = 0;
}
