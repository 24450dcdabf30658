//! Attention of some queries over the keys so far.

use bellows_kernels::attention::reference::BLOCK;
use bellows_kernels::memory::Kind;

use super::{F32, rows};
use crate::plan::sim::{Chunk, Sim};
use crate::plan::tape::Span;

/// What a forward pass keeps beside queries, keys and values.
#[derive(Debug)]
pub struct Kept {
    /// The result `[batch, heads, time, width]` where backward reads it.
    pub result: Option<Span>,
    /// Log-sum-exps of flash attention, or the probabilities of the reference.
    pub scores: Span,
}

/// Probabilities of the keys that each block of queries may see.
fn probabilities(sim: &Sim<'_>, chunk: &Chunk) -> u64 {
    let heads = chunk.sequences * sim.model.num_attention_heads;
    let before = chunk.keys - chunk.time;
    let seen: usize = (0..chunk.time)
        .step_by(BLOCK)
        .map(|start| {
            let rows = BLOCK.min(chunk.time - start);
            rows * (before + start + rows)
        })
        .sum();
    F32 * (heads * seen) as u64
}

/// One block's scores.
fn block(sim: &Sim<'_>, chunk: &Chunk) -> u64 {
    let heads = chunk.sequences * sim.model.num_attention_heads;
    F32 * (heads * BLOCK.min(chunk.time) * chunk.keys) as u64
}

/// The result, and what is kept. Queries, keys and values stay with the caller.
pub fn forward(sim: &mut Sim<'_>, chunk: &Chunk) -> (Span, Kept) {
    let heads = sim.model.num_attention_heads;
    let (tokens, kind) = (chunk.tokens(), sim.kept_kind());
    let out = rows(tokens, heads * sim.model.value_head_dim());
    if sim.target.flash {
        let scores = sim.tape.take(kind, rows(tokens, heads));
        let result = sim.tape.take(kind, out);
        return (result, Kept { result: None, scores });
    }
    let scores = probabilities(sim, chunk);
    let scores = sim.tape.take(kind, if sim.graph { scores } else { block(sim, chunk) });
    // Scores of a block become its probabilities; the parts of the result are then put together.
    let block = block(sim, chunk);
    sim.tape.over(2 * block + out);
    let result = sim.tape.take(Kind::Workspace, out);
    sim.tape.over(out);
    (
        result,
        Kept {
            result: None,
            scores,
        },
    )
}

/// Gradients of queries, keys and values. `dy` and what was kept are given back.
pub fn backward(
    sim: &mut Sim<'_>,
    chunk: &Chunk,
    dy: Span,
    kept: Kept,
) -> (Span, Span, Span) {
    let model = sim.model;
    let (heads, groups) = (model.num_attention_heads, sim.groups());
    let (tokens, keys) = (chunk.tokens(), chunk.sequences * chunk.keys);
    let (width, value_width) = (model.query_head_dim(), model.value_head_dim());
    let dk = sim.tape.take(Kind::Workspace, rows(keys, groups * width));
    let dv = sim.tape.take(Kind::Workspace, rows(keys, groups * value_width));
    if sim.target.flash {
        // The sum of each row of gradient times result.
        sim.tape.over(rows(tokens, heads));
    } else {
        // The parts of a block, and sums that are put together anew.
        let block = block(sim, chunk);
        let sums = rows(keys, groups * width.max(value_width));
        sim.tape.over(3 * block + 2 * sums + rows(tokens, heads * width));
    }
    let dq = sim.tape.take(Kind::Workspace, rows(tokens, heads * width));
    sim.tape.give(dy);
    sim.tape.give(kept.scores);
    sim.tape.give_all(kept.result);
    (dq, dk, dv)
}

/// Masks and rotations of `chunk`.
pub fn input(sim: &Sim<'_>, chunk: &Chunk, documents: bool) -> u64 {
    let model = sim.model;
    let angles = rows(
        if documents { chunk.tokens() } else { chunk.time },
        model.rotary_dim(),
    );
    let ids = rows(chunk.tokens(), 1);
    if sim.target.flash {
        return angles + ids + if documents { rows(chunk.sequences, chunk.keys) } else { 0 };
    }
    let sequences = if documents { chunk.sequences } else { 1 };
    let slides = (0..model.num_hidden_layers).any(|layer| model.layer_window(layer).is_some());
    let masks = if slides { 2 } else { 1 };
    angles + ids + masks * F32 * (sequences * chunk.time * chunk.keys) as u64
}
