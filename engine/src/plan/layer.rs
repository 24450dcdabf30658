//! One decoder layer, forward and backward, in the order in which the engine computes it.

use bellows_kernels::memory::Kind;

use super::families::{attention, linear, mixture, norm, rows};
use super::sim::{Chunk, Sim};
use super::tape::Span;
use crate::config::{AttentionKind, QkNorm};

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
        let scores = [self.attention.log_sums];
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
        sim.tape.give_all(scores);
        sim.tape.give_all(lists.into_iter().flatten().chain(feed_forward));
    }
}

/// Keys and values.
#[derive(Debug)]
pub struct Keys {
    /// Keys, then values.
    pub both: Vec<Span>,
    /// What backward wants of how they were made.
    pub kept: Vec<Span>,
}

/// The normalised sum of `flow`, and what the norm keeps. The sum stays the residual.
fn normalise(sim: &mut Sim<'_>, tokens: usize, flow: Flow, kept: &mut Vec<Span>) -> (Option<Span>, Span) {
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

/// A projection to heads, normalised and rotated.
fn project(
    sim: &mut Sim<'_>,
    chunk: &Chunk,
    inputs: usize,
    heads: usize,
    normed: bool,
    kept: &mut Vec<Span>,
) -> Span {
    let (tokens, width) = (chunk.tokens(), sim.model.query_head_dim());
    let size = rows(tokens, heads * width);
    let y = linear::forward(sim, tokens, inputs, heads * width, Kind::Workspace);
    let y = match (normed, sim.model.qk_norm) {
        (false, _) | (_, QkNorm::None) => y,
        (true, of) => {
            let count = match of {
                QkNorm::Head => tokens * heads,
                _ => tokens,
            };
            // Heads lie strided where they are normalised one by one: copied first.
            if of == QkNorm::Head {
                sim.tape.over(2 * size);
            }
            let (normed, inverse) = norm::forward(sim, count, heads * width * tokens / count);
            sim.keep(kept, y);
            sim.keep(kept, inverse);
            normed
        }
    };
    rotate(sim, size);
    let kind = sim.kept_kind();
    let turned = sim.tape.take(kind, size);
    sim.tape.give(y);
    turned
}

/// The reference of the rotation makes halves and puts them together.
fn rotate(sim: &mut Sim<'_>, size: u64) {
    if !sim.target.cube {
        sim.tape.over(2 * size);
    }
}

/// Keys and values of `tokens`, which are normalised already.
fn keys_of(sim: &mut Sim<'_>, chunk: &Chunk) -> Keys {
    let model = sim.model;
    let (tokens, hidden) = (chunk.tokens(), model.hidden_size);
    let kind = sim.kept_kind();
    let mut kept = Vec::new();
    match model.attention {
        AttentionKind::Gqa => {
            let groups = model.num_key_value_heads;
            let value = groups * model.value_head_dim();
            let value = linear::forward(sim, tokens, hidden, value, kind);
            let key = project(sim, chunk, hidden, groups, true, &mut kept);
            Keys {
                both: vec![key, value],
                kept,
            }
        }
        AttentionKind::Mla => {
            let (rank, rotary) = (model.kv_lora_rank, model.qk_rope_head_dim);
            let heads = model.num_attention_heads;
            let wide = heads * (model.qk_nope_head_dim + model.v_head_dim);
            let compressed = linear::forward(sim, tokens, hidden, rank + rotary, kind);
            let turned = sim.tape.take(Kind::Workspace, rows(tokens, rotary));
            sim.tape.over(2 * rows(tokens, rank));
            let (latent, inverse) = norm::forward(sim, tokens, rank);
            let both = linear::forward(sim, tokens, rank, wide, kind);
            let key = sim
                .tape
                .take(kind, rows(tokens, heads * model.query_head_dim()));
            sim.tape.give(turned);
            for span in [compressed, inverse, latent] {
                sim.keep(&mut kept, span);
            }
            Keys {
                both: vec![key, both],
                kept,
            }
        }
    }
}

/// Keys and values of a layer's input, which stays with the caller, as the streamed backward pass
/// computes them apart from the rest.
pub fn keys(sim: &mut Sim<'_>, chunk: &Chunk) -> Keys {
    let mut kept = Vec::new();
    let (_, normed) = normalise(sim, chunk.tokens(), Flow::default(), &mut kept);
    let mut keys = keys_of(sim, chunk);
    keys.kept.append(&mut kept);
    sim.keep(&mut keys.kept, normed);
    keys
}

/// The gradient of the layer's input through its keys and values, whose gradients are given back.
pub fn keys_backward(sim: &mut Sim<'_>, chunk: &Chunk, dkeys: [Span; 2], keys: Keys) -> Span {
    let dnormed = keys_of_backward(sim, chunk, dkeys, keys.both, keys.kept);
    let dx = sim
        .tape
        .take(Kind::Workspace, rows(chunk.tokens(), sim.model.hidden_size));
    norm::backward(sim, chunk.tokens(), sim.model.hidden_size);
    sim.tape.give(dnormed);
    dx
}

/// The gradient of the normalised tokens through keys and values.
fn keys_of_backward(
    sim: &mut Sim<'_>,
    chunk: &Chunk,
    [dkey, dvalue]: [Span; 2],
    both: Vec<Span>,
    kept: Vec<Span>,
) -> Span {
    let model = sim.model;
    let (tokens, hidden) = (chunk.tokens(), model.hidden_size);
    let dnormed = match model.attention {
        AttentionKind::Gqa => {
            let groups = model.num_key_value_heads;
            let value = groups * model.value_head_dim();
            let through_key = project_backward(sim, chunk, hidden, groups, dkey);
            let through_value = linear::backward(sim, tokens, hidden, value, Some(dvalue));
            sim.tape.give(through_value);
            through_key
        }
        AttentionKind::Mla => {
            let (rank, rotary) = (model.kv_lora_rank, model.qk_rope_head_dim);
            let heads = model.num_attention_heads;
            let wide = heads * (model.qk_nope_head_dim + model.v_head_dim);
            let both = sim.tape.take(Kind::Workspace, rows(tokens, wide));
            sim.tape.give(dkey);
            sim.tape.give(dvalue);
            let dlatent = linear::backward(sim, tokens, rank, wide, Some(both));
            norm::backward(sim, tokens, rank);
            let compressed = sim
                .tape
                .take(Kind::Workspace, rows(tokens, rank + rotary));
            sim.tape.over(rows(tokens, rank + rotary));
            sim.tape.give(dlatent);
            linear::backward(sim, tokens, hidden, rank + rotary, Some(compressed))
        }
    };
    sim.tape.give_all(both);
    sim.tape.give_all(kept);
    dnormed
}

fn project_backward(
    sim: &mut Sim<'_>,
    chunk: &Chunk,
    inputs: usize,
    heads: usize,
    dy: Span,
) -> Span {
    let (tokens, width) = (chunk.tokens(), sim.model.query_head_dim());
    let size = rows(tokens, heads * width);
    rotate(sim, size);
    let back = sim.tape.take(Kind::Workspace, size);
    sim.tape.give(dy);
    let back = match sim.model.qk_norm {
        QkNorm::None => back,
        of => {
            let count = match of {
                QkNorm::Head => tokens * heads,
                _ => tokens,
            };
            let strided = if of == QkNorm::Head { 2 * size } else { size };
            sim.tape.over(strided);
            let dx = sim.tape.take(Kind::Workspace, size);
            norm::backward(sim, count, heads * width * tokens / count);
            sim.tape.give(back);
            dx
        }
    };
    // Heads go back into rows: a copy.
    sim.tape.over(size);
    linear::backward(sim, tokens, inputs, heads * width, Some(back))
}

fn queries(sim: &mut Sim<'_>, chunk: &Chunk, kept: &mut Vec<Span>) -> Span {
    let model = sim.model;
    let (tokens, hidden, heads) = (chunk.tokens(), model.hidden_size, model.num_attention_heads);
    let gqa = model.attention == AttentionKind::Gqa;
    match model.q_lora_rank.filter(|_| !gqa) {
        None => project(sim, chunk, hidden, heads, gqa, kept),
        Some(rank) => {
            let low = linear::forward(sim, tokens, hidden, rank, Kind::Workspace);
            let (normed, inverse) = norm::forward(sim, tokens, rank);
            sim.keep(kept, low);
            sim.keep(kept, inverse);
            let query = project(sim, chunk, rank, heads, false, kept);
            sim.keep(kept, normed);
            query
        }
    }
}

fn queries_backward(sim: &mut Sim<'_>, chunk: &Chunk, dquery: Span, kept: Vec<Span>) -> Span {
    let model = sim.model;
    let (tokens, hidden, heads) = (chunk.tokens(), model.hidden_size, model.num_attention_heads);
    let gqa = model.attention == AttentionKind::Gqa;
    let dnormed = match model.q_lora_rank.filter(|_| !gqa) {
        None => project_backward(sim, chunk, hidden, heads, dquery),
        Some(rank) => {
            let dlow = project_backward(sim, chunk, rank, heads, dquery);
            norm::backward(sim, tokens, rank);
            linear::backward(sim, tokens, hidden, rank, Some(dlow))
        }
    };
    sim.tape.give_all(kept);
    dnormed
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
    for merged in merged {
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
            // Slopes of the gate: three more of the activation's size on the way.
            sim.tape.over(3 * rows(tokens, inner));
            let dgate = sim.tape.take(Kind::Workspace, rows(tokens, inner));
            sim.tape.give_all(spans);
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
