//! Attention in plain tensor operations, with the whole score matrix.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;

/// Folds the query heads of a group into its rows: `[B, groups · n, T, w]` to
/// `[B, groups, n · T, w]`, so that keys and values are never repeated.
fn fold(x: Tensor<4>, groups: usize) -> Tensor<4> {
    let [batch, heads, time, width] = x.dims();
    x.reshape([batch, groups, heads / groups * time, width])
}

/// Returns the result `[B, heads, T, V]` and the probabilities `[B, heads, T, S]`.
pub fn forward(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: Tensor<4>,
    scale: f64,
) -> (Tensor<4>, Tensor<4>) {
    let [batch, heads, time, _] = query.dims();
    let [_, groups, length, value_width] = value.dims();
    let scores = fold(query.mul_scalar(scale), groups)
        .matmul(key.swap_dims(2, 3))
        .reshape([batch, heads, time, length])
        .add(mask);
    let probabilities = softmax(scores, 3);
    let y = fold(probabilities.clone(), groups).matmul(value).reshape([
        batch,
        heads,
        time,
        value_width,
    ]);
    (y, probabilities)
}

/// Gradients of query, key and value from that of the result.
pub fn backward(
    dy: Tensor<4>,
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    probabilities: Tensor<4>,
    scale: f64,
) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
    let [batch, heads, time, width] = query.dims();
    let [_, groups, length, _] = value.dims();
    let dy = fold(dy, groups);
    let dvalue = fold(probabilities.clone(), groups)
        .swap_dims(2, 3)
        .matmul(dy.clone());
    let dprobabilities = dy
        .matmul(value.swap_dims(2, 3))
        .reshape([batch, heads, time, length]);
    // Softmax backward: P ⊙ (dP − Σ P ⊙ dP), the sum over the row.
    let weighted = probabilities.clone().mul(dprobabilities);
    let row = weighted.clone().sum_dim(3);
    let dscores = fold(
        weighted.sub(probabilities.mul(row)).mul_scalar(scale),
        groups,
    );
    let dquery = dscores
        .clone()
        .matmul(key)
        .reshape([batch, heads, time, width]);
    let dkey = dscores.swap_dims(2, 3).matmul(fold(query, groups));
    (dquery, dkey, dvalue)
}
