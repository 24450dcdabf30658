use std::collections::BTreeMap;

use bellows_record::{RouterRow, RoutingRow};

use super::Pyramid;

/// Buckets of a router's history: one line on a screen needs no more, and a model has many routers.
const RESOLUTION: usize = 1 << 10;

/// What is known of a run's routers.
#[derive(Clone, Debug, Default)]
pub struct RoutingData {
    /// By layer and iteration, over the whole run.
    pub history: BTreeMap<(u32, u32), RouterHistory>,
    /// The window around the cursor.
    pub view: RoutingView,
}

/// One router over the run.
#[derive(Clone, Debug)]
pub struct RouterHistory {
    /// Load of the fullest expert, in even shares: 1 is balanced.
    pub imbalance: Pyramid,
    /// Entropy of the router's probabilities over that of the even distribution: 1 is undecided.
    pub entropy: Pyramid,
}

impl Default for RouterHistory {
    fn default() -> Self {
        Self {
            imbalance: Pyramid::with_resolution(RESOLUTION),
            entropy: Pyramid::with_resolution(RESOLUTION),
        }
    }
}

/// Routing over a window of recorded steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoutingView {
    /// First and last recorded step of the window.
    pub steps: Option<(u64, u64)>,
    /// Records in the window.
    pub records: usize,
    /// By layer, then iteration.
    pub routers: Vec<RouterView>,
}

/// One router over a window.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouterView {
    /// Decoder layer.
    pub layer: u32,
    /// Chain-of-Experts iteration.
    pub iteration: u32,
    /// By expert.
    pub experts: Vec<ExpertLoad>,
    /// Mean entropy over that of the even distribution; absent where it was not recorded.
    pub entropy: Option<f64>,
    /// Share of assignments dropped.
    pub dropped: f64,
}

/// One expert over a window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ExpertLoad {
    /// Assignments.
    pub tokens: u64,
    /// Assignments over the even share: 1 is balanced.
    pub load: f64,
    /// Mean router probability over the even one.
    pub probability: f64,
    /// Score-correction bias at the window's end.
    pub bias: Option<f32>,
}

impl RouterView {
    /// Load of the fullest expert, in even shares.
    pub fn imbalance(&self) -> f64 {
        self.experts
            .iter()
            .map(|expert| expert.load)
            .fold(0.0, f64::max)
    }
}

impl RoutingView {
    /// Sums the records of some steps, given in order.
    pub fn of<'a>(records: impl Iterator<Item = (u64, &'a [RoutingRow], &'a [RouterRow])>) -> Self {
        #[derive(Default)]
        struct Sum {
            experts: BTreeMap<u32, (u64, f64, Option<f32>)>,
            records: usize,
            entropy: (f64, f64),
            dropped: u64,
        }
        let mut view = Self::default();
        let mut sums: BTreeMap<(u32, u32), Sum> = BTreeMap::new();
        for (step, routing, routers) in records {
            view.records += 1;
            view.steps = Some((view.steps.map_or(step, |(first, _)| first), step));
            let mut seen = Vec::new();
            for row in routing {
                let key = (row.layer, row.iteration);
                let sum = sums.entry(key).or_default();
                if seen.last() != Some(&key) {
                    seen.push(key);
                    sum.records += 1;
                }
                let expert = sum.experts.entry(row.expert).or_default();
                expert.0 += row.tokens;
                expert.1 += f64::from(row.probability);
                expert.2 = row.bias;
            }
            for row in routers {
                let sum = sums.entry((row.layer, row.iteration)).or_default();
                sum.dropped += row.dropped;
                if row.entropy.is_finite() {
                    sum.entropy.0 += f64::from(row.entropy) * row.tokens as f64;
                    sum.entropy.1 += row.tokens as f64;
                }
            }
        }
        for ((layer, iteration), sum) in sums {
            let count = sum.experts.len() as f64;
            let total: u64 = sum.experts.values().map(|expert| expert.0).sum();
            let even = (total as f64 / count).max(f64::MIN_POSITIVE);
            let experts = sum
                .experts
                .values()
                .map(|&(tokens, mass, bias)| ExpertLoad {
                    tokens,
                    load: tokens as f64 / even,
                    probability: mass / sum.records.max(1) as f64 * count,
                    bias,
                });
            view.routers.push(RouterView {
                layer,
                iteration,
                experts: experts.collect(),
                entropy: (sum.entropy.1 > 0.0 && count > 1.0)
                    .then(|| sum.entropy.0 / sum.entropy.1 / count.ln()),
                dropped: sum.dropped as f64 / (total.max(1)) as f64,
            });
        }
        view
    }
}

impl RoutingData {
    /// Adds what was recorded at a step to the routers' histories.
    pub fn push(&mut self, step: u64, view: RoutingView) {
        for router in view.routers {
            let history = self
                .history
                .entry((router.layer, router.iteration))
                .or_default();
            history.imbalance.push(step, router.imbalance());
            if let Some(entropy) = router.entropy {
                history.entropy.push(step, entropy);
            }
        }
    }

    /// Forgets steps from `step` on; `false` where the histories have to be read again.
    #[must_use]
    pub fn keep_below(&mut self, step: u64) -> bool {
        self.history
            .values_mut()
            .all(|history| history.imbalance.keep_below(step) && history.entropy.keep_below(step))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(expert: u32, tokens: u64) -> RoutingRow {
        RoutingRow {
            layer: 0,
            iteration: 0,
            expert,
            tokens,
            probability: 0.25,
            bias: None,
        }
    }

    #[test]
    fn loads_are_in_even_shares_whatever_the_window() {
        let first = [row(0, 10), row(1, 0), row(2, 5), row(3, 5)];
        let second = [row(0, 30), row(1, 0), row(2, 5), row(3, 5)];
        let view =
            RoutingView::of([(1, &first[..], &[][..]), (2, &second[..], &[][..])].into_iter());
        assert_eq!(view.steps, Some((1, 2)));
        let router = &view.routers[0];
        assert_eq!(router.experts[1].load, 0.0);
        assert!((router.imbalance() - 40.0 / 15.0).abs() < 1e-9);
        assert!((router.experts[0].probability - 1.0).abs() < 1e-6);
        assert_eq!(router.entropy, None);
    }
}
