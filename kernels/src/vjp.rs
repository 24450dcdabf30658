//! Attaches a hand-written vector-Jacobian product to a result computed outside autodiff.
//!
//! Burn records one step a tensor operation. A family here records one step for the whole
//! function: it computes its output on tensors without autodiff, and hands over a closure that
//! turns the output's gradient into the inputs' gradients. The closure owns what is kept for
//! backward.

use std::fmt;
use std::sync::{Arc, Mutex};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{
    Autodiff, AutodiffBackend, Backend, BackendTensor, Cube, DispatchKindConversion,
    DispatchTensor, DispatchTensorKind, Flex,
};
use burn::tensor::{Device, Tensor};

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

/// Burn wants a state that can be cloned; the closure is taken once, by the one backward pass.
#[derive(Clone)]
struct Saved<const N: usize>(Arc<Mutex<Option<Pullback<N>>>>);

impl<const N: usize> fmt::Debug for Saved<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Saved")
    }
}

#[derive(Debug)]
struct CustomStep;

impl<B, const N: usize> Backward<B, N> for CustomStep
where
    B: Backend,
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = Saved<N>;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let needs = ops.parents.each_ref().map(Option::is_some);
        let grad = grads.consume::<B>(&ops.node);
        let grad =
            <DispatchTensor as DispatchKindConversion<B>>::from_backend(BackendTensor::Float(grad));
        let taken = lock(&ops.state.0).take();
        let pullback = taken.expect("Burn consumes a step's graph: backward runs it once");
        let results = pullback(AnyTensor(grad), needs);
        for (parent, result) in ops.parents.into_iter().zip(results) {
            if let (Some(node), Some(AnyTensor(result))) = (parent, result) {
                let result =
                    <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(result)
                        .expect("a gradient lives on the device of its output");
                grads.register::<B>(node.id, result.float());
            }
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
    let Some(tracked) = inputs
        .iter()
        .find(|input| matches!(input.0.kind, DispatchTensorKind::Autodiff(_)))
    else {
        return output;
    };
    let pullback: Pullback<N> =
        Box::new(move |grad: AnyTensor, needs| pullback(grad.into_tensor::<D>(), needs));
    let on_cube = matches!(
        &tracked.0.kind,
        DispatchTensorKind::Autodiff(inner) if matches!(**inner, DispatchTensorKind::Cube(_))
    );
    if on_cube {
        attach::<Cube, N, D>(inputs, output, pullback)
    } else {
        attach::<Flex, N, D>(inputs, output, pullback)
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
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
    let nodes = inputs.map(|AnyTensor(input)| {
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
    });
    let output =
        <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(output.into_dispatch())
            .expect("the output was computed without autodiff, on the inputs' device")
            .float();
    let state = Saved(Arc::new(Mutex::new(Some(pullback))));
    let tracked = match Backward::<B, N>::prepare::<NoCheckpointing>(CustomStep, nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prep) => prep.finish(state, output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    };
    Tensor::from_dispatch(<DispatchTensor as DispatchKindConversion<
        Autodiff<B, NoCheckpointing>,
    >>::from_backend(BackendTensor::Float(tracked)))
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
