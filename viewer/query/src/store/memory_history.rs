//! Memory over time in bounded memory: the largest moment of every record, joined into some thousand columns.

use std::sync::Arc;

use super::memory_record::{MemoryRecord, stack_order};

/// Columns before neighbours are joined.
const COLUMNS: usize = 1 << 13;

/// Least and most bytes of a kind in some records, and their sum at the records' largest moments.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Range {
    pub(crate) min: u64,
    pub(crate) max: u64,
    pub(crate) sum: f64,
    /// At the largest moment of the first record.
    pub(crate) first: u64,
    /// At the largest moment of the last record.
    pub(crate) last: u64,
    /// At the largest moment of all.
    pub(crate) peak: u64,
    /// Records that know it.
    pub(crate) count: u32,
}

impl Range {
    fn of(values: impl Iterator<Item = u64>, peak: u64) -> Self {
        let (mut min, mut max) = (u64::MAX, 0);
        for value in values {
            (min, max) = (min.min(value), max.max(value));
        }
        Self {
            min,
            max,
            sum: peak as f64,
            first: peak,
            last: peak,
            peak,
            count: 1,
        }
    }

    /// Takes in later records; `larger` says that the largest moment is among them.
    fn join(&mut self, later: &Self, larger: bool) {
        if later.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = *later;
            return;
        }
        self.min = self.min.min(later.min);
        self.max = self.max.max(later.max);
        self.sum += later.sum;
        self.last = later.last;
        self.count += later.count;
        if larger {
            self.peak = later.peak;
        }
    }
}

/// Some neighbouring records.
#[derive(Clone, Debug)]
pub(crate) struct MemoryColumn {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) records: u64,
    pub(crate) moments: u64,
    /// Step and number of the largest moment.
    pub(crate) at: (u64, u32),
    pub(crate) phase: Arc<str>,
    pub(crate) total: Range,
    /// In the history's order of kinds; may be shorter where kinds were met later.
    pub(crate) kinds: Vec<Range>,
    pub(crate) reserved: Range,
    pub(crate) in_use: Range,
}

impl MemoryColumn {
    pub(crate) fn join(&mut self, later: &Self) {
        let larger = (later.total.max, later.in_use.max) > (self.total.max, self.in_use.max);
        self.last = later.last;
        self.records += later.records;
        self.moments += later.moments;
        if larger {
            self.at = later.at;
            self.phase = later.phase.clone();
        }
        self.total.join(&later.total, larger);
        self.reserved.join(&later.reserved, larger);
        self.in_use.join(&later.in_use, larger);
        let kinds = self.kinds.len().max(later.kinds.len());
        self.kinds.resize(kinds, Range::default());
        for (kind, later) in self.kinds.iter_mut().zip(&later.kinds) {
            kind.join(later, larger);
        }
    }
}

/// The memory of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryHistory {
    /// Kinds in the order in which they were met.
    pub(crate) kinds: Vec<Arc<str>>,
    pub(crate) columns: Vec<MemoryColumn>,
    /// Records a column.
    stride: u64,
    pub(crate) records: u64,
    pub(crate) moments: u64,
    /// Records that are still to be read.
    pub(crate) due: u64,
}

impl MemoryHistory {
    /// Adds a record later than all before.
    pub(crate) fn push(&mut self, step: u64, record: &MemoryRecord) {
        let Some(peak) = record.peak() else { return };
        let at = &record.moments[peak];
        let mut kinds = vec![Range::default(); self.kinds.len()];
        for (from, kind) in record.kinds.iter().enumerate() {
            let place = match self.kinds.iter().position(|known| known == kind) {
                Some(place) => place,
                None => {
                    self.kinds.push(kind.clone());
                    kinds.push(Range::default());
                    self.kinds.len() - 1
                }
            };
            kinds[place] = Range::of(
                record.moments.iter().map(|moment| moment.kinds[from]),
                at.kinds[from],
            );
        }
        let of_allocator = |value: fn(&super::memory_record::Moment) -> Option<u64>| {
            let known = record.moments.iter().filter_map(value);
            match known.clone().max() {
                Some(most) => Range::of(known, value(at).unwrap_or(most)),
                None => Range::default(),
            }
        };
        let column = MemoryColumn {
            first: step,
            last: step,
            records: 1,
            moments: record.moments.len() as u64,
            at: (step, at.moment),
            phase: at.phase.clone(),
            total: Range::of(
                record
                    .moments
                    .iter()
                    .map(super::memory_record::Moment::total),
                at.total(),
            ),
            kinds,
            reserved: of_allocator(|moment| moment.reserved),
            in_use: of_allocator(|moment| moment.in_use),
        };
        self.records += 1;
        self.moments += column.moments;
        self.stride = self.stride.max(1);
        match self.columns.last_mut() {
            Some(last) if last.records < self.stride => last.join(&column),
            _ => {
                if self.columns.len() == COLUMNS {
                    self.columns = joined(&self.columns, 2);
                    self.stride *= 2;
                }
                self.columns.push(column);
            }
        }
    }

    /// Columns within `first..=last`, at most `columns` of them.
    pub(crate) fn view(&self, first: u64, last: u64, columns: usize) -> Vec<MemoryColumn> {
        let from = self.columns.partition_point(|column| column.last < first);
        let to = self
            .columns
            .partition_point(|column| column.first <= last)
            .max(from);
        let width = (to - from).div_ceil(columns.max(1)).next_power_of_two();
        joined(&self.columns[from..to], width)
    }

    /// The order in which kinds are stacked: places in `kinds`.
    pub(crate) fn stack(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.kinds.len()).collect();
        order.sort_by(|&a, &b| stack_order(&self.kinds[a]).cmp(&stack_order(&self.kinds[b])));
        order
    }

    pub(crate) fn bytes(&self) -> usize {
        self.columns.len() * (size_of::<MemoryColumn>() + self.kinds.len() * size_of::<Range>())
    }
}

fn joined(columns: &[MemoryColumn], width: usize) -> Vec<MemoryColumn> {
    let join = |group: &[MemoryColumn]| {
        let mut column = group[0].clone();
        group[1..].iter().for_each(|later| column.join(later));
        column
    };
    columns.chunks(width.max(1)).map(join).collect()
}

#[cfg(test)]
mod tests {
    use super::super::memory_record::Moment;
    use super::*;

    fn record(activations: &[u64]) -> MemoryRecord {
        MemoryRecord {
            kinds: vec!["weights".into(), "activations".into()],
            moments: activations
                .iter()
                .zip(0..)
                .map(|(&bytes, moment)| Moment {
                    moment,
                    phase: if moment == 0 {
                        "forward".into()
                    } else {
                        "backward".into()
                    },
                    kinds: vec![100, bytes],
                    reserved: Some(300),
                    in_use: None,
                })
                .collect(),
        }
    }

    #[test]
    fn a_peak_of_one_moment_survives_twenty_thousand_records() {
        let mut history = MemoryHistory::default();
        for step in 1..=20_000 {
            let peak = if step == 777 { 5000 } else { 20 };
            history.push(step, &record(&[10, peak, 5]));
        }
        assert!(history.columns.len() <= COLUMNS);
        let view = history.view(1, 20_000, 50);
        assert!(view.len() <= 50);
        let all = joined(&view, view.len()).remove(0);
        assert_eq!((all.at, &*all.phase), ((777, 1), "backward"));
        assert_eq!((all.total.max, all.total.min), (5100, 105));
        assert_eq!((all.kinds[1].peak, all.kinds[1].min), (5000, 5));
        assert_eq!((all.records, all.moments), (20_000, 60_000));
        assert_eq!((all.reserved.max, all.in_use.count), (300, 0));
    }
}
