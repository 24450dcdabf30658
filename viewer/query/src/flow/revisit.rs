use super::pairs::Pairs;
use crate::store::trace_record::{NOBODY, TraceRecord};
use crate::store::transition_record::TransitionRecord;
use crate::{Answer, Cell, Cost, Gap, Query, RouterId, RunId, Store, Table};

/// The share of tokens that an expert sees again in a later iteration of its layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Revisits {
    /// The run.
    pub run: RunId,
    /// The cursor.
    pub step: u64,
}

/// Answers [`Revisits`].
#[derive(Clone, Debug, PartialEq)]
pub struct RevisitTable {
    /// The recorded step.
    pub step: u64,
    /// By layer, and within it by iterations.
    pub layers: Vec<LayerRevisits>,
}

/// Two iterations of one layer. Neighbours are counted over all tokens of the training step; others over the
/// traced tokens, where there is a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerRevisits {
    /// The iteration before.
    pub from: RouterId,
    /// The iteration after.
    pub to: RouterId,
    /// Share of assignments of the iteration before whose token chooses the same expert again, 0 to 1.
    pub share: f32,
    /// That share if experts were chosen independently, with the loads that they have.
    pub chance: f32,
    /// By expert: the share of its tokens that it sees again; NaN without tokens.
    pub experts: Vec<f32>,
    /// Whether it is counted over traced tokens.
    pub traced: bool,
}

impl Query for Revisits {
    type Answer = RevisitTable;

    fn runs(&self) -> Vec<RunId> {
        vec![self.run]
    }

    fn cost(&self) -> Cost {
        Cost::Background
    }

    fn answer(&self, store: &Store) -> Result<RevisitTable, Gap> {
        let run = store.find(self.run)?;
        let shape = run.snapshot().shape.clone();
        let layers = shape.layers();
        if !layers.is_empty() && layers.iter().all(|&layer| shape.iterations(layer) < 2) {
            return Err(Gap::NotRecorded {
                what: "a second iteration".to_owned(),
                why: "the model is a plain mixture of experts: each layer routes once".to_owned(),
                remedy: "train a chain with model.inner_iter = 2 or more".to_owned(),
            });
        }
        let record = TransitionRecord::at(store, &run, self.step);
        let trace = TraceRecord::at(store, &run, self.step);
        let mut table = RevisitTable {
            step: match (&record, &trace) {
                (Ok(record), _) => record.step,
                (_, Ok(trace)) => trace.step,
                (Err(gap), _) => return Err(gap.clone()),
            },
            layers: Vec::new(),
        };
        // A token chooses an expert once an iteration, so a pair of an expert with itself is one token; every token
        // of an expert makes k pairs.
        let k = u64::from(shape.k.max(1));
        for layer in layers {
            for from in 0..shape.iterations(layer) {
                for to in from + 1..shape.iterations(layer) {
                    let [from, to] = [from, to].map(|iteration| RouterId { layer, iteration });
                    let counted = record
                        .as_ref()
                        .ok()
                        .and_then(|record| Pairs::of(&run, record, from, to).ok());
                    let found = match (counted, &trace) {
                        (Some(pairs), _) => {
                            let tokens: Vec<u64> =
                                pairs.of_row.iter().map(|&pairs| pairs / k).collect();
                            let after: Vec<u64> =
                                pairs.of_column.iter().map(|&pairs| pairs / k).collect();
                            let again = (0..pairs.rows.min(pairs.columns))
                                .map(|expert| pairs.counts[expert * pairs.columns + expert]);
                            LayerRevisits::of(
                                from,
                                to,
                                &tokens,
                                &after,
                                &again.collect::<Vec<_>>(),
                                k,
                                false,
                            )
                        }
                        (None, Ok(trace)) => match of_trace(trace, from, to) {
                            Some(found) => found,
                            None => continue,
                        },
                        (None, Err(_)) => continue,
                    };
                    table.layers.push(found);
                }
            }
        }
        Ok(table)
    }
}

/// Counts repeated choices of the traced tokens.
fn of_trace(trace: &TraceRecord, from: RouterId, to: RouterId) -> Option<LayerRevisits> {
    let (before, after) = (trace.chosen(from)?, trace.chosen(to)?);
    let most = before
        .iter()
        .chain(after)
        .filter(|&&expert| expert != NOBODY)
        .max()?;
    let [mut tokens, mut arrived, mut again] = [(); 3].map(|()| vec![0u64; *most as usize + 1]);
    for (before, after) in before.chunks(trace.k).zip(after.chunks(trace.k)) {
        for &expert in before.iter().filter(|&&expert| expert != NOBODY) {
            tokens[expert as usize] += 1;
            again[expert as usize] += u64::from(after.contains(&expert));
        }
        for &expert in after.iter().filter(|&&expert| expert != NOBODY) {
            arrived[expert as usize] += 1;
        }
    }
    Some(LayerRevisits::of(
        from,
        to,
        &tokens,
        &arrived,
        &again,
        trace.k as u64,
        true,
    ))
}

impl LayerRevisits {
    /// Of tokens by expert before and after, and those that it sees again.
    fn of(
        from: RouterId,
        to: RouterId,
        before: &[u64],
        after: &[u64],
        again: &[u64],
        k: u64,
        traced: bool,
    ) -> Self {
        let assignments = before.iter().sum::<u64>().max(1) as f64;
        let tokens = (after.iter().sum::<u64>() / k).max(1) as f64;
        // Of a token of this expert, chance chooses it again as often as it is chosen at all.
        let chance = before
            .iter()
            .zip(after)
            .map(|(&before, &after)| before as f64 / assignments * after as f64 / tokens);
        Self {
            from,
            to,
            share: (again.iter().sum::<u64>() as f64 / assignments) as f32,
            chance: chance.sum::<f64>() as f32,
            experts: before
                .iter()
                .zip(again)
                .map(|(&tokens, &again)| again as f32 / tokens as f32)
                .collect(),
            traced,
        }
    }
}

impl Answer for RevisitTable {
    fn summary(&self) -> String {
        let most = self
            .layers
            .iter()
            .max_by(|a, b| a.share.total_cmp(&b.share));
        let most = most.map_or(String::new(), |most| {
            format!(
                " Most between {} and iteration {}: {:.1} %, against {:.1} % by chance.",
                most.from,
                most.to.iteration,
                most.share * 100.0,
                most.chance * 100.0
            )
        });
        let mean = self.layers.iter().map(|layer| layer.share).sum::<f32>()
            / self.layers.len().max(1) as f32;
        format!(
            "Tokens that an expert sees again in a later iteration, step {}: {:.1} % on average.{most}",
            self.step,
            mean * 100.0
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!(
                "Experts seen again in a later iteration, step {}",
                self.step
            ),
            &[
                ("layer", ""),
                ("from_iteration", ""),
                ("to_iteration", ""),
                ("expert", ""),
                ("share", ""),
                ("chance", ""),
                ("counted_over", ""),
            ],
        );
        for layer in &self.layers {
            let over = if layer.traced {
                "traced tokens"
            } else {
                "training tokens"
            };
            let mut row = |expert: Cell, share: f32, chance: Cell| {
                table.push([
                    layer.from.layer.into(),
                    layer.from.iteration.into(),
                    layer.to.iteration.into(),
                    expert,
                    share.into(),
                    chance,
                    over.into(),
                ]);
            };
            row("all".into(), layer.share, layer.chance.into());
            for (expert, &share) in layer.experts.iter().enumerate() {
                row(expert.into(), share, Cell::Missing);
            }
        }
        table
    }

    fn bytes(&self) -> usize {
        self.layers
            .iter()
            .map(|layer| size_of::<LayerRevisits>() + layer.experts.len() * 4)
            .sum()
    }
}
