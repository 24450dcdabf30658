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
//! The latter two are a [`Bank`]: in one buffer each, or in blocks of whole experts where a layer's
//! experts are larger than a buffer of the device. Rows are sorted by expert, so a block's are a run
//! of them: a product is then a launch a block, and its results the same bits.
//!
//! Only chosen experts are computed. Kept for backward: `x` (shared with the caller), the
//! pre-activation of every slot `[T · k, 2F]` in the compute type, `weights` and the plan; the
//! experts' outputs are not: the gradient of a weight is `⟨W_downᵀ dy, activation⟩` (as in
//! SonicMoE). With [`Settings::recompute`] the pre-activation is not kept either, nor on a driver
//! that computes on a processor, where rows are taken in parts ([`in_parts`]).
//!
//! The kernels read rows of `x` by index as they multiply, apply SwiGLU to the sums before these
//! leave the registers, and add a token's rows in the order of its choices. In backward the
//! gradient of the pre-activation takes the pre-activation's memory, and the gradients of SwiGLU
//! and of the weights come out of the same product. Everything a launch depends on is known
//! without reading the plan back.

mod bank;
mod dense;
mod device;
mod fused;
mod launch;
mod parts;
mod ready;
pub mod reference;

pub use bank::{Bank, Block, lengths};
pub use dense::SwigluBackend;
pub use fused::{ForwardPass, Gradients, backward, forward};
pub(crate) use fused::{RowGradients, Rows, combine, rows, rows_backward, weight_gradients};
pub use parts::{in_parts, part_rows};

use burn::tensor::Tensor;

use crate::calls::{Path, note};
use crate::memory::own_gradient;
use crate::routing::Plan;
use crate::vjp::{Accumulator, AnyTensor, Needs, custom_vjp};
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
/// `bank` may hold more experts than the plan has: the further ones are shared experts, which see
/// every token with weight 1.
pub fn experts(
    x: Tensor<2>,
    weights: Tensor<2>,
    plan: &Plan,
    bank: &Bank,
    settings: Settings,
) -> Tensor<2> {
    let (matrices, handover) = bank.bundle(&x.device());
    let tracked = [x.clone().into(), weights.clone().into(), matrices];
    run(
        x,
        weights,
        plan,
        bank,
        None,
        settings,
        tracked,
        |gradients, needs| {
            let Gradients {
                x,
                weights,
                experts,
            } = gradients;
            for gradient in experts.tensors() {
                own_gradient(gradient);
            }
            [
                needs[0].then(|| x.into()),
                needs[1].then(|| weights.into()),
                needs[2].then(|| handover.give(experts.into_gradients())),
            ]
        },
    )
}

/// Sums of the experts' weight gradients over several backward passes, f32 in the bank's blocks.
pub type WeightAccumulator = Accumulator<Bank>;

/// [`experts`] whose backward adds the weights' gradients into `sums`, f32 in the bank's blocks,
/// instead of handing them to autodiff. Gradients of `x` and `weights` go the usual way.
pub fn experts_into(
    x: Tensor<2>,
    weights: Tensor<2>,
    plan: &Plan,
    bank: &Bank,
    settings: Settings,
    sums: &WeightAccumulator,
) -> Tensor<2> {
    let tracked = [x.clone().into(), weights.clone().into()];
    let own = sums.clone();
    run(
        x,
        weights,
        plan,
        bank,
        Some(sums.clone()),
        settings,
        tracked,
        move |gradients, _| {
            for gradient in gradients.experts.tensors() {
                own_gradient(gradient);
            }
            own.put(gradients.experts);
            [Some(gradients.x.into()), Some(gradients.weights.into())]
        },
    )
}

/// Forward with a backward that adds to what `sums` holds, if there are any, and hands its gradients
/// to `deliver`.
fn run<const N: usize>(
    x: Tensor<2>,
    weights: Tensor<2>,
    plan: &Plan,
    bank: &Bank,
    sums: Option<WeightAccumulator>,
    settings: Settings,
    tracked: [AnyTensor; N],
    deliver: impl FnOnce(Gradients, Needs<N>) -> [Option<AnyTensor>; N] + Send + 'static,
) -> Tensor<2> {
    let inputs = reference::Inputs {
        x: x.without_autodiff(),
        weights: weights.without_autodiff(),
        experts: bank.without_autodiff(),
    };
    let computes = fused::computes(&inputs.x, settings.kernels);
    note("experts", Path::of(computes));
    let before = move || sums.as_ref().and_then(Accumulator::take);
    if computes {
        let plan = plan.clone();
        let pass = forward(&inputs, &plan, None, settings);
        let kept = pass.kept;
        return custom_vjp(tracked, pass.y, move |dy, needs| {
            let gradients = backward(dy, &inputs, &plan, kept, before(), settings);
            deliver(gradients, needs)
        });
    }
    let layout = reference::Layout::new(plan, &inputs.x.device());
    let (y, pre_activations) = reference::forward(&inputs, &layout);
    custom_vjp(tracked, y, move |dy, needs| {
        let mut gradients = reference::backward(dy, &inputs, &layout, pre_activations);
        if let Some(before) = before() {
            gradients.experts = before.add(gradients.experts);
        }
        deliver(gradients, needs)
    })
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
