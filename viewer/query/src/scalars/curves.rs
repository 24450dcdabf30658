use crate::{Answer, Cost, Gap, Query, RunId, Span, Store, Table};

/// One metric of one or more runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Curves {
    /// The runs.
    pub runs: Vec<RunId>,
    /// The metric's key: one of [`RunSnapshot::metrics`](crate::RunSnapshot::metrics).
    pub metric: String,
    /// From when to when, in steps.
    pub span: Span,
    /// How many points can be drawn: 1 or more.
    pub columns: u32,
    /// What runs along the axis.
    pub axis: Axis,
    /// Weight of what came before in the exponential moving average, thousandths: 0 smooths nothing, 990 much. A
    /// stretch of many steps counts as as many.
    pub smoothing: u16,
    /// Share of the points at either end that [`CurveSet::range`] leaves out as outliers, thousandths: 0 leaves out none.
    pub outliers: u16,
}

/// What runs along a curve's horizontal axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Axis {
    /// Optimizer steps.
    #[default]
    Step,
    /// Tokens trained on.
    Tokens,
    /// Seconds of training.
    Time,
}

impl Axis {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Step, Self::Tokens, Self::Time];

    /// Its name for a menu.
    pub fn name(self) -> &'static str {
        match self {
            Self::Step => "step",
            Self::Tokens => "tokens",
            Self::Time => "seconds",
        }
    }
}

/// Answers [`Curves`].
#[derive(Clone, Debug, PartialEq)]
pub struct CurveSet {
    /// The metric.
    pub metric: String,
    /// Its unit; empty where it has none.
    pub unit: &'static str,
    /// What runs along the axis.
    pub axis: Axis,
    /// A curve a run that has the metric, in the order of the question.
    pub curves: Vec<Curve>,
    /// Runs without the metric, and why.
    pub missing: Vec<(RunId, Gap)>,
    /// Least and greatest value to show, outliers left out; `None` without a finite value.
    pub range: Option<(f64, f64)>,
    /// Least value above zero: where a logarithmic scale may begin; `None` if there is no such value.
    pub least_positive: Option<f64>,
}

/// A run's curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// The run.
    pub run: RunId,
    /// Its name.
    pub name: String,
    /// Its points.
    pub points: Vec<CurvePoint>,
}

/// Some neighbouring steps of a curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurvePoint {
    /// The first step.
    pub first: u64,
    /// The last step.
    pub last: u64,
    /// Its place on the axis: that of its last step.
    pub x: f64,
    /// The least finite value; NaN where there is none.
    pub min: f64,
    /// The greatest finite value.
    pub max: f64,
    /// Mean of the finite values.
    pub mean: f64,
    /// The smoothed value.
    pub smooth: f64,
    /// Finite values.
    pub count: u32,
    /// Values that were not finite.
    pub bad: u32,
}

impl Query for Curves {
    type Answer = CurveSet;

    fn runs(&self) -> Vec<RunId> {
        self.runs.clone()
    }

    fn cost(&self) -> Cost {
        // From the history alone.
        Cost::Frame
    }

    fn answer(&self, store: &Store) -> Result<CurveSet, Gap> {
        let mut set = CurveSet {
            metric: self.metric.clone(),
            unit: unit(&self.metric),
            axis: self.axis,
            curves: Vec::new(),
            missing: Vec::new(),
            range: None,
            least_positive: None,
        };
        for &id in &self.runs {
            match self.curve(store, id) {
                Ok(curve) => set.curves.push(curve),
                Err(gap) => set.missing.push((id, gap)),
            }
        }
        if set.curves.is_empty()
            && let Some((_, gap)) = set.missing.first()
        {
            return Err(gap.clone());
        }
        let points = || {
            set.curves
                .iter()
                .flat_map(|curve| &curve.points)
                .filter(|point| point.count > 0)
        };
        set.least_positive = points()
            .map(|point| point.min)
            .filter(|&min| min > 0.0)
            .reduce(f64::min);
        set.range = self.range(points());
        Ok(set)
    }
}

impl Curves {
    fn curve(&self, store: &Store, id: RunId) -> Result<Curve, Gap> {
        let run = store.find(id)?;
        let metrics = run.metrics();
        let Some(series) = metrics.get(&self.metric) else {
            let snapshot = run.snapshot();
            if let Some(problem) = &snapshot.problem {
                return Err(problem.clone());
            }
            if snapshot.loading == crate::Loading::Opening {
                return Err(Gap::Opening { what: "metrics" });
            }
            return Err(Gap::NoSuch {
                what: format!("metric {:?} in {}", self.metric, snapshot.name),
                range: if snapshot.metrics.is_empty() {
                    "it has not recorded a step yet".to_owned()
                } else {
                    format!("it has {}", snapshot.metrics.join(", "))
                },
            });
        };
        let along = match self.axis {
            Axis::Step => None,
            Axis::Tokens => metrics.get("tokens"),
            Axis::Time => metrics.get("time"),
        };
        let keep = f64::from(self.smoothing.min(999)) / 1000.0;
        let mut smooth = Smooth::default();
        let points = series.view(
            self.span.first,
            self.span.last,
            self.columns.max(1) as usize,
        );
        let points = points.iter().map(|point| {
            let mean = point.mean();
            CurvePoint {
                first: point.first,
                last: point.last,
                x: match along {
                    Some(along) => along.at(point.last).unwrap_or(f64::NAN),
                    None => point.last as f64,
                },
                min: if point.count > 0 { point.min } else { f64::NAN },
                max: if point.count > 0 { point.max } else { f64::NAN },
                mean,
                smooth: if point.count > 0 {
                    smooth.next(mean, keep.powf(f64::from(point.count)))
                } else {
                    f64::NAN
                },
                count: point.count,
                bad: point.bad,
            }
        });
        let points = points.collect();
        Ok(Curve {
            run: id,
            name: run.snapshot().name.clone(),
            points,
        })
    }

    /// What lies between the outliers at either end.
    fn range<'a>(&self, points: impl Iterator<Item = &'a CurvePoint>) -> Option<(f64, f64)> {
        let (mut low, mut high): (Vec<f64>, Vec<f64>) =
            points.map(|point| (point.min, point.max)).unzip();
        low.sort_by(f64::total_cmp);
        high.sort_by(f64::total_cmp);
        let cut = low.len() * usize::from(self.outliers.min(499)) / 1000;
        Some((*low.get(cut)?, *high.get(high.len() - 1 - cut)?))
    }
}

/// An exponential moving average that does not lean towards its first value.
#[derive(Default)]
struct Smooth {
    sum: f64,
    weight: f64,
}

impl Smooth {
    fn next(&mut self, value: f64, keep: f64) -> f64 {
        self.sum = self.sum * keep + value * (1.0 - keep);
        self.weight = self.weight * keep + (1.0 - keep);
        self.sum / self.weight
    }
}

fn unit(metric: &str) -> &'static str {
    match metric {
        "cross_entropy" | "validation_loss" => "nats/label",
        "tokens_per_second" => "tokens/s",
        "step_seconds" | "time" => "s",
        _ if metric.ends_with("_bytes") => "B",
        _ => "",
    }
}

impl Answer for CurveSet {
    fn summary(&self) -> String {
        let curves = self.curves.iter().map(|curve| {
            let known = || curve.points.iter().filter(|point| point.count > 0);
            let bad: u32 = curve.points.iter().map(|point| point.bad).sum();
            let bad = if bad > 0 { format!(", {bad} not finite") } else { String::new() };
            match (known().next(), known().next_back()) {
                (Some(first), Some(last)) => {
                    let min = known().map(|point| point.min).fold(f64::INFINITY, f64::min);
                    let max = known().map(|point| point.max).fold(f64::NEG_INFINITY, f64::max);
                    format!(
                        " {}: {:.4} at step {} to {:.4} at step {}, between {min:.4} and {max:.4}{bad}.",
                        curve.name, first.mean, first.first, last.mean, last.last
                    )
                }
                _ => format!(" {}: no finite value{bad}.", curve.name),
            }
        });
        format!(
            "{} of {} runs.{}",
            self.metric,
            self.curves.len(),
            curves.collect::<String>()
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!("{} over {}", self.metric, self.axis.name()),
            &[
                ("run", ""),
                ("first_step", ""),
                ("last_step", ""),
                ("x", ""),
                ("min", ""),
                ("mean", ""),
                ("max", ""),
                ("smooth", ""),
                ("values", ""),
                ("not_finite", ""),
            ],
        );
        for curve in &self.curves {
            for point in &curve.points {
                table.push([
                    curve.name.clone().into(),
                    point.first.into(),
                    point.last.into(),
                    point.x.into(),
                    point.min.into(),
                    point.mean.into(),
                    point.max.into(),
                    point.smooth.into(),
                    point.count.into(),
                    point.bad.into(),
                ]);
            }
        }
        table
    }

    fn bytes(&self) -> usize {
        self.curves
            .iter()
            .map(|curve| 64 + curve.points.len() * size_of::<CurvePoint>())
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_does_not_lean_towards_the_first_value_and_joined_points_count_as_many() {
        let mut single = Smooth::default();
        assert_eq!(single.next(4.0, 0.9), 4.0);
        let values = [3.0; 16];
        let one_by_one = values
            .iter()
            .map(|&value| single.next(value, 0.9))
            .last()
            .unwrap();
        let mut joined = Smooth::default();
        joined.next(4.0, 0.9);
        assert!((joined.next(3.0, 0.9f64.powi(16)) - one_by_one).abs() < 1e-12);
    }
}
