//! A chain by the device's own kernels, with its gradients.

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use super::backend::ChainBackend;
use super::launch::MAX_FUSED_EXPERTS;
use super::{Inputs, Rule};
use crate::experts::{Bank, RowGradients, Rows, combine, rows, rows_backward, weight_gradients};
use crate::memory::own_gradient;
use crate::routing::fused::{self as routing, Choice, Message, Objective, sort_messages};
use crate::routing::{Plan, Routing};
use crate::vjp::Joint;

/// Whether the kernels take such a chain on its device.
pub(super) fn computes(inputs: &Inputs, rule: &Rule) -> bool {
    let experts = inputs.routers.dims()[1];
    routing::computes(&inputs.x, experts, rule.settings.kernels)
}

/// What an iteration keeps for backward.
#[derive(Clone, Debug)]
struct Iteration {
    x: Tensor<2>,
    logits: Tensor<2>,
    choice: Choice,
    pre: Option<Tensor<2>>,
}

/// What [`forward`] returns.
#[derive(Clone, Debug)]
pub struct ForwardPass {
    /// The last state `[T, H]`, f32.
    pub y: Tensor<2>,
    /// What [`backward`] takes.
    iterations: Vec<Iteration>,
}

impl ForwardPass {
    /// The plan of each iteration.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.iterations.iter().map(|at| &at.choice.plan)
    }
}

/// Gradients of [`Inputs`], f32, in the same shapes.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// Of the tokens.
    pub x: Tensor<2>,
    /// Of the routers.
    pub routers: Tensor<3>,
    /// Of the experts' matrices.
    pub experts: Bank,
}

/// The forward pass without autodiff, for callers that run backward themselves.
///
/// # Panics
/// If the tensors take part in autodiff or live on a device without CubeCL, and as
/// [`chain()`](super::chain()).
pub fn forward(inputs: &Inputs, biases: &[Vec<f32>], rule: &Rule) -> ForwardPass {
    let experts = inputs.experts.convert(rule.settings.compute);
    let mut x = inputs.x.clone();
    let mut logits = logits_of(x.clone(), inputs.router(0));
    let mut iterations = Vec::with_capacity(rule.iterations);
    for number in 0..rule.iterations {
        let bias = biases.get(inputs.router_number(number)).map(Vec::as_slice);
        let choice = routing::choose(&logits, bias, &rule.router, rule.sequences);
        let Rows { out, kept } = rows(&x, &choice.plan, &experts, rule.settings);
        let residual = rule.residual.then(|| x.clone());
        let next = if number + 1 < rule.iterations {
            let router = inputs.router(inputs.router_number(number + 1));
            combine_logits(out, &choice, residual, router)
        } else {
            let weights = Some(choice.weights.clone());
            (
                combine(out, &choice.plan, weights, residual),
                logits.clone(),
            )
        };
        iterations.push(Iteration {
            x,
            logits,
            choice,
            pre: kept,
        });
        (x, logits) = next;
    }
    ForwardPass { y: x, iterations }
}

/// `x Wᵀ` `[T, E]`.
fn logits_of(x: Tensor<2>, router: Tensor<2>) -> Tensor<2> {
    if router.dims()[0] > MAX_FUSED_EXPERTS {
        return x.matmul(router.transpose());
    }
    Tensor::from_dispatch(<Dispatch as ChainBackend>::chain_logits(
        x.into_dispatch(),
        router.into_dispatch(),
    ))
}

/// The next state and its router's logits.
fn combine_logits(
    rows: Tensor<2>,
    choice: &Choice,
    residual: Option<Tensor<2>>,
    router: Tensor<2>,
) -> (Tensor<2>, Tensor<2>) {
    let plan = &choice.plan;
    let weights = choice.weights.clone();
    if router.dims()[0] > MAX_FUSED_EXPERTS {
        let state = combine(rows, plan, Some(weights), residual);
        let logits = logits_of(state.clone(), router);
        return (state, logits);
    }
    let added = residual.is_some();
    let (state, logits) = <Dispatch as ChainBackend>::chain_combine(
        rows.clone().into_dispatch(),
        plan.positions.clone().into_dispatch(),
        weights.into_dispatch(),
        residual.unwrap_or(rows).into_dispatch(),
        added,
        router.into_dispatch(),
        plan.top_k,
    );
    (Tensor::from_dispatch(state), Tensor::from_dispatch(logits))
}

/// The backward pass that goes with [`forward`], whose pass is taken: its memory holds gradients
/// afterwards. With `sums` the gradients of the matrices are added into these buffers and
/// returned as them. The gradient of the last state alone arrives; [`chain()`](super::chain())
/// takes those of router losses as well.
///
/// # Panics
/// As [`forward`].
pub fn backward(
    dy: Tensor<2>,
    inputs: &Inputs,
    pass: ForwardPass,
    sums: Option<Bank>,
    rule: &Rule,
) -> Gradients {
    let objectives = pass.iterations.iter().map(|_| Vec::new()).collect();
    run_back(dy, objectives, inputs, pass.iterations, sums, rule)
}

fn run_back(
    dy: Tensor<2>,
    mut objectives: Vec<Vec<Objective>>,
    inputs: &Inputs,
    mut iterations: Vec<Iteration>,
    mut sums: Option<Bank>,
    rule: &Rule,
) -> Gradients {
    let experts = inputs.experts.convert(rule.settings.compute);
    let mut routers: Vec<Option<Tensor<2>>> = vec![None; inputs.routers.dims()[0]];
    let mut gradient = dy;
    while let Some(iteration) = iterations.pop() {
        let Iteration {
            x,
            logits,
            choice,
            pre,
        } = iteration;
        let plan = &choice.plan;
        let RowGradients {
            rows,
            positions: (positions, top_k),
            weights,
            rest,
        } = rows_backward(
            gradient.clone(),
            &x,
            &choice.weights,
            plan,
            &experts,
            pre,
            sums.take(),
            rule.settings,
        );
        let dlogits = routing::backward(
            Some(weights),
            objectives.pop().unwrap_or_default(),
            &logits,
            &plan.indices,
            &rule.router,
            rule.sequences,
        );
        let number = inputs.router_number(iterations.len());
        let residual = rule.residual.then_some(gradient);
        let added = residual.is_some();
        gradient = Tensor::from_dispatch(<Dispatch as ChainBackend>::chain_combine_backward(
            rows.clone().into_dispatch(),
            positions.into_dispatch(),
            residual.unwrap_or(rows).into_dispatch(),
            added,
            dlogits.clone().into_dispatch(),
            inputs.router(number).into_dispatch(),
            top_k,
        ));
        sums = Some(weight_gradients(rest, &x, plan, &experts, rule.settings));
        let own = router_gradient(dlogits, x);
        routers[number] = Some(match routers[number].take() {
            Some(sum) => sum.add(own),
            None => own,
        });
    }
    let [_, experts, hidden] = inputs.routers.dims();
    let device = inputs.x.device();
    let routers = routers
        .into_iter()
        .map(|router| router.unwrap_or_else(|| Tensor::zeros([experts, hidden], &device)))
        .collect();
    Gradients {
        x: gradient,
        routers: Tensor::stack(routers, 0),
        experts: sums.expect("a chain has an iteration"),
    }
}

/// `dlogitsᵀ x` `[E, H]`.
fn router_gradient(dlogits: Tensor<2>, x: Tensor<2>) -> Tensor<2> {
    let parts = Tensor::<3>::from_dispatch(<Dispatch as ChainBackend>::chain_router_gradient(
        dlogits.into_dispatch(),
        x.into_dispatch(),
    ));
    parts.sum_dim(0).squeeze_dim(0)
}

/// [`chain()`](super::chain()) where the kernels compute.
pub(super) fn chain(inputs: Inputs, biases: &[Vec<f32>], rule: &Rule) -> (Tensor<2>, Vec<Routing>) {
    let plain = inputs.without_autodiff();
    let device = plain.x.device();
    let ForwardPass { y, iterations } = forward(&plain, biases, rule);
    let decisions: Vec<_> = iterations
        .iter()
        .map(|at| (at.logits.clone(), at.choice.clone()))
        .collect();
    let (bank, handover) = inputs.experts.bundle(&device);
    let tracked = [inputs.x.into(), inputs.routers.into(), bank];
    let own = *rule;
    let joint = Joint::new(&device, tracked, move |messages: Vec<Message>, needs| {
        let (dy, objectives) = sort_messages(messages, iterations.len());
        let dy = dy.unwrap_or_else(|| Tensor::zeros(plain.x.dims(), &plain.x.device()));
        let gradients = run_back(dy, objectives, &plain, iterations, None, &own);
        for gradient in gradients.experts.tensors() {
            own_gradient(gradient);
        }
        [
            needs[0].then(|| gradients.x.into()),
            needs[1].then(|| gradients.routers.into()),
            needs[2].then(|| handover.give(gradients.experts.into_gradients())),
        ]
    });
    let y = joint.attach(y, |gradient| Message::Output(Box::new(gradient)));
    let routings = decisions
        .iter()
        .enumerate()
        .map(|(number, (logits, choice))| {
            let (router, sequences) = (&rule.router, rule.sequences);
            Routing::of_chain(logits.clone(), choice, router, sequences, &joint, number)
        })
        .collect();
    (y, routings)
}
