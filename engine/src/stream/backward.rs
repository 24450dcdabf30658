//! The backward pass, layer by layer from the last, chunk by chunk from the last.

use bellows_kernels::attention::KeySums;
use bellows_kernels::experts::{Bank, Block, WeightAccumulator};
use bellows_kernels::memory::{Stage, enter_layer, enter_part, enter_stage, note};
use bellows_kernels::routing::{Plan, Routing};
use bellows_kernels::vjp::seed;
use burn::tensor::Tensor;

use super::MicroStep;
use super::kept::{Kept, KeptAttention, restored};
use super::parts::Parts;
use crate::model::{
    Attended, Choices, DecoderLayer, ExpertWeights, FeedForward, Input, Keys, Part, Stream,
};
use crate::objective::{RouterTerms, Weighing};
use crate::optim::Gradients;
use crate::weights::block_name;

/// Carries the gradient `dy` of the last layer's output, by chunk, back to the embedding, and adds
/// to `gradients`. Returns the router losses.
pub fn run(
    step: &MicroStep<'_>,
    parts: &Parts,
    inputs: &[Input],
    mut kept: Vec<Vec<Kept>>,
    mut attended: Vec<Vec<KeptAttention>>,
    plans: &[Vec<Vec<Plan>>],
    mut dy: Vec<Tensor<2>>,
    weighing: Option<&Weighing>,
    gradients: &mut Gradients,
) -> RouterTerms {
    let mut first_decision = plans.iter().map(|plans| iterations(plans)).sum();
    let mut losses = None;
    for (index, layer) in step.model.layers.iter().enumerate().rev() {
        let _layer = enter_layer(index);
        first_decision -= iterations(&plans[index]);
        let sums = take_expert_sums(index, layer, gradients);
        let mut pass = Layer {
            step,
            layer,
            plain: &step.plain.layers[index],
            name: index.to_string(),
            inputs,
            plans: &plans[index],
            kept: kept.pop().expect("forward kept the input of every layer"),
            attended: attended.pop().unwrap_or_default(),
            dx: Vec::new(),
            sums,
            first_decision,
            weighing,
            losses: losses.take(),
            gradients,
        };
        for (first, group) in parts.groups().rev() {
            match group {
                [part] => pass.whole(first, part, &mut dy),
                _ => pass.streamed(first, group, &mut dy),
            }
        }
        dy = std::mem::take(&mut pass.dx);
        dy.reverse();
        losses = pass.losses.take();
        let sums = pass.sums;
        put_expert_sums(index, sums, gradients);
    }
    embedding(step, inputs, dy, gradients);
    gradients.complete(step.model);
    RouterTerms {
        objective: None,
        values: losses.into_iter().collect(),
    }
}

fn iterations(plans: &[Vec<Plan>]) -> usize {
    plans.first().map_or(0, Vec::len)
}

/// One layer on its way back.
struct Layer<'a> {
    step: &'a MicroStep<'a>,
    layer: &'a DecoderLayer,
    /// The same without autodiff.
    plain: &'a DecoderLayer,
    /// Its place among the layers, as parameters are named.
    name: String,
    inputs: &'a [Input],
    /// By chunk and iteration.
    plans: &'a [Vec<Plan>],
    /// By chunk, those not gone through yet.
    kept: Vec<Kept>,
    /// The results of their attention, where kept.
    attended: Vec<KeptAttention>,
    /// Gradients of the input by chunk, from the last.
    dx: Vec<Tensor<2>>,
    sums: WeightAccumulator,
    first_decision: usize,
    weighing: Option<&'a Weighing>,
    /// Balance and z term of all layers so far `[2]`.
    losses: Option<Tensor<1>>,
    gradients: &'a mut Gradients,
}

impl Layer<'_> {
    /// Whole sequences at once: one graph from the layer's input to its output. The last of `dy` is
    /// the gradient of that output.
    fn whole(&mut self, at: usize, part: &Part, dy: &mut Vec<Tensor<2>>) {
        let kept = self.kept.pop().expect("every chunk's input is kept");
        let x = kept.restore(&self.step.plain.embed_tokens, self.step.device);
        drop(kept);
        let x = Tensor::from_inner(x).require_grad();
        let stream = Stream {
            residual: x.clone(),
            update: None,
        };
        let choices = &mut Choices::Replay {
            plans: &self.plans[at],
            sums: &self.sums,
        };
        let again = enter_stage(Stage::Recompute);
        let attended = &mut attended_of(&mut self.attended, self.step);
        let input = &self.inputs[at];
        let (y, routings) = self.layer.forward(stream, input, None, choices, attended);
        drop(again);
        let dy = dy.pop().expect(A_GRADIENT);
        let start = self.start(y.sum(), dy, routings, part);
        let mut raw = start.backward();
        let dx = gradient(&x, &mut raw);
        note(&dx);
        self.dx.push(dx);
        self.collect(&mut raw);
    }

    /// The chunks `group` of one sequence, the first of which has the number `first`.
    fn streamed(&mut self, first: usize, group: &[Part], dy: &mut Vec<Tensor<2>>) {
        let numbers = first..first + group.len();
        let device = self.step.device;
        let (inputs, embedding) = (self.inputs, &self.step.plain.embed_tokens);
        let again = enter_stage(Stage::Recompute);
        let kept = self.kept.split_off(first);
        let own = restored(kept.iter(), embedding, device);
        let (keys, values) = own
            .zip(&inputs[numbers.clone()])
            .map(|(x, input)| self.plain.keys(x, input))
            .map(|Keys { key, value }| (key, value))
            .unzip();
        let (keys, values) = (Tensor::cat(keys, 2), Tensor::cat(values, 2));
        note(&keys);
        note(&values);
        drop(again);
        // Gradients of the keys and values before the chunk that was last at work, from all chunks
        // behind them.
        let mut arriving: Option<(Tensor<4>, Tensor<4>)> = None;
        let own = restored(kept.into_iter().rev(), embedding, device);
        for ((at, part), x) in numbers.zip(group).rev().zip(own) {
            let input = &inputs[at];
            let (start, length) = (part.tokens.start, part.tokens.len());
            let seen = |all: &Tensor<4>| {
                let seen = all.clone().narrow(2, 0, part.tokens.end);
                note(&seen);
                seen
            };
            let keys = Keys {
                key: seen(&keys),
                value: seen(&values),
            };
            let layer_input = Tensor::from_inner(x.clone()).require_grad();
            let choices = &mut Choices::Replay {
                plans: &self.plans[at],
                sums: &self.sums,
            };
            let sums = KeySums::new(arriving.take());
            let again = enter_stage(Stage::Recompute);
            let attended = &mut attended_of(&mut self.attended, self.step);
            let x_again = layer_input.clone();
            let (y, routings) = self
                .layer
                .forward_against(x_again, keys, &sums, input, choices, attended);
            drop(again);
            let dy = dy.pop().expect(A_GRADIENT);
            let mut raw = self.start(y.sum(), dy, routings, part).backward();
            let dx = gradient(&layer_input, &mut raw);
            self.collect(&mut raw);
            drop((raw, layer_input));
            let (dkey, dvalue) = sums.take().expect("attention has keys");
            note(&dkey);
            note(&dvalue);

            // Nobody else reads this chunk's own keys: back into the layer's input with them.
            let layer_input = Tensor::from_inner(x).require_grad();
            let again = enter_stage(Stage::Recompute);
            let Keys { key, value } = self.layer.keys(layer_input.clone(), input);
            drop(again);
            let mut raw = seed(key, dkey.clone().narrow(2, start, length))
                .add(seed(value, dvalue.clone().narrow(2, start, length)))
                .backward();
            let dx = dx.add(gradient(&layer_input, &mut raw));
            note(&dx);
            self.dx.push(dx);
            self.collect(&mut raw);
            if start > 0 {
                let before = |all: Tensor<4>| {
                    let before = all.narrow(2, 0, start);
                    note(&before);
                    before
                };
                arriving = Some((before(dkey), before(dvalue)));
            }
        }
    }

    /// What a backward pass over a chunk starts from: the gradient of its output, and its share of
    /// the router losses.
    fn start(
        &mut self,
        y: Tensor<2>,
        dy: Tensor<2>,
        routings: Vec<Routing>,
        part: &Part,
    ) -> Tensor<1> {
        let mut start = seed(y, dy);
        let Some(weighing) = self.weighing else {
            return start;
        };
        for (iteration, routing) in routings.iter().enumerate() {
            let decision = self.first_decision + iteration;
            let terms = weighing.terms(decision, routing, part.rows.start);
            start = start.add(terms.objective.mul_scalar(self.step.loss_scale));
            self.losses = Some(match self.losses.take() {
                Some(sum) => sum.add(terms.values),
                None => terms.values,
            });
        }
        start
    }

    fn collect(&mut self, raw: &mut burn::tensor::Gradients) {
        let place = ["layers", self.name.as_str()];
        self.gradients.accumulate_part(&place, self.layer, raw);
    }
}

/// The result of attention that the last chunk of `kept` left, if it left one.
fn attended_of(kept: &mut Vec<KeptAttention>, step: &MicroStep<'_>) -> Attended {
    Attended::Replay(kept.pop().map(|kept| kept.restore(step.device)))
}

/// Chunks are gone through from the last, as is the gradient.
const A_GRADIENT: &str = "every chunk's output has a gradient";

fn gradient<const D: usize>(of: &Tensor<D>, raw: &mut burn::tensor::Gradients) -> Tensor<D> {
    of.grad_remove(raw)
        .expect("what backward started from was computed from it")
}

/// Names of block `block` of a layer's expert weights.
fn expert_names(layer: usize, block: usize) -> [String; 2] {
    ["gate_up_proj", "down_proj"]
        .map(|field| block_name(&format!("layers.{layer}.mlp.experts.{field}"), block))
}

/// The gradients of a layer's experts so far, to be added to in place.
fn take_expert_sums(
    index: usize,
    layer: &DecoderLayer,
    gradients: &mut Gradients,
) -> WeightAccumulator {
    let FeedForward::Mixture(mixture) = &layer.mlp else {
        return WeightAccumulator::default();
    };
    let ExpertWeights {
        gate_up_proj,
        down_proj,
    } = &mixture.experts;
    let blocks = gate_up_proj.iter().zip(down_proj).enumerate();
    let sums: Option<Vec<Block>> = blocks
        .map(|(number, (gate_up, down))| {
            let names = expert_names(index, number);
            Some(Block {
                gate_up: gradients.take(&names[0], gate_up.dims())?,
                down: gradients.take(&names[1], down.dims())?,
            })
        })
        .collect();
    WeightAccumulator::new(sums.map(Bank::new))
}

fn put_expert_sums(index: usize, sums: WeightAccumulator, gradients: &mut Gradients) {
    let Some(sums) = sums.take() else { return };
    for (number, block) in sums.into_blocks().into_iter().enumerate() {
        let [gate_up, down] = expert_names(index, number);
        gradients.put(&gate_up, block.gate_up);
        gradients.put(&down, block.down);
    }
}

/// The gradient of the embedding, a row a token of the vocabulary, is added where the step's sum of
/// it lies: with tied weights the head's. There is no second one.
fn embedding(
    step: &MicroStep<'_>,
    inputs: &[Input],
    dy: Vec<Tensor<2>>,
    gradients: &mut Gradients,
) {
    let _part = enter_part("embedding");
    let embedding = &step.model.embed_tokens;
    let dims = embedding.weight.dims();
    let name = "embed_tokens.weight";
    let mut sum = gradients
        .take(name, dims)
        .unwrap_or_else(|| Tensor::zeros(dims, &step.device.clone().without_autodiff()));
    for (input, dy) in inputs.iter().zip(dy) {
        sum = embedding.add_gradient(sum, input.ids.clone(), dy);
    }
    gradients.put(name, sum);
}
