//! Mixtures and chains of experts: routers, choices, experts.
//!
//! A step without streaming runs a whole chain as one function, its matrices converted once; a
//! streamed step goes iteration by iteration and converts them for each product.

use bellows_kernels::experts::part_rows;
use bellows_kernels::memory::Kind;

use super::{F32, linear, rows};
use crate::plan::sim::{Chunk, Sim};
use crate::plan::tape::Span;

/// Sizes of a mixture for some tokens.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    tokens: usize,
    hidden: usize,
    inner: usize,
    experts: usize,
    top_k: usize,
    /// Sorted rows: a row a choice, and one a token and shared expert.
    rows: usize,
    /// Routed and shared experts.
    blocks: usize,
    /// Bytes of an element of the compute type.
    element: u64,
}

/// What an iteration keeps: its input is the caller's.
#[derive(Debug)]
pub struct Iteration {
    logits: Span,
    /// Weights, indices, slots, positions, and the rest of the plan.
    plan: Span,
    /// The pre-activation.
    pre: Span,
    /// The state after it, where it is the next iteration's input.
    state: Option<Span>,
}

impl Sizes {
    fn of(sim: &Sim<'_>, tokens: usize) -> Self {
        let model = sim.model;
        let shared = match model.mlp_bias {
            true => 0,
            false => model.n_shared_experts,
        };
        Self {
            tokens,
            hidden: model.hidden_size,
            inner: model.moe_intermediate_size,
            experts: model.n_routed_experts,
            top_k: model.num_experts_per_tok,
            rows: tokens * (model.num_experts_per_tok + shared),
            blocks: model.n_routed_experts + shared,
            element: sim.target.element(),
        }
    }

    fn sorted(&self, width: usize) -> u64 {
        self.element * (self.rows * width) as u64
    }

    /// Of operands in the compute type: nothing where that is f32, which is used as it is.
    fn converted(&self, count: usize) -> u64 {
        if self.element == F32 {
            0
        } else {
            self.element * count as u64
        }
    }

    fn gate_up(&self) -> usize {
        self.blocks * 2 * self.inner * self.hidden
    }

    fn down(&self) -> usize {
        self.blocks * self.inner * self.hidden
    }

    /// Token of each row and the tiles of a product.
    fn groups(&self) -> u64 {
        F32 * (self.rows + 3 * (self.rows / 64 + self.blocks)) as u64
    }

    /// Weights and indices of each choice, slots and positions, choices and offsets of each expert.
    fn plan(&self) -> u64 {
        F32 * (4 * self.tokens * self.top_k + 4 * self.experts) as u64
    }

    /// Counts and sums of the tiles of tokens that a choice goes through.
    fn counts(&self) -> u64 {
        let tiles = self.tokens.div_ceil(64).min(2048);
        F32 * (tiles * (2 * self.experts + 2)) as u64
    }

    /// The backward pass's parts of each row weight's gradient, and the weights.
    fn shares(&self) -> u64 {
        let edge = if self.element == F32 { 64 } else { 128 };
        let parts = self.inner.div_ceil(edge) * if self.element == F32 { 1 } else { 2 };
        F32 * (self.rows * (parts + 1)) as u64
    }

    /// Parts of a router's gradient.
    fn router_parts(&self) -> u64 {
        let parts = (self.tokens / 256).clamp(1, 64);
        F32 * (parts * self.experts * self.hidden) as u64
    }
}

/// Bytes that the plan of one iteration over `tokens` tokens keeps from forward to backward.
pub fn plan_bytes(sim: &Sim<'_>, tokens: usize) -> u64 {
    Sizes::of(sim, tokens).plan()
}

/// What is taken for a part of the rows at a time, where the device takes them in parts: the
/// pre-activation and the activation, and the conversions of the largest of the products.
fn part(sim: &Sim<'_>, sizes: &Sizes, convert: bool) -> Option<u64> {
    if !sim.target.experts_in_parts {
        return None;
    }
    let rows = part_rows(sizes.rows).min(sizes.rows);
    let own = sizes.element * (rows * 3 * sizes.inner) as u64;
    let matrix = |count: usize| match convert {
        true => sim.target.converted_matrix(count),
        false => 0,
    };
    let x = sizes.converted(sizes.tokens * sizes.hidden);
    Some(own + (x + matrix(sizes.gate_up())).max(matrix(sizes.down())))
}

/// The products of a forward pass; returns the pre-activation and the rows' outputs.
fn products(sim: &mut Sim<'_>, sizes: &Sizes, convert: bool) -> (Span, Span) {
    let kind = sim.kept_kind();
    if let Some(part) = part(sim, sizes, convert) {
        let out = sim.tape.buffer(Kind::Workspace, sizes.sorted(sizes.hidden));
        sim.tape.over(sizes.groups() + part);
        return (sim.tape.take(kind, 0), out);
    }
    let groups = sim.tape.take(Kind::Workspace, sizes.groups());
    let x = sim.tape.take(
        Kind::Workspace,
        sizes.converted(sizes.tokens * sizes.hidden),
    );
    let matrix = |sim: &mut Sim<'_>, count: usize| {
        let bytes = if convert {
            sim.target.converted_matrix(count)
        } else {
            0
        };
        sim.tape.take(Kind::Workspace, bytes)
    };
    let gate_up = matrix(sim, sizes.gate_up());
    let pre = sim.tape.buffer(kind, sizes.sorted(2 * sizes.inner));
    let activation = sim.tape.take(Kind::Workspace, sizes.sorted(sizes.inner));
    sim.tape.give(x);
    sim.tape.give(gate_up);
    let pre = match sim.target.recompute_experts {
        true => {
            sim.tape.give(pre);
            sim.tape.take(kind, 0)
        }
        false => pre,
    };
    let out = sim.tape.buffer(Kind::Workspace, sizes.sorted(sizes.hidden));
    let down = matrix(sim, sizes.down());
    sim.tape.give(down);
    sim.tape.give(activation);
    sim.tape.give(groups);
    (pre, out)
}

/// Forward over all iterations. Returns the last state and what each keeps; `x`, the first one's
/// input, stays with the caller where there is a graph, else it is given back.
pub fn forward(sim: &mut Sim<'_>, chunk: &Chunk, x: Span) -> (Span, Vec<Iteration>, Option<Span>) {
    let sizes = Sizes::of(sim, chunk.tokens());
    let whole = chunk.whole;
    let kind = sim.kept_kind();
    // The routers, stacked, and the matrices, converted once.
    let held = match whole {
        true => sim.target.converted_matrix(sizes.gate_up() + sizes.down()),
        false => 0,
    };
    let held = sim.tape.take(Kind::Workspace, held);
    let mut kept = Vec::new();
    let mut state = x;
    let mut first = None;
    for iteration in 0..sim.model.inner_iter {
        let logits = sim.tape.take(kind, rows(sizes.tokens, sizes.experts));
        let plan = sim.tape.take(kind, sizes.plan());
        sim.tape.over(sizes.counts());
        if !whole && sim.graph {
            // Scores are computed again in plain operations.
            let scores = 3 * rows(sizes.tokens, sizes.experts);
            sim.tape.over(scores);
        }
        let (pre, out) = products(sim, &sizes, !whole);
        let next = sim
            .tape
            .take(Kind::Workspace, rows(sizes.tokens, sizes.hidden));
        sim.tape.give(out);
        let before = std::mem::replace(&mut state, next);
        let at = Iteration {
            logits,
            plan,
            pre,
            state: None,
        };
        if sim.graph {
            let before = sim.tape.become_kind(before, Kind::Activations);
            match iteration {
                0 => first = Some(before),
                _ => {
                    let at: &mut Iteration = kept.last_mut().expect("an iteration before");
                    at.state = Some(before);
                }
            }
            kept.push(at);
        } else {
            sim.tape.give(before);
            sim.tape.give_all([at.logits, at.plan, at.pre]);
        }
    }
    sim.tape.give(held);
    (state, kept, first)
}

/// The gradients of an iteration from that of its result: of the matrices of down and of gate and
/// up projections, of the logits, and of its input.
type Gradients = ((Span, Span), Span, Span);

/// Sums of the matrices' gradients: those before, or fresh.
fn sum(sim: &mut Sim<'_>, before: Option<Span>, count: usize) -> Span {
    before.unwrap_or_else(|| sim.tape.take(Kind::Gradients, F32 * count as u64))
}

/// Gradients of all rows at once; `pre` is the pre-activation that was kept.
fn at_once(
    sim: &mut Sim<'_>,
    sizes: &Sizes,
    whole: bool,
    pre: Span,
    sums: Option<(Span, Span)>,
) -> Gradients {
    let (tokens, hidden) = (sizes.tokens, sizes.hidden);
    let matrix = |sim: &Sim<'_>, count: usize| match whole {
        true => 0,
        false => sim.target.converted_matrix(count),
    };
    let groups = sim.tape.take(Kind::Workspace, sizes.groups());
    let pre = match sim.target.recompute_experts {
        true => {
            sim.tape.give(pre);
            let pre = sizes.sorted(2 * sizes.inner);
            let pre = sim.tape.take(Kind::Workspace, pre);
            let converted = sizes.converted(tokens * hidden) + matrix(sim, sizes.gate_up());
            sim.tape.over(converted);
            pre
        }
        false => pre,
    };
    let activation = sim.tape.take(Kind::Workspace, sizes.sorted(sizes.inner));
    let shares = sim.tape.take(Kind::Workspace, sizes.shares());
    sim.tape.over(matrix(sim, sizes.down()));
    sim.tape.give(shares);
    let dx_rows = sim.tape.take(Kind::Workspace, sizes.sorted(hidden));
    sim.tape.over(matrix(sim, sizes.gate_up()));
    let dlogits = sim.tape.take(Kind::Workspace, rows(tokens, sizes.experts));
    let dx = sim.tape.take(Kind::Workspace, rows(tokens, hidden));
    sim.tape.give(dx_rows);
    sim.tape.give(groups);
    let (down, gate_up) = sums.unzip();
    // The larger one first; then what it was made of makes room for the other.
    let gate_up = sum(sim, gate_up, sizes.gate_up());
    sim.tape
        .over(sizes.converted(tokens * hidden) + sizes.groups());
    sim.tape.give(pre);
    let down = sum(sim, down, sizes.down());
    sim.tape.over(sizes.groups());
    sim.tape.give(activation);
    ((down, gate_up), dlogits, dx)
}

/// Gradients of a part of the rows at a time, for which `part` bytes are taken and given back.
fn in_parts(sim: &mut Sim<'_>, sizes: &Sizes, part: u64, sums: Option<(Span, Span)>) -> Gradients {
    let (tokens, hidden) = (sizes.tokens, sizes.hidden);
    let shares = sim.tape.take(Kind::Workspace, sizes.shares());
    let (down, gate_up) = sums.unzip();
    let gate_up = sum(sim, gate_up, sizes.gate_up());
    let down = sum(sim, down, sizes.down());
    // The sum over the rows of the parts before, and with this one's.
    let dx_rows = sim.tape.take(Kind::Workspace, rows(tokens, hidden));
    sim.tape
        .over(sizes.groups() + part.max(rows(tokens, hidden)));
    sim.tape.give(shares);
    let dlogits = sim.tape.take(Kind::Workspace, rows(tokens, sizes.experts));
    let dx = sim.tape.take(Kind::Workspace, rows(tokens, hidden));
    sim.tape.give(dx_rows);
    ((down, gate_up), dlogits, dx)
}

/// Backward over all iterations: from the gradient of the last state, `None` where it is the
/// caller's, to that of the first input.
pub fn backward(
    sim: &mut Sim<'_>,
    chunk: &Chunk,
    dy: Option<Span>,
    mut kept: Vec<Iteration>,
) -> Span {
    let sizes = Sizes::of(sim, chunk.tokens());
    let whole = chunk.whole;
    let (tokens, hidden) = (sizes.tokens, sizes.hidden);
    let held = match whole {
        true => sim.target.converted_matrix(sizes.gate_up() + sizes.down()),
        false => 0,
    };
    let held = sim.tape.take(Kind::Workspace, held);
    let mut gradient = dy;
    let mut sums = sim.take_expert_sums();
    while let Some(at) = kept.pop() {
        // The state that the iteration after this one read: its gradient has been made.
        sim.tape.give_all(at.state);
        let low = sim
            .tape
            .take(Kind::Workspace, sizes.converted(tokens * hidden));
        let (gradients, dlogits, dx) = match part(sim, &sizes, !whole) {
            Some(part) => in_parts(sim, &sizes, part, sums.take()),
            None => at_once(sim, &sizes, whole, at.pre, sums.take()),
        };
        sums = Some(gradients);
        sim.tape.give(low);
        if whole {
            sim.tape.over(sizes.router_parts());
            sim.gradient(rows(sizes.experts, hidden));
        } else {
            let through_router = linear::backward_in_f32(sim, tokens, hidden, sizes.experts);
            sim.tape.give(through_router);
        }
        sim.tape.give(dlogits);
        sim.tape.give_all([at.logits, at.plan]);
        sim.tape.give_all(gradient.replace(dx));
    }
    sim.put_expert_sums(sums);
    sim.tape.give(held);
    gradient.expect("a chain has an iteration")
}
