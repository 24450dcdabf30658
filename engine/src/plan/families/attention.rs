//! Flash attention of some queries over the keys so far: scores are never held, but for a block of
//! them where plain operations compute.

use bellows_kernels::attention::reference;
use bellows_kernels::memory::Kind;

use super::{F32, rows};
use crate::plan::sim::{Chunk, Sim};
use crate::plan::tape::Span;

/// What a forward pass keeps for backward.
#[derive(Debug)]
pub struct Kept {
    /// Queries, keys and values, as far as they are this layer's own.
    pub operands: Vec<Span>,
    /// The result where backward reads it: the projection behind reads it as well.
    pub result: Option<Span>,
    /// A log-sum-exp a row and head.
    pub log_sums: Span,
}

/// Bytes of keys and values that the kernels copy because they are strided or converted. `own`:
/// they were made for these tokens alone.
fn copied(sim: &Sim<'_>, chunk: &Chunk, own: bool) -> (u64, u64) {
    let element = sim.target.element();
    let keys = (chunk.sequences * chunk.keys * sim.groups()) as u64;
    let width = |width: usize| element * keys * width as u64;
    let (key, value) = (
        width(sim.model.query_head_dim()),
        width(sim.model.value_head_dim()),
    );
    match (element == F32, own) {
        // A value lies in the projection's rows, a key in memory of its own.
        (true, true) => (0, value),
        // Keys put together for several chunks. The streamed backward pass holds those of all, of
        // which every chunk but the last one reads a part.
        (true, false) if chunk.is_last() || !sim.graph => (0, 0),
        _ => (key, value),
    }
}

/// One buffer of scores.
fn scores(sim: &Sim<'_>, chunk: &Chunk, backward: bool) -> u64 {
    let heads = chunk.sequences * sim.model.num_attention_heads;
    reference::scores_bytes(heads, chunk.time, chunk.keys, backward) as u64
}

/// The result where it is not among what is kept, and what is kept. `keys`: key and value where
/// they are of this chunk alone; else somebody else holds them.
pub fn forward(
    sim: &mut Sim<'_>,
    chunk: &Chunk,
    query: Span,
    keys: Vec<Span>,
) -> (Option<Span>, Kept) {
    let heads = sim.model.num_attention_heads;
    let (tokens, kind) = (chunk.tokens(), sim.kept_kind());
    let out = rows(tokens, heads * sim.model.value_head_dim());
    if sim.target.cube {
        return by_kernels(sim, chunk, query, keys, out);
    }
    let log_sums = sim.tape.take(kind, rows(tokens, heads));
    // Scores with their mask; the parts of the result are then put together.
    let scores = scores(sim, chunk, false);
    let known = sim.attention_known;
    if !known {
        sim.tape.over(2 * scores + out);
    }
    let result = sim.tape.take(kind, out);
    if !known {
        sim.tape.over(out);
    }
    let mut kept = Kept {
        operands: keys,
        result: None,
        log_sums,
    };
    kept.operands.push(query);
    if sim.graph {
        kept.result = Some(result);
        return (None, kept);
    }
    sim.tape.give_all(std::mem::take(&mut kept.operands));
    (Some(result), kept)
}

fn by_kernels(
    sim: &mut Sim<'_>,
    chunk: &Chunk,
    query: Span,
    keys: Vec<Span>,
    out: u64,
) -> (Option<Span>, Kept) {
    let heads = sim.model.num_attention_heads;
    let (tokens, kind) = (chunk.tokens(), sim.kept_kind());
    let element = sim.target.element();
    let own = !keys.is_empty();
    let (key, value) = copied(sim, chunk, own);
    let query_copy = match element == F32 {
        true => 0,
        false => element * (tokens * heads * sim.model.query_head_dim()) as u64,
    };
    let copies = sim.tape.take(kind, query_copy + key + value);
    let log_sums = sim.tape.take(kind, rows(tokens, heads));
    let result = sim.tape.take(kind, out);
    let mut operands = vec![copies];
    // What was copied is let go; the rest is kept as it is.
    let mut keys = keys.into_iter();
    for (original, copy) in [
        (Some(query), query_copy),
        (keys.next(), key),
        (keys.next(), value),
    ] {
        match (original, copy) {
            (Some(original), 0) => operands.push(original),
            (original, _) => sim.tape.give_all(original),
        }
    }
    let mut kept = Kept {
        operands,
        result: None,
        log_sums,
    };
    if sim.graph {
        kept.result = Some(result);
        return (None, kept);
    }
    sim.tape.give_all(std::mem::take(&mut kept.operands));
    (Some(result), kept)
}

/// Gradients of queries, keys and values. `dy` and what was kept are given back.
pub fn backward(sim: &mut Sim<'_>, chunk: &Chunk, dy: Span, kept: Kept) -> (Span, Span, Span) {
    let model = sim.model;
    let (heads, groups) = (model.num_attention_heads, sim.groups());
    let (tokens, keys) = (chunk.tokens(), chunk.sequences * chunk.keys);
    let (width, value_width) = (model.query_head_dim(), model.value_head_dim());
    let (dq, dk, dv) = if sim.target.cube {
        // The gradient in the compute type, and each row's sum of it times the result.
        let element = sim.target.element();
        let low = match element == F32 {
            true => 0,
            false => element * (tokens * heads * value_width) as u64,
        };
        let low = sim.tape.take(Kind::Workspace, low + rows(tokens, heads));
        let dq = sim.tape.take(Kind::Workspace, rows(tokens, heads * width));
        let dk = sim.tape.take(Kind::Workspace, rows(keys, groups * width));
        let dv = sim
            .tape
            .take(Kind::Workspace, rows(keys, groups * value_width));
        sim.tape.give(low);
        (dq, dk, dv)
    } else {
        let dk = sim.tape.take(Kind::Workspace, rows(keys, groups * width));
        let dv = sim
            .tape
            .take(Kind::Workspace, rows(keys, groups * value_width));
        // Scores and what becomes of them, and the parts of the queries' gradient.
        let scores = scores(sim, chunk, true);
        sim.tape.over(4 * scores + rows(tokens, heads * width));
        let dq = sim.tape.take(Kind::Workspace, rows(tokens, heads * width));
        (dq, dk, dv)
    };
    sim.tape.give(dy);
    sim.tape.give(kept.log_sums);
    sim.tape.give_all(kept.result);
    sim.tape.give_all(kept.operands);
    (dq, dk, dv)
}

/// Rotations, ids and, of packed documents, where each begins.
pub fn input(sim: &Sim<'_>, chunk: &Chunk, documents: bool) -> u64 {
    let tokens = chunk.tokens();
    let positions = if documents { tokens } else { chunk.time };
    let starts = if documents { rows(tokens, 1) } else { 0 };
    rows(positions, sim.model.rotary_dim()) + rows(tokens, 1) + starts
}
