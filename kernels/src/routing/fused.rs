//! Routing by the device's own kernels, with its gradients.

use burn::backend::{Dispatch, DispatchTensorKind};
use burn::tensor::{Int, Tensor, TensorData};

use super::device::MAX_EXPERTS;
use super::launch::{Arriving, RoutingBackend, TermFactors};
use super::{Factors, Plan, Router, Terms, capacity_of};
use crate::Kernels;
use crate::vjp::Joint;

/// Whether the kernels take a router of so many experts on the device of `tensor`.
pub fn computes<const D: usize, K>(tensor: &Tensor<D, K>, experts: usize, kernels: Kernels) -> bool
where
    K: burn::tensor::kind::Basic,
{
    let kind = tensor.clone().into_dispatch().kind;
    let on_cube = match &kind {
        DispatchTensorKind::Cube(_) => true,
        DispatchTensorKind::Autodiff(inner) => matches!(**inner, DispatchTensorKind::Cube(_)),
        _ => false,
    };
    kernels == Kernels::Fused && on_cube && experts <= MAX_EXPERTS
}

/// What a result of a decision got from behind it.
#[derive(Debug)]
enum Message {
    /// Gradients of the weights `[T, k]`.
    Weights(Box<Tensor<2>>),
    /// That of an objective.
    Objective(Box<Objective>),
}

/// The gradient `[1]` of an objective, and what that was made with.
#[derive(Debug)]
struct Objective {
    gradient: Tensor<1>,
    frequencies: Tensor<2, Int>,
    factors: TermFactors,
}

/// What a fused decision keeps for its objective and statistics.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Of each sequence `[S, E + 2]`: probability mass of each expert, sum of entropies, sum of
    /// squared log-sum-exps.
    pub sums: Tensor<2>,
    /// Choices of each sequence `[S, E]`.
    pub chosen_by_sequence: Tensor<2, Int>,
    joint: Joint<Message>,
}

/// Weights `[T, k]`, plan, and the rest.
pub fn route(
    logits: Tensor<2>,
    correction_bias: Option<&[f32]>,
    router: &Router,
    sequences: usize,
) -> (Tensor<2>, Plan, Decision) {
    let [tokens, experts] = logits.dims();
    let plain = logits.clone().without_autodiff();
    let device = plain.device();
    let bias = match correction_bias {
        Some(bias) => Tensor::<1>::from_data(TensorData::new(bias.to_vec(), [experts]), &device)
            .into_dispatch(),
        // Bound and not read.
        None => plain.clone().into_dispatch(),
    };
    let capacity = router
        .capacity_factor
        .map(|factor| capacity_of(factor, tokens, router.top_k, experts));
    let (weights, indices, plan, sums, chosen_by_sequence) =
        <Dispatch as RoutingBackend>::route_choose(
            plain.clone().into_dispatch(),
            bias,
            *router,
            correction_bias.is_some(),
            sequences,
            capacity,
        );
    let indices = Tensor::<2, Int>::from_dispatch(indices);
    let plan = Plan::on_device(
        indices.clone(),
        experts,
        capacity,
        [plan.0, plan.1, plan.2, plan.3].map(Tensor::from_dispatch),
    );
    let router = *router;
    let joint = Joint::new(&device, [logits.into()], move |messages, _| {
        let gradient = backward(messages, &plain, &indices, &router, sequences);
        [Some(gradient.into())]
    });
    let decision = Decision {
        sums: Tensor::from_dispatch(sums),
        chosen_by_sequence: Tensor::from_dispatch(chosen_by_sequence),
        joint,
    };
    let weights = Tensor::<2>::from_dispatch(weights);
    let weights = decision
        .joint
        .attach(weights, |gradient| Message::Weights(Box::new(gradient)));
    (weights, plan, decision)
}

/// One kernel for the gradients that arrived, of weights and an objective together. A decision
/// whose objective was taken more than once pays a kernel for each further one.
fn backward(
    messages: Vec<Message>,
    logits: &Tensor<2>,
    indices: &Tensor<2, Int>,
    router: &Router,
    sequences: usize,
) -> Tensor<2> {
    let mut weights = None;
    let mut objectives = Vec::new();
    for message in messages {
        match message {
            Message::Weights(gradient) => weights = Some(*gradient),
            Message::Objective(objective) => objectives.push(*objective),
        }
    }
    let run = |weights: Option<Tensor<2>>, objective: Option<Objective>| {
        let arriving = Arriving {
            weights: weights.is_some(),
            terms: objective.as_ref().map(|objective| objective.factors),
        };
        let unread = || logits.clone().into_dispatch();
        let weights = weights.map_or_else(unread, Tensor::into_dispatch);
        let (objective, frequencies) = match objective {
            Some(objective) => (
                objective.gradient.into_dispatch(),
                objective.frequencies.into_dispatch(),
            ),
            None => (unread(), indices.clone().into_dispatch()),
        };
        Tensor::<2>::from_dispatch(<Dispatch as RoutingBackend>::route_backward(
            logits.clone().into_dispatch(),
            indices.clone().into_dispatch(),
            weights,
            objective,
            frequencies,
            *router,
            sequences,
            arriving,
        ))
    };
    let mut objectives = objectives.into_iter();
    let first = run(weights, objectives.next());
    objectives.fold(first, |sum, objective| sum.add(run(None, Some(objective))))
}

impl Decision {
    /// The decision's router losses, as [`super::Routing::terms`] says.
    pub fn terms(&self, frequencies: Tensor<2, Int>, factors: &Factors) -> Terms {
        let factors = TermFactors {
            balance: factors.balance as f32,
            balance_weight: factors.balance_weight as f32,
            z: factors.z as f32,
            z_weight: factors.z_weight as f32,
        };
        let (objective, values) = <Dispatch as RoutingBackend>::route_terms(
            self.sums.clone().into_dispatch(),
            frequencies.clone().into_dispatch(),
            factors,
        );
        let objective = Tensor::<1>::from_dispatch(objective);
        Terms {
            objective: self.joint.attach(objective, move |gradient| {
                Message::Objective(Box::new(Objective {
                    gradient,
                    frequencies,
                    factors,
                }))
            }),
            values: Tensor::from_dispatch(values),
        }
    }
}

/// The plan of given choices.
pub fn plan(indices: Tensor<2, Int>, experts: usize, capacity: Option<usize>) -> Plan {
    let (chosen, offsets, slots, positions) = <Dispatch as RoutingBackend>::route_plan(
        indices.clone().into_dispatch(),
        experts,
        capacity,
    );
    Plan::on_device(
        indices,
        experts,
        capacity,
        [chosen, offsets, slots, positions].map(Tensor::from_dispatch),
    )
}

/// Pairs of choices `[from experts · to experts]`.
pub fn transitions(from: &Plan, to: &Plan) -> Tensor<1, Int> {
    Tensor::from_dispatch(<Dispatch as RoutingBackend>::route_transitions(
        from.indices.clone().into_dispatch(),
        to.indices.clone().into_dispatch(),
        from.experts,
        to.experts,
    ))
}
