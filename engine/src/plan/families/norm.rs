//! RMS normalisation: kept are the input, shared with the caller, and a number a row.

use super::rows;
use crate::plan::sim::Sim;
use crate::plan::tape::Span;

/// Parts of a weight's gradient.
const MOST_PARTS: usize = 1024;
const LEAST_ROWS: usize = 16;

/// The normalised rows, and the number a row.
pub fn forward(sim: &mut Sim<'_>, count: usize, width: usize) -> (Span, Span) {
    let kind = sim.kept_kind();
    // The reference squares on the side.
    let squares = if sim.target.cube {
        0
    } else {
        rows(count, width)
    };
    let y = sim.tape.take(kind, rows(count, width));
    sim.tape.over(squares);
    let inverse = sim.tape.take(kind, rows(count, 1));
    (y, inverse)
}

/// Workspace of the backward pass, whose result takes the place of `onto` or memory of its own.
pub fn backward(sim: &mut Sim<'_>, count: usize, width: usize) {
    if sim.target.cube {
        let block = count.div_ceil(MOST_PARTS).max(LEAST_ROWS);
        sim.tape.over(rows(count.div_ceil(block), width));
    } else {
        sim.tape.over(3 * rows(count, width));
    }
    sim.gradient(rows(1, width));
}
