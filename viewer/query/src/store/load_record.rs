use std::collections::BTreeMap;

use bellows_record::arrow_array::{Array, RecordBatch};
use bellows_record::{RoutingRow, StreamReader};

use super::columns::Columns;
use crate::{Gap, RouterId};

/// Which router's experts lie where in a flat list of all experts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Routers by layer and iteration: id, experts, place of expert 0.
    pub(crate) routers: Vec<(RouterId, u32, usize)>,
    /// Experts of all routers together.
    pub(crate) cells: usize,
}

/// No model has so many experts in a layer: a greater number in a file is damage, not a reason to fill memory.
const MOST_EXPERTS: u32 = 1 << 16;

impl Layout {
    pub(crate) fn of(experts: impl IntoIterator<Item = (RouterId, u32)>) -> Self {
        let mut layout = Self::default();
        for (router, experts) in experts {
            layout.routers.push((router, experts, layout.cells));
            layout.cells += experts as usize;
        }
        layout
    }

    /// The routers and experts of both.
    pub(crate) fn union(&self, other: &Self) -> Self {
        let mut experts: BTreeMap<RouterId, u32> = BTreeMap::new();
        for &(router, count, _) in self.routers.iter().chain(&other.routers) {
            let most = experts.entry(router).or_default();
            *most = count.max(*most);
        }
        Self::of(experts)
    }

    pub(crate) fn find(&self, router: RouterId) -> Option<(u32, usize)> {
        let at = self.routers.binary_search_by_key(&router, |entry| entry.0);
        at.ok().map(|at| (self.routers[at].1, self.routers[at].2))
    }
}

/// One step's loads, dense.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoadRecord {
    pub(crate) layout: Layout,
    /// Assignments, by cell of the layout.
    pub(crate) tokens: Vec<u64>,
    /// Mean router probability, by cell.
    pub(crate) probability: Vec<f32>,
    /// Score-correction bias, by cell; empty where there is none.
    pub(crate) bias: Vec<f32>,
}

impl LoadRecord {
    /// Reads the record of a step.
    pub(crate) fn read(stream: &StreamReader<RoutingRow>, step: u64) -> Result<Self, Gap> {
        Self::of(&stream.batches(step)?, step)
    }

    fn of(batches: &[RecordBatch], step: u64) -> Result<Self, Gap> {
        let columns: Vec<_> = batches
            .iter()
            .map(|batch| Rows::of(batch, step))
            .collect::<Result<_, _>>()?;
        let mut experts: Vec<(RouterId, u32)> = Vec::new();
        for rows in &columns {
            for (router, range) in rows.runs() {
                let most = rows.expert[range].iter().max().map_or(0, |&expert| expert);
                if most >= MOST_EXPERTS {
                    return Err(Gap::Unreadable {
                        message: format!(
                            "the record of routing at step {step} is damaged: it names an expert {most}"
                        ),
                        remedy: "other steps can still be read; move the cursor".to_owned(),
                    });
                }
                match experts.iter_mut().rev().find(|known| known.0 == router) {
                    Some(known) => known.1 = known.1.max(most + 1),
                    None => experts.push((router, most + 1)),
                }
            }
        }
        experts.sort_unstable();
        let layout = Layout::of(experts);
        let mut record = Self {
            tokens: vec![0; layout.cells],
            probability: vec![0.0; layout.cells],
            bias: Vec::new(),
            layout,
        };
        for rows in &columns {
            for (router, range) in rows.runs() {
                let (_, start) = record.layout.find(router).unwrap_or_default();
                for row in range {
                    let cell = start + rows.expert[row] as usize;
                    record.tokens[cell] += rows.tokens[row];
                    record.probability[cell] = rows.probability[row];
                }
            }
            let Some(bias) = rows.bias else { continue };
            if bias.null_count() == bias.len() {
                continue;
            }
            record.bias.resize(record.layout.cells, f32::NAN);
            for (router, range) in rows.runs() {
                let (_, start) = record.layout.find(router).unwrap_or_default();
                for row in range {
                    if bias.is_valid(row) {
                        record.bias[start + rows.expert[row] as usize] = bias.value(row);
                    }
                }
            }
        }
        Ok(record)
    }
}

struct Rows<'a> {
    layer: &'a [u32],
    iteration: &'a [u32],
    expert: &'a [u32],
    tokens: &'a [u64],
    probability: &'a [f32],
    bias: Option<&'a bellows_record::arrow_array::Float32Array>,
}

impl<'a> Rows<'a> {
    fn of(batch: &'a RecordBatch, step: u64) -> Result<Self, Gap> {
        let columns = Columns::new(batch, "routing", step);
        Ok(Self {
            layer: columns.u32("layer")?,
            iteration: columns.u32("iteration")?,
            expert: columns.u32("expert")?,
            tokens: columns.u64("tokens")?,
            probability: columns.f32("probability")?,
            bias: columns.optional_f32("bias")?,
        })
    }

    /// Neighbouring rows of one router: writers put a router's experts together.
    fn runs(&self) -> impl Iterator<Item = (RouterId, std::ops::Range<usize>)> + '_ {
        let mut start = 0;
        std::iter::from_fn(move || {
            let (&layer, &iteration) = (self.layer.get(start)?, self.iteration.get(start)?);
            let same = |row: &usize| self.layer[*row] == layer && self.iteration[*row] == iteration;
            let length = (start..self.layer.len()).take_while(same).count();
            let range = start..start + length;
            start = range.end;
            Some((RouterId { layer, iteration }, range))
        })
    }
}
