use super::{Measure, Order};
use crate::store::Stream;
use crate::store::load_history::LoadColumn;
use crate::store::load_record::LoadRecord;
use crate::store::run::{Run, read};
use crate::{Answer, Cost, Gap, Query, RouterId, RunId, Scale, Span, Store, Table};

/// The load of one router's experts over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LoadOverTime {
    /// The run.
    pub run: RunId,
    /// The router.
    pub router: RouterId,
    /// From when to when.
    pub span: Span,
    /// How many columns can be drawn: 1 or more.
    pub columns: u32,
    /// What a load is.
    pub measure: Measure,
    /// In which order experts stand.
    pub order: Order,
}

/// Answers [`LoadOverTime`]: a matrix of experts (rows) × time (columns).
#[derive(Clone, Debug, PartialEq)]
pub struct LoadTime {
    /// The router.
    pub router: RouterId,
    /// What `values` are.
    pub measure: Measure,
    /// The expert of each row.
    pub order: Vec<u32>,
    /// Time: each column's records.
    pub columns: Vec<TimeColumn>,
    /// `order.len() × columns.len()`, a row after the other: the mean over the column's records that were read,
    /// even shares; NaN where none was.
    pub values: Vec<f32>,
    /// Whether records are still being read for it: columns then show some of their records.
    pub reading: bool,
}

/// The records that one column of time stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeColumn {
    /// The first recorded step.
    pub first: u64,
    /// The last recorded step.
    pub last: u64,
    /// Records.
    pub records: u32,
    /// Those read so far.
    pub read: u32,
}

/// Records that are read for a picture of a short range.
const DETAIL: usize = 256;

impl Query for LoadOverTime {
    type Answer = LoadTime;

    fn runs(&self) -> Vec<RunId> {
        vec![self.run]
    }

    fn cost(&self) -> Cost {
        Cost::Background
    }

    fn answer(&self, store: &Store) -> Result<LoadTime, Gap> {
        let run = store.find(self.run)?;
        let experts = run.experts(self.router)?;
        let snapshot = run.snapshot();
        let steps = run.recorded(&snapshot, Stream::Routing)?;
        let from = steps.partition_point(|&step| step < self.span.first);
        let to = steps
            .partition_point(|&step| step <= self.span.last)
            .max(from);
        let columns = self.columns.max(1) as usize;
        let stride = run.loads().stride;
        // Where the history is coarser than the picture could be, the records themselves are read.
        let detail = stride > 1 && (to - from) / stride < columns.min(DETAIL);
        let (time, tokens, probability, reading) = if detail {
            self.read_records(&run, &steps[from..to], columns.min(DETAIL))?
        } else {
            self.joined_history(&run, from, to, columns)
        };
        let sums = tokens.chunks(time.len().max(1)).map(|row| {
            // Even shares, made whole numbers to be sorted by.
            (row.iter().filter(|value| value.is_finite()).sum::<f32>() * 1024.0) as u64
        });
        let mut sums: Vec<u64> = sums.collect();
        sums.resize(experts as usize, 0);
        let order = super::order::order(store, self.run, self.router, &sums, self.order)?;
        let width = time.len();
        let mut values = Vec::with_capacity(tokens.len());
        for &expert in order.iter() {
            let row = expert as usize * width..(expert as usize + 1) * width;
            let pairs = tokens[row.clone()].iter().zip(&probability[row]);
            values
                .extend(pairs.map(|(&tokens, &probability)| self.measure.of(tokens, probability)));
        }
        Ok(LoadTime {
            router: self.router,
            measure: self.measure,
            order: order.to_vec(),
            columns: time,
            values,
            reading,
        })
    }
}

/// Columns, tokens and probability (expert by expert, in even shares), and whether more is being read.
type Picture = (Vec<TimeColumn>, Vec<f32>, Vec<f32>, bool);

impl LoadOverTime {
    fn joined_history(&self, run: &Run, from: usize, to: usize, columns: usize) -> Picture {
        let loads = run.loads();
        let Some((experts, start)) = loads.layout.find(self.router) else {
            return (Vec::new(), Vec::new(), Vec::new(), true);
        };
        let experts = experts as usize;
        let (first, last) = (
            from / loads.stride,
            to.div_ceil(loads.stride).min(loads.columns.len()),
        );
        let width = last
            .saturating_sub(first)
            .div_ceil(columns)
            .next_power_of_two();
        let first = first / width * width;
        let groups: Vec<_> = (first..last)
            .step_by(width)
            .map(|at| at..(at + width).min(last))
            .collect();
        let mut time = Vec::with_capacity(groups.len());
        let mut tokens = vec![f32::NAN; experts * groups.len()];
        let mut probability = tokens.clone();
        for (x, group) in groups.iter().enumerate() {
            let records =
                group.start * loads.stride..(group.end * loads.stride).min(loads.steps.len());
            let read: u32 = loads.columns[group.clone()]
                .iter()
                .map(|column| column.read)
                .sum();
            time.push(TimeColumn {
                first: loads.steps[records.start],
                last: loads.steps[records.end - 1],
                records: records.len() as u32,
                read,
            });
            if read == 0 {
                continue;
            }
            for expert in 0..experts {
                let of = |sums: fn(&LoadColumn) -> &[f32]| {
                    let sum: f32 = loads.columns[group.clone()]
                        .iter()
                        .map(|column| sums(column)[start + expert])
                        .sum();
                    sum / read as f32
                };
                tokens[expert * groups.len() + x] = of(|column| &column.tokens);
                probability[expert * groups.len() + x] = of(|column| &column.probability);
            }
        }
        (time, tokens, probability, loads.read < loads.steps.len())
    }

    fn read_records(&self, run: &Run, steps: &[u64], columns: usize) -> Result<Picture, Gap> {
        let experts = run.experts(self.router)? as usize;
        let streams = run.streams()?;
        let width = steps.len().div_ceil(columns.max(1)).max(1);
        let groups: Vec<&[u64]> = steps.chunks(width).collect();
        let mut time = Vec::with_capacity(groups.len());
        let mut tokens = vec![f32::NAN; experts * groups.len()];
        let mut probability = tokens.clone();
        for (x, group) in groups.iter().enumerate() {
            let step = group[group.len() - 1];
            let record = LoadRecord::read(&read(&streams.routing), step).ok();
            let found = record
                .as_ref()
                .and_then(|record| Some((record, record.layout.find(self.router)?)));
            time.push(TimeColumn {
                first: group[0],
                last: step,
                records: group.len() as u32,
                read: u32::from(found.is_some()),
            });
            let Some((record, (count, start))) = found else {
                continue;
            };
            let of_router = &record.tokens[start..][..count as usize];
            let total = of_router.iter().sum();
            for expert in 0..experts.min(count as usize) {
                tokens[expert * groups.len() + x] =
                    super::even_shares(of_router[expert], total, count);
                probability[expert * groups.len() + x] =
                    record.probability[start + expert] * count as f32;
            }
        }
        Ok((time, tokens, probability, false))
    }
}

impl LoadTime {
    /// How its values should be coloured.
    pub fn scale(&self) -> Scale {
        self.measure.scale(&self.values)
    }
}

impl Answer for LoadTime {
    fn summary(&self) -> String {
        let (Some(first), Some(last)) = (self.columns.first(), self.columns.last()) else {
            return format!("No load of {} was read yet.", self.router);
        };
        let width = self.columns.len();
        let mean = |row: usize| {
            let row = self.values[row * width..(row + 1) * width]
                .iter()
                .filter(|value| value.is_finite());
            row.clone().sum::<f32>() / row.count().max(1) as f32
        };
        let means: Vec<f32> = (0..self.order.len()).map(mean).collect();
        let most = (0..means.len()).max_by(|&a, &b| means[a].total_cmp(&means[b]));
        let most = most.map_or(String::new(), |row| {
            format!(
                " Expert {} has the greatest mean, {:.2}.",
                self.order[row], means[row]
            )
        });
        format!(
            "Load of {} experts of {} by {}, steps {} to {}, in even shares.{most}{}",
            self.order.len(),
            self.router,
            self.measure.name(),
            first.first,
            last.last,
            if self.reading {
                " More is being read."
            } else {
                ""
            }
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!(
                "Load of experts of {} by {} over time",
                self.router,
                self.measure.name()
            ),
            &[
                ("first_step", ""),
                ("last_step", ""),
                ("records", ""),
                ("read", ""),
                ("expert", ""),
                ("value", "even shares"),
            ],
        );
        for (x, column) in self.columns.iter().enumerate() {
            for (row, &expert) in self.order.iter().enumerate() {
                table.push([
                    column.first.into(),
                    column.last.into(),
                    column.records.into(),
                    column.read.into(),
                    expert.into(),
                    self.values[row * self.columns.len() + x].into(),
                ]);
            }
        }
        table
    }

    fn bytes(&self) -> usize {
        self.values.len() * 4 + self.columns.len() * size_of::<TimeColumn>() + self.order.len() * 4
    }
}
