//! A whole step: micro-batches, plainly or streamed, and the optimizer.

use bellows_kernels::memory::Kind;

use super::families::{F32, attention, head, mixture, norm, optimizer, rows};
use super::layer::{self, Flow, KeysFrom};
use super::projections;
use super::sim::{Chunk, Sim};
use super::tape::{Fullest, Phase, Span};
use super::{Load, Target};
use crate::config::ModelConfig;
use crate::step::Backpropagation;
use crate::stream::{Keep, Settings, parts::Parts};

/// The fullest moments of a step.
pub fn run(model: &ModelConfig, load: &Load, target: Target, way: Backpropagation) -> Vec<Fullest> {
    let mut sim = Sim::new(model, target);
    let parameters = model.parameter_counts().total as u64;
    let weights = sim.tape.take(Kind::Weights, F32 * parameters);
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
        optimizer::update(&mut sim, parameters, largest(model), gradients);
    } else {
        sim.tape.give_all(gradients);
    }
    sim.tape.give_all([weights, moments]);
    debug_assert_eq!(sim.tape.total(), 0, "everything taken is given back");
    sim.tape.fullest()
}

/// Elements of the largest parameter.
fn largest(model: &ModelConfig) -> u64 {
    let experts = model.n_routed_experts + model.n_shared_experts;
    let candidates = [
        model.vocab_size * model.hidden_size,
        model.intermediate_size * model.hidden_size,
        experts * 2 * model.moe_intermediate_size * model.hidden_size,
    ];
    candidates.into_iter().max().unwrap_or(0) as u64
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
    embedding(sim, dy);
    sim.tape.give(input);
    sim.graph = false;
    sim.collect(first);
}

/// The gradient of the embedding, a row a token of the vocabulary.
fn embedding(sim: &mut Sim<'_>, dy: Span) {
    let size = rows(sim.model.vocab_size, sim.model.hidden_size);
    match sim.model.tie_word_embeddings {
        // It is added to the head's.
        true => sim.tape.over(size),
        false => sim.gradient(size),
    }
    sim.tape.give(dy);
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
    sim.tape.enter(Phase::Forward, None);
    let inputs = groups.iter().flatten();
    let inputs: u64 = inputs
        .map(|chunk| attention::input(sim, chunk, load.documents))
        .sum();
    let inputs = sim.tape.take(Kind::Workspace, inputs);
    let kept = forward(sim, &groups, settings.keep);

    sim.tape.enter(Phase::Backward, None);
    let stream = rows(tokens, hidden);
    let chunk = groups.iter().flatten().next().map_or(0, Chunk::tokens);
    head::streamed(sim, tokens, chunk, first);
    let dy = sim.tape.become_kind(kept.last, Kind::Workspace);
    sim.collect(first);

    let (mut inputs_of, mut plans) = (kept.inputs, kept.plans);
    let mut dy = Some(dy);
    for index in (0..model.num_hidden_layers).rev() {
        sim.tape.enter(Phase::Backward, Some(index));
        sim.sum_experts_of(Some(index));
        let mut collected = false;
        for (number, group) in groups.iter().enumerate().rev() {
            if !tells(number, groups.len()) {
                continue;
            }
            if let [chunk] = group.as_slice() {
                repeat(sim, index, chunk, settings.keep, first && !collected);
                collected = true;
            } else {
                group_backward(sim, index, group, settings.keep, first, &mut collected);
            }
        }
        sim.tape.give_all(inputs_of.pop());
        sim.tape.give_all(plans.pop());
    }
    sim.sum_experts_of(None);
    sim.tape.enter(Phase::Backward, None);
    let joined = sim.tape.take(Kind::Workspace, stream);
    sim.tape.over(stream);
    sim.tape.give_all(dy.take());
    embedding(sim, joined);
    sim.collect(first);
    sim.tape.give(inputs);
}

/// What the streamed forward pass leaves.
struct Forward {
    /// By layer.
    inputs: Vec<Span>,
    /// By layer.
    plans: Vec<Span>,
    /// The last layer's output.
    last: Span,
}

/// Bytes of a restored input of `chunk`, which are the kept ones where these are on the device in
/// f32.
fn restored(sim: &Sim<'_>, tokens: usize, keep: Keep) -> u64 {
    match keep {
        Keep::F32 => 0,
        Keep::Compute if sim.target.element() == F32 => 0,
        Keep::Compute | Keep::Host => rows(tokens, sim.model.hidden_size),
    }
}

fn forward(sim: &mut Sim<'_>, groups: &[Vec<Chunk>], keep: Keep) -> Forward {
    let model = sim.model;
    let hidden = model.hidden_size;
    let tokens: usize = groups.iter().flatten().map(Chunk::tokens).sum();
    let mut last = sim.tape.take(Kind::Workspace, rows(tokens, hidden));
    let (mut inputs, mut plans) = (Vec::new(), Vec::new());
    for index in 0..model.num_hidden_layers {
        sim.tape.enter(Phase::Forward, Some(index));
        let mut outputs = Vec::new();
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
                    continue;
                }
                let keys = match group.len() {
                    1 => KeysFrom::Here,
                    _ => KeysFrom::Growing(&mut past),
                };
                let (flow, layer) = layer::forward(sim, index, chunk, Flow::default(), keys);
                layer.give_back(sim);
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
        match keep {
            Keep::F32 => inputs.push(sim.tape.become_kind(input, Kind::Activations)),
            Keep::Compute => {
                let kept = sim.target.element() * (tokens * hidden) as u64;
                sim.tape.give(input);
                inputs.push(sim.tape.take(Kind::Activations, kept));
            }
            Keep::Host => {
                sim.tape.give(input);
                inputs.push(sim.tape.take(Kind::Activations, 0));
            }
        }
    }
    Forward {
        inputs,
        plans,
        last,
    }
}

/// Whole sequences at once: one graph from the layer's input to its output.
fn repeat(sim: &mut Sim<'_>, index: usize, chunk: &Chunk, keep: Keep, first: bool) {
    let size = rows(chunk.tokens(), sim.model.hidden_size);
    let x = restored(sim, chunk.tokens(), keep);
    let x = sim.tape.take(Kind::Workspace, x);
    sim.graph = true;
    let (flow, kept) = layer::forward(sim, index, chunk, Flow::default(), KeysFrom::Here);
    let output = sim.tape.take(Kind::Workspace, size);
    sim.tape.give_all(flow.residual);
    sim.tape.give_all(flow.update);
    sim.tape.give(output);
    // The gradient of the output stays where it is until that of the input replaces it.
    let dy = sim.tape.take(Kind::Workspace, size);
    let (dx, _) = layer::backward(sim, chunk, dy, kept);
    sim.graph = false;
    sim.tape.give(dx);
    sim.tape.give(x);
    sim.collect(first);
}

/// The chunks of one sequence, from the last to the first.
fn group_backward(
    sim: &mut Sim<'_>,
    index: usize,
    group: &[Chunk],
    keep: Keep,
    first: bool,
    collected: &mut bool,
) {
    let hidden = sim.model.hidden_size;
    let groups = sim.groups();
    let sizes = [sim.model.query_head_dim(), sim.model.value_head_dim()];
    // Keys and values of all chunks, then put together.
    let mut parts: Vec<Vec<Span>> = Vec::new();
    for (at, chunk) in group.iter().enumerate() {
        if !tells(at, group.len()) {
            let both = sizes.map(|width| {
                let bytes = rows(chunk.tokens(), groups * width);
                sim.tape.take(Kind::Workspace, bytes)
            });
            parts.push(both.into());
            continue;
        }
        let x = restored(sim, 2 * chunk.tokens(), keep);
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
        if !tells(at, group.len()) {
            continue;
        }
        let size = rows(chunk.tokens(), hidden);
        let x = restored(sim, 2 * chunk.tokens(), keep);
        let x = sim.tape.take(Kind::Workspace, x);
        sim.graph = true;
        let (flow, kept) = layer::forward(sim, index, chunk, Flow::default(), KeysFrom::Made);
        let output = sim.tape.take(Kind::Workspace, size);
        sim.tape.give_all(flow.residual);
        sim.tape.give_all(flow.update);
        sim.tape.give(output);
        let dy = sim.tape.take(Kind::Workspace, size);
        let (dx, dkeys) = layer::backward(sim, chunk, dy, kept);
        sim.collect(first && !*collected);
        sim.tape.give_all(std::mem::take(&mut arriving));
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
        sim.tape.give(dx);
        sim.tape.give(x);
        sim.collect(first && !*collected);
        *collected = true;
    }
    sim.tape.give_all(arriving);
    sim.tape.give_all([key, value]);
}
