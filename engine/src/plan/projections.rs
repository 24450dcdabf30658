//! Queries, keys and values of a layer's input, forward and backward.

use bellows_kernels::memory::Kind;

use super::families::{linear, norm, rows};
use super::layer::{Flow, normalise};
use super::sim::{Chunk, Sim};
use super::tape::Span;
use crate::config::{AttentionKind, QkNorm};

/// Keys and values.
#[derive(Debug)]
pub struct Keys {
    /// Keys, then values.
    pub both: Vec<Span>,
    /// What backward wants of how they were made.
    pub kept: Vec<Span>,
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
pub fn keys_of(sim: &mut Sim<'_>, chunk: &Chunk) -> Keys {
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
pub fn keys_of_backward(
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
            let compressed = sim.tape.take(Kind::Workspace, rows(tokens, rank + rotary));
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
            // The rotation leaves heads apart; the norm takes them side by side.
            sim.tape.over(size);
            let dx = sim.tape.take(Kind::Workspace, size);
            norm::backward(sim, count, heads * width * tokens / count);
            sim.tape.give(back);
            dx
        }
    };
    if sim.model.qk_norm != QkNorm::Head {
        // Heads go back into rows: a copy.
        sim.tape.over(size);
    }
    linear::backward(sim, tokens, inputs, heads * width, Some(back))
}

pub fn queries(sim: &mut Sim<'_>, chunk: &Chunk, kept: &mut Vec<Span>) -> Span {
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

pub fn queries_backward(sim: &mut Sim<'_>, chunk: &Chunk, dquery: Span, kept: Vec<Span>) -> Span {
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
