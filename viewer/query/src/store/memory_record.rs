use std::sync::Arc;

use bellows_record::arrow_array::{Array, RecordBatch};
use bellows_record::{MemoryRow, StreamReader};

use super::columns::Columns;
use crate::Gap;

/// The kinds that every ledger knows, in the order in which they are stacked: what stays long lies at the bottom.
const KINDS: [&str; 6] = [
    "weights",
    "optimizer",
    "gradients",
    "activations",
    "workspace",
    "unexplained",
];

/// Where a kind stands in the stack: unknown ones on top, by name.
pub(crate) fn stack_order(kind: &str) -> (usize, &str) {
    (
        KINDS
            .iter()
            .position(|&known| known == kind)
            .unwrap_or(KINDS.len()),
        kind,
    )
}

/// A moment of a step: totals only.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Moment {
    pub(crate) moment: u32,
    pub(crate) phase: Arc<str>,
    /// Bytes by kind, in the record's order of kinds.
    pub(crate) kinds: Vec<u64>,
    pub(crate) reserved: Option<u64>,
    pub(crate) in_use: Option<u64>,
}

impl Moment {
    pub(crate) fn total(&self) -> u64 {
        self.kinds.iter().sum()
    }
}

/// A step's moments.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct MemoryRecord {
    /// In stack order.
    pub(crate) kinds: Vec<Arc<str>>,
    /// In order of time.
    pub(crate) moments: Vec<Moment>,
}

/// An owner at a moment.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Owner {
    pub(crate) kind: Arc<str>,
    pub(crate) layer: Option<u32>,
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

/// Calls `each` with every row: moment, phase, layer, kind, owner, bytes.
fn each_row(
    batches: &[RecordBatch],
    step: u64,
    mut each: impl FnMut(u32, &str, Option<u32>, &str, &str, u64),
) -> Result<(), Gap> {
    for batch in batches {
        let columns = Columns::new(batch, "memory", step);
        let (moment, bytes) = (columns.u32("moment")?, columns.u64("bytes")?);
        let (phase, kind, owner) = (
            columns.text("phase")?,
            columns.text("kind")?,
            columns.text("owner")?,
        );
        let layer = columns.optional_u32("layer")?;
        for row in 0..batch.num_rows() {
            let layer = layer
                .filter(|layer| layer.is_valid(row))
                .map(|layer| layer.value(row));
            each(
                moment[row],
                phase.value(row),
                layer,
                kind.value(row),
                owner.value(row),
                bytes[row],
            );
        }
    }
    Ok(())
}

impl MemoryRecord {
    /// Reads the totals of a step.
    pub(crate) fn read(stream: &StreamReader<MemoryRow>, step: u64) -> Result<Self, Gap> {
        Self::of(&stream.batches(step)?, step)
    }

    fn of(batches: &[RecordBatch], step: u64) -> Result<Self, Gap> {
        let mut kinds: Vec<Arc<str>> = Vec::new();
        let mut moments: Vec<Moment> = Vec::new();
        each_row(batches, step, |number, phase, _, kind, owner, bytes| {
            // Rows of a moment stand together.
            let at = match moments.iter().rposition(|moment| moment.moment == number) {
                Some(at) => at,
                None => {
                    // Few phases and many moments: one text for those that follow each other.
                    let phase = match moments.last() {
                        Some(last) if &*last.phase == phase => last.phase.clone(),
                        _ => phase.into(),
                    };
                    moments.push(Moment {
                        moment: number,
                        phase,
                        kinds: vec![0; kinds.len()],
                        ..Moment::default()
                    });
                    moments.len() - 1
                }
            };
            let moment = &mut moments[at];
            if kind == MemoryRow::ALLOCATOR {
                match owner {
                    MemoryRow::RESERVED => moment.reserved = Some(bytes),
                    MemoryRow::IN_USE => moment.in_use = Some(bytes),
                    _ => {}
                }
                return;
            }
            let place = match kinds.iter().position(|known| &**known == kind) {
                Some(place) => place,
                None => {
                    kinds.push(kind.into());
                    kinds.len() - 1
                }
            };
            moment.kinds.resize(moment.kinds.len().max(place + 1), 0);
            moment.kinds[place] += bytes;
        })?;
        let mut order: Vec<usize> = (0..kinds.len()).collect();
        order.sort_by(|&a, &b| stack_order(&kinds[a]).cmp(&stack_order(&kinds[b])));
        for moment in &mut moments {
            moment.kinds = order
                .iter()
                .map(|&kind| moment.kinds.get(kind).copied().unwrap_or(0))
                .collect();
        }
        moments.sort_by_key(|moment| moment.moment);
        Ok(Self {
            kinds: order.iter().map(|&kind| kinds[kind].clone()).collect(),
            moments,
        })
    }

    /// The moment with the most bytes; of equal ones the first. Where owners are unknown, by what the allocator gave out.
    pub(crate) fn peak(&self) -> Option<usize> {
        let key = |moment: &Moment| (moment.total(), moment.in_use);
        let greatest = self.moments.iter().map(key).max()?;
        self.moments
            .iter()
            .position(|moment| key(moment) == greatest)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.moments.len() * (64 + 8 * self.kinds.len()) + self.kinds.len() * 32
    }
}

/// The owners of one moment, without the allocator's totals.
pub(crate) fn owners(
    stream: &StreamReader<MemoryRow>,
    step: u64,
    moment: u32,
) -> Result<Vec<Owner>, Gap> {
    let mut owners: Vec<Owner> = Vec::new();
    let mut last: Arc<str> = "".into();
    each_row(
        &stream.batches(step)?,
        step,
        |number, _, layer, kind, owner, bytes| {
            if number != moment || kind == MemoryRow::ALLOCATOR {
                return;
            }
            if &*last != kind {
                last = kind.into();
            }
            owners.push(Owner {
                kind: last.clone(),
                layer,
                name: owner.to_owned(),
                bytes,
            });
        },
    )?;
    Ok(owners)
}
