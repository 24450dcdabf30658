//! Embedding in plain tensor operations.

use burn::tensor::{Int, Tensor};

/// The rows `ids` of `weight` `[V, H]`, f32.
pub fn rows(weight: Tensor<2>, ids: Tensor<1, Int>) -> Tensor<2> {
    weight.select(0, ids)
}
