//! Loads over time in bounded memory: every record of a run, joined into at most some hundred columns.

use bellows_record::RouterRow;

use super::load_record::{Layout, LoadRecord};
use crate::routing::even_shares;

/// Columns at most: no screen shows more.
const MOST_COLUMNS: usize = 1024;
const FEWEST_COLUMNS: usize = 16;

/// Figures of a router's balance: imbalance, relative entropy, dead experts, dropped share.
pub(crate) const FIGURES: usize = 4;

/// Least, greatest and sum of some values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) min: f32,
    pub(crate) max: f32,
    pub(crate) sum: f64,
    pub(crate) count: u32,
}

impl Default for Extent {
    fn default() -> Self {
        Self {
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            sum: 0.0,
            count: 0,
        }
    }
}

impl Extent {
    pub(crate) fn push(&mut self, value: f32) {
        if value.is_finite() {
            self.min = self.min.min(value);
            self.max = self.max.max(value);
            self.sum += f64::from(value);
            self.count += 1;
        }
    }

    pub(crate) fn join(&mut self, other: &Self) {
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        self.count += other.count;
    }
}

/// Some neighbouring records, joined.
#[derive(Clone, Debug)]
pub(crate) struct LoadColumn {
    /// Records read.
    pub(crate) read: u32,
    /// Sums over them of tokens in even shares, by cell.
    pub(crate) tokens: Box<[f32]>,
    /// Sums over them of probability in even shares, by cell.
    pub(crate) probability: Box<[f32]>,
    /// By router, [`FIGURES`] each.
    pub(crate) balance: Box<[Extent]>,
}

/// The histories of all routers of a run.
///
/// Records are read in an order that fills the picture evenly: one of every column first, then the rest.
#[derive(Clone, Debug)]
pub(crate) struct LoadHistory {
    pub(crate) layout: Layout,
    /// Recorded steps, ascending.
    pub(crate) steps: Vec<u64>,
    /// Whether a record was read, by record.
    done: Vec<bool>,
    pub(crate) read: usize,
    /// Records a column: a power of two.
    pub(crate) stride: usize,
    pub(crate) columns: Vec<LoadColumn>,
    most: usize,
    /// Where the search for an unread record goes on: which of a column's records, and the column.
    next: (usize, usize),
}

impl Default for LoadHistory {
    fn default() -> Self {
        Self {
            layout: Layout::default(),
            steps: Vec::new(),
            done: Vec::new(),
            read: 0,
            stride: 1,
            columns: Vec::new(),
            most: MOST_COLUMNS,
            next: (0, 0),
        }
    }
}

impl LoadHistory {
    /// Forgets all records.
    pub(crate) fn clear(&mut self) {
        *self = Self {
            most: self.most,
            layout: std::mem::take(&mut self.layout),
            ..Self::default()
        };
    }

    /// Says which experts there are, besides those known. If that is news, everything is to be read again.
    pub(crate) fn lay_out(&mut self, layout: &Layout) {
        let union = self.layout.union(layout);
        if self.layout != union {
            let steps = std::mem::take(&mut self.steps);
            self.clear();
            self.layout = union;
            self.add(steps);
        }
    }

    /// Bytes of a column.
    fn column_bytes(&self) -> usize {
        self.layout.cells * 8 + self.layout.routers.len() * FIGURES * size_of::<Extent>()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.columns.len() * self.column_bytes() + self.steps.len() * 9
    }

    /// Keeps within a number of bytes, by joining columns where that is needed.
    pub(crate) fn limit(&mut self, bytes: u64) {
        if self.layout.cells == 0 {
            return;
        }
        let fit = bytes as usize / self.column_bytes().max(1);
        let most = 1 << fit.max(FEWEST_COLUMNS).ilog2();
        self.most = most.min(MOST_COLUMNS);
        self.fit();
    }

    /// Adds recorded steps later than all before.
    pub(crate) fn add(&mut self, steps: impl IntoIterator<Item = u64>) {
        self.steps.extend(steps);
        self.done.resize(self.steps.len(), false);
        self.next = (0, 0);
        self.fit();
    }

    fn fit(&mut self) {
        while self.steps.len().div_ceil(self.stride) > self.most {
            self.stride *= 2;
            self.next = (0, 0);
            let mut columns = std::mem::take(&mut self.columns).into_iter();
            while let Some(mut left) = columns.next() {
                if let Some(right) = columns.next() {
                    left.join(&right);
                }
                self.columns.push(left);
            }
        }
        let cells = self.layout.cells;
        let figures = self.layout.routers.len() * FIGURES;
        if cells > 0 {
            let count = self.steps.len().div_ceil(self.stride);
            self.columns
                .resize_with(count, || LoadColumn::new(cells, figures));
        }
    }

    /// A record that was not read yet: its number and step.
    pub(crate) fn next(&mut self) -> Option<(usize, u64)> {
        if self.layout.cells == 0 || self.read == self.steps.len() {
            return None;
        }
        let bits = self.stride.ilog2();
        let (mut turn, mut column) = self.next;
        while turn < self.stride {
            // Bits in reverse: each turn halves the gaps that the turns before have left. The first turn takes
            // the last record of a column, so that the newest step is there at once.
            let reversed = if bits == 0 {
                0
            } else {
                turn.reverse_bits() >> (usize::BITS - bits)
            };
            let offset = self.stride - 1 - reversed;
            while column < self.columns.len() {
                let last = self.steps.len() - 1;
                let record = (column * self.stride + offset).min(last);
                if !self.done[record] {
                    self.next = (turn, column);
                    return Some((record, self.steps[record]));
                }
                column += 1;
            }
            (turn, column) = (turn + 1, 0);
        }
        None
    }

    /// Takes in a record that [`next`](Self::next) named; `None` for one that cannot be read.
    pub(crate) fn take(&mut self, record: usize, load: Option<(&LoadRecord, &[RouterRow])>) {
        if self.done.get(record) != Some(&false) {
            return;
        }
        self.done[record] = true;
        self.read += 1;
        let Some((load, routers)) = load else { return };
        let column = &mut self.columns[record / self.stride];
        column.read += 1;
        for (at, &(router, experts, start)) in self.layout.routers.iter().enumerate() {
            let Some((found, from)) = load.layout.find(router) else {
                continue;
            };
            let experts = experts.min(found) as usize;
            let tokens = &load.tokens[from..from + experts];
            let total: u64 = tokens.iter().sum();
            let share = |count| even_shares(count, total, experts as u32);
            let (mut most, mut dead) = (0, 0);
            for (i, &count) in tokens.iter().enumerate() {
                column.tokens[start + i] += share(count);
                column.probability[start + i] += load.probability[from + i] * experts as f32;
                most = most.max(count);
                dead += u32::from(count == 0);
            }
            let balance = &mut column.balance[at * FIGURES..][..FIGURES];
            balance[0].push(share(most));
            balance[2].push(dead as f32);
            let row = routers
                .iter()
                .find(|row| (row.layer, row.iteration) == (router.layer, router.iteration));
            if let Some(row) = row {
                balance[1].push(row.entropy / (experts as f32).ln());
                balance[3].push(row.dropped as f32 / total.max(1) as f32);
            }
        }
    }
}

impl LoadColumn {
    fn new(cells: usize, figures: usize) -> Self {
        Self {
            read: 0,
            tokens: vec![0.0; cells].into(),
            probability: vec![0.0; cells].into(),
            balance: vec![Extent::default(); figures].into(),
        }
    }

    fn join(&mut self, other: &Self) {
        self.read += other.read;
        let add = |sums: &mut [f32], others: &[f32]| {
            sums.iter_mut()
                .zip(others)
                .for_each(|(sum, other)| *sum += other);
        };
        add(&mut self.tokens, &other.tokens);
        add(&mut self.probability, &other.probability);
        for (extent, other) in self.balance.iter_mut().zip(&other.balance) {
            extent.join(other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RouterId;

    const ROUTER: RouterId = RouterId {
        layer: 0,
        iteration: 0,
    };

    fn record(tokens: [u64; 2]) -> LoadRecord {
        LoadRecord {
            layout: Layout::of([(ROUTER, 2)]),
            tokens: tokens.into(),
            probability: vec![0.5; 2],
            bias: Vec::new(),
        }
    }

    #[test]
    fn every_record_is_read_once_and_the_picture_fills_evenly() {
        let mut history = LoadHistory::default();
        history.lay_out(&Layout::of([(ROUTER, 2)]));
        history.add(1..=3000);
        assert_eq!(history.stride, 4);
        let mut order = Vec::new();
        while let Some((at, step)) = history.next() {
            let spike = if step == 1234 { [9, 0] } else { [1, 1] };
            history.take(at, Some((&record(spike), &[])));
            order.push(step);
        }
        assert_eq!(order.len(), 3000);
        // After the first turn no column is empty.
        assert_eq!(
            order[..750]
                .iter()
                .map(|step| (step - 1) / 4)
                .collect::<Vec<_>>(),
            (0..750).collect::<Vec<_>>()
        );
        order.sort_unstable();
        assert!(order.iter().copied().eq(1..=3000));
        // A spike of one step is in the greatest of its column.
        let peak = history
            .columns
            .iter()
            .map(|column| column.balance[0].max)
            .fold(0.0, f32::max);
        assert_eq!(peak, 2.0);
        let sum: f32 = history
            .columns
            .iter()
            .flat_map(|column| column.tokens.iter())
            .sum();
        assert_eq!(sum, 6000.0);
    }

    #[test]
    fn a_tighter_limit_joins_columns_and_loses_no_record() {
        let mut history = LoadHistory::default();
        history.lay_out(&Layout::of([(ROUTER, 2)]));
        history.add(1..=1000);
        while let Some((at, _)) = history.next() {
            history.take(at, Some((&record([1, 1]), &[])));
        }
        let column = history.column_bytes() as u64;
        history.limit(40 * column);
        assert!(history.columns.len() <= 32);
        assert_eq!(
            history
                .columns
                .iter()
                .map(|column| column.read)
                .sum::<u32>(),
            1000
        );
        // A live run goes on: only the new record is left to read.
        history.add([1001]);
        assert_eq!(history.next().map(|(_, step)| step), Some(1001));
    }
}
