//! Attention as operations of a Burn backend.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, backend_extension};
use burn_cubecl::CubeBackend;

use super::Tier;
use super::launch::{self, Operands};
#[cfg(feature = "fusion")]
use crate::gpu::spec;
#[cfg(feature = "fusion")]
use burn::backend::DType;

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
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait AttentionBackend: Backend {
    /// The result, laid out `[B, T, heads, V]`, and log-sum-exps `[B, heads, T]`, f32.
    #[fusion(meta = |query, _, value, _, _| {
        let [batch, heads, time] = [query.shape[0], query.shape[1], query.shape[2]];
        (spec::floats([batch, time, heads, value.shape[3]]), spec::floats([batch, heads, time]))
    })]
    fn attention_forward(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        starts: IntTensor<Self>,
        rule: Rule,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Gradients of query, key and value, f32, from `dy` and `y` `[B, T, heads, V]`, f32.
    #[fusion(meta = |_, _, _, query, key, value, _, _| (
        spec::like(query, DType::F32),
        spec::like(key, DType::F32),
        spec::like(value, DType::F32),
    ))]
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
    #[fusion(meta = |_| spec::integers([1, 1]))]
    fn attention_no_starts(like: FloatTensor<Self>) -> IntTensor<Self>;
}

impl AttentionBackend for CubeBackend {
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
