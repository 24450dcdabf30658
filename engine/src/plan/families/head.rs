//! Output head and cross-entropy in one: logits of some tokens at a time.

use bellows_kernels::memory::Kind;

use super::{F32, norm, rows};
use crate::plan::sim::Sim;
use crate::plan::tape::Span;

/// Tokens whose logits the plain operations hold at one time.
const CHUNK: usize = 1024;

/// Bytes that the kernels hold at one time.
const WORKSPACE: u64 = 144 << 20;

/// Edge of the kernels' tiles, and workgroups that a small product is split into.
const EDGE: usize = 128;
const WORKGROUPS: usize = 264;

/// Tokens of one call of the head in a streamed step, unless a chunk has more.
const CALL: usize = 4096;

/// Workspace of a pass over `tokens` tokens with gradients.
fn workspace(sim: &Sim<'_>, tokens: usize) -> u64 {
    let (width, vocabulary) = (sim.model.hidden_size, sim.model.vocab_size);
    if !sim.target.fused_head {
        // Logits, and their exponentials, which become their gradient; then a part of the head's
        // gradient beside the sum.
        let logits = rows(CHUNK.min(tokens), vocabulary);
        let beside = match tokens > CHUNK {
            true => rows(vocabulary, width),
            false => 0,
        };
        return (2 * logits).max(logits + beside);
    }
    let element = sim.target.element();
    let stride = vocabulary.next_multiple_of(8);
    let parts = vocabulary.div_ceil(EDGE);
    let row = element * (stride + width) as u64 + (8 * parts + 4) as u64;
    let fixed = F32 * (WORKGROUPS * EDGE * EDGE) as u64;
    let fitting = ((WORKSPACE - fixed) / row / EDGE as u64).max(1) as usize * EDGE;
    let chunks = tokens.div_ceil(fitting).max(1);
    let at_once = tokens
        .div_ceil(chunks)
        .next_multiple_of(EDGE)
        .min(fitting)
        .max(1);
    let tiles = at_once.div_ceil(EDGE) * width.div_ceil(EDGE);
    let splits = WORKGROUPS.div_ceil(tiles).clamp(1, stride.div_ceil(512));
    let converted = match element == F32 {
        true => 0,
        false => element * (vocabulary * width) as u64,
    };
    at_once as u64 * row + rows(splits * at_once, width) + converted
}

/// Gradients of the hidden states `[tokens, hidden]` and of the head, which a tracked pass makes at
/// once. `hidden` is the states, which are given back.
pub fn forward(sim: &mut Sim<'_>, tokens: usize, hidden: Span) -> (Span, Span) {
    let (width, vocabulary) = (sim.model.hidden_size, sim.model.vocab_size);
    let sums = sim.tape.take(Kind::Workspace, 4 * rows(tokens, 1));
    let workspace = workspace(sim, tokens);
    let workspace = sim.tape.take(Kind::Workspace, workspace);
    let (dhidden, dhead) = if sim.target.fused_head {
        let dhead = sim.tape.take(Kind::Gradients, rows(vocabulary, width));
        let dhidden = sim.tape.take(Kind::Workspace, rows(tokens, width));
        sim.tape.give(workspace);
        (dhidden, dhead)
    } else {
        sim.tape.give(workspace);
        let dhead = sim.tape.take(Kind::Gradients, rows(vocabulary, width));
        let dhidden = sim.tape.take(Kind::Workspace, rows(tokens, width));
        // The parts of the states' gradient beside the whole.
        sim.tape.over(rows(tokens, width));
        (dhidden, dhead)
    };
    sim.tape.give(hidden);
    sim.tape.give(sums);
    (dhidden, dhead)
}

/// The head of a streamed step over `tokens` tokens in chunks of `chunk`: the last layer's output
/// gives way to its gradient.
pub fn streamed(sim: &mut Sim<'_>, tokens: usize, chunk: usize) {
    let width = sim.model.hidden_size;
    if !sim.target.fused_head {
        // All tokens in one call: normalised by chunk, then put together.
        let parts = sim.tape.take(Kind::Workspace, rows(tokens, width));
        let states = sim.tape.take(Kind::Workspace, rows(tokens, width));
        sim.tape.give(parts);
        let (dhidden, dhead) = forward(sim, tokens, states);
        sim.gradient_made(dhead);
        sim.tape.over(2 * rows(chunk, width));
        norm::backward(sim, chunk, width);
        sim.tape.give(dhidden);
        return;
    }
    // Some chunks in a call, each adding to one gradient of the head.
    let call = (CALL / chunk.max(1) * chunk).max(chunk).min(tokens);
    let x = if call > chunk { rows(call, width) } else { 0 };
    let x = sim.tape.take(Kind::Workspace, x);
    let states = sim.tape.take(Kind::Workspace, rows(call, width));
    let (dhidden, dhead) = forward(sim, call, states);
    sim.gradient_made(dhead);
    sim.tape.over(rows(call, width));
    norm::backward(sim, call, width);
    sim.tape.give(dhidden);
    sim.tape.give(x);
}
