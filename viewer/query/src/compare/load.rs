use crate::routing::{LoadMap, Measure, Order, RoutingLoad};
use crate::{Answer, Cost, Gap, Query, RunId, Scale, Span, Store, Table};

/// How loads differ between two runs or two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LoadDifference {
    /// Before: a run, and a step or range.
    pub before: (RunId, Span),
    /// After.
    pub after: (RunId, Span),
    /// What a load is.
    pub measure: Measure,
}

/// Answers [`LoadDifference`]: a matrix of routers (rows) × experts (columns).
#[derive(Clone, Debug, PartialEq)]
pub struct LoadChange {
    /// Of two runs, not of two steps of one.
    pub two_runs: bool,
    /// Before, in order of experts' numbers.
    pub before: LoadMap,
    /// After, with the same rows and columns.
    pub after: LoadMap,
    /// After less before, even shares.
    pub values: Vec<f32>,
    /// By router: the share of assignments that went elsewhere (total variation of the loads), 0 to 1.
    pub moved: Vec<f32>,
}

impl Query for LoadDifference {
    type Answer = LoadChange;

    fn runs(&self) -> Vec<RunId> {
        vec![self.before.0, self.after.0]
    }

    fn cost(&self) -> Cost {
        if self.before.1.is_cursor() && self.after.1.is_cursor() {
            Cost::Frame
        } else {
            Cost::Background
        }
    }

    fn answer(&self, store: &Store) -> Result<LoadChange, Gap> {
        let load = |(run, span): (RunId, Span)| {
            RoutingLoad {
                run,
                span,
                measure: self.measure,
                order: Order::Index,
                layer: None,
            }
            .answer(store)
        };
        let (before, after) = (load(self.before)?, load(self.after)?);
        if before.routers != after.routers || before.experts != after.experts {
            let shape =
                |map: &LoadMap| format!("{} routers of {} experts", map.routers.len(), map.experts);
            return Err(Gap::Different {
                why: format!("one has {}, the other {}", shape(&before), shape(&after)),
            });
        }
        let experts = before.experts as usize;
        let moved = (0..before.routers.len()).map(|row| {
            let shares = |map: &LoadMap| {
                let tokens = &map.tokens[row * experts..(row + 1) * experts];
                let total = tokens.iter().sum::<u64>().max(1) as f32;
                tokens
                    .iter()
                    .map(|&count| count as f32 / total)
                    .collect::<Vec<_>>()
            };
            let (before, after) = (shares(&before), shares(&after));
            before
                .iter()
                .zip(&after)
                .map(|(before, after)| (after - before).abs())
                .sum::<f32>()
                / 2.0
        });
        Ok(LoadChange {
            two_runs: self.before.0 != self.after.0,
            values: before
                .values
                .iter()
                .zip(&after.values)
                .map(|(before, after)| after - before)
                .collect(),
            moved: moved.collect(),
            before,
            after,
        })
    }
}

impl LoadChange {
    /// How its values should be coloured.
    pub fn scale(&self) -> Scale {
        Measure::Difference.scale(&self.values)
    }
}

impl Answer for LoadChange {
    fn summary(&self) -> String {
        let mean = self.moved.iter().sum::<f32>() / self.moved.len().max(1) as f32;
        let most = (0..self.moved.len()).max_by(|&a, &b| self.moved[a].total_cmp(&self.moved[b]));
        let most = most.map_or(String::new(), |row| {
            format!(
                " Most at {}: {:.1} %.",
                self.before.routers[row],
                self.moved[row] * 100.0
            )
        });
        let (before, after) = (&self.before.steps, &self.after.steps);
        let sides = match (self.two_runs, after == before) {
            (true, true) => format!("Loads of one run less those of the other ({after})"),
            (true, false) => {
                format!("Loads of one run ({after}) less those of the other ({before})")
            }
            (false, _) => format!("Loads after ({after}) less before ({before})"),
        };
        let mean = mean * 100.0;
        format!("{sides}: {mean:.1} % of assignments went elsewhere on average.{most}")
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!(
                "Load of experts, {} against {}",
                self.after.steps, self.before.steps
            ),
            &[
                ("layer", ""),
                ("iteration", ""),
                ("expert", ""),
                ("before", "even shares"),
                ("after", "even shares"),
                ("difference", "even shares"),
                ("moved", "share of the router's assignments"),
            ],
        );
        let experts = self.before.experts as usize;
        for (row, router) in self.before.routers.iter().enumerate() {
            for expert in 0..experts {
                let at = row * experts + expert;
                if self.before.order[at] == u32::MAX {
                    continue;
                }
                table.push([
                    router.layer.into(),
                    router.iteration.into(),
                    expert.into(),
                    self.before.values[at].into(),
                    self.after.values[at].into(),
                    self.values[at].into(),
                    self.moved[row].into(),
                ]);
            }
        }
        table
    }

    fn bytes(&self) -> usize {
        self.before.bytes() + self.after.bytes() + self.values.len() * 4 + self.moved.len() * 4
    }
}
