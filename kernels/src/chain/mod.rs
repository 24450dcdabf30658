//! A mixture or chain of experts, routers included (Chain-of-Experts, arXiv 2506.18945).
//!
//! The state `x₀ = x` passes C times over the same experts, each time routed anew:
//! `xₜ₊₁ = experts(xₜ, route(xₜ Wₜᵀ)) (+ xₜ)`. One iteration is an ordinary mixture of experts.
//!
//! | tensor | shape |
//! | --- | --- |
//! | `x`, `y` | `[T, H]`, f32 |
//! | `routers` | `[R, E, H]`, f32: one an iteration, or one for all |
//! | `experts` | a [bank](crate::experts::Bank) of G experts: E routed ones, then shared ones |
//!
//! Shared experts are further groups of rows in the launches of the routed ones: every token with
//! weight 1, in each iteration.
//!
//! Kept for backward: the states `[T, H]` in f32 (the first is the caller's), and of each
//! iteration what [`routing`](crate::routing) and [`experts`](mod@crate::experts) keep.
//!
//! Where the kernels compute, the sum of a token's rows adds the residual and multiplies the new
//! state with the next router while it is in workgroup memory; its mirror sums the gradients of
//! the rows, of the residual and of the router's logits. The matrices are converted to the
//! compute type once a pass, and their gradients of all iterations add into one buffer: a second
//! iteration costs no second gradient. More than 256 experts take the router's product by itself,
//! more than 1024 and devices without CubeCL the [reference](mod@reference).

mod backend;
mod device;
mod fused;
mod launch;
pub mod reference;

pub use fused::{ForwardPass, Gradients, backward, forward};

use burn::tensor::Tensor;

use crate::calls::{Path, note};
use crate::experts::{Bank, Settings};
use crate::routing::{Router, Routing};

/// How a chain runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// The rule of its routers.
    pub router: Router,
    /// Passes over the experts, at least 1.
    pub iterations: usize,
    /// Add an iteration's input to its output.
    pub residual: bool,
    /// Equal runs of tokens, by which router losses can be counted; they divide T.
    pub sequences: usize,
    /// How the experts compute.
    pub settings: Settings,
}

/// The tensors of a chain. Shapes as in the module's table.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Tokens.
    pub x: Tensor<2>,
    /// The routers' weights.
    pub routers: Tensor<3>,
    /// The experts' matrices.
    pub experts: Bank,
}

impl Inputs {
    /// The router that iteration `iteration` takes.
    fn router_number(&self, iteration: usize) -> usize {
        iteration.min(self.routers.dims()[0] - 1)
    }

    /// Weights of a router `[E, H]`.
    fn router(&self, number: usize) -> Tensor<2> {
        self.routers.clone().narrow(0, number, 1).squeeze_dim(0)
    }

    fn without_autodiff(&self) -> Self {
        Self {
            x: self.x.clone().without_autodiff(),
            routers: self.routers.clone().without_autodiff(),
            experts: self.experts.without_autodiff(),
        }
    }
}

/// Runs a chain; returns its last state `[T, H]` and each iteration's routing. `biases`: the
/// correction bias `[E]` of each router, or none.
///
/// # Panics
/// As [`route`](crate::routing::route).
pub fn chain(inputs: Inputs, biases: &[Vec<f32>], rule: &Rule) -> (Tensor<2>, Vec<Routing>) {
    let computes = fused::computes(&inputs, rule);
    note("chain", Path::of(computes));
    if computes {
        fused::chain(inputs, biases, rule)
    } else {
        reference::chain(inputs, biases, rule)
    }
}
