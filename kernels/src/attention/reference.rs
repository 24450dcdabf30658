//! Attention in plain tensor operations, a block of queries at a time against the keys that they may
//! see.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;

/// Queries of a block. Smaller ones compute less above the diagonal, larger ones multiply better. 64
/// is a choice between the two, not the outcome of a measurement.
pub const BLOCK: usize = 64;

/// Folds the query heads of a group into its rows: `[B, groups · n, T, w]` to
/// `[B, groups, n · T, w]`, so that keys and values are never repeated.
fn fold(x: Tensor<4>, groups: usize) -> Tensor<4> {
    let [batch, heads, time, width] = x.dims();
    x.reshape([batch, groups, heads / groups * time, width])
}

/// First query, queries, and keys seen, of each block.
fn blocks(time: usize, length: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..time).step_by(BLOCK).map(move |start| {
        let rows = BLOCK.min(time - start);
        (start, rows, length - time + start + rows)
    })
}

/// Returns the result `[B, heads, T, V]` and the probabilities of each block of queries,
/// `[B, heads, rows, keys seen]`.
pub fn forward(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: Tensor<4>,
    scale: f64,
) -> (Tensor<4>, Vec<Tensor<4>>) {
    let [batch, heads, time, _] = query.dims();
    let [_, groups, length, value_width] = value.dims();
    let (mut outputs, mut kept) = (Vec::new(), Vec::new());
    for (start, rows, seen) in blocks(time, length) {
        let rows_mask = mask.clone().narrow(2, start, rows).narrow(3, 0, seen);
        let rows_query = query.clone().narrow(2, start, rows).mul_scalar(scale);
        let scores = fold(rows_query, groups)
            .matmul(key.clone().narrow(2, 0, seen).swap_dims(2, 3))
            .reshape([batch, heads, rows, seen])
            .add(rows_mask);
        let probabilities = softmax(scores, 3);
        let y = fold(probabilities.clone(), groups).matmul(value.clone().narrow(2, 0, seen));
        outputs.push(y.reshape([batch, heads, rows, value_width]));
        kept.push(probabilities);
    }
    (Tensor::cat(outputs, 2), kept)
}

/// Gradients of query, key and value from that of the result; `probabilities` as `forward` gave
/// them.
pub fn backward(
    dy: Tensor<4>,
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    probabilities: Vec<Tensor<4>>,
    scale: f64,
) -> (Tensor<4>, Tensor<4>, Tensor<4>) {
    let [batch, heads, time, width] = query.dims();
    let [_, groups, length, value_width] = value.dims();
    let device = query.device();
    let mut dkey = Tensor::<4>::zeros([batch, groups, length, width], &device);
    let mut dvalue = Tensor::<4>::zeros([batch, groups, length, value_width], &device);
    let mut dqueries = Vec::new();
    let add = |sum: Tensor<4>, part: Tensor<4>, seen: usize| {
        if seen == length {
            return sum.add(part);
        }
        let head = sum.clone().narrow(2, 0, seen).add(part);
        Tensor::cat(vec![head, sum.narrow(2, seen, length - seen)], 2)
    };
    for ((start, rows, seen), p) in blocks(time, length).zip(probabilities) {
        let dy = fold(dy.clone().narrow(2, start, rows), groups);
        let seen_value = value.clone().narrow(2, 0, seen);
        let part = fold(p.clone(), groups).swap_dims(2, 3).matmul(dy.clone());
        dvalue = add(dvalue, part, seen);
        let dp = dy
            .matmul(seen_value.swap_dims(2, 3))
            .reshape([batch, heads, rows, seen]);
        // Softmax backward: P ⊙ (dP − Σ P ⊙ dP), the sum over the row.
        let weighted = p.clone().mul(dp);
        let row = weighted.clone().sum_dim(3);
        let dscores = fold(weighted.sub(p.mul(row)).mul_scalar(scale), groups);
        let dquery = dscores.clone().matmul(key.clone().narrow(2, 0, seen));
        dqueries.push(dquery.reshape([batch, heads, rows, width]));
        let part = dscores
            .swap_dims(2, 3)
            .matmul(fold(query.clone().narrow(2, start, rows), groups));
        dkey = add(dkey, part, seen);
    }
    (Tensor::cat(dqueries, 2), dkey, dvalue)
}
