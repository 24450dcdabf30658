//! AdamW: in place on a device, with some copies of a parameter at a time elsewhere.

use bellows_kernels::memory::Kind;

use super::F32;
use crate::plan::sim::Sim;
use crate::plan::tape::Span;

/// Elements of a part of the gradients' norm.
const CHUNK: u64 = 16 * 1024;

/// One update of `parameters` elements, of which the largest tensor has `largest`; `gradients` are
/// given back.
pub fn update(sim: &mut Sim<'_>, parameters: u64, largest: u64, gradients: Vec<Span>) {
    match sim.target.cube {
        true => sim.tape.over(2 * F32 * parameters.div_ceil(CHUNK)),
        // The reference takes five more of a parameter's size while it updates it.
        false => {
            let workspace = sim.tape.take(Kind::Workspace, 5 * F32 * largest);
            sim.tape.give(workspace);
        }
    }
    sim.tape.give_all(gradients);
}
