use super::timeline::bytes;
use crate::store::Stream;
use crate::store::memory_history::Range;
use crate::{Answer, Cost, Gap, Query, RunId, Span, Store, Table};

/// Statistics of memory over a range of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemoryRange {
    /// The run.
    pub run: RunId,
    /// The range.
    pub span: Span,
}

/// Answers [`MemoryRange`].
#[derive(Clone, Debug, PartialEq)]
pub struct RangeTable {
    /// First and last recorded step of the range.
    pub steps: (u64, u64),
    /// Records (steps) in the range.
    pub records: u64,
    /// Moments in the range.
    pub moments: u64,
    /// The largest moment: step, number and phase.
    pub peak: (u64, u32, String),
    /// All owners, then by kind, then the allocator's totals (`reserved`, `in_use`).
    pub rows: Vec<KindStatistics>,
    /// Whether records are still being read.
    pub reading: bool,
}

/// A kind of memory over a range.
#[derive(Clone, Debug, PartialEq)]
pub struct KindStatistics {
    /// Its name; `total` for all owners.
    pub name: String,
    /// The least bytes at any moment.
    pub min: u64,
    /// The most bytes at any moment.
    pub max: u64,
    /// Mean over the records of their largest moment.
    pub mean: f64,
    /// Bytes at the largest moment of the first record.
    pub first: u64,
    /// Bytes at the largest moment of the last record.
    pub last: u64,
}

impl Query for MemoryRange {
    type Answer = RangeTable;

    fn runs(&self) -> Vec<RunId> {
        vec![self.run]
    }

    fn cost(&self) -> Cost {
        // From the history alone.
        Cost::Frame
    }

    fn answer(&self, store: &Store) -> Result<RangeTable, Gap> {
        let run = store.find(self.run)?;
        let snapshot = run.snapshot();
        let steps = run.recorded(&snapshot, Stream::Memory)?;
        let memory = run.memory();
        let columns = memory.view(self.span.first, self.span.last, 1);
        let mut columns = columns.iter();
        let Some(mut all) = columns.next().cloned() else {
            if memory.due > 0 {
                return Err(Gap::Opening {
                    what: Stream::Memory.words(),
                });
            }
            return Err(Gap::NoSuch {
                what: format!("record of memory in {}", self.span),
                range: format!(
                    "the first is of step {}, the last of step {}",
                    steps[0],
                    steps[steps.len() - 1]
                ),
            });
        };
        columns.for_each(|later| all.join(later));
        let row = |name: &str, range: &Range| KindStatistics {
            name: name.to_owned(),
            min: range.min,
            max: range.max,
            mean: range.sum / f64::from(range.count.max(1)),
            first: range.first,
            last: range.last,
        };
        let mut rows = vec![row("total", &all.total)];
        for kind in memory.stack() {
            let range = all.kinds.get(kind).filter(|range| range.count > 0);
            rows.extend(range.map(|range| row(&memory.kinds[kind], range)));
        }
        for (name, range) in [("reserved", &all.reserved), ("in_use", &all.in_use)] {
            if range.count > 0 {
                rows.push(row(name, range));
            }
        }
        Ok(RangeTable {
            steps: (all.first, all.last),
            records: all.records,
            moments: all.moments,
            peak: (all.at.0, all.at.1, all.phase.to_string()),
            rows,
            reading: memory.due > 0,
        })
    }
}

impl Answer for RangeTable {
    fn summary(&self) -> String {
        let total = &self.rows[0];
        format!(
            "Memory in steps {} to {}, {} records: {} to {}, {} on average at each record's largest moment; the peak is at step {} in {}.",
            self.steps.0,
            self.steps.1,
            self.records,
            bytes(total.min),
            bytes(total.max),
            bytes(total.mean as u64),
            self.peak.0,
            self.peak.2
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!("Memory in steps {} to {}", self.steps.0, self.steps.1),
            &[
                ("kind", ""),
                ("min", "B"),
                ("max", "B"),
                ("mean", "B"),
                ("first", "B"),
                ("last", "B"),
            ],
        );
        for row in &self.rows {
            table.push([
                row.name.clone().into(),
                row.min.into(),
                row.max.into(),
                row.mean.into(),
                row.first.into(),
                row.last.into(),
            ]);
        }
        table
    }

    fn bytes(&self) -> usize {
        self.rows.len() * (size_of::<KindStatistics>() + 16) + 64
    }
}
