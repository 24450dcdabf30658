//! What attention takes on the device, in bytes of the allocator. Alone in its program: tests beside
//! it would allocate from the same pools.

#[path = "../on_device/device.rs"]
mod device;

use bellows_kernels::Compute;
use bellows_kernels::attention::{Settings, Visible, backward, forward};
use bellows_kernels::convert::convert;
use bellows_kernels::memory::peak_during;
use burn::tensor::{Device, Distribution, Tensor};

use device::test_device;

const HEADS: usize = 2;
const GROUPS: usize = 1;
const WIDTH: usize = 16;

#[test]
fn forward_and_backward_take_results_and_a_number_or_two_a_row_and_no_scores() {
    let Some(device) = test_device().filter(|device| *device != Device::flex()) else {
        return;
    };
    for compute in [Compute::F32, Compute::F16, Compute::Bf16] {
        if !compute.stored_by(&device) {
            println!("SKIPPED {compute:?}: the device does not store it");
            continue;
        }
        for time in [256, 1024] {
            let random = |heads: usize| {
                let values = Tensor::<4>::random(
                    [1, heads, time, WIDTH],
                    Distribution::Uniform(-1.0, 1.0),
                    &device,
                );
                convert(values, compute)
            };
            let (query, key, value) = (random(HEADS), random(GROUPS), random(GROUPS));
            let dy = Tensor::<4>::ones([1, time, HEADS, WIDTH], &device).swap_dims(1, 2);
            device.sync().expect("the device works");
            let before = device.memory_pool_usage().expect("pools").bytes_in_use;
            let settings = Settings {
                compute,
                ..Settings::default()
            };
            let (_, peak) = peak_during(&device, || {
                let pass = forward(query, key, value, &Visible::default(), 0.25, settings);
                backward(dy, pass.expect("a shape that kernels take"))
            });
            let row = time * WIDTH * 4;
            // y, dq, dk and dv; the log-sum-exps and Σ dy · y; dy in 16 bits.
            let results = row * (2 * HEADS + 2 * GROUPS);
            let numbers = 2 * time * HEADS * 4;
            let halves = match compute {
                Compute::F32 => 0,
                _ => row * HEADS / 2,
            };
            let most = results + numbers + halves;
            // Besides, a launch's own few parameters and alignment.
            assert!(
                peak.in_use - before <= most as u64 + 16384,
                "{compute:?}, {time} tokens: {} bytes, of which {most} have a name",
                peak.in_use - before
            );
        }
    }
    // Nothing was read: SwiftShader crashes where a program ends while it still compiles.
    device.sync().expect("the device works");
}
