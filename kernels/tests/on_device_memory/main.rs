//! What the experts keep for backward, in bytes of the allocator. Alone in its program: tests
//! beside it would allocate from the same pools.

#[path = "../on_device/device.rs"]
mod device;

use bellows_kernels::Compute;
use bellows_kernels::experts::reference::Inputs;
use bellows_kernels::experts::{Bank, Settings, forward, in_parts};
use bellows_kernels::routing::Plan;
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};

use device::test_device;

const TOKENS: usize = 512;
const HIDDEN: usize = 256;
const INNER: usize = 128;
const EXPERTS: usize = 4;
const TOP_K: usize = 2;

#[test]
fn the_pre_activation_in_the_compute_type_and_nothing_else() {
    let Some(device) = test_device().filter(|device| *device != Device::flex()) else {
        return;
    };
    let noise = Distribution::Uniform(-1.0, 1.0);
    let inputs = Inputs {
        x: Tensor::random([TOKENS, HIDDEN], noise, &device),
        weights: Tensor::random([TOKENS, TOP_K], noise, &device),
        experts: Bank::whole(
            Tensor::random([EXPERTS, 2 * INNER, HIDDEN], noise, &device),
            Tensor::random([EXPERTS, HIDDEN, INNER], noise, &device),
        ),
    };
    let choices: Vec<i32> = (0..TOKENS * TOP_K)
        .map(|slot| (slot % EXPERTS) as i32)
        .collect();
    let indices = Tensor::<2, Int>::from_data(TensorData::new(choices, [TOKENS, TOP_K]), &device);
    let plan = Plan::from_indices(indices, EXPERTS, None);
    let in_use = || {
        device.sync().expect("the device works");
        let usage = device.memory_pool_usage().expect("a device with pools");
        usage.bytes_in_use as usize
    };
    for compute in [Compute::F32, Compute::F16, Compute::Bf16] {
        if !compute.stored_by(&device) {
            println!("SKIPPED {compute:?}: the device does not store it");
            continue;
        }
        for recompute in [false, true] {
            let settings = Settings {
                compute,
                recompute,
                ..Settings::default()
            };
            let before = in_use();
            let pass = forward(&inputs, &plan, None, settings);
            let grown = in_use() - before;
            let y = TOKENS * HIDDEN * 4;
            let pre = TOKENS * TOP_K * 2 * INNER * compute.dtype().size();
            // A device that takes the rows in parts keeps it never.
            let keeps = !recompute && !in_parts(&device);
            let wanted = y + if keeps { pre } else { 0 };
            // Besides, a launch's own few parameters may still be in use.
            assert!(
                (wanted..wanted + 4096).contains(&grown),
                "{compute:?}, recompute {recompute}: {grown} bytes more in use, expected {wanted}"
            );
            drop(pass);
        }
    }
}
