//! Linear head and cross-entropy in one: no `[tokens, vocabulary]` buffer.
//!
//! | tensor | shape |
//! | --- | --- |
//! | `hidden` | `[N, H]` |
//! | `head` | `[V, H]` |
//! | `labels` | `[N]`, any label with weight 0 is ignored but must be within `0..V` |
//! | `weights` | `[N]` |
//!
//! The objective is `Σ weightᵢ · lossᵢ`. Logits exist for [`CHUNK`] tokens at a time. Where the
//! inputs are tracked, the gradients of `hidden` and `head` are made in the same pass, so backward
//! multiplies nothing again; kept for it: those two gradients.

pub mod reference;

use burn::tensor::{Int, Tensor};

use crate::calls::{Path, note};
use crate::vjp::custom_vjp;

/// Tokens whose logits exist at one time: the workspace is `CHUNK · V` values, three times.
pub const CHUNK: usize = 1024;

/// What [`linear_cross_entropy`] returns.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// `Σ weightᵢ · lossᵢ`, `[1]`, tracked.
    pub objective: Tensor<1>,
    /// Loss of each token, before its weight, `[N]`, in nat, without autodiff.
    pub losses: Tensor<1>,
}

/// Weighted cross-entropy of `head · hidden` against `labels`. Shapes as in the module's table.
pub fn linear_cross_entropy(
    hidden: Tensor<2>,
    head: Tensor<2>,
    labels: Tensor<1, Int>,
    weights: Tensor<1>,
) -> CrossEntropy {
    note("cross_entropy", Path::Reference);
    let tracked = hidden.is_tracked() || head.is_tracked();
    let (h, w) = (
        hidden.clone().without_autodiff(),
        head.clone().without_autodiff(),
    );
    let pass = reference::run(h, w, labels, weights, CHUNK, tracked);
    let objective = match pass.gradients {
        None => pass.objective,
        Some((dhidden, dhead)) => custom_vjp(
            [hidden.into(), head.into()],
            pass.objective,
            move |dy, needs| {
                [
                    needs[0].then(|| dhidden.mul(dy.clone().unsqueeze()).into()),
                    needs[1].then(|| dhead.mul(dy.unsqueeze()).into()),
                ]
            },
        ),
    };
    CrossEntropy {
        objective,
        losses: pass.losses,
    }
}
