//! Output head and cross-entropy in one: logits of some tokens at a time.

use bellows_kernels::Compute;
use bellows_kernels::cross_entropy::{Settings, workspace_bytes};
use bellows_kernels::memory::Kind;

use super::{F32, norm, rows};
use crate::plan::sim::Sim;
use crate::plan::tape::Span;

/// Tokens of one call of the head in a streamed step, unless a chunk has more.
const CALL: usize = 4096;

/// What a pass over `tokens` tokens with gradients takes besides operands and results.
fn workspace(sim: &Sim<'_>, tokens: usize) -> u64 {
    let (width, vocabulary) = (sim.model.hidden_size, sim.model.vocab_size);
    let compute = match sim.target.element() {
        F32 => Compute::F32,
        _ => sim.target.compute,
    };
    let settings = Settings {
        compute,
        ..Settings::default()
    };
    if sim.target.cube {
        // The head in the compute type comes on top.
        let converted = match compute {
            Compute::F32 => 0,
            _ => sim.target.element() * (vocabulary * width) as u64,
        };
        return workspace_bytes(tokens, width, vocabulary, true, &settings) as u64 + converted;
    }
    // Plain operations: three matrices of logits within the workspace, and the head's gradient of
    // one chunk beside the sum.
    let most = (settings.workspace / (3 * F32 as usize * vocabulary)).clamp(1, 1024);
    let beside = match tokens > most {
        true => rows(vocabulary, width),
        false => 0,
    };
    3 * rows(most.min(tokens), vocabulary) + beside
}

/// Gradients of the hidden states `[tokens, hidden]` and of the head, which a tracked pass makes at
/// once. `hidden` is the states, which are given back. `fresh`: the head's gradient is not added to
/// one that is there.
pub fn forward(sim: &mut Sim<'_>, tokens: usize, hidden: Span, fresh: bool) -> (Span, Span) {
    let (width, vocabulary) = (sim.model.hidden_size, sim.model.vocab_size);
    let sums = sim.tape.take(Kind::Workspace, 4 * rows(tokens, 1));
    let dhead = if fresh { rows(vocabulary, width) } else { 0 };
    let dhead = sim.tape.take(Kind::Gradients, dhead);
    let dhidden = sim.tape.take(Kind::Workspace, rows(tokens, width));
    let workspace = workspace(sim, tokens);
    sim.tape.over(workspace);
    sim.tape.give(hidden);
    sim.tape.give(sums);
    (dhidden, dhead)
}

/// The head of a streamed step over `tokens` tokens in chunks of `chunk`: the last layer's output
/// gives way to its gradient, some chunks at a time. `fresh`: as in [`forward`].
pub fn streamed(sim: &mut Sim<'_>, tokens: usize, chunk: usize, fresh: bool) {
    let width = sim.model.hidden_size;
    let call = (CALL / chunk.max(1) * chunk).max(chunk).min(tokens);
    // The chunks of a call put together, unless it is one.
    let x = if call > chunk { rows(call, width) } else { 0 };
    let x = sim.tape.take(Kind::Workspace, x);
    let states = sim.tape.take(Kind::Workspace, rows(call, width));
    let (dhidden, dhead) = forward(sim, call, states, fresh);
    sim.gradient_made(dhead);
    sim.tape.over(rows(call, width));
    norm::backward(sim, call, width);
    sim.tape.give(dhidden);
    sim.tape.give(x);
}
