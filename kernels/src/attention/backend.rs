//! Attention as operations of a Burn backend.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Cube, backend_extension};

use super::Tier;
use super::launch::{self, Operands};

/// What a launch depends on besides its tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Most positions that a query sees.
    pub window: u32,
    /// Whether `starts` counts; where it does not, it is any tensor.
    pub documents: bool,
    /// Factor of the scores.
    pub scale: f32,
    /// Whose tiles.
    pub tier: Tier,
}

/// Forward and backward without autodiff. `query` `[B, heads, T, D]`, `key` `[B, groups, S, D]`
/// and `value` `[B, groups, S, V]` have one type; D and V are multiples of 8 of at most
/// [`super::MAX_WIDTH`]. `starts` is `[B or 1, T]`. No axis is empty.
#[backend_extension(Cube)]
pub trait AttentionBackend: Backend {
    /// The result, laid out `[B, T, heads, V]`, and log-sum-exps `[B, heads, T]`, f32.
    fn attention_forward(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        starts: IntTensor<Self>,
        rule: Rule,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Gradients of query, key and value, f32, from `dy` and `y` `[B, T, heads, V]`, f32.
    fn attention_backward(
        dy: FloatTensor<Self>,
        y: FloatTensor<Self>,
        log_sums: FloatTensor<Self>,
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        starts: IntTensor<Self>,
        rule: Rule,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// A tensor for `starts` where nothing reads it.
    fn attention_no_starts(like: FloatTensor<Self>) -> IntTensor<Self>;
}

impl AttentionBackend for Cube {
    fn attention_forward(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        starts: IntTensor<Self>,
        rule: Rule,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        launch::forward(&Operands::new(query, key, value, starts, rule))
    }

    fn attention_backward(
        dy: FloatTensor<Self>,
        y: FloatTensor<Self>,
        log_sums: FloatTensor<Self>,
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        starts: IntTensor<Self>,
        rule: Rule,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let operands = Operands::new(query, key, value, starts, rule);
        launch::backward(dy, y, &log_sums, &operands)
    }

    fn attention_no_starts(like: FloatTensor<Self>) -> IntTensor<Self> {
        launch::no_starts(&like)
    }
}
