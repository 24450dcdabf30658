//! A driver that computes wrong numbers is worse than none: before a device trains, it multiplies two
//! small matrices and the product is compared with the processor's.

use burn::tensor::{Device, Tensor, TensorData};

use super::contain::contain;

/// Sizes that no tile divides.
const ROWS: usize = 37;
const INNER: usize = 70;
const COLUMNS: usize = 41;

/// Multiplies on `device` and compares.
///
/// # Errors
/// What went wrong, in words.
pub fn multiplies(device: &Device) -> Result<(), String> {
    let value = |at: usize| ((at * 7 + 3) % 11) as f32 / 11.0 - 0.5;
    let left: Vec<f32> = (0..ROWS * INNER).map(value).collect();
    let right: Vec<f32> = (0..INNER * COLUMNS).map(|at| value(at + 5)).collect();
    let upload = |values: &[f32], shape: [usize; 2]| {
        Tensor::<2>::from_data(TensorData::new(values.to_vec(), shape), device)
    };
    let product = contain(|| {
        let left = upload(&left, [ROWS, INNER]);
        left.matmul(upload(&right, [INNER, COLUMNS]))
            .try_into_vec_as::<f32>()
    })?
    .map_err(|error| error.to_string())?;
    let mut worst = 0f32;
    for (at, &found) in product.iter().enumerate() {
        let (row, column) = (at / COLUMNS, at % COLUMNS);
        let terms = (0..INNER).map(|k| left[row * INNER + k] * right[k * COLUMNS + column]);
        let error = (found - terms.sum::<f32>()).abs();
        // A number that is not one must not pass for a small error.
        worst = if error.is_nan() {
            f32::INFINITY
        } else {
            worst.max(error)
        };
    }
    // Half precision inside the driver's multiply is within; zeros or garbage are not.
    if worst > 0.05 {
        return Err(format!(
            "it multiplies matrices wrongly (an element is off by {worst:.2})"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_agrees_with_itself() {
        assert_eq!(multiplies(&Device::flex()), Ok(()));
    }
}
