//! Experts in plain tensor operations: tokens sorted by expert, one matrix product an expert.

use burn::tensor::activation::{sigmoid, silu};
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::bank::{Bank, Block};
use crate::memory::note;
use crate::routing::Plan;

/// The operation's tensors, without autodiff.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// Tokens `[T, H]`.
    pub x: Tensor<2>,
    /// Weights of the chosen experts `[T, k]`.
    pub weights: Tensor<2>,
    /// Matrices of G experts: routed ones, then shared ones.
    pub experts: Bank,
}

/// Gradients of [`Inputs`], in the same shapes.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// Of the tokens.
    pub x: Tensor<2>,
    /// Of the weights.
    pub weights: Tensor<2>,
    /// Of the experts' matrices.
    pub experts: Bank,
}

/// A plan's index tensors on the device.
#[derive(Clone, Debug)]
pub struct Layout {
    /// For each expert with work: its index and, a row each, tokens and slots.
    runs: Vec<Run>,
    /// Position of each slot among the sorted ones `[T · k]`; dropped slots point at a zero row.
    positions: Tensor<1, Int>,
    experts: usize,
    tokens: usize,
    top_k: usize,
    dropped: bool,
}

#[derive(Clone, Debug)]
struct Run {
    expert: usize,
    tokens: Tensor<1, Int>,
    slots: Tensor<1, Int>,
}

impl Layout {
    /// Uploads the index tensors of `plan`.
    pub fn new(plan: &Plan, device: &Device) -> Self {
        let plan = plan.host();
        let indices = |values: Vec<i32>| {
            let length = values.len();
            Tensor::<1, Int>::from_data(TensorData::new(values, [length]), device)
        };
        let runs = (0..plan.expert_count())
            .filter(|&expert| plan.offsets[expert] < plan.offsets[expert + 1])
            .map(|expert| {
                let slots = &plan.slots[plan.offsets[expert]..plan.offsets[expert + 1]];
                let top_k = plan.top_k as u32;
                Run {
                    expert,
                    tokens: indices(slots.iter().map(|&slot| (slot / top_k) as i32).collect()),
                    slots: indices(slots.iter().map(|&slot| slot as i32).collect()),
                }
            })
            .collect();
        Self {
            runs,
            positions: indices(plan.positions().iter().map(|&p| p as i32).collect()),
            experts: plan.expert_count(),
            tokens: plan.tokens(),
            top_k: plan.top_k,
            dropped: plan.dropped() > 0,
        }
    }

    /// The experts behind the plan's: shared ones.
    fn shared(&self, inputs: &Inputs) -> std::ops::Range<usize> {
        self.experts..inputs.experts.experts()
    }

    /// Rows in sorted order `[slots kept, width]` back to `[T, k, width]`.
    fn unsort(&self, mut rows: Vec<Tensor<2>>, width: usize, device: &Device) -> Tensor<3> {
        if self.dropped || rows.is_empty() {
            rows.push(Tensor::zeros([1, width], device));
        }
        Tensor::cat(rows, 0)
            .select(0, self.positions.clone())
            .reshape([self.tokens, self.top_k, width])
    }
}

fn halves(pre_activation: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let width = pre_activation.dims()[1] / 2;
    (
        pre_activation.clone().narrow(1, 0, width),
        pre_activation.narrow(1, width, width),
    )
}

/// Returns `y` `[T, H]` and the pre-activation of each expert with work `[n, 2F]`, shared ones
/// last.
pub fn forward(inputs: &Inputs, layout: &Layout) -> (Tensor<2>, Vec<Tensor<2>>) {
    let [tokens, hidden] = inputs.x.dims();
    let mut outputs = Vec::with_capacity(layout.runs.len());
    let mut pre_activations = Vec::with_capacity(layout.runs.len());
    for run in &layout.runs {
        let rows = inputs.x.clone().select(0, run.tokens.clone());
        let (gate_up, down) = inputs.experts.expert(run.expert);
        let pre = rows.matmul(gate_up.transpose());
        let (gate, up) = halves(pre.clone());
        outputs.push(swiglu(gate, up).matmul(down.transpose()));
        pre_activations.push(pre);
    }
    let mut y = layout
        .unsort(outputs, hidden, &inputs.x.device())
        .mul(inputs.weights.clone().unsqueeze_dim(2))
        .sum_dim(1)
        .reshape([tokens, hidden]);
    for expert in layout.shared(inputs) {
        let (gate_up, down) = inputs.experts.expert(expert);
        let pre = inputs.x.clone().matmul(gate_up.transpose());
        let (gate, up) = halves(pre.clone());
        y = y.add(swiglu(gate, up).matmul(down.transpose()));
        pre_activations.push(pre);
    }
    (y, pre_activations)
}

/// Gradients of all inputs from that of `y` `[T, H]`; `pre_activations` as `forward` gave them.
pub fn backward(
    dy: Tensor<2>,
    inputs: &Inputs,
    layout: &Layout,
    pre_activations: Vec<Tensor<2>>,
) -> Gradients {
    let [tokens, hidden] = inputs.x.dims();
    let device = inputs.x.device();
    let flat_weights = inputs.weights.clone().reshape([tokens * layout.top_k, 1]);
    let mut dx_rows = Vec::with_capacity(layout.runs.len());
    let mut dweight_rows = Vec::with_capacity(layout.runs.len());
    let experts = inputs.experts.experts();
    let mut dgate_up: Vec<Option<Tensor<2>>> = vec![None; experts];
    let mut ddown: Vec<Option<Tensor<2>>> = vec![None; experts];
    let mut pre_activations = pre_activations.into_iter();
    for (run, pre) in layout.runs.iter().zip(pre_activations.by_ref()) {
        let weight = flat_weights.clone().select(0, run.slots.clone());
        let dy_rows = dy.clone().select(0, run.tokens.clone());
        let (gate, up) = halves(pre);
        let activation = swiglu(gate.clone(), up.clone());
        let (gate_up, down) = inputs.experts.expert(run.expert);
        let unweighted = dy_rows.clone().matmul(down);
        dweight_rows.push(activation.clone().mul(unweighted.clone()).sum_dim(1));
        ddown[run.expert] = Some(dy_rows.mul(weight.clone()).transpose().matmul(activation));
        let (dgate, dup) = swiglu_backward(unweighted.mul(weight), gate, up);
        let dpre = Tensor::cat(vec![dgate, dup], 1);
        let rows = inputs.x.clone().select(0, run.tokens.clone());
        dgate_up[run.expert] = Some(dpre.clone().transpose().matmul(rows));
        dx_rows.push(dpre.matmul(gate_up));
    }
    let mut dx = layout
        .unsort(dx_rows, hidden, &device)
        .sum_dim(1)
        .reshape([tokens, hidden]);
    for (expert, pre) in layout.shared(inputs).zip(pre_activations) {
        let (gate, up) = halves(pre);
        let activation = swiglu(gate.clone(), up.clone());
        ddown[expert] = Some(dy.clone().transpose().matmul(activation));
        let (gate_up, down) = inputs.experts.expert(expert);
        let dactivation = dy.clone().matmul(down);
        let (dgate, dup) = swiglu_backward(dactivation, gate, up);
        let dpre = Tensor::cat(vec![dgate, dup], 1);
        dgate_up[expert] = Some(dpre.clone().transpose().matmul(inputs.x.clone()));
        dx = dx.add(dpre.matmul(gate_up));
    }
    let (mut dgate_up, mut ddown) = (dgate_up.into_iter(), ddown.into_iter());
    let stack = |matrices: &mut dyn Iterator<Item = Option<Tensor<2>>>, like: &Tensor<3>| {
        let [own, rows, columns] = like.dims();
        let matrices = matrices
            .take(own)
            .map(|matrix| matrix.unwrap_or_else(|| Tensor::zeros([rows, columns], &device)))
            .collect();
        Tensor::stack::<3>(matrices, 0)
    };
    let blocks = inputs.experts.blocks().iter().map(|block| Block {
        gate_up: stack(&mut dgate_up, &block.gate_up),
        down: stack(&mut ddown, &block.down),
    });
    let blocks = blocks.collect();
    Gradients {
        x: dx,
        weights: layout
            .unsort(dweight_rows, 1, &device)
            .reshape([tokens, layout.top_k]),
        experts: Bank::new(blocks),
    }
}

/// `silu(gate) ⊙ up`.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    silu(gate).mul(up)
}

/// Gradients of `gate` and `up`.
pub fn swiglu_backward<const D: usize>(
    dy: Tensor<D>,
    gate: Tensor<D>,
    up: Tensor<D>,
) -> (Tensor<D>, Tensor<D>) {
    let sigma = sigmoid(gate.clone());
    let silu = gate.clone().mul(sigma.clone());
    note(&sigma);
    note(&silu);
    // silu'(g) = σ + silu(g) · (1 − σ)
    let slope = sigma
        .clone()
        .add(silu.clone().mul(sigma.neg().add_scalar(1.0)));
    note(&slope);
    (dy.clone().mul(up).mul(slope), dy.mul(silu))
}
