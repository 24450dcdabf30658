use std::collections::BTreeMap;

use bellows_record::MemoryRow;

use super::Pyramid;

/// Buckets of a kind's history.
const RESOLUTION: usize = 1 << 12;

/// What is known of a run's memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryData {
    /// Bytes by kind over the run, each record's largest moment.
    pub kinds: BTreeMap<String, Pyramid>,
    /// The ledger at the cursor's step.
    pub view: MemoryView,
}

/// The ledger at one step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryView {
    /// The recorded step.
    pub step: Option<u64>,
    /// Its moments, each with its phase's name and owners, the largest owner first.
    pub moments: Vec<(String, Vec<MemoryOwner>)>,
}

/// An owner of memory.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryOwner {
    /// What kind of memory.
    pub kind: String,
    /// The layer, where it belongs to one.
    pub layer: Option<u32>,
    /// Its name.
    pub name: String,
    /// Bytes held.
    pub bytes: u64,
}

impl MemoryView {
    /// Of the rows of a step.
    pub fn of(step: u64, rows: &[MemoryRow]) -> Self {
        let mut moments: BTreeMap<u32, (String, Vec<MemoryOwner>)> = BTreeMap::new();
        for row in rows {
            let moment = moments
                .entry(row.moment)
                .or_insert_with(|| (row.phase.to_string(), Vec::new()));
            moment.1.push(MemoryOwner {
                kind: row.kind.to_string(),
                layer: row.layer,
                name: row.owner.to_string(),
                bytes: row.bytes,
            });
        }
        let mut moments: Vec<_> = moments.into_values().collect();
        for (_, owners) in &mut moments {
            owners.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.name.cmp(&b.name)));
        }
        Self {
            step: Some(step),
            moments,
        }
    }
}

impl MemoryData {
    /// Adds a recorded step to the timeline. The allocator's totals keep their owners' names:
    /// they are no part of the sum. Its own peak of a phase is all but what is in use at the moments
    /// recorded, and no line of its own.
    pub fn push(&mut self, step: u64, rows: &[MemoryRow]) {
        let mut moments: BTreeMap<(u32, &str), u64> = BTreeMap::new();
        for row in rows {
            let kind = if row.kind == MemoryRow::ALLOCATOR {
                if row.owner == "peak" {
                    continue;
                }
                row.owner.as_ref()
            } else {
                row.kind.as_ref()
            };
            *moments.entry((row.moment, kind)).or_default() += row.bytes;
        }
        let mut largest: BTreeMap<&str, u64> = BTreeMap::new();
        for ((_, kind), bytes) in moments {
            let most = largest.entry(kind).or_default();
            *most = bytes.max(*most);
        }
        for (kind, bytes) in largest {
            self.kinds
                .entry(kind.to_owned())
                .or_insert_with(|| Pyramid::with_resolution(RESOLUTION))
                .push(step, bytes as f64);
        }
    }

    /// Forgets steps from `step` on; `false` where the timeline has to be read again.
    #[must_use]
    pub fn keep_below(&mut self, step: u64) -> bool {
        self.kinds.values_mut().all(|kind| kind.keep_below(step))
    }
}
