//! Linear cross-entropy in plain tensor operations, chunk by chunk.

use burn::tensor::{Int, Tensor};

/// Result of one pass, without autodiff.
#[derive(Debug)]
pub struct Pass {
    /// `Σ weightᵢ · lossᵢ` `[1]`.
    pub objective: Tensor<1>,
    /// Loss of each token `[N]`.
    pub losses: Tensor<1>,
    /// Gradients of the objective: hidden states `[N, H]` and head `[V, H]`.
    pub gradients: Option<(Tensor<2>, Tensor<2>)>,
}

/// Runs over `chunk` tokens at a time; `with_gradients` makes the gradients too.
pub fn run(
    hidden: Tensor<2>,
    head: Tensor<2>,
    labels: Tensor<1, Int>,
    weights: Tensor<1>,
    chunk: usize,
    with_gradients: bool,
) -> Pass {
    let [tokens, _] = hidden.dims();
    let mut losses = Vec::new();
    let mut dhidden = Vec::new();
    let mut dhead: Option<Tensor<2>> = None;
    for start in (0..tokens).step_by(chunk) {
        let length = chunk.min(tokens - start);
        let rows = hidden.clone().narrow(0, start, length);
        let label = labels
            .clone()
            .narrow(0, start, length)
            .unsqueeze_dim::<2>(1);
        let logits = rows.clone().matmul(head.clone().transpose());
        let shifted = logits.clone().sub(logits.max_dim(1));
        let exponentials = shifted.clone().exp();
        let sum = exponentials.clone().sum_dim(1);
        let shifted_target = shifted.gather(1, label.clone());
        losses.push(sum.clone().log().sub(shifted_target).squeeze_dim::<1>(1));
        if with_gradients {
            let weight = weights
                .clone()
                .narrow(0, start, length)
                .unsqueeze_dim::<2>(1);
            let dlogits = exponentials.mul(weight.clone().div(sum)).scatter(
                1,
                label,
                weight.neg(),
                burn::tensor::IndexingUpdateOp::Add,
            );
            dhidden.push(dlogits.clone().matmul(head.clone()));
            let part = dlogits.transpose().matmul(rows);
            dhead = Some(match dhead {
                Some(sum) => sum.add(part),
                None => part,
            });
        }
    }
    let losses = Tensor::cat(losses, 0);
    Pass {
        objective: losses.clone().mul(weights).sum(),
        losses,
        gradients: dhead.map(|dhead| (Tensor::cat(dhidden, 0), dhead)),
    }
}
