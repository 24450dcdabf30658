//! The experts as operations of a Burn backend.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Cube, backend_extension};

use super::Settings;
use super::launch::{self, Operands, Sums};

/// Forward and backward of the experts, without autodiff.
#[backend_extension(Cube)]
pub trait ExpertsBackend: Backend {
    /// Returns `y` `[T, H]` f32 and the pre-activation `[rows, 2F]` in the compute type.
    fn experts_forward(
        x: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        offsets: IntTensor<Self>,
        slots: IntTensor<Self>,
        positions: IntTensor<Self>,
        gate_up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        with_residual: bool,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// Returns the gradients of `x`, `weights`, `gate_up` and `down`, f32; the latter two are the
    /// given sums with the gradient added where `accumulate` says so. `pre` counts where `kept`.
    fn experts_backward(
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
    fn experts_forward(
        x: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        offsets: IntTensor<Self>,
        slots: IntTensor<Self>,
        positions: IntTensor<Self>,
        gate_up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        with_residual: bool,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let operands = Operands {
            x,
            weights,
            offsets,
            slots,
            positions,
            gate_up,
            down,
        };
        launch::forward(
            &operands,
            with_residual.then_some(residual),
            settings.compute,
        )
    }

    fn experts_backward(
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
            weights,
            offsets,
            slots,
            positions,
            gate_up,
            down,
        };
        let gradients = launch::backward(
            dy,
            &operands,
            kept.then_some(pre),
            accumulate.then_some(Sums {
                gate_up: gate_up_sum,
                down: down_sum,
            }),
            settings.compute,
        );
        (
            gradients.x,
            gradients.weights,
            gradients.gate_up,
            gradients.down,
        )
    }
}
