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
//! pre-activation of every slot `[T · k, 2F]` in the compute type, `weights` and the plan; the
//! experts' outputs are not: the gradient of a weight is `⟨W_downᵀ dy, activation⟩` (as in
//! SonicMoE). With [`Settings::recompute`] the pre-activation is not kept either.
//!
//! The kernels read rows of `x` by index as they multiply, apply SwiGLU to the sums before these
//! leave the registers, and add a token's rows in the order of its choices. In backward the
//! gradient of the pre-activation takes the pre-activation's memory, and the gradients of SwiGLU
//! and of the weights come out of the same product. Everything a launch depends on is known
//! without reading the plan back.

mod backend;
mod dense;
mod device;
mod fused;
mod launch;
pub mod reference;

pub use dense::SwigluBackend;
pub use fused::{ForwardPass, Gradients, WeightSums, backward, forward};
pub(crate) use fused::{
    Matrices, RowGradients, Rows, combine, rows, rows_backward, weight_gradients,
};

use burn::tensor::Tensor;

use crate::calls::{Path, note};
use crate::memory::own_gradient;
use crate::routing::Plan;
use crate::vjp::{Accumulator, custom_vjp};
use crate::{Compute, Kernels};

/// How [`experts`] computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Whose kernels.
    pub kernels: Kernels,
    /// The type of the matrices' copies and of what is kept; the reference takes f32 alone.
    pub compute: Compute,
    /// Compute the pre-activation again in backward instead of keeping it.
    pub recompute: bool,
}

/// Applies the chosen experts and combines their outputs. Shapes as in the module's table.
///
/// `gate_up` and `down` may hold more blocks than the plan has experts: the further ones are
/// shared experts, which see every token with weight 1.
pub fn experts(
    x: Tensor<2>,
    weights: Tensor<2>,
    plan: &Plan,
    gate_up: Tensor<3>,
    down: Tensor<3>,
    settings: Settings,
) -> Tensor<2> {
    let inputs = reference::Inputs {
        x: x.clone().without_autodiff(),
        weights: weights.clone().without_autodiff(),
        gate_up: gate_up.clone().without_autodiff(),
        down: down.clone().without_autodiff(),
    };
    let tracked = [x.into(), weights.into(), gate_up.into(), down.into()];
    let computes = fused::computes(&inputs.x, settings.kernels);
    note("experts", Path::of(computes));
    if computes {
        let plan = plan.clone();
        let pass = forward(&inputs, &plan, None, settings);
        let kept = pass.kept;
        return custom_vjp(tracked, pass.y, move |dy, needs| {
            let gradients = backward(dy, &inputs, &plan, kept, None, settings);
            pick(gradients, needs)
        });
    }
    let layout = reference::Layout::new(plan, &inputs.x.device());
    let (y, pre_activations) = reference::forward(&inputs, &layout);
    custom_vjp(tracked, y, move |dy, needs| {
        let gradients = reference::backward(dy, &inputs, &layout, pre_activations);
        pick(gradients, needs)
    })
}

/// Sums of the experts' weight gradients over several backward passes.
pub type WeightAccumulator = Accumulator<WeightSums>;

/// [`experts`] whose backward adds the weights' gradients into `sums` instead of handing them to
/// autodiff. Gradients of `x` and `weights` go the usual way.
pub fn experts_into(
    x: Tensor<2>,
    weights: Tensor<2>,
    plan: &Plan,
    gate_up: Tensor<3>,
    down: Tensor<3>,
    settings: Settings,
    sums: &WeightAccumulator,
) -> Tensor<2> {
    let inputs = reference::Inputs {
        x: x.clone().without_autodiff(),
        weights: weights.clone().without_autodiff(),
        gate_up: gate_up.without_autodiff(),
        down: down.without_autodiff(),
    };
    let tracked = [x.into(), weights.into()];
    let sums = sums.clone();
    let computes = fused::computes(&inputs.x, settings.kernels);
    note("experts", Path::of(computes));
    if computes {
        let plan = plan.clone();
        let pass = forward(&inputs, &plan, None, settings);
        let kept = pass.kept;
        return custom_vjp(tracked, pass.y, move |dy, _| {
            let before = sums.take();
            let gradients = backward(dy, &inputs, &plan, kept, before, settings);
            own_gradient(&gradients.gate_up);
            own_gradient(&gradients.down);
            sums.put(WeightSums {
                gate_up: gradients.gate_up,
                down: gradients.down,
            });
            [Some(gradients.x.into()), Some(gradients.weights.into())]
        });
    }
    let layout = reference::Layout::new(plan, &inputs.x.device());
    let (y, pre_activations) = reference::forward(&inputs, &layout);
    custom_vjp(tracked, y, move |dy, _| {
        let gradients = reference::backward(dy, &inputs, &layout, pre_activations);
        let added = match sums.take() {
            None => WeightSums {
                gate_up: gradients.gate_up,
                down: gradients.down,
            },
            Some(before) => WeightSums {
                gate_up: before.gate_up.add(gradients.gate_up),
                down: before.down.add(gradients.down),
            },
        };
        sums.put(added);
        [Some(gradients.x.into()), Some(gradients.weights.into())]
    })
}

fn pick(gradients: Gradients, needs: [bool; 4]) -> [Option<crate::vjp::AnyTensor>; 4] {
    own_gradient(&gradients.gate_up);
    own_gradient(&gradients.down);
    [
        needs[0].then(|| gradients.x.into()),
        needs[1].then(|| gradients.weights.into()),
        needs[2].then(|| gradients.gate_up.into()),
        needs[3].then(|| gradients.down.into()),
    ]
}

/// `silu(gate) ⊙ up`, any equal shapes. Kept for backward: both inputs, whose memory the kernel's
/// gradients take where nobody else holds it.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>, kernels: Kernels) -> Tensor<D> {
    let (g, u) = (
        gate.clone().without_autodiff(),
        up.clone().without_autodiff(),
    );
    let fused = kernels == Kernels::Fused && dense::computes(&g);
    note("swiglu", Path::of(fused));
    let y = match fused {
        true => dense::swiglu_forward(g.clone(), u.clone()),
        false => reference::swiglu(g.clone(), u.clone()),
    };
    custom_vjp([gate.into(), up.into()], y, move |dy, _| {
        let (dgate, dup) = match fused {
            true => dense::swiglu_backward(dy, g, u),
            false => reference::swiglu_backward(dy, g, u),
        };
        [Some(dgate.into()), Some(dup.into())]
    })
}
