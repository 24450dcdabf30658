//! A whole step: micro-batches, plainly or streamed, and the optimizer.

use bellows_kernels::memory::Kind;

use super::families::{F32, attention, head, mixture, norm, optimizer, rows};
use super::layer::{self, Flow, KeysFrom};
use super::parameter::largest_parameter;
use super::projections;
use super::sim::{Chunk, Sim};
use super::tape::{Phase, Span, Taken};
use super::{Load, Target};
use crate::config::ModelConfig;
use crate::step::Backpropagation;
use crate::stream::{Keep, Settings, parts::Parts};

/// What a step takes.
pub fn run(model: &ModelConfig, load: &Load, target: Target, way: Backpropagation) -> Taken {
    let mut sim = Sim::new(model, target);
    let parameters = model.parameter_counts().total as u64;
    let weights = sim.tape.take(Kind::Weights, target.weight_bytes(model));
    let moments = sim.tape.take(
        Kind::Optimizer,
        2 * F32 * parameters * u64::from(load.training),
    );
    for micro in 0..load.micro_batches.clamp(1, 2) {
        let first = micro == 0;
        match way {
            Backpropagation::Plain => plain(&mut sim, load, first),
            Backpropagation::Streamed(settings) => streamed(&mut sim, load, &settings, first),
        }
    }
    let gradients = sim.take_gradients();
    if load.training {
        sim.tape.enter(Phase::Optimizer, None);
        optimizer::update(
            &mut sim,
            parameters,
            largest_parameter(model, target.largest_buffer).elements(),
            gradients,
        );
    } else {
        sim.tape.give_all(gradients);
    }
    sim.tape.give_all([weights, moments]);
    debug_assert_eq!(sim.tape.total(), 0, "everything taken is given back");
    sim.tape.taken()
}

fn plain(sim: &mut Sim<'_>, load: &Load, first: bool) {
    let model = sim.model;
    let chunk = Chunk {
        sequences: load.batch,
        time: load.time,
        keys: load.time,
        length: load.time,
        whole: true,
    };
    let (tokens, hidden) = (chunk.tokens(), model.hidden_size);
    sim.graph = true;
    sim.tape.enter(Phase::Forward, None);
    let input = attention::input(sim, &chunk, load.documents);
    let input = sim.tape.take(Kind::Workspace, input);
    let mut flow = Flow {
        residual: Some(sim.tape.take(Kind::Activations, rows(tokens, hidden))),
        update: None,
    };
    let mut kept = Vec::with_capacity(model.num_hidden_layers);
    for index in 0..model.num_hidden_layers {
        sim.tape.enter(Phase::Forward, Some(index));
        let (next, layer) = layer::forward(sim, index, &chunk, flow, KeysFrom::Here);
        flow = next;
        kept.push(layer);
    }
    sim.tape.enter(Phase::Forward, None);
    let mut last = vec![sim.tape.take(Kind::Activations, rows(tokens, hidden))];
    let (states, inverse) = norm::forward(sim, tokens, hidden);
    last.push(inverse);
    sim.tape.give_all(flow.update);
    last.extend(flow.residual);
    if load.head_twice {
        head::scores(sim, tokens);
    }
    let (dhidden, dhead) = head::forward(sim, tokens, states, true);
    sim.gradient_made(dhead);
    sim.tape.enter(Phase::Backward, None);
    let mut dy = sim.tape.take(Kind::Workspace, rows(tokens, hidden));
    norm::backward(sim, tokens, hidden);
    sim.tape.give(dhidden);
    sim.tape.give_all(last);
    while let Some(layer) = kept.pop() {
        sim.tape.enter(Phase::Backward, Some(kept.len()));
        dy = layer::backward(sim, &chunk, dy, layer).0;
    }
    sim.tape.enter(Phase::Backward, None);
    // The gradient of the embedding, a row a token of the vocabulary.
    let size = rows(sim.model.vocab_size, sim.model.hidden_size);
    match sim.model.tie_word_embeddings {
        // It is added to the head's.
        true => sim.tape.over(size),
        false => sim.gradient(size),
    }
    sim.tape.give(dy);
    sim.tape.give(input);
    sim.graph = false;
    sim.collect(first);
}

/// The chunks of a micro-batch.
fn chunks(load: &Load, settings: &Settings) -> Vec<Vec<Chunk>> {
    let parts = Parts::new(load.batch, load.time, settings.chunk);
    let of = |group: &[crate::model::Part]| {
        let chunks = group.iter().map(|part| Chunk {
            sequences: part.rows.len(),
            time: part.tokens.len(),
            keys: part.tokens.end,
            length: load.time,
            whole: false,
        });
        chunks.collect()
    };
    parts.groups().map(|(_, group)| of(group)).collect()
}

/// Whether one of `count` equal parts tells something about the peak that those before it and the
/// last ones do not: of many the first two and the last three are simulated.
fn tells(at: usize, count: usize) -> bool {
    at < 2 || at + 3 >= count
}

fn streamed(sim: &mut Sim<'_>, load: &Load, settings: &Settings, first: bool) {
    let model = sim.model;
    let (tokens, hidden) = (load.batch * load.time, model.hidden_size);
    let groups = chunks(load, settings);
    sim.graph = false;
    sim.attention_known = false;
    sim.tape.enter(Phase::Forward, None);
    let inputs = groups.iter().flatten();
    let inputs: u64 = inputs
        .map(|chunk| attention::input(sim, chunk, load.documents))
        .sum();
    let inputs = sim.tape.take(Kind::Workspace, inputs);
    let kept = forward(sim, &groups, settings);

    sim.tape.enter(Phase::Backward, None);
    let chunk = groups.iter().flatten().next().map_or(0, Chunk::tokens);
    head::streamed(sim, tokens, chunk, first, load.head_twice);
    let mut dy = sim.tape.become_kind(kept.last, Kind::Workspace);
    sim.collect(first);

    let (mut inputs_of, mut plans) = (kept.inputs, kept.plans);
    for index in (0..model.num_hidden_layers).rev() {
        sim.tape.enter(Phase::Backward, Some(index));
        sim.sum_experts_of(Some(index));
        let mut layer = Layer {
            index,
            settings: *settings,
            kept: inputs_of.pop().expect("an input a layer"),
            dy,
            dx: sim.tape.take(Kind::Workspace, 0),
            first,
        };
        for (number, group) in groups.iter().enumerate().rev() {
            match group.as_slice() {
                group if !tells(number, groups.len()) => {
                    for chunk in group {
                        layer.pass_over(sim, chunk);
                    }
                }
                [chunk] => layer.repeat(sim, chunk),
                group => layer.group_backward(sim, group),
            }
        }
        let Layer {
            kept, dy: rest, dx, ..
        } = layer;
        sim.tape.give_all([kept, rest]);
        dy = dx;
        sim.tape.give_all(plans.pop());
    }
    sim.sum_experts_of(None);
    sim.tape.enter(Phase::Backward, None);
    // The gradient of the embedding is added where the step's sum lies: with tied weights, the
    // head's.
    if first && !model.tie_word_embeddings {
        sim.gradient(rows(model.vocab_size, hidden));
    }
    sim.tape.give(dy);
    sim.collect(first);
    sim.tape.give(inputs);
}

/// What the streamed forward pass leaves.
struct Forward {
    /// What is kept of each layer's input and attention.
    inputs: Vec<Span>,
    /// By layer.
    plans: Vec<Span>,
    /// The last layer's output.
    last: Span,
}

/// Bytes of the kept input of a layer, of `tokens` tokens. That of the first one is looked up again.
fn kept_input(sim: &Sim<'_>, index: usize, tokens: usize, keep: Keep) -> u64 {
    match keep.on(sim.target.gpu) {
        _ if index == 0 => 0,
        Keep::F32 => rows(tokens, sim.model.hidden_size),
        Keep::Compute => sim.target.element() * (tokens * sim.model.hidden_size) as u64,
        Keep::Host => 0,
    }
}

/// Bytes of the kept result of a layer's attention, of `tokens` tokens, with its log-sum-exps.
fn kept_attention(sim: &Sim<'_>, tokens: usize, settings: &Settings) -> u64 {
    if !settings.keep_attention {
        return 0;
    }
    let heads = sim.model.num_attention_heads;
    let width = match sim.target.cube {
        true => sim.model.value_head_dim().next_multiple_of(8),
        false => sim.model.value_head_dim(),
    };
    let result = (tokens * heads * width) as u64;
    let log_sums = rows(tokens, heads);
    match settings.keep.on(sim.target.gpu) {
        Keep::F32 => F32 * result + log_sums,
        Keep::Compute => sim.target.element() * result + log_sums,
        Keep::Host => log_sums,
    }
}

fn forward(sim: &mut Sim<'_>, groups: &[Vec<Chunk>], settings: &Settings) -> Forward {
    let model = sim.model;
    let hidden = model.hidden_size;
    let tokens: usize = groups.iter().flatten().map(Chunk::tokens).sum();
    let mut last = sim.tape.take(Kind::Workspace, rows(tokens, hidden));
    let (mut inputs, mut plans) = (Vec::new(), Vec::new());
    for index in 0..model.num_hidden_layers {
        sim.tape.enter(Phase::Forward, Some(index));
        let mut outputs = Vec::new();
        let mut attention = sim.tape.take(Kind::Activations, 0);
        let mut plan = 0;
        for (number, group) in groups.iter().enumerate() {
            let mut past = Vec::new();
            for (at, chunk) in group.iter().enumerate() {
                if model.is_moe_layer(index) {
                    plan += mixture::plan_bytes(sim, chunk.tokens()) * model.inner_iter as u64;
                }
                if !tells(number, groups.len()) || !tells(at, group.len()) {
                    let y = rows(chunk.tokens(), hidden);
                    outputs.push(sim.tape.take(Kind::Workspace, y));
                    let result = kept_attention(sim, chunk.tokens(), settings);
                    attention.join(sim.tape.take(Kind::Activations, result));
                    continue;
                }
                let keys = match group.len() {
                    1 => KeysFrom::Here,
                    _ => KeysFrom::Growing(&mut past),
                };
                let (flow, layer) = layer::forward(sim, index, chunk, Flow::default(), keys);
                layer.give_back(sim);
                let result = kept_attention(sim, chunk.tokens(), settings);
                attention.join(sim.tape.take(Kind::Activations, result));
                let y = sim.tape.take(Kind::Workspace, rows(chunk.tokens(), hidden));
                sim.tape.give_all(flow.residual);
                sim.tape.give_all(flow.update);
                outputs.push(y);
            }
            sim.tape.give_all(past);
        }
        plans.push(sim.tape.take(Kind::Activations, plan));
        sim.tape.give_all(outputs);
        let next = sim.tape.take(Kind::Workspace, rows(tokens, hidden));
        let input = std::mem::replace(&mut last, next);
        // The layer's input is what the layer before gave.
        sim.tape.give(input);
        let kept = kept_input(sim, index, tokens, settings.keep);
        attention.join(sim.tape.take(Kind::Activations, kept));
        inputs.push(attention);
    }
    Forward {
        inputs,
        plans,
        last,
    }
}

/// A layer on its way back.
struct Layer {
    index: usize,
    settings: Settings,
    /// What is kept of the chunks not gone through yet.
    kept: Span,
    /// Gradients of their outputs.
    dy: Span,
    /// Gradients of the inputs of those gone through.
    dx: Span,
    /// Whether the gradients that are made become the sums.
    first: bool,
}

impl Layer {
    /// Takes the kept input of a chunk, and the gradient of its output. What is kept of its
    /// attention is let go: the pass that is repeated takes it for its own.
    fn take(&mut self, sim: &mut Sim<'_>, chunk: &Chunk) -> (Span, Span) {
        let tokens = chunk.tokens();
        let input = kept_input(sim, self.index, tokens, self.settings.keep);
        let attention = kept_attention(sim, tokens, &self.settings);
        sim.tape.give(self.kept.split(attention));
        sim.attention_known = self.settings.keep_attention;
        let dy = self.dy.split(rows(tokens, sim.model.hidden_size));
        (self.kept.split(input), dy)
    }

    /// Bytes of a chunk's input in f32 beside what is kept of it. From the host the next one comes
    /// meanwhile.
    fn restored(&self, sim: &Sim<'_>, chunk: &Chunk) -> u64 {
        let size = rows(chunk.tokens(), sim.model.hidden_size);
        match self.settings.keep.on(sim.target.gpu) {
            _ if self.index == 0 => size,
            Keep::F32 => 0,
            Keep::Compute if sim.target.element() == F32 => 0,
            Keep::Compute => size,
            Keep::Host => 2 * size,
        }
    }

    /// A chunk that is not simulated.
    fn pass_over(&mut self, sim: &mut Sim<'_>, chunk: &Chunk) {
        let (x, dy) = self.take(sim, chunk);
        sim.tape.give(x);
        self.dx.join(dy);
    }

    fn collect(&mut self, sim: &mut Sim<'_>) {
        sim.collect(self.first);
        self.first = false;
    }

    /// Whole sequences at once: one graph from the layer's input to its output.
    fn repeat(&mut self, sim: &mut Sim<'_>, chunk: &Chunk) {
        let size = rows(chunk.tokens(), sim.model.hidden_size);
        let (kept, dy) = self.take(sim, chunk);
        let x = self.restored(sim, chunk);
        let x = sim.tape.take(Kind::Workspace, x);
        sim.graph = true;
        let (flow, layer) = layer::forward(sim, self.index, chunk, Flow::default(), KeysFrom::Here);
        let output = sim.tape.take(Kind::Workspace, size);
        sim.tape.give_all(flow.residual);
        sim.tape.give_all(flow.update);
        sim.tape.give(output);
        let (dx, _) = layer::backward(sim, chunk, dy, layer);
        sim.graph = false;
        self.dx.join(dx);
        sim.tape.give_all([x, kept]);
        self.collect(sim);
    }

    /// The chunks of one sequence, from the last to the first.
    fn group_backward(&mut self, sim: &mut Sim<'_>, group: &[Chunk]) {
        let groups = sim.groups();
        let sizes = [sim.model.query_head_dim(), sim.model.value_head_dim()];
        let both = |chunk: &Chunk| sizes.map(|width| rows(chunk.tokens(), groups * width));
        // Keys and values of all chunks, then put together.
        let mut parts: Vec<Vec<Span>> = Vec::new();
        for (at, chunk) in group.iter().enumerate() {
            if !tells(at, group.len()) {
                let both = both(chunk).map(|bytes| sim.tape.take(Kind::Workspace, bytes));
                parts.push(both.into());
                continue;
            }
            let x = self.restored(sim, chunk);
            let x = sim.tape.take(Kind::Workspace, x);
            let keys = projections::keys(sim, chunk);
            sim.tape.give_all(keys.kept);
            parts.push(keys.both);
            sim.tape.give(x);
        }
        let end = group.last().map_or(0, |chunk| chunk.sequences * chunk.keys);
        let [key, value] = sizes.map(|width| rows(end, groups * width));
        let key = sim.tape.take(Kind::Activations, key);
        let (mut key_parts, mut value_parts) = (Vec::new(), Vec::new());
        for both in parts {
            let mut both = both.into_iter();
            key_parts.extend(both.next());
            value_parts.extend(both);
        }
        sim.tape.give_all(key_parts);
        let value = sim.tape.take(Kind::Activations, value);
        sim.tape.give_all(value_parts);

        let mut arriving: Vec<Span> = Vec::new();
        for (at, chunk) in group.iter().enumerate().rev() {
            if tells(at, group.len()) {
                self.streamed(sim, chunk, &mut arriving);
            } else {
                self.pass_over(sim, chunk);
            }
        }
        sim.tape.give_all(arriving);
        sim.tape.give_all([key, value]);
    }

    /// One chunk of several. `arriving`: gradients of the keys and values before the chunk that was
    /// last at work.
    fn streamed(&mut self, sim: &mut Sim<'_>, chunk: &Chunk, arriving: &mut Vec<Span>) {
        let size = rows(chunk.tokens(), sim.model.hidden_size);
        let groups = sim.groups();
        let sizes = [sim.model.query_head_dim(), sim.model.value_head_dim()];
        let (kept, dy) = self.take(sim, chunk);
        let x = self.restored(sim, chunk);
        let x = sim.tape.take(Kind::Workspace, x);
        sim.graph = true;
        let (flow, layer) = layer::forward(sim, self.index, chunk, Flow::default(), KeysFrom::Made);
        let output = sim.tape.take(Kind::Workspace, size);
        sim.tape.give_all(flow.residual);
        sim.tape.give_all(flow.update);
        sim.tape.give(output);
        let (dx, dkeys) = layer::backward(sim, chunk, dy, layer);
        sim.collect(self.first);
        sim.tape.give_all(std::mem::take(arriving));
        arriving.extend(dkeys.into_iter().flatten());
        // The chunk's own keys back into its input.
        let keys = projections::keys(sim, chunk);
        let own = sizes.map(|width| {
            let bytes = rows(chunk.tokens(), groups * width);
            sim.tape.take(Kind::Workspace, bytes)
        });
        let more = projections::keys_backward(sim, chunk, own, keys);
        sim.tape.give(more);
        sim.graph = false;
        self.dx.join(dx);
        sim.tape.give_all([x, kept]);
        self.collect(sim);
    }
}
