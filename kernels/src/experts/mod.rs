//! The experts of a mixture, and the dense SwiGLU that shared experts and dense layers use.
//!
//! For token t with chosen experts e and weights w:
//! `y = Σ w · W_down[e] (silu(W_gate[e] x) ⊙ W_up[e] x)`.
//!
//! | tensor | shape |
//! | --- | --- |
//! | `x`, `y` | `[T, H]` |
//! | `weights` | `[T, k]` |
//! | `gate_up` | `[E, 2F, H]`: rows `0..F` gate, `F..2F` up |
//! | `down` | `[E, H, F]` |
//!
//! Only chosen experts are computed. Kept for backward: `x` (shared with the caller), the
//! pre-activation of every slot `[T · k, 2F]`, `weights` and the plan; the experts' outputs are
//! not: the gradient of a weight is `⟨W_downᵀ dy, activation⟩`.

pub mod reference;

use burn::tensor::Tensor;

use crate::routing::Plan;
use crate::vjp::custom_vjp;

/// Applies the chosen experts and combines their outputs. Shapes as in the module's table.
pub fn experts(
    x: Tensor<2>,
    weights: Tensor<2>,
    plan: &Plan,
    gate_up: Tensor<3>,
    down: Tensor<3>,
) -> Tensor<2> {
    let inputs = reference::Inputs {
        x: x.clone().without_autodiff(),
        weights: weights.clone().without_autodiff(),
        gate_up: gate_up.clone().without_autodiff(),
        down: down.clone().without_autodiff(),
    };
    let layout = reference::Layout::new(plan, &inputs.x.device());
    let (y, pre_activations) = reference::forward(&inputs, &layout);
    custom_vjp(
        [x.into(), weights.into(), gate_up.into(), down.into()],
        y,
        move |dy, needs| {
            let gradients = reference::backward(dy, &inputs, &layout, pre_activations);
            [
                needs[0].then(|| gradients.x.into()),
                needs[1].then(|| gradients.weights.into()),
                needs[2].then(|| gradients.gate_up.into()),
                needs[3].then(|| gradients.down.into()),
            ]
        },
    )
}

/// `silu(gate) ⊙ up`, any equal shapes. Kept for backward: both inputs.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    let (g, u) = (
        gate.clone().without_autodiff(),
        up.clone().without_autodiff(),
    );
    let y = reference::swiglu(g.clone(), u.clone());
    custom_vjp([gate.into(), up.into()], y, move |dy, _| {
        let (dgate, dup) = reference::swiglu_backward(dy, g, u);
        [Some(dgate.into()), Some(dup.into())]
    })
}
