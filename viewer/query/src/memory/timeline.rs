use crate::store::{RunSnapshot, Stream};
use crate::{Answer, Cost, Gap, Query, RunId, Span, Store, Table};

/// Memory over a run, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemoryTimeline {
    /// The run.
    pub run: RunId,
    /// From when to when.
    pub span: Span,
    /// How many columns can be drawn: 1 or more. Each shows its largest moment, so no peak is lost.
    pub columns: u32,
}

/// Answers [`MemoryTimeline`].
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// The kinds of memory, in the order of the stack: weights, optimizer, gradients, activations, workspace, others.
    pub kinds: Vec<String>,
    /// Time.
    pub columns: Vec<TimelineColumn>,
    /// `columns × kinds`, a column after the other: bytes at the column's largest moment.
    pub bytes: Vec<u64>,
    /// The memory that the run may use: the plan's limit, or the device's memory, where one is known.
    pub limit: Option<u64>,
    /// The peak that the plan foretold, where there is a plan.
    pub planned: Option<u64>,
    /// The column with the largest moment.
    pub peak: Option<usize>,
    /// Moments in all, and records (steps).
    pub moments: (u64, u64),
    /// Whether records are still being read.
    pub reading: bool,
}

/// A stretch of time.
#[derive(Clone, Debug, PartialEq)]
pub struct TimelineColumn {
    /// The first recorded step.
    pub first: u64,
    /// The last recorded step.
    pub last: u64,
    /// The step of the largest moment, and its number there.
    pub at: (u64, u32),
    /// What training was doing then.
    pub phase: String,
    /// Bytes of all owners at the largest moment.
    pub total: u64,
    /// Bytes of all owners at the smallest moment.
    pub least: u64,
    /// The most bytes that the allocator had taken from the device.
    pub reserved: Option<u64>,
    /// The most bytes that the allocator had given out.
    pub in_use: Option<u64>,
}

impl TimelineColumn {
    /// Share of the reserved bytes that nobody used, 0 to 1.
    pub fn fragmentation(&self) -> Option<f32> {
        super::step::fragmentation(self.reserved, self.in_use)
    }
}

impl Query for MemoryTimeline {
    type Answer = Timeline;

    fn runs(&self) -> Vec<RunId> {
        vec![self.run]
    }

    fn cost(&self) -> Cost {
        // From the history alone.
        Cost::Frame
    }

    fn answer(&self, store: &Store) -> Result<Timeline, Gap> {
        let run = store.find(self.run)?;
        let snapshot = run.snapshot();
        run.recorded(&snapshot, Stream::Memory)?;
        let memory = run.memory();
        let stack = memory.stack();
        let mut timeline = Timeline {
            kinds: stack
                .iter()
                .map(|&kind| memory.kinds[kind].to_string())
                .collect(),
            columns: Vec::new(),
            bytes: Vec::new(),
            limit: limit(&snapshot),
            planned: planned(&snapshot),
            peak: None,
            moments: (memory.moments, memory.records),
            reading: memory.due > 0,
        };
        for column in memory.view(
            self.span.first,
            self.span.last,
            self.columns.max(1) as usize,
        ) {
            let at_peak = |&kind: &usize| column.kinds.get(kind).map_or(0, |range| range.peak);
            timeline.bytes.extend(stack.iter().map(at_peak));
            timeline.columns.push(TimelineColumn {
                first: column.first,
                last: column.last,
                at: column.at,
                phase: column.phase.to_string(),
                total: column.total.max,
                least: column.total.min,
                reserved: (column.reserved.count > 0).then_some(column.reserved.max),
                in_use: (column.in_use.count > 0).then_some(column.in_use.max),
            });
        }
        let key = |&at: &usize| {
            (
                timeline.columns[at].total,
                timeline.columns[at].in_use,
                std::cmp::Reverse(at),
            )
        };
        timeline.peak = (0..timeline.columns.len()).max_by_key(key);
        Ok(timeline)
    }
}

/// The memory that the run may use: the plan's limit, or the device's memory, where one is known.
pub(super) fn limit(snapshot: &RunSnapshot) -> Option<u64> {
    let planned = snapshot
        .plan
        .as_ref()
        .and_then(|plan| plan.get("limit_bytes")?.as_u64());
    planned.or_else(|| snapshot.manifest.as_ref()?.info.device.memory_bytes)
}

/// The peak that the plan foretold.
pub(super) fn planned(snapshot: &RunSnapshot) -> Option<u64> {
    snapshot.plan.as_ref()?.get("peak_bytes")?.as_u64()
}

impl Answer for Timeline {
    fn summary(&self) -> String {
        let Some(peak) = self.peak else {
            return "No record of memory lies in the range.".to_owned();
        };
        let column = &self.columns[peak];
        let kinds = self.kinds.len();
        let of_peak = &self.bytes[peak * kinds..(peak + 1) * kinds];
        let largest = (0..kinds).max_by_key(|&kind| of_peak[kind]);
        let largest = largest.map_or(String::new(), |kind| {
            format!(
                ", most of it {} ({})",
                self.kinds[kind],
                bytes(of_peak[kind])
            )
        });
        let limit = self.limit.map_or(String::new(), |limit| {
            format!(
                " That is {:.0} % of the {} that it may use.",
                100.0 * column.total as f64 / limit as f64,
                bytes(limit)
            )
        });
        let planned = self.planned.map_or(String::new(), |planned| {
            format!(" The plan foretold {}.", bytes(planned))
        });
        format!(
            "Memory over {} records: the peak is {} at step {} in {}{largest}.{limit}{planned}",
            self.moments.1,
            bytes(column.total),
            column.at.0,
            column.phase
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            "Memory over time, at each stretch's largest moment",
            &[
                ("first_step", ""),
                ("last_step", ""),
                ("step", ""),
                ("moment", ""),
                ("phase", ""),
                ("kind", ""),
                ("bytes", "B"),
            ],
        );
        for (at, column) in self.columns.iter().enumerate() {
            let mut row = |kind: &str, bytes: u64| {
                table.push([
                    column.first.into(),
                    column.last.into(),
                    column.at.0.into(),
                    column.at.1.into(),
                    column.phase.clone().into(),
                    kind.into(),
                    bytes.into(),
                ]);
            };
            for (kind, name) in self.kinds.iter().enumerate() {
                row(name, self.bytes[at * self.kinds.len() + kind]);
            }
            row("total", column.total);
            column
                .reserved
                .into_iter()
                .for_each(|bytes| row("allocator reserved", bytes));
            column
                .in_use
                .into_iter()
                .for_each(|bytes| row("allocator in use", bytes));
        }
        table
    }

    fn bytes(&self) -> usize {
        self.columns.len() * (size_of::<TimelineColumn>() + 16 + self.kinds.len() * 8)
    }
}

/// Bytes for a sentence: `1.50 GiB`.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2} {}", UNITS[unit])
}
