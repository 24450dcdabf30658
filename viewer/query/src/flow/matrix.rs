use super::pairs::Pairs;
use crate::routing::Order;
use crate::routing::order::{correlations, leaf_order};
use crate::store::transition_record::TransitionRecord;
use crate::{Answer, Cost, Gap, Query, RouterId, RunId, Scale, Store, Table};

/// The pairs of experts between two routers that follow one another (inter-layer affinity, arXiv 2401.08383).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transitions {
    /// The run.
    pub run: RunId,
    /// The cursor.
    pub step: u64,
    /// The router before.
    pub from: RouterId,
    /// The router after: the layer's next iteration, or the next layer's first.
    pub to: RouterId,
    /// In which order experts stand. [`Order::Cluster`] puts the strongest pairs on the diagonal.
    pub order: Order,
}

/// Answers [`Transitions`]: matrices of experts before (rows) × experts after (columns), by place.
#[derive(Clone, Debug, PartialEq)]
pub struct TransitionMatrix {
    /// The recorded step.
    pub step: u64,
    /// The router before.
    pub from: RouterId,
    /// The router after.
    pub to: RouterId,
    /// The expert of each row.
    pub rows: Vec<u32>,
    /// The expert of each column.
    pub columns: Vec<u32>,
    /// Slot pairs.
    pub counts: Vec<u64>,
    /// P(after | before): each row adds up to 1; NaN in the row of an expert without tokens.
    pub conditional: Vec<f32>,
    /// P(after), by column: what each row would be if experts were chosen independently.
    pub independent: Vec<f32>,
    /// Conditional over independent probability: 1 is chance; NaN where one of the experts had no tokens.
    pub lift: Vec<f32>,
    /// Mutual information of the experts before and after, nats: 0 is independence.
    pub mutual_information: f64,
    /// The same over the smaller of both entropies: 0 is independence, 1 that one expert determines the other.
    pub relative_information: f64,
    /// Slot pairs in all.
    pub pairs: u64,
}

impl Query for Transitions {
    type Answer = TransitionMatrix;

    fn runs(&self) -> Vec<RunId> {
        vec![self.run]
    }

    fn cost(&self) -> Cost {
        Cost::Background
    }

    fn answer(&self, store: &Store) -> Result<TransitionMatrix, Gap> {
        let run = store.find(self.run)?;
        let record = TransitionRecord::at(store, &run, self.step)?;
        let pairs = Pairs::of(&run, &record, self.from, self.to)?;
        let (rows, columns) = match self.order {
            Order::Index => (indices(pairs.rows), indices(pairs.columns)),
            Order::Load => (fullest(&pairs.of_row), fullest(&pairs.of_column)),
            Order::Cluster => matched(&pairs),
        };
        let size = rows.len() * columns.len();
        let mut matrix = TransitionMatrix {
            step: record.step,
            from: self.from,
            to: self.to,
            counts: Vec::with_capacity(size),
            conditional: Vec::with_capacity(size),
            independent: columns
                .iter()
                .map(|&after| pairs.independent(after as usize))
                .collect(),
            lift: Vec::with_capacity(size),
            mutual_information: 0.0,
            relative_information: 0.0,
            pairs: pairs.total,
            rows,
            columns,
        };
        (matrix.mutual_information, matrix.relative_information) = pairs.information();
        for &before in &matrix.rows {
            for &after in &matrix.columns {
                let (before, after) = (before as usize, after as usize);
                matrix
                    .counts
                    .push(pairs.counts[before * pairs.columns + after]);
                matrix.conditional.push(pairs.conditional(before, after));
                matrix.lift.push(pairs.lift(before, after));
            }
        }
        Ok(matrix)
    }
}

fn indices(count: usize) -> Vec<u32> {
    (0..count as u32).collect()
}

fn fullest(counts: &[u64]) -> Vec<u32> {
    let mut order = indices(counts.len());
    order.sort_by_key(|&expert| std::cmp::Reverse(counts[expert as usize]));
    order
}

/// Rows by how alike the experts are in where their tokens go; columns by the rows that most of theirs come from, so that
/// strong pairs lie along the diagonal.
fn matched(pairs: &Pairs) -> (Vec<u32>, Vec<u32>) {
    let profile = |before: usize| {
        (0..pairs.columns)
            .map(|after| pairs.lift(before, after))
            .map(|lift| if lift.is_finite() { lift } else { 0.0 })
            .collect()
    };
    let profiles: Vec<Vec<f32>> = (0..pairs.rows).map(profile).collect();
    let rows = leaf_order(&correlations(&profiles));
    let centre = |after: u32| {
        let (mut sum, mut weight) = (0.0, 0.0f32);
        for (place, &before) in rows.iter().enumerate() {
            // Squared: a column stands by its strong pairs, not by all of its weak ones.
            let lift = profiles[before as usize][after as usize].powi(2);
            sum += place as f32 * lift;
            weight += lift;
        }
        if weight > 0.0 { sum / weight } else { f32::MAX }
    };
    let mut columns = indices(pairs.columns);
    columns.sort_by(|&a, &b| centre(a).total_cmp(&centre(b)).then(a.cmp(&b)));
    (rows, columns)
}

impl TransitionMatrix {
    /// How conditional probabilities should be coloured.
    pub fn scale(&self) -> Scale {
        let finite = self
            .conditional
            .iter()
            .copied()
            .filter(|value| value.is_finite());
        Scale {
            min: 0.0,
            max: finite.fold(0.01, f32::max),
            neutral: None,
        }
    }

    /// How lifts should be coloured, by their logarithm to base 2: twice as often as chance stands as far from it as half as often.
    pub fn lift_scale(&self) -> Scale {
        Scale {
            min: -3.0,
            max: 3.0,
            neutral: Some(0.0),
        }
    }

    /// The place with the greatest lift of those with at least a thousandth of all pairs.
    pub fn strongest(&self) -> Option<usize> {
        let worth = |&at: &usize| self.counts[at] * 1000 >= self.pairs && self.lift[at].is_finite();
        (0..self.lift.len())
            .filter(worth)
            .max_by(|&a, &b| self.lift[a].total_cmp(&self.lift[b]))
    }
}

impl Answer for TransitionMatrix {
    fn summary(&self) -> String {
        let strongest = self.strongest().map_or(String::new(), |at| {
            let (row, column) = (at / self.columns.len(), at % self.columns.len());
            format!(
                " Strongest: of the tokens of expert {}, {:.0} % go on to expert {}, {:.1} times as many as by chance.",
                self.rows[row],
                self.conditional[at] * 100.0,
                self.columns[column],
                self.lift[at]
            )
        });
        format!(
            "From {} to {} at step {}: {} pairs; the expert before tells {:.1} % of what there is to tell about the expert after.{strongest}",
            self.from,
            self.to,
            self.step,
            self.pairs,
            self.relative_information * 100.0
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!(
                "Transitions from {} to {}, step {}",
                self.from, self.to, self.step
            ),
            &[
                ("from_expert", ""),
                ("to_expert", ""),
                ("pairs", ""),
                ("conditional", ""),
                ("independent", ""),
                ("lift", ""),
            ],
        );
        for (row, &before) in self.rows.iter().enumerate() {
            for (column, &after) in self.columns.iter().enumerate() {
                let at = row * self.columns.len() + column;
                table.push([
                    before.into(),
                    after.into(),
                    self.counts[at].into(),
                    self.conditional[at].into(),
                    self.independent[column].into(),
                    self.lift[at].into(),
                ]);
            }
        }
        table
    }

    fn bytes(&self) -> usize {
        self.counts.len() * 16 + (self.rows.len() + 2 * self.columns.len()) * 4
    }
}
