//! Linear projections: `y = x Wᵀ`.

use bellows_kernels::Compute;
use bellows_kernels::memory::Kind;

use super::{F32, rows};
use crate::plan::sim::Sim;
use crate::plan::tape::Span;

/// Bytes of what the kernels convert for a product: nothing where f32 is multiplied as it is.
fn converted(sim: &Sim<'_>, inputs: usize, outputs: usize, of: usize) -> u64 {
    match sim.target.projects(inputs, outputs) {
        true => sim.target.element() * of as u64,
        false => 0,
    }
}

/// Bytes of the matrix in the type that it is multiplied in, where it is held in another one; Burn's
/// product multiplies in f32.
fn matrix(sim: &Sim<'_>, inputs: usize, outputs: usize) -> u64 {
    let in_f32 = sim.target.weights == Compute::F32 || !sim.target.cube;
    match sim.target.projects(inputs, outputs) {
        true => sim.target.converted_matrix(outputs * inputs),
        false if in_f32 => 0,
        false => rows(outputs, inputs),
    }
}

/// The result `[tokens, outputs]`. The input stays with the caller.
pub fn forward(
    sim: &mut Sim<'_>,
    tokens: usize,
    inputs: usize,
    outputs: usize,
    kind: Kind,
) -> Span {
    let x = converted(sim, inputs, outputs, tokens * inputs);
    let weight = matrix(sim, inputs, outputs);
    let y = sim.tape.take(kind, rows(tokens, outputs));
    sim.tape.over(x + weight);
    y
}

/// The gradient of the input; that of the weight goes to the sums. `dy` is given back where it is
/// the caller's no more.
pub fn backward(
    sim: &mut Sim<'_>,
    tokens: usize,
    inputs: usize,
    outputs: usize,
    dy: Option<Span>,
) -> Span {
    let of = |sim: &Sim<'_>, count: usize| converted(sim, inputs, outputs, count);
    let small = of(sim, tokens * outputs);
    let low = sim.tape.take(Kind::Workspace, small);
    // Once it is converted, nobody needs it in f32.
    let dy = match (dy, small > 0) {
        (Some(dy), true) => {
            sim.tape.give(dy);
            None
        }
        (dy, _) => dy,
    };
    let dx = sim.tape.take(Kind::Workspace, rows(tokens, inputs));
    sim.tape.over(matrix(sim, inputs, outputs));
    sim.gradient(F32 * (outputs * inputs) as u64);
    let x = of(sim, tokens * inputs);
    sim.tape.over(x);
    sim.tape.give(low);
    sim.tape.give_all(dy);
    dx
}

/// The same of a projection that is multiplied in f32 whatever the compute type: a router.
pub fn backward_in_f32(sim: &mut Sim<'_>, tokens: usize, inputs: usize, outputs: usize) -> Span {
    let dx = sim.tape.take(Kind::Workspace, rows(tokens, inputs));
    sim.gradient(rows(outputs, inputs));
    dx
}
