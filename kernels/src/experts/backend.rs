//! The experts as operations of a Burn backend.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, backend_extension};
use burn_cubecl::CubeBackend;

use super::Settings;
pub use super::launch::Combine;
use super::launch::{self, Operands, Sums};
#[cfg(feature = "fusion")]
use crate::gpu::spec;
#[cfg(feature = "fusion")]
use burn::backend::DType;

/// Forward and backward of the experts, without autodiff.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait ExpertsBackend: Backend {
    /// Returns every sorted row's output `[rows, H]` and pre-activation `[rows, 2F]`, both in the
    /// compute type.
    #[fusion(meta = |x, offsets, slots, gate_up, _, settings| {
        let [rows, pre, _] = spec::rows(x, offsets, slots, gate_up, settings.compute.dtype());
        (rows, pre)
    })]
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
    #[fusion(meta = |rows, positions, _, _, how| {
        spec::floats([positions.shape[0] / how.top_k, rows.shape[1]])
    })]
    fn experts_combine(
        rows: FloatTensor<Self>,
        positions: IntTensor<Self>,
        weights: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        how: Combine,
    ) -> FloatTensor<Self>;

    /// From the gradient of the sums `[T, H]` in the compute type: that of every row that was
    /// read `[rows, H]`, in the compute type, of `weights`, f32, and for
    /// [`ExpertsBackend::experts_weight_gradients`] that of the pre-activation and the weighted
    /// activation, in the compute type. `pre` counts where `kept`.
    #[fusion(meta = |_, x, _, offsets, slots, _, gate_up, _, _, _, settings| {
        let [rows, pre, activation] =
            spec::rows(x, offsets, slots, gate_up, settings.compute.dtype());
        let tokens = x.shape[0];
        (rows, spec::floats([tokens, slots.shape[0] / tokens]), pre, activation)
    })]
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
        settings: Settings,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    );

    /// The gradients of `gate_up` and `down`, f32: the given sums with the gradients added where
    /// `accumulate` says so, else fresh.
    #[fusion(meta = |_, _, _, _, gate_up, down, _, _, _, _, _, _| {
        (spec::like(gate_up, DType::F32), spec::like(down, DType::F32))
    })]
    fn experts_weight_gradients(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        offsets: IntTensor<Self>,
        slots: IntTensor<Self>,
        gate_up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        pre: FloatTensor<Self>,
        activation: FloatTensor<Self>,
        gate_up_sum: FloatTensor<Self>,
        down_sum: FloatTensor<Self>,
        accumulate: bool,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl ExpertsBackend for CubeBackend {
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
        let gradients = launch::rows_backward(
            &dy,
            &operands,
            weights,
            &positions,
            kept.then_some(pre),
            settings.compute,
        );
        (
            gradients.rows,
            gradients.weights,
            gradients.pre,
            gradients.activation,
        )
    }

    fn experts_weight_gradients(
        dy: FloatTensor<Self>,
        x: FloatTensor<Self>,
        offsets: IntTensor<Self>,
        slots: IntTensor<Self>,
        gate_up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        pre: FloatTensor<Self>,
        activation: FloatTensor<Self>,
        gate_up_sum: FloatTensor<Self>,
        down_sum: FloatTensor<Self>,
        accumulate: bool,
        settings: Settings,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let operands = Operands {
            x,
            offsets,
            slots,
            gate_up,
            down,
        };
        let sums = accumulate.then_some(Sums {
            gate_up: gate_up_sum,
            down: down_sum,
        });
        let gradients =
            launch::weight_gradients(dy, &operands, pre, activation, sums, settings.compute);
        (gradients.gate_up, gradients.down)
    }
}
