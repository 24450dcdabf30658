use super::sum::LoadSum;
use crate::{Answer, Cost, Gap, Query, RouterId, RunId, Sampled, Span, Store, Table};

/// How balanced each router is, at a step or over a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Health {
    /// The run.
    pub run: RunId,
    /// The cursor or a window. An expert is *dead* if it was given no token in the whole of it.
    pub span: Span,
}

/// Answers [`Health`].
#[derive(Clone, Debug, PartialEq)]
pub struct HealthTable {
    /// The records behind it.
    pub steps: Sampled,
    /// By layer and iteration.
    pub routers: Vec<RouterHealth>,
}

/// How balanced one router is.
#[derive(Clone, Debug, PartialEq)]
pub struct RouterHealth {
    /// The router.
    pub router: RouterId,
    /// Experts it chooses from.
    pub experts: u32,
    /// Load of the fullest expert over the mean load: 1 is balanced.
    pub imbalance: f32,
    /// The fullest expert.
    pub fullest: u32,
    /// Standard deviation of loads over their mean: 0 is balanced.
    pub variation: f32,
    /// Mean entropy of the router's probabilities, nats; `None` where it was not recorded.
    pub entropy: Option<f32>,
    /// Entropy of the loads, nats: ln(experts) is balanced.
    pub load_entropy: f32,
    /// Experts without a token, ascending.
    pub dead: Vec<u32>,
    /// Tokens routed; assignments are k times as many. `None` where it was not recorded.
    pub tokens: Option<u64>,
    /// Assignments.
    pub assignments: u64,
    /// Assignments dropped because their expert was full.
    pub dropped: u64,
}

impl RouterHealth {
    /// Entropy over that of an undecided router, ln(experts): 0 is certain, 1 undecided.
    pub fn relative_entropy(&self) -> Option<f32> {
        let most = (self.experts as f32).ln();
        (most > 0.0).then(|| self.entropy.map(|entropy| entropy / most))?
    }
}

impl RouterHealth {
    /// Of one router's assignments by expert, and what its own row says.
    pub(crate) fn of(router: RouterId, tokens: &[u64], row: RouterSum) -> Self {
        let total: u64 = tokens.iter().sum();
        let mean = total as f64 / tokens.len().max(1) as f64;
        let (fullest, most) = tokens
            .iter()
            .enumerate()
            // Of equally full ones the first.
            .max_by_key(|&(i, &count)| (count, std::cmp::Reverse(i)))
            .map_or((0, 0), |(i, &count)| (i, count));
        let mut square = 0.0;
        let mut entropy = 0.0;
        for &count in tokens {
            square += (count as f64 - mean).powi(2);
            if count > 0 {
                let share = count as f64 / total as f64;
                entropy -= share * share.ln();
            }
        }
        let over_mean = |value: f64| {
            if mean > 0.0 {
                (value / mean) as f32
            } else {
                f32::NAN
            }
        };
        let dead = tokens.iter().zip(0..).filter(|(count, _)| **count == 0);
        Self {
            router,
            experts: tokens.len() as u32,
            imbalance: over_mean(most as f64),
            fullest: fullest as u32,
            variation: over_mean((square / tokens.len().max(1) as f64).sqrt()),
            entropy: row.entropy(),
            load_entropy: entropy as f32,
            dead: dead.map(|(_, expert)| expert).collect(),
            tokens: (row.tokens > 0).then_some(row.tokens),
            assignments: total,
            dropped: row.dropped,
        }
    }
}

/// What routers' rows of some steps add up to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RouterSum {
    pub(crate) tokens: u64,
    pub(crate) dropped: u64,
    /// Entropy times tokens, and the tokens that it was measured over.
    pub(crate) weighted: (f64, f64),
}

impl RouterSum {
    pub(crate) fn add(&mut self, row: &bellows_record::RouterRow) {
        self.tokens += row.tokens;
        self.dropped += row.dropped;
        if row.entropy.is_finite() {
            self.weighted.0 += f64::from(row.entropy) * row.tokens as f64;
            self.weighted.1 += row.tokens as f64;
        }
    }

    fn entropy(&self) -> Option<f32> {
        (self.weighted.1 > 0.0).then(|| (self.weighted.0 / self.weighted.1) as f32)
    }
}

impl Query for Health {
    type Answer = HealthTable;

    fn runs(&self) -> Vec<RunId> {
        vec![self.run]
    }

    fn cost(&self) -> Cost {
        super::load::cost(self.span)
    }

    fn answer(&self, store: &Store) -> Result<HealthTable, Gap> {
        let sum = LoadSum::of(store, self.run, self.span)?;
        Ok(HealthTable {
            routers: sum.health(),
            steps: sum.steps,
        })
    }
}

impl Answer for HealthTable {
    fn summary(&self) -> String {
        let dead: usize = self.routers.iter().map(|router| router.dead.len()).sum();
        let worst = self
            .routers
            .iter()
            .max_by(|a, b| a.imbalance.total_cmp(&b.imbalance));
        let worst = worst.map_or(String::new(), |worst| {
            format!(
                " The least balanced is {}: its fullest expert, {}, has {:.2} times the mean load.",
                worst.router, worst.fullest, worst.imbalance
            )
        });
        format!(
            "Balance of {} routers at {}: {dead} dead experts.{worst}",
            self.routers.len(),
            self.steps
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!("Balance of routers, {}", self.steps),
            &[
                ("layer", ""),
                ("iteration", ""),
                ("experts", ""),
                ("imbalance", "max/mean"),
                ("fullest_expert", ""),
                ("variation", "std/mean"),
                ("entropy", "nats"),
                ("relative_entropy", ""),
                ("load_entropy", "nats"),
                ("dead_experts", ""),
                ("dead", ""),
                ("tokens", ""),
                ("assignments", ""),
                ("dropped", ""),
            ],
        );
        for router in &self.routers {
            let dead: Vec<_> = router.dead.iter().map(u32::to_string).collect();
            table.push([
                router.router.layer.into(),
                router.router.iteration.into(),
                router.experts.into(),
                router.imbalance.into(),
                router.fullest.into(),
                router.variation.into(),
                router.entropy.into(),
                router.relative_entropy().into(),
                router.load_entropy.into(),
                router.dead.len().into(),
                dead.join(" ").into(),
                router.tokens.into(),
                router.assignments.into(),
                router.dropped.into(),
            ]);
        }
        table
    }

    fn bytes(&self) -> usize {
        let dead: usize = self
            .routers
            .iter()
            .map(|router| router.dead.len() * 4)
            .sum();
        self.routers.len() * size_of::<RouterHealth>() + dead
    }
}
