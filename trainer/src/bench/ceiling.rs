//! What a device multiplies at its best.

use bellows_engine::kernels::Compute;
use burn::tensor::Device;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::throughput::compute_throughput_key;

use super::tiles::rate;
use crate::device::contain;

/// Edges of the products that are timed, the longest last; the first that takes this many seconds
/// is the last one.
const EDGES: [usize; 4] = [512, 1024, 4096, 8192];
const LONG_ENOUGH: f64 = 5e-3;

/// Operations a second that `device` reaches with operands of type `compute`: the best of its units
/// multiplying what is in registers already, in f32 and, where it has them, as cooperative matrices,
/// and of a large product of the kernels. `None` where all of these fail.
pub fn ceiling(device: &Device, compute: Compute) -> Option<f64> {
    let kind = match compute {
        Compute::F32 => FloatKind::F32,
        Compute::F16 => FloatKind::F16,
        Compute::Bf16 => FloatKind::BF16,
    };
    let (operand, sum) = (ElemType::Float(kind), ElemType::Float(FloatKind::F32));
    let matrix = (compute != Compute::F32).then_some((16, 16, 16));
    let keys = [
        compute_throughput_key(None, operand, sum),
        compute_throughput_key(matrix, operand, sum),
    ];
    let stats = contain(|| device.performance_stats(&keys)).unwrap_or_default();
    let in_registers = stats
        .iter()
        .filter_map(|stat| stat.value.as_ref().ok())
        .map(|value| value.ops_per_s());
    let best = in_registers
        .chain(product(device, compute))
        .filter(|rate| rate.is_finite())
        .fold(0.0, f64::max);
    (best > 0.0).then_some(best)
}

/// The rate of a large product of the kernels.
fn product(device: &Device, compute: Compute) -> Option<f64> {
    let mut best: Option<f64> = None;
    for edge in EDGES {
        let found = contain(|| rate(edge, compute, device, 3).ok()).ok()??;
        best = Some(best.map_or(found, |best| best.max(found)));
        if 2.0 * (edge as f64).powi(3) / found > LONG_ENOUGH {
            break;
        }
    }
    best
}
