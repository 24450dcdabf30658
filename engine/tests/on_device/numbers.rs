//! Values on the host, and how near they must be.

use burn::tensor::Tensor;

/// Differences allowed between two ways to compute the same in f32, relative to the norm.
pub const TOLERANCE: f64 = 1e-5;

/// The values of `tensor`.
pub fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.without_autodiff().into_data().convert::<f32>();
    data.try_into_vec::<f32>().expect("converted to f32")
}

/// The bits of `values`: NaN equals itself, and 0 is not -0.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// `‖found − wanted‖ / ‖wanted‖`, or ‖found − wanted‖ where `wanted` is near zero.
pub fn distance(found: &[f32], wanted: &[f32]) -> f64 {
    assert_eq!(found.len(), wanted.len(), "number of values");
    let norm = |values: &mut dyn Iterator<Item = f64>| -> f64 {
        values.map(|value| value * value).sum::<f64>().sqrt()
    };
    let pairs = found.iter().zip(wanted);
    let gap = norm(&mut pairs.map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let size = norm(&mut wanted.iter().map(|value| f64::from(*value)));
    if size < 1e-3 { gap } else { gap / size }
}

/// Asserts that `found` is `wanted` up to rounding. NaN fails.
pub fn assert_close(what: &str, found: &[f32], wanted: &[f32]) {
    let distance = distance(found, wanted);
    assert!(distance <= TOLERANCE, "{what} is off by {distance:e}");
}

/// Asserts that `found` is `wanted` up to rounding. NaN fails.
pub fn assert_near(what: &str, found: f64, wanted: f64) {
    let near = (found - wanted).abs() <= TOLERANCE * wanted.abs().max(1e-2);
    assert!(near, "{what} is {found}, expected {wanted}");
}
