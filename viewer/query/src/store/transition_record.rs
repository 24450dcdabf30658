use std::collections::BTreeMap;
use std::sync::Arc;

use bellows_record::arrow_array::RecordBatch;

use super::Stream;
use super::columns::Columns;
use super::run::{Run, read};
use crate::{Gap, RouterId, Store};

/// Expert before, expert after, slot pairs.
pub(crate) type Pair = (u32, u32, u64);

/// A step's pairs of experts, by the routers before and after.
pub(crate) struct TransitionRecord {
    pub(crate) step: u64,
    pub(crate) pairs: BTreeMap<(RouterId, RouterId), Vec<Pair>>,
}

impl TransitionRecord {
    /// The record that a cursor at `step` shows.
    pub(crate) fn at(store: &Store, run: &Run, step: u64) -> Result<Arc<Self>, Gap> {
        let step = run.record_at(Stream::Transitions, step)?;
        let streams = run.streams()?;
        let make = || Self::of(&read(&streams.transitions).batches(step)?, step);
        store.record(
            ("transitions", run.id, step),
            run.epoch(),
            make,
            Self::bytes,
        )
    }

    fn of(batches: &[RecordBatch], step: u64) -> Result<Self, Gap> {
        let mut pairs: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for batch in batches {
            let columns = Columns::new(batch, "transitions", step);
            let router = |layer: &'static str, iteration: &'static str| {
                Ok::<_, Gap>(columns.u32(layer)?.iter().zip(columns.u32(iteration)?))
            };
            let from = router("from_layer", "from_iteration")?;
            let to = router("to_layer", "to_iteration")?;
            let experts = columns
                .u32("from_expert")?
                .iter()
                .zip(columns.u32("to_expert")?);
            let counts = columns.u64("count")?;
            // Rows of two routers stand together: the list is looked up once for each stretch of them.
            let mut last = None;
            let mut list: &mut Vec<_> = &mut Vec::new();
            for (((from, to), (&before, &after)), &count) in from.zip(to).zip(experts).zip(counts) {
                let [from, to] =
                    [from, to].map(|(&layer, &iteration)| RouterId { layer, iteration });
                if last != Some((from, to)) {
                    last = Some((from, to));
                    list = pairs.entry((from, to)).or_default();
                }
                list.push((before, after, count));
            }
        }
        Ok(Self { step, pairs })
    }

    /// The pairs between two routers.
    pub(crate) fn between(&self, from: RouterId, to: RouterId) -> Result<&[Pair], Gap> {
        self.pairs.get(&(from, to)).map(Vec::as_slice).ok_or_else(|| Gap::NoSuch {
            what: format!("record of transitions from {from} to {to}"),
            range: "they are recorded from each iteration to the next, and from a layer's last iteration to the first of the next layer with experts".to_owned(),
        })
    }

    fn bytes(&self) -> usize {
        self.pairs
            .values()
            .map(|pairs| 64 + pairs.capacity() * 16)
            .sum()
    }
}
