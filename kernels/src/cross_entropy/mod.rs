//! Linear head and cross-entropy in one: no `[tokens, vocabulary]` buffer.
//!
//! | tensor | shape |
//! | --- | --- |
//! | `hidden` | `[N, H]` |
//! | `head` | `[V, H]` |
//! | `labels` | `[N]`, `0..V`; a negative one, as [`IGNORE`], is ignored |
//! | `weights` | `[N]` |
//!
//! With `lossᵢ = logΣexpᵢ − logitᵢ[labelᵢ]` in nat, 0 where the label is ignored, the objective of
//! [`linear_cross_entropy`] is `Σ weightᵢ · (lossᵢ + z · logΣexpᵢ²)` over the tokens with a label.
//! Its gradients are made in the forward pass, where logits are at hand: three products in all, and
//! kept for backward are those gradients alone. [`token_log_probabilities`] gives `−lossᵢ`, for
//! objectives that are a function of it; what its gradient will be is not known in the forward
//! pass, so it keeps `hidden`, the labels and `logΣexp`, and backward computes logits again.
//!
//! Logits exist for some tokens at a time, as many as [`Settings::workspace`] has room for. The
//! kernels take from a product's sums, while these are in registers, each part's largest logit and
//! sum of exponentials, and store the exponentials in the compute type; a second pass turns them
//! into the logits' gradients where they lie. The gradient of the head adds into one f32 buffer,
//! whether fresh or given, chunk by chunk; that of hidden states is split over the vocabulary, so
//! that a few tokens fill a large card. All sums have a fixed order, and nothing waits for the host.

mod backend;
mod device;
mod launch;
mod plan;
mod product;
pub mod reference;

use burn::backend::Dispatch;
use burn::tensor::{DType, Int, Tensor};

pub use backend::CrossEntropyBackend;

use crate::calls::{Path, note};
use crate::vjp::custom_vjp;
use crate::{Compute, Kernels, gpu};

/// A label that stands for none, as in Hugging Face's datasets.
pub const IGNORE: i32 = -100;

/// How the functions of this module compute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Whose kernels.
    pub kernels: Kernels,
    /// The type in which logits' operands and gradients are stored and multiplied; the reference
    /// takes f32 alone. Log-sum-exps, losses and sums are f32 in every case.
    pub compute: Compute,
    /// Coefficient of the squared log-sum-exp in the objective.
    pub z_loss: f64,
    /// What the objective will be multiplied by before its backward pass. The gradients that are
    /// made in the forward pass are made with it, so that small ones survive f16; backward with
    /// another factor is as right, and takes another pass over them.
    pub loss_scale: f64,
    /// Bytes that logits and their gradients may take at a time. At least some tokens of a tile
    /// are computed together even where it is less than they need. `usize::MAX`: the logits of all
    /// tokens at once.
    pub workspace: usize,
}

/// [`Settings::workspace`] where nothing else was said.
pub const WORKSPACE: usize = 144 << 20;

impl Default for Settings {
    fn default() -> Self {
        Self {
            kernels: Kernels::default(),
            compute: Compute::default(),
            z_loss: 0.0,
            loss_scale: 1.0,
            workspace: WORKSPACE,
        }
    }
}

/// What [`linear_cross_entropy`] returns.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// `Σ weightᵢ · (lossᵢ + z · logΣexpᵢ²)`, `[1]`, tracked.
    pub objective: Tensor<1>,
    /// Loss of each token, before its weight and without the z-loss, `[N]`, without autodiff.
    pub losses: Tensor<1>,
    /// `logΣexp` of each token's logits, ignored ones included, `[N]`, without autodiff.
    pub log_sum_exp: Tensor<1>,
}

/// Every token's loss, without autodiff.
#[derive(Clone, Debug)]
pub struct Losses {
    /// `−log p(label)`, 0 where ignored, `[N]`.
    pub losses: Tensor<1>,
    /// `logΣexp` of the logits, `[N]`.
    pub log_sum_exp: Tensor<1>,
}

/// Gradients of the two factors of the logits, f32.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// `[N, H]`.
    pub hidden: Tensor<2>,
    /// `[V, H]`.
    pub head: Tensor<2>,
}

/// What [`forward_backward`] returns, without autodiff.
#[derive(Clone, Debug)]
pub struct Pass {
    /// The objective `[1]`, without the loss scale.
    pub objective: Tensor<1>,
    /// Every token's loss.
    pub losses: Losses,
    /// Gradients of the objective times [`Settings::loss_scale`].
    pub gradients: Gradients,
}

/// Weighted cross-entropy of `head · hidden` against `labels`. Shapes as in the module's table.
pub fn linear_cross_entropy(
    hidden: Tensor<2>,
    head: Tensor<2>,
    labels: Tensor<1, Int>,
    weights: Tensor<1>,
    settings: &Settings,
) -> CrossEntropy {
    let (h, w) = (
        hidden.clone().without_autodiff(),
        head.clone().without_autodiff(),
    );
    if !hidden.is_tracked() && !head.is_tracked() {
        let losses = forward(h, w, labels.clone(), settings);
        return CrossEntropy {
            objective: objective(&losses, labels, weights, settings),
            losses: losses.losses,
            log_sum_exp: losses.log_sum_exp,
        };
    }
    let pass = forward_backward(h, w, labels, weights, None, settings);
    let Gradients {
        hidden: dhidden,
        head: dhead,
    } = pass.gradients;
    let made_with = settings.loss_scale;
    let objective = custom_vjp(
        [hidden.into(), head.into()],
        pass.objective,
        move |dy, needs| {
            [
                needs[0].then(|| scaled(dhidden, dy.clone(), made_with).into()),
                needs[1].then(|| scaled(dhead, dy, made_with).into()),
            ]
        },
    );
    CrossEntropy {
        objective,
        losses: pass.losses.losses,
        log_sum_exp: pass.losses.log_sum_exp,
    }
}

/// `log p(label)` of each token `[N]`, tracked; 0 where the label is ignored. Kept for backward:
/// `hidden` and `head`, shared with the caller, the labels and one f32 a token.
pub fn token_log_probabilities(
    hidden: Tensor<2>,
    head: Tensor<2>,
    labels: Tensor<1, Int>,
    settings: &Settings,
) -> Tensor<1> {
    let (h, w) = (
        hidden.clone().without_autodiff(),
        head.clone().without_autodiff(),
    );
    let Losses {
        losses,
        log_sum_exp,
    } = forward(h.clone(), w.clone(), labels.clone(), settings);
    let settings = *settings;
    custom_vjp(
        [hidden.into(), head.into()],
        losses.neg(),
        move |dy, needs| {
            let slopes = Slopes {
                losses: dy.neg(),
                log_sum_exp: None,
            };
            let gradients = backward(h, w, labels, log_sum_exp, slopes, None, &settings);
            [
                needs[0].then(|| gradients.hidden.into()),
                needs[1].then(|| gradients.head.into()),
            ]
        },
    )
}

/// The gradient of an objective with respect to every token's [`Losses`], `[N]` each.
#[derive(Clone, Debug)]
pub struct Slopes {
    /// With respect to `losses`; what it holds for ignored tokens does not count.
    pub losses: Tensor<1>,
    /// With respect to `log_sum_exp`, likewise; `None`: zero.
    pub log_sum_exp: Option<Tensor<1>>,
}

/// Losses without autodiff: one product, and logits are not stored.
///
/// # Panics
/// If a tensor takes part in autodiff.
pub fn forward(
    hidden: Tensor<2>,
    head: Tensor<2>,
    labels: Tensor<1, Int>,
    settings: &Settings,
) -> Losses {
    if !runs_fused(&hidden, &head, settings) {
        return reference::forward(hidden, head, labels, settings);
    }
    let (losses, log_sum_exp) = Dispatch::cross_entropy_forward(
        hidden.into_dispatch(),
        head.into_dispatch(),
        labels.into_dispatch(),
        *settings,
    );
    Losses {
        losses: Tensor::from_dispatch(losses),
        log_sum_exp: Tensor::from_dispatch(log_sum_exp),
    }
}

/// The backward pass that goes with [`forward`], given its `log_sum_exp`. With `head_sum`, f32
/// `[V, H]`, the head's gradient is added into this buffer and returned as it: hand over the only
/// handle.
///
/// # Panics
/// If a tensor takes part in autodiff.
pub fn backward(
    hidden: Tensor<2>,
    head: Tensor<2>,
    labels: Tensor<1, Int>,
    log_sum_exp: Tensor<1>,
    slopes: Slopes,
    head_sum: Option<Tensor<2>>,
    settings: &Settings,
) -> Gradients {
    if !runs_fused(&hidden, &head, settings) {
        return reference::backward(
            hidden,
            head,
            labels,
            log_sum_exp,
            slopes,
            head_sum,
            settings,
        );
    }
    let ignored = labels.clone().lower_scalar(0);
    let mask = |slope: Tensor<1>| slope.mask_fill(ignored.clone(), 0.0);
    let own = mask(slopes.losses);
    let all = match slopes.log_sum_exp {
        Some(slope) => own.clone().add(mask(slope)),
        None => own.clone(),
    };
    let accumulate = head_sum.is_some();
    let head_sum = head_sum.unwrap_or_else(|| head.clone());
    let (hidden, head) = Dispatch::cross_entropy_backward(
        hidden.into_dispatch(),
        head.into_dispatch(),
        labels.into_dispatch(),
        log_sum_exp.into_dispatch(),
        Tensor::<1>::cat(vec![own, all], 0).into_dispatch(),
        head_sum.into_dispatch(),
        accumulate,
        *settings,
    );
    Gradients {
        hidden: Tensor::from_dispatch(hidden),
        head: Tensor::from_dispatch(head),
    }
}

/// [`linear_cross_entropy`] with its gradients, without autodiff: what streaming calls. With
/// `head_sum`, f32 `[V, H]`, the head's gradient is added into this buffer and returned as it: hand
/// over the only handle.
///
/// # Panics
/// If a tensor takes part in autodiff.
pub fn forward_backward(
    hidden: Tensor<2>,
    head: Tensor<2>,
    labels: Tensor<1, Int>,
    weights: Tensor<1>,
    head_sum: Option<Tensor<2>>,
    settings: &Settings,
) -> Pass {
    if !runs_fused(&hidden, &head, settings) {
        return reference::forward_backward(hidden, head, labels, weights, head_sum, settings);
    }
    let accumulate = head_sum.is_some();
    let head_sum = head_sum.unwrap_or_else(|| head.clone());
    let (losses, log_sum_exp, dhidden, dhead) = Dispatch::cross_entropy_both(
        hidden.into_dispatch(),
        head.into_dispatch(),
        labels.clone().into_dispatch(),
        weights.clone().into_dispatch(),
        head_sum.into_dispatch(),
        accumulate,
        *settings,
    );
    let losses = Losses {
        losses: Tensor::from_dispatch(losses),
        log_sum_exp: Tensor::from_dispatch(log_sum_exp),
    };
    Pass {
        objective: objective(&losses, labels, weights, settings),
        losses,
        gradients: Gradients {
            hidden: Tensor::from_dispatch(dhidden),
            head: Tensor::from_dispatch(dhead),
        },
    }
}

/// Bytes that a pass of the kernels takes at its peak besides operands and results: never more
/// than [`Settings::workspace`], unless a single tile of tokens needs it. Where the head is not
/// stored in the compute type its copy comes on top.
pub fn workspace_bytes(
    tokens: usize,
    hidden: usize,
    vocabulary: usize,
    with_gradients: bool,
    settings: &Settings,
) -> usize {
    let shape = plan::Shape {
        tokens,
        hidden,
        vocabulary,
        element: settings.compute.dtype().size(),
        gradients: with_gradients,
    };
    // The tile that needs most.
    let tile = plan::TileShape {
        rows: 128,
        columns: 128,
        parts: 2,
    };
    plan::Plan::new(&shape, tile, settings.workspace, usize::MAX).bytes(&shape)
}

/// Whether the device's own kernels compute it. Notes who does.
fn runs_fused(hidden: &Tensor<2>, head: &Tensor<2>, settings: &Settings) -> bool {
    let held = |tensor: &Tensor<2>| {
        matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16)
            && !tensor.dims().contains(&0)
    };
    let fused =
        settings.kernels == Kernels::Fused && gpu::on_cube(hidden) && held(hidden) && held(head);
    note("cross_entropy", Path::of(fused));
    fused
}

/// `gradient`, made with the factor `made_with`, as the factor `dy` `[1]` makes it.
fn scaled(gradient: Tensor<2>, dy: Tensor<1>, made_with: f64) -> Tensor<2> {
    if !gpu::on_cube(&gradient) {
        return gradient.mul(dy.div_scalar(made_with).unsqueeze());
    }
    Tensor::from_dispatch(Dispatch::cross_entropy_scale(
        gradient.into_dispatch(),
        dy.into_dispatch(),
        made_with,
    ))
}

/// `Σ weightᵢ · (lossᵢ + z · logΣexpᵢ²)` `[1]`.
fn objective(
    losses: &Losses,
    labels: Tensor<1, Int>,
    weights: Tensor<1>,
    settings: &Settings,
) -> Tensor<1> {
    let weights = weights.mask_fill(labels.lower_scalar(0), 0.0);
    let mut terms = losses.losses.clone();
    if settings.z_loss != 0.0 {
        let squares = losses.log_sum_exp.clone().square();
        terms = terms.add(squares.mul_scalar(settings.z_loss));
    }
    terms.mul(weights).sum()
}
