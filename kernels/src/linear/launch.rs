//! One group of rows through the grouped products.

use burn::backend::{Backend, DType, DTypeUsage, Dispatch, TensorMetadata};
use burn::tensor::Device;
use burn_cubecl::tensor::CubeTensor;

use crate::Compute;
use crate::convert::convert_primitive as convert;
use crate::gpu::empty;
use crate::matmul::launch::{Stacked, gradient, rows};
use crate::matmul::{Access, Groups, Tier};
use crate::profile::stage;

/// Whether the kernels are the faster choice: cooperative matrices in this type, rows in pieces
/// of 16 bytes. Whether the device's subgroups allow it, [`Tier::of`] finds again.
pub(super) fn takes(device: &Device, compute: Compute, inputs: usize, outputs: usize) -> bool {
    compute != Compute::F32
        && inputs.is_multiple_of(8)
        && outputs.is_multiple_of(8)
        && Dispatch::dtype_usage(device.as_dispatch(), compute.dtype())
            .contains(DTypeUsage::Accelerated)
}

fn stacked(weight: CubeTensor) -> Stacked {
    Stacked {
        rows: weight.shape()[0],
        columns: weight.shape()[1],
        buffer: weight,
    }
}

/// `x` `[T, K]` by `weight` `[N, K]` to f32 `[T, N]`.
pub(super) fn forward(x: CubeTensor, weight: CubeTensor, compute: Compute) -> CubeTensor {
    let (x, weight) = (
        convert(x, compute.dtype()),
        convert(weight, compute.dtype()),
    );
    let (tokens, inputs) = (x.shape()[0], x.shape()[1]);
    let outputs = weight.shape()[0];
    let tier = Tier::of(&x, compute, &[inputs, outputs], tokens);
    let groups = Groups::dense(&x, tokens, tier.rows());
    let y = empty(&x, [tokens, outputs], DType::F32);
    let operations = 2.0 * tokens as f64 * inputs as f64 * outputs as f64;
    let weight = stacked(weight);
    stage(&x, "projection", operations, || {
        rows(&groups, tier, &x, Access::ROWS, &weight, Access::ROWS, &y);
    });
    y
}

/// Gradients of `x` and `weight`, f32.
pub(super) fn backward(
    dy: CubeTensor,
    x: CubeTensor,
    weight: CubeTensor,
    compute: Compute,
) -> (CubeTensor, CubeTensor) {
    let (tokens, inputs) = (x.shape()[0], x.shape()[1]);
    let outputs = weight.shape()[0];
    let dy = convert(dy, compute.dtype());
    let tier = Tier::of(&dy, compute, &[inputs, outputs], tokens);
    let groups = Groups::dense(&dy, tokens, tier.rows());
    let dx = empty(&dy, [tokens, inputs], DType::F32);
    let matrix = stacked(convert(weight, compute.dtype()));
    let operations = 2.0 * tokens as f64 * inputs as f64 * outputs as f64;
    stage(&dy, "projection, gradient of rows", operations, || {
        rows(
            &groups,
            tier,
            &dy,
            Access::ROWS,
            &matrix,
            Access::K_ROWS,
            &dx,
        );
    });
    let x = convert(x, compute.dtype());
    let dweight = empty(&dy, [outputs, inputs], DType::F32);
    stage(&dy, "projection, gradient of weights", operations, || {
        gradient(
            &groups,
            tier,
            &dy,
            Access::K_ROWS,
            outputs,
            outputs,
            &x,
            Access::K_ROWS,
            inputs,
            &dweight,
            false,
        );
    });
    (dx, dweight)
}
