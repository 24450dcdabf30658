//! What a step reports, in plain values.

use crate::model::RoutingAt;

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
    /// Whether probabilities and entropies are wanted: they are read back from the device.
    fn wants_routing(&self) -> bool {
        false
    }

    /// Whether transitions are wanted.
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

/// Adds the routing of one micro-batch to a step's statistics.
pub fn add_routing(stats: &mut Vec<RoutingStats>, routings: &[RoutingAt]) {
    if stats.is_empty() {
        stats.extend(routings.iter().map(|at| RoutingStats {
            layer: at.layer,
            iteration: at.iteration,
            chosen: vec![0; at.routing.plan.expert_count()],
            probability: vec![0.0; at.routing.plan.expert_count()],
            ..RoutingStats::default()
        }));
    }
    for (row, at) in stats.iter_mut().zip(routings) {
        let plan = &at.routing.plan;
        let probabilities = at
            .routing
            .probabilities
            .clone()
            .without_autodiff()
            .into_data()
            .convert::<f32>();
        let probabilities = probabilities.as_slice::<f32>().expect("converted to f32");
        let (before, now) = (row.tokens as f64, plan.tokens() as f64);
        let mut sums = vec![0f64; plan.expert_count()];
        let mut entropy = 0f64;
        for token in probabilities.chunks_exact(plan.expert_count()) {
            for (sum, &p) in sums.iter_mut().zip(token) {
                *sum += f64::from(p);
                if p > 0.0 {
                    entropy -= f64::from(p * p.ln());
                }
            }
        }
        for (mean, sum) in row.probability.iter_mut().zip(sums) {
            *mean = (*mean * before + sum) / (before + now);
        }
        row.entropy = (row.entropy * before + entropy) / (before + now);
        row.tokens += plan.tokens() as u64;
        row.dropped += plan.dropped() as u64;
        for (total, &count) in row.chosen.iter_mut().zip(&plan.chosen) {
            *total += u64::from(count);
        }
    }
}

/// Adds the transitions of one micro-batch.
pub fn add_transitions(transitions: &mut Vec<Transitions>, routings: &[RoutingAt]) {
    if transitions.is_empty() {
        transitions.extend(routings.windows(2).map(|pair| {
            let experts = pair[0].routing.plan.expert_count();
            Transitions {
                from: (pair[0].layer, pair[0].iteration),
                to: (pair[1].layer, pair[1].iteration),
                experts,
                counts: vec![0; experts * experts],
            }
        }));
    }
    for (row, pair) in transitions.iter_mut().zip(routings.windows(2)) {
        let (from, to) = (&pair[0].routing.plan, &pair[1].routing.plan);
        let tokens = from
            .experts
            .chunks_exact(from.top_k)
            .zip(to.experts.chunks_exact(to.top_k));
        for (from, to) in tokens {
            for &source in from {
                for &target in to {
                    row.counts[source as usize * row.experts + target as usize] += 1;
                }
            }
        }
    }
}
