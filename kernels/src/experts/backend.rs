//! The experts as operations of a Burn backend.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Cube, backend_extension};

use super::Settings;
pub use super::launch::Combine;
use super::launch::{self, Operands, Sums};

/// Forward and backward of the experts, without autodiff.
#[backend_extension(Cube)]
pub trait ExpertsBackend: Backend {
    /// Returns every sorted row's output `[rows, H]` and pre-activation `[rows, 2F]`, both in the
    /// compute type.
    fn experts_rows(
        x: FloatTensor<Self>,
        offsets: IntTensor<Self>,
        slots: IntTensor<Self>,
        gate_up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Returns each token's sum of its rows `[T, H]`, f32. Of `weights` and `residual`, what does
    /// not count is any tensor.
    fn experts_combine(
        rows: FloatTensor<Self>,
        positions: IntTensor<Self>,
        weights: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        how: Combine,
    ) -> FloatTensor<Self>;

    /// From the gradient of the sums: that of every row that was read `[rows, H]` in the compute
    /// type, then of `weights`, `gate_up` and `down`, f32; the latter two are the given sums with
    /// the gradient added where `accumulate` says so. `pre` counts where `kept`.
    fn experts_rows_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        offsets: IntTensor<Self>,
        slots: IntTensor<Self>,
        positions: IntTensor<Self>,
        gate_up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        pre: FloatTensor<Self>,
        kept: bool,
        gate_up_sum: FloatTensor<Self>,
        down_sum: FloatTensor<Self>,
        accumulate: bool,
        settings: Settings,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    );
}

impl ExpertsBackend for Cube {
    fn experts_rows(
        x: FloatTensor<Self>,
        offsets: IntTensor<Self>,
        slots: IntTensor<Self>,
        gate_up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let operands = Operands {
            x,
            offsets,
            slots,
            gate_up,
            down,
        };
        launch::forward(&operands, settings.compute)
    }

    fn experts_combine(
        rows: FloatTensor<Self>,
        positions: IntTensor<Self>,
        weights: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        how: Combine,
    ) -> FloatTensor<Self> {
        launch::combine(&rows, &positions, weights, residual, how)
    }

    fn experts_rows_backward(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        offsets: IntTensor<Self>,
        slots: IntTensor<Self>,
        positions: IntTensor<Self>,
        gate_up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        pre: FloatTensor<Self>,
        kept: bool,
        gate_up_sum: FloatTensor<Self>,
        down_sum: FloatTensor<Self>,
        accumulate: bool,
        settings: Settings,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    ) {
        let operands = Operands {
            x,
            offsets,
            slots,
            gate_up,
            down,
        };
        let gradients = launch::backward(
            dy,
            &operands,
            weights,
            &positions,
            kept.then_some(pre),
            accumulate.then_some(Sums {
                gate_up: gate_up_sum,
                down: down_sum,
            }),
            settings.compute,
        );
        (
            gradients.rows,
            gradients.weights,
            gradients.gate_up,
            gradients.down,
        )
    }
}
