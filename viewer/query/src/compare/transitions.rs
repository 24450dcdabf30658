use crate::flow::{TransitionMatrix, Transitions};
use crate::routing::Order;
use crate::{Answer, Cost, Gap, Query, RouterId, RunId, Scale, Store, Table};

/// How the way from one router to the next differs between two runs or two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TransitionDifference {
    /// Before: a run and a step.
    pub before: (RunId, u64),
    /// After.
    pub after: (RunId, u64),
    /// The router before.
    pub from: RouterId,
    /// The router after.
    pub to: RouterId,
}

/// Answers [`TransitionDifference`]: a matrix of experts before (rows) × experts after (columns).
#[derive(Clone, Debug, PartialEq)]
pub struct TransitionChange {
    /// Before, in order of experts' numbers.
    pub before: TransitionMatrix,
    /// After, with the same rows and columns.
    pub after: TransitionMatrix,
    /// P(to | from) after less before; NaN where an expert had no tokens.
    pub values: Vec<f32>,
}

impl Query for TransitionDifference {
    type Answer = TransitionChange;

    fn runs(&self) -> Vec<RunId> {
        vec![self.before.0, self.after.0]
    }

    fn cost(&self) -> Cost {
        Cost::Background
    }

    fn answer(&self, store: &Store) -> Result<TransitionChange, Gap> {
        let matrix = |(run, step): (RunId, u64)| {
            Transitions {
                run,
                step,
                from: self.from,
                to: self.to,
                order: Order::Index,
            }
            .answer(store)
        };
        let (before, after) = (matrix(self.before)?, matrix(self.after)?);
        if (&before.rows, &before.columns) != (&after.rows, &after.columns) {
            return Err(Gap::Different {
                why: format!(
                    "one has {} experts, the other {}",
                    before.rows.len(),
                    after.rows.len()
                ),
            });
        }
        Ok(TransitionChange {
            values: before
                .conditional
                .iter()
                .zip(&after.conditional)
                .map(|(before, after)| after - before)
                .collect(),
            before,
            after,
        })
    }
}

impl TransitionChange {
    /// How its values should be coloured.
    pub fn scale(&self) -> Scale {
        let finite = self
            .values
            .iter()
            .copied()
            .filter(|value| value.is_finite());
        let most = finite.map(f32::abs).fold(0.01, f32::max);
        Scale {
            min: -most,
            max: most,
            neutral: Some(0.0),
        }
    }
}

impl Answer for TransitionChange {
    fn summary(&self) -> String {
        let finite = |&at: &usize| self.values[at].is_finite();
        let most = (0..self.values.len())
            .filter(finite)
            .max_by(|&a, &b| self.values[a].abs().total_cmp(&self.values[b].abs()));
        let most = most.map_or(String::new(), |at| {
            let columns = self.before.columns.len();
            format!(
                " The greatest change: from expert {} to {}, {:+.1} points.",
                self.before.rows[at / columns],
                self.before.columns[at % columns],
                self.values[at] * 100.0
            )
        });
        format!(
            "Transitions from {} to {}, step {} less step {}.{most}",
            self.before.from, self.before.to, self.after.step, self.before.step
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!(
                "Transitions from {} to {}, step {} against {}",
                self.before.from, self.before.to, self.after.step, self.before.step
            ),
            &[
                ("from_expert", ""),
                ("to_expert", ""),
                ("before", ""),
                ("after", ""),
                ("difference", ""),
            ],
        );
        for (row, &from) in self.before.rows.iter().enumerate() {
            for (column, &to) in self.before.columns.iter().enumerate() {
                let at = row * self.before.columns.len() + column;
                table.push([
                    from.into(),
                    to.into(),
                    self.before.conditional[at].into(),
                    self.after.conditional[at].into(),
                    self.values[at].into(),
                ]);
            }
        }
        table
    }

    fn bytes(&self) -> usize {
        self.before.bytes() + self.after.bytes() + self.values.len() * 4
    }
}
