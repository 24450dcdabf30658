//! Shapes and types of what the kernels give, told to Burn's fusion before they run.

use burn::backend::fusion::custom::TensorSpec;
use burn::backend::{DType, Shape};

fn of<const D: usize>(shape: [usize; D], dtype: DType) -> TensorSpec {
    TensorSpec::new(Shape::from(shape.to_vec()), dtype)
}

/// A tensor of f32.
pub fn floats<const D: usize>(shape: [usize; D]) -> TensorSpec {
    of(shape, DType::F32)
}

/// A tensor of i32.
pub fn integers<const D: usize>(shape: [usize; D]) -> TensorSpec {
    of(shape, DType::I32)
}

/// A tensor in the shape of another.
pub fn like(tensor: &TensorSpec, dtype: DType) -> TensorSpec {
    TensorSpec::new(tensor.shape.clone(), dtype)
}

/// A number for each row of `x`, whose rows are as long as `weight`.
pub fn norms(x: &TensorSpec, weight: &TensorSpec) -> TensorSpec {
    floats([x.shape.num_elements() / weight.shape.num_elements()])
}

/// A plan's chosen, offsets, slots and positions.
pub fn plan(experts: usize, slots: usize) -> (TensorSpec, TensorSpec, TensorSpec, TensorSpec) {
    (
        integers([experts]),
        integers([experts + 1]),
        integers([slots]),
        integers([slots]),
    )
}

/// Rows of experts `[rows, H]`, their pre-activation `[rows, 2F]` and activation `[rows, F]`, from
/// `x` `[T, H]`, `offsets` `[E + 1]`, `slots` `[T · k]` and `gate_up` `[G, 2F, H]`.
pub fn rows(
    x: &TensorSpec,
    offsets: &TensorSpec,
    slots: &TensorSpec,
    gate_up: &TensorSpec,
    dtype: DType,
) -> [TensorSpec; 3] {
    let shared = gate_up.shape[0] - (offsets.shape[0] - 1);
    let rows = slots.shape[0] + shared * x.shape[0];
    let inner = gate_up.shape[1] / 2;
    [x.shape[1], 2 * inner, inner].map(|width| of([rows, width], dtype))
}
