//! Linear cross-entropy as operations of a Burn backend.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, backend_extension};
use burn_cubecl::CubeBackend;

use super::Settings;
use super::launch;
#[cfg(feature = "fusion")]
use crate::gpu::spec;
#[cfg(feature = "fusion")]
use burn::backend::DType;

/// Forward and backward passes without autodiff. At least one token, hidden feature and entry of
/// the vocabulary. `hidden`, `head` and `labels` as in the family's table.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait CrossEntropyBackend: Backend {
    /// Losses and log-sum-exps `[N]`, f32.
    #[fusion(meta = |hidden, _, _, _| {
        (spec::floats([hidden.shape[0]]), spec::floats([hidden.shape[0]]))
    })]
    fn cross_entropy_forward(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        labels: IntTensor<Self>,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Gradients of `hidden` and `head`, f32, from the log-sum-exps `[N]` and `slopes` `[2, N]`: the
    /// gradient of the loss, and that of loss and log-sum-exp together. That of `head` is
    /// `head_sum` with it added where `accumulate` says so, else fresh.
    #[fusion(meta = |hidden, head, _, _, _, _, _, _| {
        (spec::like(hidden, DType::F32), spec::like(head, DType::F32))
    })]
    fn cross_entropy_backward(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        labels: IntTensor<Self>,
        log_sum_exp: FloatTensor<Self>,
        slopes: FloatTensor<Self>,
        head_sum: FloatTensor<Self>,
        accumulate: bool,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Losses, log-sum-exps, and the gradients of the objective as
    /// [`CrossEntropyBackend::cross_entropy_backward`] gives them.
    #[fusion(meta = |hidden, head, _, _, _, _, _| (
        spec::floats([hidden.shape[0]]),
        spec::floats([hidden.shape[0]]),
        spec::like(hidden, DType::F32),
        spec::like(head, DType::F32),
    ))]
    fn cross_entropy_both(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        labels: IntTensor<Self>,
        weights: FloatTensor<Self>,
        head_sum: FloatTensor<Self>,
        accumulate: bool,
        settings: Settings,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    );

    /// `gradient · factor / divisor`, f32, `factor` `[1]`: in place where nobody else holds it, and
    /// not at all where it is 1, which only the device knows.
    #[fusion(meta = |gradient, _, _| gradient.clone())]
    fn cross_entropy_scale(
        gradient: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        divisor: f64,
    ) -> FloatTensor<Self>;
}

impl CrossEntropyBackend for CubeBackend {
    fn cross_entropy_forward(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        labels: IntTensor<Self>,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        launch::forward(hidden, head, labels, &settings)
    }

    fn cross_entropy_backward(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        labels: IntTensor<Self>,
        log_sum_exp: FloatTensor<Self>,
        slopes: FloatTensor<Self>,
        head_sum: FloatTensor<Self>,
        accumulate: bool,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let sum = accumulate.then_some(head_sum);
        launch::backward(hidden, head, labels, log_sum_exp, slopes, sum, &settings)
    }

    fn cross_entropy_both(
        hidden: FloatTensor<Self>,
        head: FloatTensor<Self>,
        labels: IntTensor<Self>,
        weights: FloatTensor<Self>,
        head_sum: FloatTensor<Self>,
        accumulate: bool,
        settings: Settings,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        let sum = accumulate.then_some(head_sum);
        launch::both(hidden, head, labels, weights, sum, &settings)
    }

    fn cross_entropy_scale(
        gradient: FloatTensor<Self>,
        factor: FloatTensor<Self>,
        divisor: f64,
    ) -> FloatTensor<Self> {
        launch::scale(gradient, factor, divisor)
    }
}
