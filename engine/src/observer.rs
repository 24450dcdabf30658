//! What a step reports, in plain values.

/// Routing of one layer and iteration over one optimizer step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoutingStats {
    /// Layer, from 0.
    pub layer: usize,
    /// Iteration of the chain, from 0.
    pub iteration: usize,
    /// Tokens routed.
    pub tokens: u64,
    /// Choices of each expert, dropped ones included.
    pub chosen: Vec<u64>,
    /// Mean probability of each expert over the tokens; sums to 1.
    pub probability: Vec<f64>,
    /// Mean entropy of a token's probabilities, in nat.
    pub entropy: f64,
    /// Slots left out because an expert was full.
    pub dropped: u64,
}

/// Expert-to-expert counts of one optimizer step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transitions {
    /// Layer and iteration that tokens come from.
    pub from: (usize, usize),
    /// Layer and iteration that they go to: the next iteration, or the next mixture layer's first.
    pub to: (usize, usize),
    /// Experts of one router.
    pub experts: usize,
    /// `[from expert, to expert]`, row by row: each pair of a token's choices counts once.
    pub counts: Vec<u64>,
}

/// Receives what happens inside a step. Every method has an empty default, and the `wants_…`
/// methods say what is worth computing.
pub trait Observer {
    /// Whether probabilities and entropies are wanted: they are read with the step's losses.
    fn wants_routing(&self) -> bool {
        false
    }

    /// Whether transitions are wanted: they are counted, and read with the step's losses.
    fn wants_transitions(&self) -> bool {
        false
    }

    /// Routing of the whole step, in order of layer and iteration.
    fn routing(&mut self, _stats: Vec<RoutingStats>) {}

    /// Transitions of the whole step, between consecutive router decisions.
    fn transitions(&mut self, _transitions: Vec<Transitions>) {}
}

/// Observes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}
