//! Memory checks of kernels, for tests: every buffer a slice between guard bands, poison where
//! nobody wrote, and bounds checks on demand.
//!
//! Bands and fresh buffers are bytes of 255: not a number in every float type, and past the end of
//! anything as an index. So a kernel that writes outside of its buffer leaves a mark, and one that
//! reads outside, or what nobody wrote, gives results that no comparison takes for right.

use burn::backend::DType;
use burn::tensor::{Int, Tensor};
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::server::{BufferBinding, CopyDescriptor, Handle};

use crate::gpu::{contiguous, count, on_cube, settle};
use crate::here::Here;
use crate::host;

/// Bytes of a band; more where the device wants buffers to start at larger multiples.
const BAND: usize = 1024;
/// What bands and fresh buffers hold.
const POISON: u8 = 0xFF;

static GUARDS: Here<Option<Vec<Guard>>> = Here::new();
static BOUNDS: Here<bool> = Here::new();

/// A buffer between two bands.
struct Guard {
    client: Client,
    /// The buffer with its bands. A binding keeps memory from being used again, yet does not count
    /// as a handle: the kernels still work in place.
    whole: BufferBinding,
    /// Bytes of a band in front of the buffer.
    band: usize,
    /// Bytes of the buffer.
    bytes: usize,
}

/// From now on every buffer that this crate's kernels make on this thread lies between guard bands
/// and is poisoned.
pub fn watch() {
    settle();
    GUARDS.with(|guards| {
        guards.get_or_insert_default();
    });
}

/// A tensor's copy between guard bands where this thread [watches](watch), else the tensor itself;
/// likewise on devices without CubeCL.
pub fn place<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    let tracked = tensor.is_autodiff();
    let plain = tensor.clone().without_autodiff();
    if !is_watching() || !on_cube(&plain) {
        return tensor;
    }
    let placed = copy(crate::gpu::primitive(plain));
    let placed: Tensor<D> = crate::gpu::tensor(placed);
    if tracked { placed.autodiff() } else { placed }
}

/// [`place`] for whole numbers.
pub fn place_integers<const D: usize>(tensor: Tensor<D, Int>) -> Tensor<D, Int> {
    if !is_watching() || !on_cube(&tensor) {
        return tensor;
    }
    crate::gpu::integers(copy(
        crate::gpu::buffer(tensor.into_dispatch()).expect("it is on such a device"),
    ))
}

/// The client of a tensor's device and the memory that the tensor is a slice of; `None` where CubeCL
/// does not program the device.
pub fn memory<const D: usize>(tensor: Tensor<D>) -> Option<(Client, Handle)> {
    let CubeTensor {
        client, mut handle, ..
    } = crate::gpu::buffer(tensor.without_autodiff().into_dispatch())?;
    (handle.offset_start, handle.offset_end) = (None, None);
    Some((client, handle))
}

/// What was written into guard bands on this thread so far, a line a buffer, and how many buffers
/// were looked at: one device's, since a thread's buffers are read together. Waits for it.
pub fn damage() -> (Vec<String>, usize) {
    settle();
    GUARDS.with(|guards| {
        let guards = guards.as_deref().unwrap_or_default();
        let Some(first) = guards.first() else {
            return (Vec::new(), 0);
        };
        let parts = guards.iter().map(Guard::descriptor).collect();
        let read = host::bytes(&first.client, parts);
        let pairs = guards.iter().zip(&read);
        let damaged = pairs.filter_map(|(guard, bytes)| guard.damage(bytes));
        (damaged.collect(), guards.len())
    })
}

/// Looks no more at the buffers that were made so far, and gives their memory back.
pub fn forget() {
    settle();
    GUARDS.with(|guards| {
        if let Some(guards) = guards {
            guards.clear();
        }
    });
}

/// Runs `work` with bounds checks of CubeCL's in every kernel of this crate that it launches on this
/// thread.
pub fn with_bounds_checks<T>(work: impl FnOnce() -> T) -> T {
    settle();
    let outer = BOUNDS.replace(true);
    let result = work();
    settle();
    BOUNDS.replace(outer);
    result
}

/// Whether kernels are launched with bounds checks.
pub(crate) fn checks_bounds() -> bool {
    BOUNDS.get()
}

/// A poisoned buffer between guard bands where this thread watches.
pub(crate) fn buffer(client: &Client, bytes: usize) -> Option<Handle> {
    is_watching().then(|| guarded(client, &vec![POISON; bytes]))
}

fn is_watching() -> bool {
    GUARDS.with(|guards| guards.is_some())
}

/// A copy of a tensor between guard bands.
fn copy(tensor: CubeTensor) -> CubeTensor {
    let tensor = contiguous(tensor);
    let bytes = count(&tensor) * DType::size(&tensor.dtype);
    let whole = tensor.handle.clone().binding();
    let content = host::bytes(&tensor.client, vec![descriptor(whole, 0, bytes)]);
    let handle = guarded(&tensor.client, &content[0]);
    CubeTensor::new_contiguous(
        tensor.client.clone(),
        tensor.device.clone(),
        tensor.meta.shape().clone(),
        handle,
        tensor.dtype,
    )
}

/// A buffer of `content` between guard bands.
fn guarded(client: &Client, content: &[u8]) -> Handle {
    let band = BAND.next_multiple_of(client.properties().memory.alignment as usize);
    let mut whole = vec![POISON; band];
    whole.extend_from_slice(content);
    // What follows starts on a multiple, too, so that bands are read as the device likes it.
    let after = whole.len().next_multiple_of(band) + band - whole.len();
    whole.resize(whole.len() + after, POISON);
    let handle = client.create_from_slice(&whole);
    let guard = Guard {
        client: client.clone(),
        whole: handle.clone().binding(),
        band,
        bytes: content.len(),
    };
    GUARDS.with(|guards| guards.get_or_insert_default().push(guard));
    handle.offset_start(band as u64).offset_end(after as u64)
}

/// `bytes` of a buffer from `start` on.
fn descriptor(buffer: BufferBinding, start: usize, bytes: usize) -> CopyDescriptor {
    let size = buffer.size - buffer.offset_start.unwrap_or(0) - buffer.offset_end.unwrap_or(0);
    let rest = size - (start + bytes) as u64;
    let handle = BufferBinding {
        offset_start: Some(buffer.offset_start.unwrap_or(0) + start as u64),
        offset_end: Some(buffer.offset_end.unwrap_or(0) + rest),
        ..buffer
    };
    CopyDescriptor {
        shape: [bytes].into(),
        strides: [1].into(),
        elem_size: 1,
        handle,
    }
}

impl Guard {
    /// All of it, bands included.
    fn descriptor(&self) -> CopyDescriptor {
        descriptor(self.whole.clone(), 0, self.whole.size as usize)
    }

    /// What was written into the bands, if anything was, by all of its bytes.
    fn damage(&self, all: &[u8]) -> Option<String> {
        let (before, rest) = all.split_at(self.band);
        let changed = |band: &[u8]| band.iter().filter(|&&byte| byte != POISON).count();
        let (before, after) = (changed(before), changed(&rest[self.bytes..]));
        (before + after > 0).then(|| {
            format!(
                "a buffer of {} bytes: {before} bytes changed in front of it, {after} behind",
                self.bytes
            )
        })
    }
}
