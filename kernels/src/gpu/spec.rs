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
