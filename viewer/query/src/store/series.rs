//! A metric's history in bounded memory.

use std::collections::BTreeMap;

use bellows_record::StepMetrics;

/// Points of a metric before neighbours are joined.
const POINTS: usize = 1 << 15;

/// Some neighbouring values of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Infinite where no value was finite.
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// Of the finite values.
    pub(crate) sum: f64,
    pub(crate) count: u32,
    pub(crate) bad: u32,
}

impl Point {
    pub(crate) fn of(step: u64, value: f64) -> Self {
        let finite = value.is_finite();
        Self {
            first: step,
            last: step,
            min: if finite { value } else { f64::INFINITY },
            max: if finite { value } else { f64::NEG_INFINITY },
            sum: if finite { value } else { 0.0 },
            count: u32::from(finite),
            bad: u32::from(!finite),
        }
    }

    /// Takes in a later one.
    pub(crate) fn join(&mut self, later: &Self) {
        self.last = later.last;
        self.min = self.min.min(later.min);
        self.max = self.max.max(later.max);
        self.sum += later.sum;
        self.count += later.count;
        self.bad += later.bad;
    }

    /// NaN where no value was finite.
    pub(crate) fn mean(&self) -> f64 {
        self.sum / f64::from(self.count)
    }
}

/// One metric: single values while they are few, then ever wider points. Least and greatest value are kept, so
/// that a spike of one step is seen at every width.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    points: Vec<Point>,
    /// Values a point holds: `2^shift`.
    shift: u32,
    /// Values in the last point.
    open: u64,
}

impl Series {
    pub(crate) fn push(&mut self, step: u64, value: f64) {
        let point = Point::of(step, value);
        match self.points.last_mut() {
            Some(last) if self.open < 1 << self.shift => {
                last.join(&point);
                self.open += 1;
            }
            _ => {
                if self.points.len() == POINTS {
                    self.points = joined(&self.points, 2);
                    self.shift += 1;
                }
                self.points.push(point);
                self.open = 1;
            }
        }
    }

    /// Points that cover `first..=last`, at most about `columns` of them, and one beyond either end, so that lines
    /// reach the edges.
    pub(crate) fn view(&self, first: u64, last: u64, columns: usize) -> Vec<Point> {
        let from = self.points.partition_point(|point| point.last < first);
        let to = self.points.partition_point(|point| point.first <= last);
        let (from, to) = (from.saturating_sub(1), (to + 1).min(self.points.len()));
        // Whole groups counted from the beginning: points do not flicker while a live curve grows or is dragged.
        let width = (to.saturating_sub(from))
            .div_ceil(columns.max(1))
            .next_power_of_two();
        let from = from / width * width;
        let to = to.next_multiple_of(width).min(self.points.len());
        joined(&self.points[from..to.max(from)], width)
    }

    /// The value at `step`, or of the last point before it, by straight lines between points.
    pub(crate) fn at(&self, step: u64) -> Option<f64> {
        let after = self.points.partition_point(|point| point.last < step);
        match (
            after.checked_sub(1).map(|i| &self.points[i]),
            self.points.get(after),
        ) {
            (_, Some(point)) if point.last == step => Some(point.max),
            (Some(before), Some(point)) => {
                let (x0, x1) = (before.last as f64, point.last as f64);
                let t = (step as f64 - x0) / (x1 - x0);
                Some(before.max + (point.max - before.max) * t)
            }
            (None, Some(point)) => Some(point.min),
            (Some(before), None) => Some(before.max),
            (None, None) => None,
        }
    }

    fn bytes(&self) -> usize {
        self.points.capacity() * size_of::<Point>()
    }
}

fn joined(points: &[Point], width: usize) -> Vec<Point> {
    let join = |group: &[Point]| {
        let mut point = group[0];
        group[1..].iter().for_each(|later| point.join(later));
        point
    };
    points.chunks(width.max(1)).map(join).collect()
}

/// All metrics of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    series: BTreeMap<String, Series>,
    pub(crate) steps: Option<(u64, u64)>,
}

impl Metrics {
    pub(crate) fn push(&mut self, row: &StepMetrics) {
        self.steps = Some((self.steps.map_or(row.step, |(first, _)| first), row.step));
        for (name, value) in row.values() {
            if matches!(name, "step" | "segment") {
                continue;
            }
            match self.series.get_mut(name) {
                Some(series) => series.push(row.step, value),
                None => self
                    .series
                    .entry(name.to_owned())
                    .or_default()
                    .push(row.step, value),
            }
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Series> {
        self.series.get(name)
    }

    /// The fixed ones in file order, then others by name.
    pub(crate) fn names(&self) -> Vec<String> {
        let fixed = StepMetrics::NAMES
            .iter()
            .copied()
            .filter(|name| self.series.contains_key(*name));
        let others = self.series.keys().map(String::as_str);
        fixed
            .chain(others.filter(|name| !StepMetrics::NAMES.contains(name)))
            .map(str::to_owned)
            .collect()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.series.values().map(Series::bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_of_one_step_survives_a_million_in_bounded_memory() {
        let mut series = Series::default();
        for step in 1..=1_000_000 {
            series.push(step, if step == 123_456 { 99.0 } else { 1.0 });
        }
        assert!(series.points.len() <= POINTS);
        let view = series.view(1, 1_000_000, 100);
        assert!(view.len() <= 100, "{}", view.len());
        assert_eq!(view.iter().map(|point| point.max).fold(0.0, f64::max), 99.0);
        assert_eq!(
            view.iter().map(|point| u64::from(point.count)).sum::<u64>(),
            1_000_000
        );
        assert!(
            view.windows(2)
                .all(|pair| pair[0].last + 1 == pair[1].first)
        );
    }

    #[test]
    fn what_is_not_finite_is_counted_and_never_part_of_a_mean() {
        let mut series = Series::default();
        for (step, value) in [(1, 2.0), (2, f64::NAN), (3, f64::INFINITY), (4, 4.0)] {
            series.push(step, value);
        }
        let all = series.view(1, 4, 1)[0];
        assert_eq!((all.mean(), all.count, all.bad), (3.0, 2, 2));
        assert_eq!((all.min, all.max), (2.0, 4.0));
    }

    #[test]
    fn a_window_reaches_beyond_both_its_edges() {
        let mut series = Series::default();
        (1..=10).for_each(|step| series.push(step * 10, step as f64));
        let steps: Vec<_> = series
            .view(35, 55, 10)
            .iter()
            .map(|point| point.first)
            .collect();
        assert_eq!(steps, [30, 40, 50, 60]);
        assert_eq!(series.at(35), Some(3.5));
        assert_eq!(series.at(5), Some(1.0));
        assert_eq!(series.at(500), Some(10.0));
    }
}
