//! Slot pairs between two routers as a dense matrix.

use crate::store::run::Run;
use crate::store::transition_record::TransitionRecord;
use crate::{Gap, RouterId};

/// Pairs of experts before (rows) × experts after (columns), by number.
pub(crate) struct Pairs {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) counts: Vec<u64>,
    pub(crate) of_row: Vec<u64>,
    pub(crate) of_column: Vec<u64>,
    pub(crate) total: u64,
}

impl Pairs {
    pub(crate) fn of(
        run: &Run,
        record: &TransitionRecord,
        from: RouterId,
        to: RouterId,
    ) -> Result<Self, Gap> {
        let list = record.between(from, to)?;
        let most = |expert: fn(&(u32, u32, u64)) -> u32| {
            list.iter().map(expert).max().map_or(0, |most| most + 1)
        };
        // Where routing was not recorded, as many experts as occur.
        let rows = run.experts(from).unwrap_or(0).max(most(|pair| pair.0)) as usize;
        let columns = run.experts(to).unwrap_or(0).max(most(|pair| pair.1)) as usize;
        if rows.saturating_mul(columns) > 1 << 26 {
            return Err(Gap::Unreadable {
                message: format!(
                    "the record of transitions at step {} is damaged: it names an expert {}",
                    record.step,
                    rows.max(columns)
                ),
                remedy: "other steps can still be read; move the cursor".to_owned(),
            });
        }
        let mut pairs = Self {
            rows,
            columns,
            counts: vec![0; rows * columns],
            of_row: vec![0; rows],
            of_column: vec![0; columns],
            total: 0,
        };
        for &(before, after, count) in list {
            let (before, after) = (before as usize, after as usize);
            pairs.counts[before * columns + after] += count;
            pairs.of_row[before] += count;
            pairs.of_column[after] += count;
            pairs.total += count;
        }
        Ok(pairs)
    }

    /// P(after | before): NaN where nothing came from `before`.
    pub(crate) fn conditional(&self, before: usize, after: usize) -> f32 {
        self.counts[before * self.columns + after] as f32 / self.of_row[before] as f32
    }

    /// P(after).
    pub(crate) fn independent(&self, after: usize) -> f32 {
        self.of_column[after] as f32 / self.total as f32
    }

    /// P(after | before) / P(after): NaN where one of them has nothing.
    pub(crate) fn lift(&self, before: usize, after: usize) -> f32 {
        self.conditional(before, after) / self.independent(after)
    }

    /// Mutual information in nats, and over the smaller of both entropies.
    pub(crate) fn information(&self) -> (f64, f64) {
        let total = self.total as f64;
        if self.total == 0 {
            return (0.0, 0.0);
        }
        let mut information = 0.0;
        for before in 0..self.rows {
            for after in 0..self.columns {
                let count = self.counts[before * self.columns + after] as f64;
                if count > 0.0 {
                    let expected =
                        self.of_row[before] as f64 * self.of_column[after] as f64 / total;
                    information += count / total * (count / expected).ln();
                }
            }
        }
        // Rounding alone would make it less than nothing.
        let information = information.max(0.0);
        let smaller = entropy(&self.of_row).min(entropy(&self.of_column));
        (
            information,
            if smaller > 0.0 {
                information / smaller
            } else {
                0.0
            },
        )
    }
}

/// Entropy of counts, nats.
pub(crate) fn entropy(counts: &[u64]) -> f64 {
    let total = counts.iter().sum::<u64>() as f64;
    let term = |&count: &u64| {
        let share = count as f64 / total;
        -share * share.ln()
    };
    counts.iter().filter(|&&count| count > 0).map(term).sum()
}
