//! Routing by the device's own kernels, with its gradients.

use burn::backend::Dispatch;
use burn::tensor::{Int, Tensor, TensorData};

use super::device::MAX_EXPERTS;
use super::launch::{Arriving, RoutingBackend, TermFactors};
use super::{Factors, Plan, Router, Terms, capacity_of};
use crate::Kernels;
use crate::gpu::on_cube;
use crate::vjp::Joint;

/// Whether the kernels take a router of so many experts on the device of `tensor`.
pub fn computes<const D: usize, K>(tensor: &Tensor<D, K>, experts: usize, kernels: Kernels) -> bool
where
    K: burn::tensor::kind::Basic,
{
    kernels == Kernels::Fused && on_cube(tensor) && experts <= MAX_EXPERTS
}

/// What a result of a function with decisions in it got from behind: a router on its own, or a
/// whole chain of experts.
#[derive(Debug)]
pub(crate) enum Message {
    /// The gradient of what the function itself gives: weights `[T, k]`, or a chain's last state
    /// `[T, H]`.
    Output(Box<Tensor<2>>),
    /// That of an objective of the decision with this number.
    Objective(usize, Box<Objective>),
}

/// The gradient `[1]` of an objective, and what that was made with.
#[derive(Debug)]
pub(crate) struct Objective {
    gradient: Tensor<1>,
    frequencies: Tensor<2, Int>,
    factors: TermFactors,
}

/// The gradient of the output, if one arrived, and of each of `decisions` decisions' objectives.
pub(crate) fn sort_messages(
    messages: Vec<Message>,
    decisions: usize,
) -> (Option<Tensor<2>>, Vec<Vec<Objective>>) {
    let mut output = None;
    let mut objectives: Vec<Vec<Objective>> = (0..decisions).map(|_| Vec::new()).collect();
    for message in messages {
        match message {
            Message::Output(gradient) => output = Some(*gradient),
            Message::Objective(decision, objective) => objectives[decision].push(*objective),
        }
    }
    (output, objectives)
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
    /// Its number among the decisions of the joint function.
    number: usize,
}

/// A decision without autodiff.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    /// `[T, k]`.
    pub weights: Tensor<2>,
    pub plan: Plan,
    /// As in [`Decision`].
    pub sums: Tensor<2>,
    /// As in [`Decision`].
    pub chosen_by_sequence: Tensor<2, Int>,
}

impl Choice {
    /// The decision with this number of a function whose gradients `joint` makes.
    pub(crate) fn decision(&self, joint: &Joint<Message>, number: usize) -> Decision {
        Decision {
            sums: self.sums.clone(),
            chosen_by_sequence: self.chosen_by_sequence.clone(),
            joint: joint.clone(),
            number,
        }
    }
}

/// Decides for `logits` `[T, E]`, which take no part in autodiff.
pub(crate) fn choose(
    plain: &Tensor<2>,
    correction_bias: Option<&[f32]>,
    router: &Router,
    sequences: usize,
) -> Choice {
    let [tokens, experts] = plain.dims();
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
    Choice {
        weights: Tensor::from_dispatch(weights),
        plan,
        sums: Tensor::from_dispatch(sums),
        chosen_by_sequence: Tensor::from_dispatch(chosen_by_sequence),
    }
}

/// Weights `[T, k]`, plan, and the rest.
pub fn route(
    logits: Tensor<2>,
    correction_bias: Option<&[f32]>,
    router: &Router,
    sequences: usize,
) -> (Tensor<2>, Plan, Decision) {
    let plain = logits.clone().without_autodiff();
    let choice = choose(&plain, correction_bias, router, sequences);
    let (router, indices) = (*router, choice.plan.indices.clone());
    let device = plain.device();
    let joint = Joint::new(&device, [logits.into()], move |messages, _| {
        let (weights, mut objectives) = sort_messages(messages, 1);
        let objectives = objectives.remove(0);
        let gradient = backward(weights, objectives, &plain, &indices, &router, sequences);
        [Some(gradient.into())]
    });
    let weights = joint.attach(choice.weights.clone(), |gradient| {
        Message::Output(Box::new(gradient))
    });
    let decision = choice.decision(&joint, 0);
    (weights, choice.plan, decision)
}

/// The gradient of the logits from those of the `weights` and of a decision's objectives: one
/// kernel for the weights and an objective together, one for each further objective.
pub(crate) fn backward(
    weights: Option<Tensor<2>>,
    objectives: Vec<Objective>,
    logits: &Tensor<2>,
    indices: &Tensor<2, Int>,
    router: &Router,
    sequences: usize,
) -> Tensor<2> {
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
        let number = self.number;
        Terms {
            objective: self.joint.attach(objective, move |gradient| {
                let objective = Objective {
                    gradient,
                    frequencies,
                    factors,
                };
                Message::Objective(number, Box::new(objective))
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
