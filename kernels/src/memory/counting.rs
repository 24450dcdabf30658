//! A global allocator that counts, for the CPU backend, whose tensors are blocks of it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use super::owner::{Place, place};
use super::watch;

/// Smaller blocks are not counted: no tensor that matters is that small, and text is made of them.
const LEAST: usize = 1024;

const SHARDS: usize = 64;

/// The system's allocator, which counts blocks of at least a KiB. Install it in a program with
/// `#[global_allocator] static ALLOCATOR: Counting = Counting;`.
#[derive(Clone, Copy, Debug)]
pub struct Counting;

static INSTALLED: AtomicBool = AtomicBool::new(false);
static IN_USE: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy)]
struct Block {
    size: usize,
    place: Place,
}

/// An address is as good as random but for its lowest bits.
#[derive(Default)]
struct Address(u64);

impl Hasher for Address {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0 << 8 | u64::from(byte);
        }
    }

    fn write_usize(&mut self, address: usize) {
        self.0 = (address as u64 >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

type Blocks = HashMap<usize, Block, BuildHasherDefault<Address>>;

static TABLE: LazyLock<[Mutex<Blocks>; SHARDS]> =
    LazyLock::new(|| std::array::from_fn(|_| Mutex::default()));

thread_local! {
    /// This thread is at work on the table, whose own memory is not counted.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` unless this thread is within another such call: then what is allocated is the
/// table's own.
fn apart<T>(work: impl FnOnce() -> T) -> Option<T> {
    // A thread that is about to end has no such variable any more; its last blocks don't count.
    let entered = BUSY.try_with(|busy| !busy.replace(true)).unwrap_or(false);
    entered.then(|| {
        let result = work();
        let _ = BUSY.try_with(|busy| busy.set(false));
        result
    })
}

fn shard(address: usize) -> &'static Mutex<Blocks> {
    &TABLE[(address >> 12 ^ address >> 18) % SHARDS]
}

fn taken(address: usize, size: usize) {
    if size < LEAST || address == 0 {
        return;
    }
    apart(|| {
        let block = Block {
            size,
            place: place(),
        };
        let before = shard(address)
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(address, block);
        let before = before.map_or(0, |block| block.size as u64);
        let size = size as u64;
        let now = IN_USE.fetch_add(size.wrapping_sub(before), Ordering::Relaxed) + size - before;
        INSTALLED.store(true, Ordering::Relaxed);
        watch::counted(now);
    });
}

fn given_back(address: usize, size: usize) {
    if size < LEAST {
        return;
    }
    apart(|| {
        let block = shard(address)
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&address);
        if let Some(block) = block {
            IN_USE.fetch_sub(block.size as u64, Ordering::Relaxed);
        }
    });
}

// SAFETY: every call is handed to the system's allocator as it is, and its answer is returned;
// counting happens beside the blocks and touches none.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        let block = unsafe { System.alloc(layout) };
        taken(block.addr(), layout.size());
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let block = unsafe { System.alloc_zeroed(layout) };
        taken(block.addr(), layout.size());
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // Before: afterwards another thread may get the same address.
        given_back(block.addr(), layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        given_back(block.addr(), layout.size());
        // SAFETY: as above.
        let moved = unsafe { System.realloc(block, layout, size) };
        match moved.is_null() {
            true => taken(block.addr(), layout.size()),
            false => taken(moved.addr(), size),
        }
        moved
    }
}

/// Bytes of counted blocks; `None` where the program did not install the allocator.
pub(super) fn in_use() -> Option<u64> {
    INSTALLED
        .load(Ordering::Relaxed)
        .then(|| IN_USE.load(Ordering::Relaxed))
}

/// Says whose the block at `address` is, if it is one.
pub(super) fn own(address: usize, place: Place) {
    apart(|| {
        let mut blocks = shard(address)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(block) = blocks.get_mut(&address) {
            block.place = place;
        }
    });
}

/// Every block's place and size, summed by place.
pub(super) fn by_place(add: &mut dyn FnMut(Place, u64)) {
    for shard in TABLE.iter() {
        let blocks = shard.lock().unwrap_or_else(PoisonError::into_inner);
        for block in blocks.values() {
            add(block.place, block.size as u64);
        }
    }
}

/// Runs `work`, whose memory is not counted: for callers that look at [`by_place`].
pub(super) fn uncounted<T>(work: impl FnOnce() -> T) -> Option<T> {
    apart(work)
}
