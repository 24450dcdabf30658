//! What linear cross-entropy takes at its peak, against the tokens it is given. Alone in its program:
//! tests beside it would allocate from the same pools, and it counts all that the program allocates.

#[path = "../on_device/device.rs"]
mod device;

use bellows_kernels::Compute;
use bellows_kernels::cross_entropy::{
    Settings, Slopes, backward, forward, forward_backward, workspace_bytes,
};
use bellows_kernels::memory::{Counting, in_use, peak_during};
use burn::tensor::{Device, Distribution, Int, Tensor};

use device::test_device;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HIDDEN: usize = 32;
const VOCABULARY: usize = 4096;
const FEW: usize = 256;
const MANY: usize = 1024;

/// Room for some tokens' logits, far less than [`FEW`].
const WORKSPACE: usize = 1 << 19;

/// The most bytes in use during `work` beyond those before it.
fn peak<T>(device: &Device, work: impl FnOnce() -> T) -> usize {
    device.sync().expect("the device works");
    let before = in_use(device).expect("pools, or the allocator of this program");
    let (result, peak) = peak_during(device, work);
    drop(result);
    peak.in_use.saturating_sub(before.in_use) as usize
}

/// Peaks of a pass without gradients, of one with them, and of a backward pass alone.
fn peaks(device: &Device, tokens: usize, settings: &Settings) -> [usize; 3] {
    let noise = Distribution::Uniform(-1.0, 1.0);
    let hidden = Tensor::<2>::random([tokens, HIDDEN], noise, device);
    let head = Tensor::<2>::random([VOCABULARY, HIDDEN], noise, device);
    let labels = Tensor::<1, Int>::zeros([tokens], device);
    let weights = Tensor::<1>::ones([tokens], device);
    let log_sum_exp = Tensor::<1>::zeros([tokens], device);
    let slopes = Slopes {
        losses: weights.clone(),
        log_sum_exp: None,
    };
    let inputs = || (hidden.clone(), head.clone(), labels.clone());
    let without = || {
        let (hidden, head, labels) = inputs();
        forward(hidden, head, labels, settings)
    };
    let both = || {
        let (hidden, head, labels) = inputs();
        forward_backward(hidden, head, labels, weights.clone(), None, settings)
    };
    let back = || {
        let (hidden, head, labels) = inputs();
        let (log_sum_exp, slopes) = (log_sum_exp.clone(), slopes.clone());
        backward(hidden, head, labels, log_sum_exp, slopes, None, settings)
    };
    // Once before, so that what is made once in a program's life counts for nobody.
    drop((without(), both()));
    [
        peak(device, without),
        peak(device, both),
        peak(device, back),
    ]
}

#[test]
fn the_peak_grows_with_tokens_and_vocabulary_but_not_with_their_product() {
    let Some(device) = test_device() else { return };
    for compute in [Compute::F32, Compute::F16, Compute::Bf16] {
        if compute != Compute::F32 && (device == Device::flex() || !compute.stored_by(&device)) {
            println!("SKIPPED {compute:?}: the device does not store it");
            continue;
        }
        let settings = Settings {
            compute,
            workspace: WORKSPACE,
            ..Settings::default()
        };
        let few = peaks(&device, FEW, &settings);
        let many = peaks(&device, MANY, &settings);
        println!("{compute:?}: {few:?} bytes for {FEW} tokens, {many:?} for {MANY}");
        // More tokens have more losses, gradients of hidden states, and copies of these on the way.
        let results = (MANY - FEW) * (4 * HIDDEN + 64) * 4;
        for (few, many) in few.into_iter().zip(many) {
            assert!(
                many < few + results + 4096,
                "{compute:?}: {few} bytes for {FEW} tokens, {many} for {MANY}"
            );
        }
        if device == Device::flex() {
            continue;
        }
        let stated = workspace_bytes(MANY, HIDDEN, VOCABULARY, true, &settings);
        let head = VOCABULARY * HIDDEN * (4 + compute.dtype().size());
        let own = MANY * (HIDDEN * 4 + 64);
        assert!(
            many[1] <= stated + head + own + 4096,
            "{compute:?}: {} bytes, stated {stated}",
            many[1]
        );
    }
    // Nothing was read: SwiftShader crashes where a program ends while it still compiles.
    device.sync().expect("the device works");
}
