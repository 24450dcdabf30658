use super::Grouping;
use super::groups::Groups;
use crate::store::trace_record::TraceRecord;
use crate::{Answer, Cost, Gap, Query, RouterId, RunId, Store, Table};

/// What one expert is given more often than others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExpertTokens {
    /// The run.
    pub run: RunId,
    /// The cursor; the answer is of the last trace up to it.
    pub step: u64,
    /// The router.
    pub router: RouterId,
    /// The expert.
    pub expert: u32,
    /// What is counted together.
    pub group: Grouping,
    /// Groups that occur less often than this in the probe text are left out: chance rules them.
    pub at_least: u32,
}

/// Answers [`ExpertTokens`].
#[derive(Clone, Debug, PartialEq)]
pub struct Specialisation {
    /// The traced step.
    pub step: u64,
    /// The router.
    pub router: RouterId,
    /// The expert.
    pub expert: u32,
    /// What is counted together.
    pub group: Grouping,
    /// Traced tokens that chose the expert.
    pub tokens: u64,
    /// Their share of all traced tokens: the base rate that lifts compare with.
    pub base: f32,
    /// The groups, by lift, the highest first; equal ones by count.
    pub rows: Vec<Lift>,
    /// Groups left out for being rare.
    pub rare: u64,
}

/// A group of tokens at an expert.
#[derive(Clone, Debug, PartialEq)]
pub struct Lift {
    /// The group: a token's text, a class, a source.
    pub label: String,
    /// Its tokens that chose the expert.
    pub count: u64,
    /// Its tokens in all.
    pub of: u64,
    /// P(expert | group) / P(expert): 1 is the base rate.
    pub lift: f32,
}

impl Query for ExpertTokens {
    type Answer = Specialisation;

    fn runs(&self) -> Vec<RunId> {
        vec![self.run]
    }

    fn cost(&self) -> Cost {
        Cost::Background
    }

    fn answer(&self, store: &Store) -> Result<Specialisation, Gap> {
        let run = store.find(self.run)?;
        let trace = TraceRecord::at(store, &run, self.step)?;
        let groups = Groups::of(
            &trace,
            self.router,
            run.experts(self.router).unwrap_or(0),
            self.group,
        )?;
        let expert = self.expert as usize;
        if expert >= groups.experts {
            return Err(Gap::NoSuch {
                what: format!("expert {expert} at {}", self.router),
                range: format!("experts go from 0 to {}", groups.experts.saturating_sub(1)),
            });
        }
        let mut found = Specialisation {
            step: trace.step,
            router: self.router,
            expert: self.expert,
            group: self.group,
            tokens: groups.of_expert[expert],
            base: groups.of_expert[expert] as f32 / groups.tokens as f32,
            rows: Vec::new(),
            rare: 0,
        };
        for (at, (label, of)) in groups.groups.iter().enumerate() {
            if *of < u64::from(self.at_least) {
                found.rare += 1;
                continue;
            }
            let count = groups.counts[at * groups.experts + expert];
            if count > 0 {
                found.rows.push(Lift {
                    label: label.clone(),
                    count,
                    of: *of,
                    lift: groups.lift(at, expert),
                });
            }
        }
        found.rows.sort_by(|a, b| {
            b.lift
                .total_cmp(&a.lift)
                .then(b.count.cmp(&a.count))
                .then_with(|| a.label.cmp(&b.label))
        });
        Ok(found)
    }
}

impl Answer for Specialisation {
    fn summary(&self) -> String {
        let top: Vec<_> = self
            .rows
            .iter()
            .take(5)
            .map(|row| {
                format!(
                    "{:?} ({:.1}×, {} of {})",
                    row.label, row.lift, row.count, row.of
                )
            })
            .collect();
        format!(
            "Expert {} of {} at step {} is chosen by {:.1} % of traced tokens. Most above that: {}.",
            self.expert,
            self.router,
            self.step,
            self.base * 100.0,
            if top.is_empty() {
                "none".to_owned()
            } else {
                top.join(", ")
            }
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!(
                "What expert {} of {} is given, by {}, step {}",
                self.expert,
                self.router,
                self.group.name(),
                self.step
            ),
            &[
                ("group", ""),
                ("tokens", ""),
                ("of", ""),
                ("share_of_group", ""),
                ("base_rate", ""),
                ("lift", ""),
            ],
        );
        for row in &self.rows {
            table.push([
                row.label.clone().into(),
                row.count.into(),
                row.of.into(),
                (row.count as f32 / row.of as f32).into(),
                self.base.into(),
                row.lift.into(),
            ]);
        }
        table
    }

    fn bytes(&self) -> usize {
        self.rows
            .iter()
            .map(|row| size_of::<Lift>() + row.label.capacity())
            .sum()
    }
}
