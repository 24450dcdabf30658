//! Masked softmax attention with grouped heads.
//!
//! | tensor | shape |
//! | --- | --- |
//! | `query` | `[B, heads, T, D]` |
//! | `key` | `[B, groups, S, D]` |
//! | `value` | `[B, groups, S, V]` |
//! | `mask` | `[B or 1, 1, T, S]`, added to the scores: 0 where visible, [`HIDDEN`] where not |
//!
//! Query head h reads group `h / (heads / groups)`. Attention is causal whatever the mask says: row
//! t sees at most the first `S − T + t + 1` positions, itself among them, and nothing is computed
//! for the others. Every row sees at least one position.
//! Kept for backward, here: the inputs and the probabilities of the positions that may be seen.

pub mod reference;

use burn::tensor::Tensor;

use crate::vjp::custom_vjp;

/// Added to the score of a hidden position: far below any score, and finite in f32, so that
/// differences of two of them stay numbers.
pub const HIDDEN: f32 = -1.0e30;

/// Attention over `key` and `value`, scores multiplied by `scale`; returns `[B, heads, T, V]`.
pub fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: Tensor<4>,
    scale: f64,
) -> Tensor<4> {
    let (q, k, v) = (
        query.clone().without_autodiff(),
        key.clone().without_autodiff(),
        value.clone().without_autodiff(),
    );
    let (y, blocks) = reference::forward(
        q.clone(),
        k.clone(),
        v.clone(),
        mask.without_autodiff(),
        scale,
    );
    custom_vjp([query.into(), key.into(), value.into()], y, move |dy, _| {
        let (dq, dk, dv) = reference::backward(dy, q, k, v, blocks, scale);
        [Some(dq.into()), Some(dk.into()), Some(dv.into())]
    })
}
