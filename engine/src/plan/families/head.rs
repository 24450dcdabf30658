//! Output head and cross-entropy in one.

use bellows_kernels::cross_entropy::CHUNK;
use bellows_kernels::memory::Kind;

use super::rows;
use crate::plan::sim::Sim;
use crate::plan::tape::Span;

/// Gradients of the hidden states `[tokens, hidden]` and of the head, which a tracked pass makes at
/// once. `hidden` is the states.
pub fn forward(sim: &mut Sim<'_>, tokens: usize, hidden: Span) -> (Span, Span) {
    let (width, vocabulary) = (sim.model.hidden_size, sim.model.vocab_size);
    let chunk = CHUNK.min(tokens);
    let chunks = tokens.div_ceil(CHUNK);
    let logits = rows(chunk, vocabulary);
    let sums = sim.tape.take(Kind::Workspace, 4 * rows(tokens, 1));
    // Logits, their exponentials, and their gradient.
    sim.tape.over(3 * logits);
    let dhead = sim.tape.take(Kind::Gradients, rows(vocabulary, width));
    let dhidden = sim.tape.take(Kind::Workspace, rows(tokens, width));
    if chunks > 1 {
        // A chunk's part beside the sum.
        sim.tape.over(logits + rows(vocabulary, width) + rows(chunk, width));
    }
    sim.tape.give(hidden);
    sim.tape.give(sums);
    (dhidden, dhead)
}
