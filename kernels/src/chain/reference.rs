//! A chain in operations that autodiff follows: each iteration a router's product, its choice, the
//! experts.

use burn::tensor::Tensor;

use super::{Inputs, Rule};
use crate::experts::experts;
use crate::routing::{Routing, route};

/// As [`chain()`](super::chain()), one operation after the other.
pub fn chain(inputs: Inputs, biases: &[Vec<f32>], rule: &Rule) -> (Tensor<2>, Vec<Routing>) {
    let mut state = inputs.x.clone();
    let mut routings = Vec::with_capacity(rule.iterations);
    for iteration in 0..rule.iterations {
        let number = inputs.router_number(iteration);
        let logits = state.clone().matmul(inputs.router(number).transpose());
        let bias = biases.get(number).map(Vec::as_slice);
        let kernels = rule.settings.kernels;
        let routing = route(logits, bias, &rule.router, rule.sequences, kernels);
        let y = experts(
            state.clone(),
            routing.weights.clone(),
            &routing.plan,
            &inputs.experts,
            rule.settings,
        );
        state = if rule.residual { y.add(state) } else { y };
        routings.push(routing);
    }
    (state, routings)
}
