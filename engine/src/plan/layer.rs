//! One decoder layer, forward and backward, in the order in which the engine computes it.

use bellows_kernels::memory::Kind;

use super::families::{attention, linear, mixture, norm, rows};
use super::projections::{keys_of, keys_of_backward, queries, queries_backward};
use super::sim::{Chunk, Sim};
use super::tape::Span;

/// The residual stream between two layers: what is not here is held by somebody else.
#[derive(Debug, Default)]
pub struct Flow {
    /// The stream.
    pub residual: Option<Span>,
    /// What is still to be added.
    pub update: Option<Span>,
}

/// What a layer keeps for its backward pass.
#[derive(Debug)]
pub struct Kept {
    /// The sums that the two normalisations read, with their results.
    first: Vec<Span>,
    query: Vec<Span>,
    keys: Vec<Span>,
    /// Whether its keys are its own.
    here: bool,
    attention: attention::Kept,
    merged: Vec<Span>,
    second: Vec<Span>,
    feed_forward: FeedForward,
}

#[derive(Debug)]
enum FeedForward {
    Dense(Vec<Span>),
    Mixture(Vec<mixture::Iteration>),
}

impl Kept {
    /// Gives back what is left of a pass without a graph.
    pub fn give_back(self, sim: &mut Sim<'_>) {
        let log_sums = [self.attention.log_sums];
        let lists = [
            self.first,
            self.query,
            self.keys,
            self.attention.operands,
            self.merged,
            self.second,
        ];
        let feed_forward = match self.feed_forward {
            FeedForward::Dense(spans) => spans,
            FeedForward::Mixture(_) => Vec::new(),
        };
        sim.tape.give_all(log_sums);
        sim.tape
            .give_all(lists.into_iter().flatten().chain(feed_forward));
    }
}

/// The normalised sum of `flow`, and what the norm keeps. The sum stays the residual.
pub fn normalise(
    sim: &mut Sim<'_>,
    tokens: usize,
    flow: Flow,
    kept: &mut Vec<Span>,
) -> (Option<Span>, Span) {
    let width = sim.model.hidden_size;
    let Flow { residual, update } = flow;
    let residual = match update {
        None => residual,
        Some(update) => {
            let kind = sim.kept_kind();
            let sum = sim.tape.take(kind, rows(tokens, width));
            let (normed, inverse) = norm::forward(sim, tokens, width);
            sim.tape.give(update);
            sim.tape.give_all(residual);
            let residual = if sim.graph {
                kept.push(sum);
                None
            } else {
                Some(sum)
            };
            sim.keep(kept, inverse);
            return (residual, normed);
        }
    };
    let (normed, inverse) = norm::forward(sim, tokens, width);
    sim.keep(kept, inverse);
    match (sim.graph, residual) {
        (true, Some(sum)) => {
            sim.keep(kept, sum);
            (None, normed)
        }
        (_, residual) => (residual, normed),
    }
}

/// Runs a layer over `chunk`. `keys`: those of all tokens so far where they were made before, else
/// they are made here; `past` is what keeps them for the chunks to come.
pub fn forward(
    sim: &mut Sim<'_>,
    index: usize,
    chunk: &Chunk,
    flow: Flow,
    keys: KeysFrom<'_>,
) -> (Flow, Kept) {
    let model = sim.model;
    let (tokens, hidden) = (chunk.tokens(), model.hidden_size);
    let heads = model.num_attention_heads * model.value_head_dim();
    let mut first = Vec::new();
    let (residual, normed) = normalise(sim, tokens, flow, &mut first);
    let (mut own_keys, mut key_spans) = (Vec::new(), Vec::new());
    let here = matches!(keys, KeysFrom::Here);
    match keys {
        KeysFrom::Made => {}
        KeysFrom::Here => {
            let keys = keys_of(sim, chunk);
            own_keys = keys.both;
            key_spans = keys.kept;
        }
        KeysFrom::Growing(past) => {
            let keys = keys_of(sim, chunk);
            let size = |sim: &Sim<'_>, width: usize| {
                rows(chunk.sequences * chunk.keys, sim.groups() * width)
            };
            let (key, value) = (
                size(sim, model.query_head_dim()),
                size(sim, model.value_head_dim()),
            );
            let before = std::mem::take(past);
            if before.is_empty() {
                past.extend(keys.both);
            } else {
                // One after the other: old and new lie side by side for a moment.
                past.push(sim.tape.take(Kind::Workspace, key));
                past.push(sim.tape.take(Kind::Workspace, value));
                sim.tape.give_all(before);
                sim.tape.give_all(keys.both);
            }
            sim.tape.give_all(keys.kept);
        }
    }
    let mut query_spans = Vec::new();
    let query = queries(sim, chunk, &mut query_spans);
    sim.keep(&mut first, normed);
    let (result, mut attention) = attention::forward(sim, chunk, query, own_keys);
    let kind = sim.kept_kind();
    let mut merged_spans = Vec::new();
    let merged = match sim.target.cube {
        // The result lies as the projection reads it.
        true => result,
        // Heads side by side: a copy of the result.
        false => {
            let merged = sim.tape.take(kind, rows(tokens, heads));
            sim.tape.give_all(result);
            Some(merged)
        }
    };
    let attended = linear::forward(sim, tokens, heads, hidden, Kind::Workspace);
    if let Some(merged) = merged {
        sim.keep(&mut merged_spans, merged);
    }
    let mut second = Vec::new();
    let flow = Flow {
        residual,
        update: Some(attended),
    };
    let (residual, normed) = normalise(sim, tokens, flow, &mut second);
    let (y, feed_forward) = if model.is_moe_layer(index) {
        let (y, kept, input) = mixture::forward(sim, chunk, normed);
        second.extend(input);
        (y, FeedForward::Mixture(kept))
    } else {
        let inner = model.intermediate_size;
        let mut kept = Vec::new();
        let gate = linear::forward(sim, tokens, hidden, inner, Kind::Workspace);
        let up = linear::forward(sim, tokens, hidden, inner, Kind::Workspace);
        sim.keep(&mut second, normed);
        let activation = sim.tape.take(Kind::Workspace, rows(tokens, inner));
        sim.keep(&mut kept, gate);
        sim.keep(&mut kept, up);
        let y = linear::forward(sim, tokens, inner, hidden, Kind::Workspace);
        sim.keep(&mut kept, activation);
        (y, FeedForward::Dense(kept))
    };
    let flow = if model.outer_residual || !model.is_moe_layer(index) {
        Flow {
            residual,
            update: Some(y),
        }
    } else {
        sim.tape.give_all(residual);
        Flow {
            residual: Some(y),
            update: None,
        }
    };
    if !sim.graph {
        sim.tape.give(attention.log_sums);
        attention.log_sums = sim.tape.take(Kind::Workspace, 0);
    }
    let kept = Kept {
        first,
        query: query_spans,
        keys: key_spans,
        here,
        attention,
        merged: merged_spans,
        second,
        feed_forward,
    };
    (flow, kept)
}

/// Where a layer's keys come from.
pub enum KeysFrom<'a> {
    /// They are of this chunk alone and made here.
    Here,
    /// They are made here and join those before.
    Growing(&'a mut Vec<Span>),
    /// They were made before, and somebody else holds them.
    Made,
}

/// From the gradient `dy` of a layer's output to that of its input. Where its keys were not made
/// here, the gradients of keys and values are returned as well.
pub fn backward(
    sim: &mut Sim<'_>,
    chunk: &Chunk,
    dy: Span,
    kept: Kept,
) -> (Span, Option<[Span; 2]>) {
    let model = sim.model;
    let (tokens, hidden) = (chunk.tokens(), model.hidden_size);
    let heads = model.num_attention_heads * model.value_head_dim();
    let inner = model.intermediate_size;
    let outer = match &kept.feed_forward {
        FeedForward::Mixture(_) => model.outer_residual,
        FeedForward::Dense(_) => true,
    };
    // The output's gradient is that of the sum as well, unless the layer has no outer residual.
    let (mut stream, through) = match outer {
        true => (Some(dy), None),
        false => (None, Some(dy)),
    };
    let dnormed = match kept.feed_forward {
        FeedForward::Mixture(iterations) => mixture::backward(sim, chunk, through, iterations),
        FeedForward::Dense(spans) => {
            let dactivation = linear::backward(sim, tokens, inner, hidden, through);
            let dgate = if sim.target.cube {
                // Their gradients take the memory of gate and up, and leave that of the result's.
                sim.tape.give_all(spans);
                let dgate = sim.tape.take(Kind::Workspace, rows(tokens, inner));
                sim.tape.over(rows(tokens, inner));
                dgate
            } else {
                // Slopes of the gate: three more of the activation's size on the way.
                sim.tape.over(3 * rows(tokens, inner));
                let dgate = sim.tape.take(Kind::Workspace, rows(tokens, inner));
                sim.tape.give_all(spans);
                dgate
            };
            let through_up = linear::backward(sim, tokens, hidden, inner, Some(dactivation));
            let through_gate = linear::backward(sim, tokens, hidden, inner, Some(dgate));
            sim.tape.give(through_gate);
            through_up
        }
    };
    if stream.is_none() {
        stream = Some(sim.tape.take(Kind::Workspace, rows(tokens, hidden)));
    }
    norm::backward(sim, tokens, hidden);
    sim.tape.give(dnormed);
    sim.tape.give_all(kept.second);
    let mut dmerged = linear::backward(sim, tokens, heads, hidden, None);
    sim.tape.give_all(kept.merged);
    dmerged = sim.tape.become_kind(dmerged, Kind::Workspace);
    let (dquery, dkey, dvalue) = attention::backward(sim, chunk, dmerged, kept.attention);
    let dnormed = queries_backward(sim, chunk, dquery, kept.query);
    let elsewhere = if !kept.here {
        Some([dkey, dvalue])
    } else {
        let more = keys_of_backward(sim, chunk, [dkey, dvalue], Vec::new(), kept.keys);
        sim.tape.give(more);
        None
    };
    norm::backward(sim, tokens, hidden);
    sim.tape.give(dnormed);
    sim.tape.give_all(kept.first);
    (stream.expect("a gradient goes on"), elsewhere)
}
