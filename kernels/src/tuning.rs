//! One tile of the matrix product after the other, for tuning runs and tests: the rule by which
//! the products of `linear`, `experts` and `chain` choose a tile is made of what they measure, and
//! what a device's rule leaves out is tested there for the devices that take it.
//!
//! Nothing here changes a result beyond rounding, and nothing outside of benches and tests calls
//! it: the choice stays a function of device, type and shape alone.

use burn::tensor::{Device, Tensor};

use crate::Compute;
use crate::gpu::{on_cube, primitive, settle};
use crate::here::Here;
use crate::matmul::tier;
pub use crate::matmul::tier::THROUGH_MEMORY;

static CHOSEN: Here<Option<&'static str>> = Here::new();

/// Names of the tiles that `device` takes for operands of type `compute`, the rule's own first;
/// none where plain tiles are all there is.
pub fn tiles(device: &Device, compute: Compute) -> Vec<&'static str> {
    let probe = Tensor::<1>::zeros([1], &device.clone().without_autodiff());
    if !on_cube(&probe) {
        return Vec::new();
    }
    let probe = primitive(probe);
    tier::takes(probe.client.properties(), compute)
        .into_iter()
        .map(|(name, _)| name)
        .collect()
}

/// Runs `work` with products on this thread taking the tile called `name`, one of [`tiles`] or
/// [`THROUGH_MEMORY`]; where its device or shape does not take it, the plain tiles of the rule.
pub fn with_tile<T>(name: &'static str, work: impl FnOnce() -> T) -> T {
    struct Restored(Option<&'static str>);
    // Also where `work` panics, as drivers do.
    impl Drop for Restored {
        fn drop(&mut self) {
            CHOSEN.replace(self.0);
        }
    }
    settle();
    let _outer = Restored(CHOSEN.replace(Some(name)));
    let result = work();
    settle();
    result
}

/// What [`with_tile`] asked for.
pub(crate) fn chosen() -> Option<&'static str> {
    CHOSEN.get()
}
