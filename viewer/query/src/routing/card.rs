use std::collections::BTreeMap;

use super::{LoadOverTime, Measure, Order, RoutingLoad};
use crate::scalars::CurvePoint;
use crate::store::run::Run;
use crate::store::transition_record::TransitionRecord;
use crate::tokens::{ExpertTokens, Grouping, Lift};
use crate::{Answer, Cell, Cost, Gap, Query, RouterId, RunId, Span, Store, Table};

/// Everything about one expert of one router: what a click on it opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExpertCard {
    /// The run.
    pub run: RunId,
    /// The router that chooses it.
    pub router: RouterId,
    /// The expert.
    pub expert: u32,
    /// The cursor.
    pub step: u64,
    /// How many points its curve may have.
    pub columns: u32,
}

/// Answers [`ExpertCard`].
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// The router.
    pub router: RouterId,
    /// The expert.
    pub expert: u32,
    /// The recorded step that is shown.
    pub step: u64,
    /// Assignments at the step.
    pub tokens: u64,
    /// Load at the step, even shares.
    pub load: f32,
    /// Its place among the router's experts, from 1 for the fullest.
    pub rank: u32,
    /// Mean router probability at the step.
    pub probability: f32,
    /// Score-correction bias at the step.
    pub bias: Option<f32>,
    /// Load over the run, even shares.
    pub history: Vec<CurvePoint>,
    /// Experts that its tokens come from, by lift; the gap says why there are none.
    pub before: Result<Vec<Neighbour>, Gap>,
    /// Experts that its tokens go to, by lift.
    pub after: Result<Vec<Neighbour>, Gap>,
    /// Tokens of the probe set that it is given more often than others, by lift.
    pub specialities: Result<Vec<Lift>, Gap>,
}

/// An expert that tokens come from or go to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// Its router.
    pub router: RouterId,
    /// The expert.
    pub expert: u32,
    /// Share of the pairs that begin (or end) at the card's expert, 0 to 1.
    pub share: f32,
    /// That share over the expert's share of all pairs: 1 is chance.
    pub lift: f32,
}

/// Neighbours and tokens listed.
const LISTED: usize = 8;

/// A token that occurs less often in the probe text says nothing.
const AT_LEAST: u32 = 3;

impl Query for ExpertCard {
    type Answer = Card;

    fn runs(&self) -> Vec<RunId> {
        vec![self.run]
    }

    fn cost(&self) -> Cost {
        Cost::Background
    }

    fn answer(&self, store: &Store) -> Result<Card, Gap> {
        let run = store.find(self.run)?;
        let experts = run.experts(self.router)?;
        if self.expert >= experts {
            return Err(Gap::NoSuch {
                what: format!("expert {} at {}", self.expert, self.router),
                range: format!("experts go from 0 to {}", experts - 1),
            });
        }
        let load = RoutingLoad {
            run: self.run,
            span: Span::at(self.step),
            measure: Measure::Tokens,
            order: Order::Load,
            layer: Some(self.router.layer),
        }
        .answer(store)?;
        let row = load
            .routers
            .iter()
            .position(|&router| router == self.router);
        let place = row.and_then(|row| Some((row, load.place(row, self.expert)?)));
        let Some((row, place)) = place else {
            return Err(Gap::NoSuch {
                what: format!(
                    "expert {} in the record of step {}",
                    self.expert, load.steps.first
                ),
                range: "other steps have it".to_owned(),
            });
        };
        let at = row * load.experts as usize + place;
        let specialities = ExpertTokens {
            run: self.run,
            step: self.step,
            router: self.router,
            expert: self.expert,
            group: Grouping::Token,
            at_least: AT_LEAST,
        };
        Ok(Card {
            router: self.router,
            expert: self.expert,
            step: load.steps.first,
            tokens: load.tokens[at],
            load: load.values[at],
            rank: place as u32 + 1,
            probability: load.probability[at],
            bias: load.bias.get(at).copied().filter(|bias| bias.is_finite()),
            history: self.history(store)?,
            before: self.neighbours(store, &run, true),
            after: self.neighbours(store, &run, false),
            specialities: specialities.answer(store).map(|mut found| {
                found.rows.retain(|row| row.lift > 1.0);
                found.rows.truncate(LISTED);
                found.rows
            }),
        })
    }
}

impl ExpertCard {
    fn history(&self, store: &Store) -> Result<Vec<CurvePoint>, Gap> {
        let time = LoadOverTime {
            run: self.run,
            router: self.router,
            span: Span::ALL,
            columns: self.columns,
            measure: Measure::Tokens,
            order: Order::Index,
        }
        .answer(store)?;
        let row = &time.values[self.expert as usize * time.columns.len()..][..time.columns.len()];
        let point = |(column, &load): (&super::TimeColumn, &f32)| {
            let load = f64::from(load);
            CurvePoint {
                first: column.first,
                last: column.last,
                x: column.last as f64,
                min: load,
                max: load,
                mean: load,
                smooth: load,
                count: column.read,
                bad: 0,
            }
        };
        Ok(time
            .columns
            .iter()
            .zip(row)
            .filter(|(column, _)| column.read > 0)
            .map(point)
            .collect())
    }

    fn neighbours(&self, store: &Store, run: &Run, before: bool) -> Result<Vec<Neighbour>, Gap> {
        let record = TransitionRecord::at(store, run, self.step)?;
        let key = record.pairs.keys().find(|&&(from, to)| {
            if before {
                to == self.router
            } else {
                from == self.router
            }
        });
        let Some(&(from, to)) = key else {
            return Err(Gap::NoSuch {
                what: format!(
                    "router {} {}",
                    if before { "before" } else { "after" },
                    self.router
                ),
                range: "it is the end of the model".to_owned(),
            });
        };
        let mut of_other: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
        let (mut mine, mut all) = (0u64, 0u64);
        for &(a, b, count) in record.between(from, to)? {
            let (other, this) = if before { (a, b) } else { (b, a) };
            let entry = of_other.entry(other).or_default();
            entry.0 += count;
            all += count;
            if this == self.expert {
                entry.1 += count;
                mine += count;
            }
        }
        let router = if before { from } else { to };
        let mut found: Vec<Neighbour> = of_other
            .into_iter()
            .filter(|(_, (_, with))| *with > 0)
            .map(|(expert, (total, with))| {
                let share = with as f32 / mine as f32;
                Neighbour {
                    router,
                    expert,
                    share,
                    lift: share / (total as f32 / all as f32),
                }
            })
            .collect();
        found.sort_by(|a, b| b.lift.total_cmp(&a.lift).then(a.expert.cmp(&b.expert)));
        found.truncate(LISTED);
        Ok(found)
    }
}

impl Answer for Card {
    fn summary(&self) -> String {
        let mut text = format!(
            "Expert {} of {} at step {}: {} assignments, {:.2} times the mean load, rank {}; mean probability {:.4}.",
            self.expert,
            self.router,
            self.step,
            self.tokens,
            self.load,
            self.rank,
            self.probability
        );
        if let Ok(rows) = &self.specialities
            && let Some(row) = rows.first()
        {
            text += &format!(
                " Its most special token is {:?}, {:.1} times as often as chance.",
                row.label, row.lift
            );
        }
        text
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!("Expert {} of {}", self.expert, self.router),
            &[("what", ""), ("name", ""), ("value", ""), ("lift", "")],
        );
        let step = || self.step.to_string();
        table.push([
            "tokens".into(),
            step().into(),
            self.tokens.into(),
            Cell::Missing,
        ]);
        table.push([
            "load".into(),
            step().into(),
            self.load.into(),
            Cell::Missing,
        ]);
        table.push([
            "probability".into(),
            step().into(),
            self.probability.into(),
            Cell::Missing,
        ]);
        table.push([
            "bias".into(),
            step().into(),
            self.bias.into(),
            Cell::Missing,
        ]);
        for (what, list) in [("before", &self.before), ("after", &self.after)] {
            for other in list.iter().flatten() {
                let name = format!("{} expert {}", other.router, other.expert);
                table.push([
                    what.into(),
                    name.into(),
                    other.share.into(),
                    other.lift.into(),
                ]);
            }
        }
        for row in self.specialities.iter().flatten() {
            table.push([
                "token".into(),
                row.label.clone().into(),
                row.count.into(),
                row.lift.into(),
            ]);
        }
        for point in &self.history {
            table.push([
                "load over time".into(),
                point.last.to_string().into(),
                point.mean.into(),
                Cell::Missing,
            ]);
        }
        table
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + self.history.len() * size_of::<CurvePoint>() + 4096
    }
}
