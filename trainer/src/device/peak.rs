//! What a device reaches at its best: the measure of how busy a model keeps it.

use std::time::{Duration, Instant};

use burn::tensor::{DType, Device, Tensor};

use super::contain::contain;

/// A product that takes so long is timed well, on a processor as on a large GPU.
const LONG_ENOUGH: Duration = Duration::from_millis(15);

/// Edges of the matrices. The largest is 256 MiB a matrix.
const EDGES: [usize; 6] = [256, 512, 1024, 2048, 4096, 8192];

/// Products timed at the last size; the best one counts.
const ROUNDS: usize = 3;

/// Floating-point operations a second of a large matrix product in `precision` (`f32`, `f16` or
/// `bf16`); `None` where the device fails at
/// it, which is no reason not to train.
pub fn measure(device: &Device, precision: &str) -> Option<f64> {
    let dtype = match precision {
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        _ => DType::F32,
    };
    contain(|| {
        let mut best = 0f64;
        for edge in EDGES {
            let (rate, taken) = (0..ROUNDS).map(|_| product(edge, dtype, device)).fold(
                (0f64, Duration::ZERO),
                |best, round| {
                    if round.0 > best.0 { round } else { best }
                },
            );
            best = best.max(rate);
            if taken >= LONG_ENOUGH {
                break;
            }
        }
        best
    })
    .ok()
    .filter(|rate| rate.is_finite() && *rate > 0.0)
}

/// Rate and time of one product, the device's queue empty before and after.
fn product(edge: usize, dtype: DType, device: &Device) -> (f64, Duration) {
    let matrix = Tensor::<2>::ones([edge, edge], device).cast(dtype);
    wait(matrix.clone());
    let began = Instant::now();
    wait(matrix.clone().matmul(matrix));
    let taken = began.elapsed();
    (
        2.0 * (edge as f64).powi(3) / taken.as_secs_f64().max(1e-9),
        taken,
    )
}

/// Reads one element back, which waits for the rest.
fn wait(matrix: Tensor<2>) {
    let _ = matrix.slice([0..1, 0..1]).into_data();
}
