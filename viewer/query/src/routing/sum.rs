use std::collections::BTreeMap;

use super::RouterHealth;
use super::health::RouterSum;
use crate::store::load_record::{Layout, LoadRecord};
use crate::store::run::read;
use crate::store::{RunSnapshot, Stream};
use crate::{Gap, RouterId, RunId, Sampled, Span, Store};

/// Records that a range is summed over at most.
const MOST_RECORDS: usize = 256;

/// Loads of one step, or summed over the records of a range.
pub(crate) struct LoadSum {
    pub(crate) steps: Sampled,
    pub(crate) layout: Layout,
    /// Assignments, by cell.
    pub(crate) tokens: Vec<u64>,
    /// Mean over the records of the mean router probability, by cell.
    pub(crate) probability: Vec<f32>,
    /// Biases of the last record, by cell; empty without any.
    pub(crate) bias: Vec<f32>,
    routers: BTreeMap<RouterId, RouterSum>,
}

impl LoadSum {
    pub(crate) fn of(store: &Store, run: RunId, span: Span) -> Result<Self, Gap> {
        let run = store.find(run)?;
        let (steps, list) = if span.is_cursor() {
            let step = run.record_at(Stream::Routing, span.first)?;
            (Sampled::one(step), vec![step])
        } else {
            let snapshot = run.snapshot();
            records(
                run.recorded(&snapshot, Stream::Routing)?,
                span,
                MOST_RECORDS,
            )?
        };
        let streams = run.streams()?;
        let mut sum: Option<Self> = None;
        let mut trouble = None;
        let mut read_records = 0;
        for &step in &list {
            let record = LoadRecord::read(&read(&streams.routing), step);
            let record = match record {
                Ok(record) => record,
                Err(gap) => {
                    // One damaged record does not take a range away.
                    trouble = Some(gap);
                    continue;
                }
            };
            read_records += 1;
            let sum = sum.get_or_insert_with(|| Self {
                steps,
                tokens: vec![0; record.layout.cells],
                probability: vec![0.0; record.layout.cells],
                bias: Vec::new(),
                layout: record.layout.clone(),
                routers: BTreeMap::new(),
            });
            if sum.layout != record.layout {
                trouble = Some(Gap::Different {
                    why: format!(
                        "the record of step {step} has other routers than that of step {}",
                        list[0]
                    ),
                });
                read_records -= 1;
                continue;
            }
            for (sum, &tokens) in sum.tokens.iter_mut().zip(&record.tokens) {
                *sum += tokens;
            }
            for (sum, &probability) in sum.probability.iter_mut().zip(&record.probability) {
                *sum += probability;
            }
            sum.bias = record.bias;
            for row in streams.router_rows(step) {
                let router = RouterId {
                    layer: row.layer,
                    iteration: row.iteration,
                };
                sum.routers.entry(router).or_default().add(&row);
            }
        }
        match (sum, trouble) {
            (Some(mut sum), _) => {
                sum.probability
                    .iter_mut()
                    .for_each(|sum| *sum /= read_records as f32);
                sum.steps.read = read_records;
                Ok(sum)
            }
            (None, Some(gap)) => Err(gap),
            (None, None) => Err(Gap::Opening {
                what: Stream::Routing.words(),
            }),
        }
    }

    pub(crate) fn health(&self) -> Vec<RouterHealth> {
        let of = |&(router, experts, start): &(RouterId, u32, usize)| {
            let tokens = &self.tokens[start..][..experts as usize];
            RouterHealth::of(
                router,
                tokens,
                self.routers.get(&router).copied().unwrap_or_default(),
            )
        };
        self.layout.routers.iter().map(of).collect()
    }
}

/// The recorded steps of a range, at most `most` of them, evenly spaced; the last one always.
pub(crate) fn records(steps: &[u64], span: Span, most: usize) -> Result<(Sampled, Vec<u64>), Gap> {
    let from = steps.partition_point(|&step| step < span.first);
    let to = steps.partition_point(|&step| step <= span.last);
    if from >= to {
        return match RunSnapshot::at_or_before(steps, span.last) {
            // Between two records: what a cursor there would show.
            Some(step) => Ok((Sampled::one(step), vec![step])),
            None => Err(Gap::TooEarly {
                what: Stream::Routing.words().to_owned(),
                step: span.last,
                first: steps.first().copied().unwrap_or(0),
            }),
        };
    }
    let inside = &steps[from..to];
    let read = inside.len().min(most.max(1));
    let pick = |i: usize| inside[(i + 1) * inside.len() / read - 1];
    let sampled = Sampled {
        first: inside[0],
        last: inside[inside.len() - 1],
        records: inside.len(),
        read,
    };
    Ok((sampled, (0..read).map(pick).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_between_two_records_shows_the_one_before_it() {
        let steps = [10, 20, 30];
        let of = |first, last| records(&steps, Span { first, last }, 256).map(|(_, list)| list);
        assert_eq!(of(12, 18).unwrap(), [10]);
        assert_eq!(of(12, 20).unwrap(), [20]);
        assert_eq!(of(0, u64::MAX).unwrap(), steps);
        assert!(matches!(of(1, 9), Err(Gap::TooEarly { first: 10, .. })));
    }

    #[test]
    fn a_sampled_range_is_even_and_keeps_its_end() {
        let steps: Vec<u64> = (1..=1000).collect();
        let (sampled, list) = records(&steps, Span::ALL, 10).unwrap();
        assert_eq!((sampled.records, sampled.read), (1000, 10));
        assert_eq!(list, (1..=10).map(|i| i * 100).collect::<Vec<u64>>());
    }
}
