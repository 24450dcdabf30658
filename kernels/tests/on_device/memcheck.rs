//! The memory checks themselves: what they are for must not slip past them.

use bellows_kernels::memcheck::{damage, memory, place, place_integers, watch, with_bounds_checks};
use bellows_kernels::norm::rms_norm;
use bellows_kernels::{Compute, Kernels, convert};
use burn::tensor::{Device, Int, Tensor};
use cubecl::prelude::*;

use crate::device::test_device;
use crate::oracle::{host, noise, tensor};

fn gpu() -> Option<Device> {
    test_device().filter(|device| *device != Device::flex())
}

#[test]
fn values_stay_what_they_are_between_bands_of_any_alignment() {
    let Some(device) = gpu() else { return };
    for count in [1, 3, 255, 256, 1025] {
        let values = noise(count as u64, count);
        assert_eq!(host(tensor(values.clone(), [count], &device)), values);
        if Compute::F16.stored_by(&device) {
            let halves = convert::convert(tensor(values, [count], &device), Compute::F16);
            let (before, after) = (host(halves.clone()), host(place(halves)));
            assert_eq!(before, after);
        }
        let numbers: Vec<i32> = (0..count as i32).collect();
        let integers = Tensor::<1, Int>::from_data(numbers.as_slice(), &device);
        let placed: Vec<i32> = place_integers(integers).into_data().iter().collect();
        assert_eq!(placed, numbers);
    }
}

#[cube(launch)]
fn scribble(out: &mut [f32], at: usize) {
    if ABSOLUTE_POS == 0 {
        out[at] = 1.0f32;
    }
}

/// Writes to the first or last bytes of the memory that `victim` is a slice of.
fn scribble_around(victim: Tensor<1>, behind: bool) {
    let (client, whole) = memory(victim).expect("a tensor on a CubeCL device");
    let length = whole.size() as usize / 4;
    let at = if behind { length - 1 } else { 0 };
    // SAFETY: `length` is that of the memory, and `at` below it.
    let out = unsafe { BufferArg::from_raw_parts(whole, length) };
    let one = CubeCount::Static(1, 1, 1);
    scribble::launch(&client, one, CubeDim::new_1d(32), out, at);
}

#[test]
fn a_write_before_or_behind_a_buffer_is_found() {
    let Some(device) = gpu() else { return };
    watch();
    for behind in [false, true] {
        let (clean, before) = damage();
        assert!(clean.len() == usize::from(behind), "{clean:?}");
        let victim = place(Tensor::<1>::zeros([16], &device));
        let (_, buffers) = damage();
        assert_eq!(buffers, before + 1);
        scribble_around(victim, behind);
        let (found, _) = damage();
        assert_eq!(found.len(), 1 + usize::from(behind), "{found:?}");
    }
}

#[test]
fn a_fresh_buffer_holds_no_numbers_until_a_kernel_writes_it() {
    let Some(device) = gpu() else { return };
    watch();
    let before = damage().1;
    let x = tensor(noise(1, 24), [4, 6], &device);
    let weight = tensor(vec![1.0; 6], [6], &device);
    let y = rms_norm(x, weight, 1e-5, Kernels::Fused);
    assert!(host(y).iter().all(|value| value.is_finite()));
    // Two inputs and at least the result.
    assert!(damage().1 >= before + 3);
}

#[test]
fn checked_kernels_are_another_compilation_with_the_same_result() {
    let Some(device) = gpu() else { return };
    let x = tensor(noise(2, 30), [5, 6], &device);
    let weight = tensor(noise(3, 6), [6], &device);
    let run = || host(rms_norm(x.clone(), weight.clone(), 1e-5, Kernels::Fused));
    assert_eq!(run(), with_bounds_checks(run));
}
