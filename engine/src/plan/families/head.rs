//! Output head and cross-entropy in one: logits of some tokens at a time.

use bellows_kernels::Compute;
use bellows_kernels::cross_entropy::{Settings, reference, workspace_bytes};
use bellows_kernels::memory::Kind;

use super::{F32, norm, rows};
use crate::plan::sim::Sim;
use crate::plan::tape::Span;
use crate::stream::head::tokens_of_a_call;

/// What a pass over `tokens` tokens takes besides operands and results, with gradients or without.
fn workspace(sim: &Sim<'_>, tokens: usize, gradients: bool) -> u64 {
    let (width, vocabulary) = (sim.model.hidden_size, sim.model.vocab_size);
    let compute = match sim.target.element() {
        F32 => Compute::F32,
        _ => sim.target.compute,
    };
    let settings = Settings {
        compute,
        workspace: sim.target.head_workspace,
        ..Settings::default()
    };
    if sim.target.cube {
        // The head in the compute type comes on top.
        let converted = sim.target.converted_matrix(vocabulary * width);
        return workspace_bytes(tokens, width, vocabulary, gradients, &settings) as u64 + converted;
    }
    // Plain operations: logits and their exponentials, which become their gradient; then a part of
    // the head's gradient beside the sum.
    let most = reference::tokens_at_once(vocabulary, &settings);
    let beside = match gradients && tokens > most {
        true => rows(vocabulary, width),
        false => 0,
    };
    let logits = rows(most.min(tokens), vocabulary);
    (2 * logits).max(logits + beside)
}

/// Log-probabilities of the labels, from which the weights of the tokens are made: losses,
/// log-sum-exps, masks, what the objective knows of each token. `hidden` stays with the caller.
pub fn scores(sim: &mut Sim<'_>, tokens: usize) {
    let workspace = workspace(sim, tokens, false);
    sim.tape.over(workspace + 2 * rows(tokens, 1));
    sim.tape.over(8 * rows(tokens, 1));
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
    let workspace = workspace(sim, tokens, true);
    sim.tape.over(workspace);
    sim.tape.give(hidden);
    sim.tape.give(sums);
    (dhidden, dhead)
}

/// The head of a streamed step over `tokens` tokens in chunks of `chunk`: the last layer's output
/// gives way to its gradient, some chunks at a time. `fresh`: as in [`forward`]; `twice`: the tokens
/// are weighed by their log-probabilities first.
pub fn streamed(sim: &mut Sim<'_>, tokens: usize, chunk: usize, fresh: bool, twice: bool) {
    let width = sim.model.hidden_size;
    let least = tokens_of_a_call(sim.target.gpu, sim.target.head_workspace);
    let call = (least / chunk.max(1) * chunk).max(chunk).min(tokens);
    if twice {
        // The chunks of a call one by one, then put together.
        let states = sim.tape.take(Kind::Workspace, rows(call, width));
        sim.tape
            .over(if call > chunk { rows(call, width) } else { 0 });
        scores(sim, call);
        sim.tape.give(states);
    }
    // The chunks of a call are put together, unless it is one.
    sim.tape
        .over(if call > chunk { rows(call, width) } else { 0 });
    let states = sim.tape.take(Kind::Workspace, rows(call, width));
    let (dhidden, dhead) = forward(sim, call, states, fresh);
    sim.gradient_made(dhead);
    sim.tape.over(rows(call, width));
    norm::backward(sim, call, width);
    sim.tape.give(dhidden);
}
