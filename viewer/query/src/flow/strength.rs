use super::pairs::Pairs;
use crate::store::transition_record::TransitionRecord;
use crate::{Answer, Cost, Gap, Query, RouterId, RunId, Store, Table};

/// How much each router tells about the next one: the overview of all [`Transitions`](super::Transitions).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowStrength {
    /// The run.
    pub run: RunId,
    /// The cursor.
    pub step: u64,
}

/// Answers [`FlowStrength`].
#[derive(Clone, Debug, PartialEq)]
pub struct StrengthTable {
    /// The recorded step.
    pub step: u64,
    /// By router before, then after.
    pub pairs: Vec<Strength>,
}

/// Two routers that follow one another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strength {
    /// The router before.
    pub from: RouterId,
    /// The router after.
    pub to: RouterId,
    /// Mutual information, nats.
    pub mutual_information: f64,
    /// The same over the smaller of both entropies, 0 to 1.
    pub relative_information: f64,
    /// The pair of experts with the most tokens above chance: before, after.
    pub strongest: (u32, u32),
    /// Its lift.
    pub lift: f32,
    /// Slot pairs.
    pub pairs: u64,
}

impl Query for FlowStrength {
    type Answer = StrengthTable;

    fn runs(&self) -> Vec<RunId> {
        vec![self.run]
    }

    fn cost(&self) -> Cost {
        Cost::Background
    }

    fn answer(&self, store: &Store) -> Result<StrengthTable, Gap> {
        let run = store.find(self.run)?;
        let record = TransitionRecord::at(store, &run, self.step)?;
        let mut table = StrengthTable {
            step: record.step,
            pairs: Vec::with_capacity(record.pairs.len()),
        };
        for &(from, to) in record.pairs.keys() {
            let pairs = Pairs::of(&run, &record, from, to)?;
            let (mutual_information, relative_information) = pairs.information();
            // Pairs of a handful of tokens have the greatest lifts by chance.
            let worth = (0..pairs.counts.len())
                .filter(|&at| pairs.counts[at] > 0 && pairs.counts[at] * 1000 >= pairs.total);
            let split = |at: usize| (at / pairs.columns, at % pairs.columns);
            let lift = |&at: &usize| pairs.lift(split(at).0, split(at).1);
            let strongest = worth.max_by(|a, b| lift(a).total_cmp(&lift(b)));
            table.pairs.push(Strength {
                from,
                to,
                mutual_information,
                relative_information,
                strongest: strongest.map_or((0, 0), |at| (split(at).0 as u32, split(at).1 as u32)),
                lift: strongest.map_or(f32::NAN, |at| lift(&at)),
                pairs: pairs.total,
            });
        }
        Ok(table)
    }
}

impl Answer for StrengthTable {
    fn summary(&self) -> String {
        let most = self
            .pairs
            .iter()
            .max_by(|a, b| a.relative_information.total_cmp(&b.relative_information));
        let most = most.map_or(String::new(), |pair| {
            format!(
                " Most is told from {} to {}: {:.1} % of what there is to tell.",
                pair.from,
                pair.to,
                pair.relative_information * 100.0
            )
        });
        format!(
            "What each of {} routers tells about the next at step {}.{most}",
            self.pairs.len(),
            self.step
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!("What each router tells about the next, step {}", self.step),
            &[
                ("from_layer", ""),
                ("from_iteration", ""),
                ("to_layer", ""),
                ("to_iteration", ""),
                ("mutual_information", "nats"),
                ("relative_information", ""),
                ("strongest_from", ""),
                ("strongest_to", ""),
                ("lift", ""),
                ("pairs", ""),
            ],
        );
        for pair in &self.pairs {
            table.push([
                pair.from.layer.into(),
                pair.from.iteration.into(),
                pair.to.layer.into(),
                pair.to.iteration.into(),
                pair.mutual_information.into(),
                pair.relative_information.into(),
                pair.strongest.0.into(),
                pair.strongest.1.into(),
                pair.lift.into(),
                pair.pairs.into(),
            ]);
        }
        table
    }

    fn bytes(&self) -> usize {
        self.pairs.len() * size_of::<Strength>()
    }
}
