//! The chain's own steps as operations of a Burn backend.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Cube, backend_extension};

use super::launch::{self, Sorted};

/// What links one iteration of a chain to the next, without autodiff.
#[backend_extension(Cube)]
pub trait ChainBackend: Backend {
    /// Logits `[T, E]` of tokens `[T, H]` by a router `[E, H]`, all f32.
    fn chain_logits(x: FloatTensor<Self>, router: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The next state `[T, H]` and its logits `[T, E]`, f32. `residual` counts where `added`.
    fn chain_combine(
        rows: FloatTensor<Self>,
        positions: IntTensor<Self>,
        weights: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        added: bool,
        router: FloatTensor<Self>,
        top_k: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// The gradient of a state `[T, H]`, f32. `residual` counts where `added`.
    fn chain_combine_backward(
        rows: FloatTensor<Self>,
        positions: IntTensor<Self>,
        residual: FloatTensor<Self>,
        added: bool,
        dlogits: FloatTensor<Self>,
        router: FloatTensor<Self>,
        top_k: usize,
    ) -> FloatTensor<Self>;

    /// Parts of the gradient of a router `[P, E, H]` from that of its logits and its input.
    fn chain_router_gradient(dlogits: FloatTensor<Self>, x: FloatTensor<Self>)
    -> FloatTensor<Self>;
}

impl ChainBackend for Cube {
    fn chain_logits(x: FloatTensor<Self>, router: FloatTensor<Self>) -> FloatTensor<Self> {
        launch::logits(x, router)
    }

    fn chain_combine(
        rows: FloatTensor<Self>,
        positions: IntTensor<Self>,
        weights: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        added: bool,
        router: FloatTensor<Self>,
        top_k: usize,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let sorted = Sorted {
            rows,
            positions,
            residual: added.then_some(residual),
            top_k,
        };
        launch::combine_logits(sorted, weights, router)
    }

    fn chain_combine_backward(
        rows: FloatTensor<Self>,
        positions: IntTensor<Self>,
        residual: FloatTensor<Self>,
        added: bool,
        dlogits: FloatTensor<Self>,
        router: FloatTensor<Self>,
        top_k: usize,
    ) -> FloatTensor<Self> {
        let sorted = Sorted {
            rows,
            positions,
            residual: added.then_some(residual),
            top_k,
        };
        launch::combine_gradient(sorted, dlogits, router)
    }

    fn chain_router_gradient(
        dlogits: FloatTensor<Self>,
        x: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        launch::router_gradient(dlogits, x)
    }
}
