use super::sum::LoadSum;
use super::{Measure, Order, RouterHealth};
use crate::{Answer, Cost, Gap, Query, RouterId, RunId, Sampled, Scale, Span, Store, Table};

/// The load of every expert of every layer and iteration, at a step or summed over a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RoutingLoad {
    /// The run.
    pub run: RunId,
    /// The cursor or a range. A range of more than 256 records is answered from 256 evenly spaced ones.
    pub span: Span,
    /// What a load is.
    pub measure: Measure,
    /// In which order experts stand.
    pub order: Order,
    /// One layer alone.
    pub layer: Option<u32>,
}

/// Answers [`RoutingLoad`]: a matrix of routers (rows) × places (columns).
#[derive(Clone, Debug, PartialEq)]
pub struct LoadMap {
    /// The records behind it.
    pub steps: Sampled,
    /// What `values` are.
    pub measure: Measure,
    /// Row by row, by layer and then iteration.
    pub routers: Vec<RouterId>,
    /// Columns: the most experts that a router has.
    pub experts: u32,
    /// `routers × experts`: which expert stands in a place; `u32::MAX` where there is none.
    pub order: Vec<u32>,
    /// `routers × experts`, by place: even shares; NaN where there is nothing.
    pub values: Vec<f32>,
    /// `routers × experts`, by place: assignments, dropped ones included.
    pub tokens: Vec<u64>,
    /// `routers × experts`, by place: mean router probability, 0 to 1.
    pub probability: Vec<f32>,
    /// `routers × experts`, by place: score-correction biases at the last step; empty without any.
    pub bias: Vec<f32>,
    /// Balance, by router.
    pub health: Vec<RouterHealth>,
}

/// What a question about a span of loads takes.
pub(super) fn cost(span: Span) -> Cost {
    if span.is_cursor() {
        Cost::Frame
    } else {
        Cost::Background
    }
}

impl Query for RoutingLoad {
    type Answer = LoadMap;

    fn runs(&self) -> Vec<RunId> {
        vec![self.run]
    }

    fn cost(&self) -> Cost {
        match self.order {
            Order::Index | Order::Load => cost(self.span),
            // Made once for a run, and longer than a frame.
            Order::Cluster => Cost::Background,
        }
    }

    fn answer(&self, store: &Store) -> Result<LoadMap, Gap> {
        let sum = LoadSum::of(store, self.run, self.span)?;
        let health = sum.health();
        let chosen: Vec<usize> = (0..sum.layout.routers.len())
            .filter(|&at| {
                self.layer
                    .is_none_or(|layer| sum.layout.routers[at].0.layer == layer)
            })
            .collect();
        if let Some(layer) = self.layer
            && chosen.is_empty()
        {
            return Err(Gap::NoSuch {
                what: format!("layer {layer} with experts"),
                range: format!("the run has {} routers", sum.layout.routers.len()),
            });
        }
        let experts = chosen
            .iter()
            .map(|&at| sum.layout.routers[at].1)
            .max()
            .unwrap_or(0);
        let size = chosen.len() * experts as usize;
        let mut map = LoadMap {
            steps: sum.steps,
            measure: self.measure,
            routers: Vec::with_capacity(chosen.len()),
            experts,
            order: vec![u32::MAX; size],
            values: vec![f32::NAN; size],
            tokens: vec![0; size],
            probability: vec![0.0; size],
            bias: if sum.bias.is_empty() {
                Vec::new()
            } else {
                vec![f32::NAN; size]
            },
            health: Vec::with_capacity(chosen.len()),
        };
        for (row, &at) in chosen.iter().enumerate() {
            let (router, count, start) = sum.layout.routers[at];
            let tokens = &sum.tokens[start..][..count as usize];
            let total: u64 = tokens.iter().sum();
            let share = |tokens: u64| super::even_shares(tokens, total, count);
            let order = super::order::order(store, self.run, router, tokens, self.order)?;
            for (place, &expert) in order.iter().enumerate() {
                let (to, from) = (row * experts as usize + place, start + expert as usize);
                let by_tokens = share(sum.tokens[from]);
                let by_probability = sum.probability[from] * count as f32;
                map.order[to] = expert;
                map.tokens[to] = sum.tokens[from];
                map.probability[to] = sum.probability[from];
                map.values[to] = self.measure.of(by_tokens, by_probability);
                if let Some(bias) = map.bias.get_mut(to) {
                    *bias = sum.bias[from];
                }
            }
            map.routers.push(router);
            map.health.push(health[at].clone());
        }
        Ok(map)
    }
}

impl Measure {
    pub(super) fn of(self, tokens: f32, probability: f32) -> f32 {
        match self {
            Self::Tokens => tokens,
            Self::Probability => probability,
            Self::Difference => tokens - probability,
        }
    }

    /// How its values should be coloured.
    pub(crate) fn scale(self, values: &[f32]) -> Scale {
        let finite = values.iter().copied().filter(|value| value.is_finite());
        let most = finite.map(f32::abs).fold(0.0, f32::max);
        match self {
            Self::Difference => Scale {
                min: -most.max(0.1),
                max: most.max(0.1),
                neutral: Some(0.0),
            },
            // From nothing over the even share to the fullest; near balance at least twice the even share, so that
            // noise does not look like structure.
            Self::Tokens | Self::Probability => Scale {
                min: 0.0,
                max: most.max(2.0),
                neutral: None,
            },
        }
    }
}

impl LoadMap {
    /// How its values should be coloured.
    pub fn scale(&self) -> Scale {
        self.measure.scale(&self.values)
    }

    /// The place of an expert in a row, if it is there.
    pub fn place(&self, row: usize, expert: u32) -> Option<usize> {
        let experts = self.experts as usize;
        let order = self.order.get(row * experts..(row + 1) * experts)?;
        order.iter().position(|&other| other == expert)
    }
}

impl Answer for LoadMap {
    fn summary(&self) -> String {
        let worst = self
            .health
            .iter()
            .max_by(|a, b| a.imbalance.total_cmp(&b.imbalance));
        let dead: usize = self.health.iter().map(|health| health.dead.len()).sum();
        let worst = worst.map_or(String::new(), |worst| {
            format!(
                " Fullest against mean is {:.2} at worst, expert {} of {}; {dead} experts got no token.",
                worst.imbalance, worst.fullest, worst.router
            )
        });
        format!(
            "Load of {} experts in each of {} routers by {}, {}.{worst}",
            self.experts,
            self.routers.len(),
            self.measure.name(),
            self.steps
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!("Load of experts by {}, {}", self.measure.name(), self.steps),
            &[
                ("layer", ""),
                ("iteration", ""),
                ("place", ""),
                ("expert", ""),
                ("value", "even shares"),
                ("tokens", "assignments"),
                ("probability", ""),
                ("bias", ""),
            ],
        );
        let experts = self.experts as usize;
        for (row, router) in self.routers.iter().enumerate() {
            for place in 0..experts {
                let at = row * experts + place;
                if self.order[at] == u32::MAX {
                    continue;
                }
                table.push([
                    router.layer.into(),
                    router.iteration.into(),
                    place.into(),
                    self.order[at].into(),
                    self.values[at].into(),
                    self.tokens[at].into(),
                    self.probability[at].into(),
                    self.bias
                        .get(at)
                        .copied()
                        .filter(|bias| bias.is_finite())
                        .into(),
                ]);
            }
        }
        table
    }

    fn bytes(&self) -> usize {
        self.order.len() * 20 + self.bias.len() * 4 + self.health.len() * size_of::<RouterHealth>()
    }
}
