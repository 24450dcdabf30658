//! Attaches a hand-written vector-Jacobian product to a result computed outside autodiff.
//!
//! Burn records one step a tensor operation. A family here records one step for the whole
//! function: it computes its output on tensors without autodiff, and hands over a closure that
//! turns the output's gradient into the inputs' gradients. The closure owns what is kept for
//! backward.

mod bundle;

pub use bundle::{Handover, bundle};

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, AutodiffBackend, Backend, BackendTensor, Cube, DispatchKindConversion,
    DispatchTensor, DispatchTensorKind, Flex,
};
use burn::tensor::{Device, Tensor};

use crate::memory::{self, Stage};

/// A tensor of backend `B` with its node in the graph.
type Tracked<B> = FloatTensor<Autodiff<B, NoCheckpointing>>;

/// A float tensor whose rank is not in its type.
#[derive(Clone, Debug)]
pub struct AnyTensor(DispatchTensor);

impl<const D: usize> From<Tensor<D>> for AnyTensor {
    fn from(tensor: Tensor<D>) -> Self {
        Self(tensor.into_dispatch())
    }
}

impl AnyTensor {
    /// The tensor with its rank.
    ///
    /// # Panics
    /// If the rank is not `D`.
    pub fn into_tensor<const D: usize>(self) -> Tensor<D> {
        Tensor::from_dispatch(self.0)
    }
}

/// Which inputs need a gradient.
pub type Needs<const N: usize> = [bool; N];

type Pullback<const N: usize> =
    Box<dyn FnOnce(AnyTensor, Needs<N>) -> [Option<AnyTensor>; N] + Send>;

/// Burn wants a state that can be cloned; what is in here is taken once, by the one backward
/// pass.
struct Once<T>(Arc<Mutex<Option<T>>>);

impl<T> Once<T> {
    fn new(value: T) -> Self {
        Self(Arc::new(Mutex::new(Some(value))))
    }

    fn take(&self) -> Option<T> {
        lock(&self.0).take()
    }
}

impl<T> Clone for Once<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Once<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Once")
    }
}

#[derive(Debug)]
struct CustomStep;

impl<B, const N: usize> Backward<B, N> for CustomStep
where
    B: Backend,
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = Once<Pullback<N>>;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let needs = ops.parents.each_ref().map(Option::is_some);
        let grad = collected::<B, _, N>(grads, &ops);
        let results = ops.state.take().expect(ONCE)(grad, needs);
        register::<B, _, N>(grads, ops, results);
    }
}

const ONCE: &str = "Burn consumes a step's graph: backward runs it once";

/// The gradient that the users of a step's output have summed up.
fn collected<B, S, const N: usize>(grads: &mut Gradients, ops: &Ops<S, N>) -> AnyTensor
where
    B: Backend,
    DispatchTensor: DispatchKindConversion<B>,
{
    let grad = BackendTensor::Float(grads.consume::<B>(&ops.node));
    AnyTensor(<DispatchTensor as DispatchKindConversion<B>>::from_backend(
        grad,
    ))
}

fn register<B, S, const N: usize>(
    grads: &mut Gradients,
    ops: Ops<S, N>,
    results: [Option<AnyTensor>; N],
) where
    B: Backend,
    DispatchTensor: DispatchKindConversion<B>,
{
    for (parent, result) in ops.parents.into_iter().zip(results) {
        if let (Some(node), Some(AnyTensor(result))) = (parent, result) {
            let result = <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(result)
                .expect("a gradient lives on the device of its output");
            grads.register::<B>(node.id, result.float());
        }
    }
}

/// Makes `output` depend on `inputs` through `pullback`.
///
/// `output` was computed from the same values without autodiff. `pullback(gradient, needs)`
/// returns the gradient of each input in the inputs' shapes, zeros included: `None` is only for
/// inputs where `needs` is false, because Burn panics when a later step finds no gradient at all. Where no input takes part in autodiff, `output` is returned as it is and the
/// closure, with all that it holds, is dropped.
///
/// # Panics
/// If the inputs live on a backend other than Burn's Flex and CubeCL ones, which the crate's
/// features exclude.
pub fn custom_vjp<const N: usize, const D: usize>(
    inputs: [AnyTensor; N],
    output: Tensor<D>,
    pullback: impl FnOnce(Tensor<D>, Needs<N>) -> [Option<AnyTensor>; N] + Send + 'static,
) -> Tensor<D> {
    let Some(on_cube) = tracked_on_cube(&inputs) else {
        return output;
    };
    memory::note(&output);
    let there = memory::place();
    let pullback: Pullback<N> = Box::new(move |grad: AnyTensor, needs| {
        let _back = memory::Entered::back_at(there, Stage::Backward);
        memory::note_any(&grad.0);
        let results = pullback(grad.into_tensor::<D>(), needs);
        for result in results.iter().flatten() {
            memory::note_any(&result.0);
        }
        results
    });
    if on_cube {
        attach::<Cube, N, D>(inputs, output, pullback)
    } else {
        attach::<Flex, N, D>(inputs, output, pullback)
    }
}

/// A scalar, 0 in value, whose backward pass brings `gradient` to `output`: what continues a
/// backward pass that began elsewhere. Sum several of them to run their graphs at once.
///
/// # Panics
/// As [`custom_vjp`].
pub fn seed<const D: usize>(output: Tensor<D>, gradient: Tensor<D>) -> Tensor<1> {
    let value = Tensor::<1>::zeros([1], &gradient.device());
    custom_vjp([output.into()], value, move |_, _| [Some(gradient.into())])
}

/// Whether the inputs that take part in autodiff live on the Cube backend; `None` where none does.
fn tracked_on_cube(inputs: &[AnyTensor]) -> Option<bool> {
    inputs.iter().find_map(|input| match &input.0.kind {
        DispatchTensorKind::Autodiff(inner) => Some(matches!(**inner, DispatchTensorKind::Cube(_))),
        _ => None,
    })
}

/// The backend's tensor inside a tensor without autodiff.
fn plain<B, const D: usize>(output: Tensor<D>) -> FloatTensor<B>
where
    B: Backend,
    DispatchTensor: DispatchKindConversion<B>,
{
    <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(output.into_dispatch())
        .expect("the output was computed without autodiff, on the inputs' device")
        .float()
}

/// The nodes of the inputs.
fn nodes<B, const N: usize>(inputs: [AnyTensor; N]) -> [NodeGuard; N]
where
    B: Backend,
    DispatchTensor:
        DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B, NoCheckpointing>>,
{
    inputs.map(|AnyTensor(input)| {
        let input = match input.kind {
            DispatchTensorKind::Autodiff(_) => input,
            // A constant beside tracked inputs joins the graph as a leaf without gradient.
            _ => lift::<B>(input),
        };
        let lifted =
            <DispatchTensor as DispatchKindConversion<Autodiff<B, NoCheckpointing>>>::try_into_backend(
                input,
            )
            .expect("all inputs of one operation share a device and keep their graph");
        lifted.float().node()
    })
}

/// Registers `step` as what made `output` of `nodes`.
fn record<B, S, const N: usize>(
    step: S,
    state: S::State,
    nodes: [NodeGuard; N],
    output: FloatTensor<B>,
) -> Tracked<B>
where
    B: Backend,
    S: Backward<B, N>,
{
    match step
        .prepare::<NoCheckpointing>(nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => prep.finish(state, output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    }
}

fn tracked<B, const D: usize>(tensor: Tracked<B>) -> Tensor<D>
where
    B: Backend,
    DispatchTensor: DispatchKindConversion<Autodiff<B, NoCheckpointing>>,
{
    Tensor::from_dispatch(<DispatchTensor as DispatchKindConversion<
        Autodiff<B, NoCheckpointing>,
    >>::from_backend(BackendTensor::Float(tensor)))
}

fn attach<B, const N: usize, const D: usize>(
    inputs: [AnyTensor; N],
    output: Tensor<D>,
    pullback: Pullback<N>,
) -> Tensor<D>
where
    B: Backend,
    DispatchTensor:
        DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B, NoCheckpointing>>,
{
    let nodes = nodes::<B, N>(inputs);
    let output = plain::<B, D>(output);
    tracked(record::<B, _, N>(
        CustomStep,
        Once::new(pullback),
        nodes,
        output,
    ))
}

fn lift<B>(input: DispatchTensor) -> DispatchTensor
where
    B: Backend,
    DispatchTensor:
        DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B, NoCheckpointing>>,
{
    let inner = <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(input)
        .expect("all inputs of one operation share a device")
        .float();
    let lifted = <Autodiff<B, NoCheckpointing> as AutodiffBackend>::from_inner(inner);
    <DispatchTensor as DispatchKindConversion<Autodiff<B, NoCheckpointing>>>::from_backend(
        BackendTensor::Float(lifted),
    )
}

/// Sums of gradients over several backward passes, handed to each of them instead of to autodiff, so
/// that none needs buffers of its own.
#[derive(Debug)]
pub struct Accumulator<T>(Arc<Mutex<Option<T>>>);

impl<T> Clone for Accumulator<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Accumulator<T> {
    /// From zero.
    fn default() -> Self {
        Self::new(None)
    }
}

impl<T> Accumulator<T> {
    /// Goes on from `sums`, to which nobody else should hold a handle; `None`: from zero.
    pub fn new(sums: Option<T>) -> Self {
        Self(Arc::new(Mutex::new(sums)))
    }

    /// The sums, which are its no more; `None` if no backward pass ran.
    pub fn take(&self) -> Option<T> {
        lock(&self.0).take()
    }

    /// What a backward pass made of the sums that it took.
    pub(crate) fn put(&self, sums: T) {
        *lock(&self.0) = Some(sums);
    }
}

/// One backward for several results of a function.
///
/// Burn's steps have one output. Each result attached here is a step that only hands its gradient
/// over as a message; the step of the inputs, which runs after all of them, gets the messages of
/// those results that took part in the loss.
#[derive(Debug)]
pub struct Joint<M> {
    /// What the results hang on in the graph. Nobody reads its value.
    anchor: Tensor<1>,
    messages: Arc<Mutex<Vec<M>>>,
}

impl<M> Clone for Joint<M> {
    fn clone(&self) -> Self {
        Self {
            anchor: self.anchor.clone(),
            messages: self.messages.clone(),
        }
    }
}

impl<M: Send + 'static> Joint<M> {
    /// A function of `inputs`. `pullback(messages, needs)` returns the gradient of each input as
    /// in [`custom_vjp`]; `messages` are at least one, in no order. All live on `device`.
    ///
    /// # Panics
    /// As [`custom_vjp`].
    pub fn new<const N: usize>(
        device: &Device,
        inputs: [AnyTensor; N],
        pullback: impl FnOnce(Vec<M>, Needs<N>) -> [Option<AnyTensor>; N] + Send + 'static,
    ) -> Self {
        let messages = Arc::new(Mutex::new(Vec::new()));
        let received = messages.clone();
        let value = Tensor::<1>::empty([1], &device.clone().without_autodiff());
        let anchor = custom_vjp(inputs, value, move |_, needs| {
            pullback(std::mem::take(&mut *lock(&received)), needs)
        });
        Self { anchor, messages }
    }

    /// Makes `output`, computed without autodiff, a result of the function; `message` is made of
    /// its gradient.
    pub fn attach<const D: usize>(
        &self,
        output: Tensor<D>,
        message: impl FnOnce(Tensor<D>) -> M + Send + 'static,
    ) -> Tensor<D> {
        let messages = self.messages.clone();
        let unread = self.anchor.clone().without_autodiff();
        let inputs = [self.anchor.clone().into()];
        custom_vjp(inputs, output, move |gradient, _| {
            lock(&messages).push(message(gradient));
            [Some(unread.into())]
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
