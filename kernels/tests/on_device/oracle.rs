//! Compares a function's result and gradients with those of an oracle.

use bellows_kernels::memcheck;
use burn::tensor::{Device, Tensor, TensorData};

/// Differences allowed, relative to the largest value of a tensor. Both sides sum at most some
/// hundreds of f32 products of order 1 in different orders; exponentials on a GPU may be off by a
/// few units in the last place more.
pub const TOLERANCE: f32 = 1e-5;

/// `count` values in [-1, 1), the same on every machine.
pub fn noise(seed: u64, count: usize) -> Vec<f32> {
    // SplitMix64.
    let mut state = seed.wrapping_mul(0x2545_F491_4F6C_DD1D);
    (0..count)
        .map(|_| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            (z >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// `values` in `shape` on `device`, between guard bands: from here on this test's buffers are
/// watched.
pub fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    memcheck::watch();
    memcheck::place(Tensor::from_data(TensorData::new(values, shape), device))
}

/// Asserts that nothing was written outside of a buffer so far in this test.
pub fn assert_within_buffers() {
    let (damage, buffers) = memcheck::damage();
    assert!(damage.is_empty(), "written out of bounds: {damage:#?}");
    // A test that goes on and on would read ever more of them.
    if buffers > 100 {
        memcheck::forget();
    }
}

/// The values of `tensor` on the host, once no guard band is damaged.
pub fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    assert_within_buffers();
    let data = tensor.without_autodiff().into_data().convert::<f32>();
    data.try_into_vec::<f32>().expect("converted to f32")
}

/// Asserts that two lists of values differ by at most `tolerance` times the largest of `wanted`.
pub fn assert_close(what: &str, found: &[f32], wanted: &[f32], tolerance: f32) {
    assert_eq!(found.len(), wanted.len(), "{what}: number of values");
    let largest = wanted
        .iter()
        .fold(1e-3f32, |most, value| most.max(value.abs()));
    for (index, (&found, &wanted)) in found.iter().zip(wanted).enumerate() {
        // Written so that NaN fails.
        let near = (found - wanted).abs() <= tolerance * largest;
        assert!(
            near,
            "{what}[{index}] is {found}, expected {wanted} (largest {largest})"
        );
    }
}

/// An input of the compared functions: name, shape and values.
pub struct Leaf {
    name: &'static str,
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl Leaf {
    /// Its values.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }
}

/// A leaf of given values.
pub fn leaf(name: &'static str, shape: &[usize], values: Vec<f32>) -> Leaf {
    assert_eq!(shape.iter().product::<usize>(), values.len(), "{name}");
    Leaf {
        name,
        shape: shape.to_vec(),
        values,
    }
}

/// A leaf of noise, which depends on its name.
pub fn noisy(name: &'static str, shape: &[usize]) -> Leaf {
    let seed = name
        .bytes()
        .fold(7, |seed: u64, byte| seed * 31 + u64::from(byte));
    leaf(name, shape, noise(seed, shape.iter().product()))
}

/// The leaves on one device, tracked.
pub struct Leaves {
    tensors: Vec<(Tensor<1>, Vec<usize>)>,
    /// Their device, without autodiff.
    pub device: Device,
}

impl Leaves {
    /// The leaf at `index`, in its shape.
    pub fn at<const D: usize>(&self, index: usize) -> Tensor<D> {
        let (tensor, shape) = &self.tensors[index];
        let shape: [usize; D] = shape.as_slice().try_into().expect("the leaf's rank");
        tensor.clone().reshape(shape)
    }
}

/// A function's result and the gradient of each leaf.
pub struct Outcome {
    pub result: Vec<f32>,
    pub gradients: Vec<Vec<f32>>,
}

/// Runs `function` forward and backward; the gradient of its result is noise, never ones, which
/// would hide a backward that forgets to multiply by it.
pub fn run<const D: usize>(
    leaves: &[Leaf],
    device: &Device,
    function: impl Fn(&Leaves) -> Tensor<D>,
) -> Outcome {
    let tracked = device.clone().autodiff();
    let on_device = Leaves {
        tensors: leaves
            .iter()
            .map(|leaf| {
                let count = leaf.values.len();
                let values = tensor(leaf.values.clone(), [count], &tracked).require_grad();
                (values, leaf.shape.clone())
            })
            .collect(),
        device: device.clone(),
    };
    let result = function(&on_device);
    let count = result.dims().iter().product();
    let upstream = tensor(noise(99, count), [count], device);
    let gradients = result
        .clone()
        .reshape([count])
        .mul(upstream)
        .sum()
        .backward();
    Outcome {
        result: host(result),
        gradients: on_device
            .tensors
            .iter()
            .zip(leaves)
            .map(|((tensor, _), leaf)| {
                let gradient = tensor.grad(&gradients);
                host(gradient.unwrap_or_else(|| panic!("{} has no gradient", leaf.name)))
            })
            .collect(),
    }
}

/// Asserts that `function` on `device` gives the result and gradients of `oracle` on the CPU, and
/// returns what it gave.
pub fn assert_equal<const D: usize, const O: usize>(
    leaves: &[Leaf],
    device: &Device,
    function: impl Fn(&Leaves) -> Tensor<D>,
    oracle: impl Fn(&Leaves) -> Tensor<O>,
) -> Outcome {
    let found = run(leaves, device, function);
    let wanted = run(leaves, &Device::flex(), oracle);
    assert_close("result", &found.result, &wanted.result, TOLERANCE);
    for (index, leaf) in leaves.iter().enumerate() {
        let what = format!("gradient of {}", leaf.name);
        let (found, wanted) = (&found.gradients[index], &wanted.gradients[index]);
        assert_close(&what, found, wanted, TOLERANCE);
    }
    found
}
