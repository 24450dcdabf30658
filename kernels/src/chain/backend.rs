//! The chain's own steps as operations of a Burn backend.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, backend_extension};
use burn_cubecl::CubeBackend;

use super::launch::{self, Sorted};
#[cfg(feature = "fusion")]
use crate::gpu::spec;

/// What links one iteration of a chain to the next, without autodiff.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait ChainBackend: Backend {
    /// Logits `[T, E]` of tokens `[T, H]` by a router `[E, H]`, all f32.
    #[fusion(meta = |x, router| spec::floats([x.shape[0], router.shape[0]]))]
    fn chain_logits(x: FloatTensor<Self>, router: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The next state `[T, H]` and its logits `[T, E]`, f32. `residual` counts where `added`.
    #[fusion(meta = |rows, positions, _, _, _, router, top_k| {
        let tokens = positions.shape[0] / top_k;
        (spec::floats([tokens, rows.shape[1]]), spec::floats([tokens, router.shape[0]]))
    })]
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
    #[fusion(meta = |rows, positions, _, _, _, _, top_k| {
        spec::floats([positions.shape[0] / top_k, rows.shape[1]])
    })]
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
    #[fusion(meta = |dlogits, x| {
        spec::floats([launch::parts(x.shape[0]), dlogits.shape[1], x.shape[1]])
    })]
    fn chain_router_gradient(dlogits: FloatTensor<Self>, x: FloatTensor<Self>)
    -> FloatTensor<Self>;
}

impl ChainBackend for CubeBackend {
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
