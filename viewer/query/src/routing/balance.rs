use crate::scalars::CurvePoint;
use crate::store::Stream;
use crate::store::load_history::{Extent, FIGURES, LoadHistory};
use crate::store::load_record::LoadRecord;
use crate::store::run::read;
use crate::{Answer, Cost, Gap, Query, RouterId, RunId, Span, Store, Table};

/// How balance changes over time, a curve a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Balance {
    /// The run.
    pub run: RunId,
    /// From when to when.
    pub span: Span,
    /// How many points can be drawn: 1 or more.
    pub columns: u32,
    /// What is drawn.
    pub figure: BalanceFigure,
}

/// A figure of balance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BalanceFigure {
    /// Load of the fullest expert over the mean: 1 is balanced.
    #[default]
    Imbalance,
    /// Entropy of the router's probabilities over ln(experts): 1 is undecided.
    Entropy,
    /// Experts without a token in the step.
    Dead,
    /// Share of assignments dropped, 0 to 1.
    Dropped,
}

impl BalanceFigure {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Imbalance, Self::Entropy, Self::Dead, Self::Dropped];

    /// Its name for a menu.
    pub fn name(self) -> &'static str {
        match self {
            Self::Imbalance => "imbalance (max/mean)",
            Self::Entropy => "entropy / ln E",
            Self::Dead => "dead experts",
            Self::Dropped => "dropped share",
        }
    }
}

/// Answers [`Balance`].
#[derive(Clone, Debug, PartialEq)]
pub struct BalanceCurves {
    /// What is drawn.
    pub figure: BalanceFigure,
    /// By layer and iteration. A curve's least and greatest value of every stretch are true once `reading` is false.
    pub curves: Vec<(RouterId, Vec<CurvePoint>)>,
    /// Recorded steps read so far, and in all.
    pub read: (usize, usize),
    /// Whether records are still being read.
    pub reading: bool,
}

/// Records that are read for curves of a short range.
const DETAIL: usize = 256;

impl Query for Balance {
    type Answer = BalanceCurves;

    fn runs(&self) -> Vec<RunId> {
        vec![self.run]
    }

    fn cost(&self) -> Cost {
        Cost::Background
    }

    fn answer(&self, store: &Store) -> Result<BalanceCurves, Gap> {
        let run = store.find(self.run)?;
        let snapshot = run.snapshot();
        let steps = run.recorded(&snapshot, Stream::Routing)?;
        let from = steps.partition_point(|&step| step < self.span.first);
        let to = steps
            .partition_point(|&step| step <= self.span.last)
            .max(from);
        let columns = self.columns.max(1) as usize;
        let stride = run.loads().stride;
        if stride > 1 && to - from <= DETAIL {
            // A history of its own for a range so short that every record of it can be read.
            let streams = run.streams()?;
            let mut history = LoadHistory::default();
            history.lay_out(&run.loads().layout);
            history.add(steps[from..to].iter().copied());
            while let Some((at, step)) = history.next() {
                let record = LoadRecord::read(&read(&streams.routing), step).ok();
                let routers = streams.router_rows(step);
                history.take(at, record.as_ref().map(|record| (record, &routers[..])));
            }
            return Ok(self.curves(&history, 0, to - from, columns));
        }
        Ok(self.curves(&run.loads(), from, to, columns))
    }
}

impl Balance {
    fn curves(&self, loads: &LoadHistory, from: usize, to: usize, columns: usize) -> BalanceCurves {
        let figure = self.figure as usize;
        let (first, last) = (
            from / loads.stride,
            to.div_ceil(loads.stride).min(loads.columns.len()),
        );
        let width = last
            .saturating_sub(first)
            .div_ceil(columns)
            .next_power_of_two();
        let first = first / width * width;
        let mut curves = Vec::with_capacity(loads.layout.routers.len());
        for (at, &(router, ..)) in loads.layout.routers.iter().enumerate() {
            let mut points = Vec::new();
            for start in (first..last).step_by(width) {
                let group = start..(start + width).min(last);
                let records =
                    group.start * loads.stride..(group.end * loads.stride).min(loads.steps.len());
                let mut extent = Extent::default();
                for column in &loads.columns[group] {
                    extent.join(&column.balance[at * FIGURES + figure]);
                }
                if extent.count == 0 {
                    continue;
                }
                let mean = extent.sum / f64::from(extent.count);
                points.push(CurvePoint {
                    first: loads.steps[records.start],
                    last: loads.steps[records.end - 1],
                    x: loads.steps[records.end - 1] as f64,
                    min: f64::from(extent.min),
                    max: f64::from(extent.max),
                    mean,
                    smooth: mean,
                    count: extent.count,
                    bad: 0,
                });
            }
            curves.push((router, points));
        }
        BalanceCurves {
            figure: self.figure,
            curves,
            read: (loads.read, loads.steps.len()),
            reading: loads.read < loads.steps.len(),
        }
    }
}

impl Answer for BalanceCurves {
    fn summary(&self) -> String {
        let greatest = self
            .curves
            .iter()
            .flat_map(|(router, points)| points.iter().map(move |point| (router, point)))
            .max_by(|a, b| a.1.max.total_cmp(&b.1.max));
        let greatest = greatest.map_or(
            " Nothing was recorded of it.".to_owned(),
            |(router, point)| {
                format!(
                    " Greatest: {:.3} at {router}, {}.",
                    point.max,
                    Span::between(point.first, point.last)
                )
            },
        );
        format!(
            "{} of {} routers over time, {} of {} records read.{greatest}",
            self.figure.name(),
            self.curves.len(),
            self.read.0,
            self.read.1
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!("{} over time", self.figure.name()),
            &[
                ("layer", ""),
                ("iteration", ""),
                ("first_step", ""),
                ("last_step", ""),
                ("min", ""),
                ("mean", ""),
                ("max", ""),
                ("records", ""),
            ],
        );
        for (router, points) in &self.curves {
            for point in points {
                table.push([
                    router.layer.into(),
                    router.iteration.into(),
                    point.first.into(),
                    point.last.into(),
                    point.min.into(),
                    point.mean.into(),
                    point.max.into(),
                    point.count.into(),
                ]);
            }
        }
        table
    }

    fn bytes(&self) -> usize {
        self.curves
            .iter()
            .map(|(_, points)| 32 + points.len() * size_of::<CurvePoint>())
            .sum()
    }
}
