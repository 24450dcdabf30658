//! What in a record deserves a look, each with its reason.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bellows_record::{RoutingRow, StepMetrics};

use crate::format;
use crate::store::MetricStore;

/// Values that a spike is judged by: those before it.
const WINDOW: usize = 100;
/// Fewer say nothing of a spread.
const ENOUGH: usize = 20;
/// Standard deviations above the mean from which a value is a spike.
const SPIKE: f64 = 6.0;
/// And at least so much above it: a flat curve has almost no deviation.
const SPIKE_RATIO: f64 = 1.15;
/// Warnings of one kind that are kept.
const KEPT: usize = 100;
/// Recorded steps without a token after which an expert counts as dead.
pub const DEAD_RECORDS: usize = 20;
/// Load, in even shares, from which an expert counts as overloaded.
pub const OVERLOADED: f64 = 3.0;
/// Share of the device's memory from which it is nearly full.
const NEARLY_FULL: f64 = 0.92;
/// Share of the earlier throughput under which it dropped.
const DROP: f64 = 0.7;

/// How much a warning matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// Probably not meant.
    Warning,
    /// The run is in danger.
    Serious,
}

/// Something that deserves a look.
#[derive(Clone, Debug, PartialEq)]
pub struct Warning {
    /// How much it matters.
    pub severity: Severity,
    /// What it is.
    pub title: String,
    /// Why it is said: the numbers behind it.
    pub reason: String,
    /// The step it was seen at.
    pub step: u64,
}

/// Looks at rows as they come.
#[derive(Clone, Debug, Default)]
pub struct Detector {
    losses: VecDeque<f64>,
    norms: VecDeque<f64>,
    spikes: VecDeque<Warning>,
    skipped: VecDeque<u64>,
    skipped_count: u64,
    validations: VecDeque<(u64, f64, f64)>,
    /// Mean training loss since the last validation.
    since: (f64, u64),
    /// What routing shows, from [`RoutingWatch`].
    pub routing: Vec<Warning>,
}

impl Detector {
    /// Looks at a row later than all before.
    pub fn push(&mut self, row: &StepMetrics) {
        if row.skipped {
            self.skipped.push_back(row.step);
            self.skipped_count += 1;
            if self.skipped.len() > KEPT {
                self.skipped.pop_front();
            }
        }
        self.spike(row.step, "loss", row.loss, |this| &mut this.losses);
        if let Some(norm) = row.grad_norm {
            self.spike(row.step, "gradient norm", norm, |this| &mut this.norms);
        }
        if row.loss.is_finite() {
            self.since.0 += row.loss;
            self.since.1 += 1;
        }
        if let Some(loss) = row.validation_loss.filter(|loss| loss.is_finite()) {
            let training = self.since.0 / self.since.1.max(1) as f64;
            self.validations.push_back((row.step, loss, training));
            self.since = (0.0, 0);
            if self.validations.len() > KEPT {
                self.validations.pop_front();
            }
        }
    }

    fn spike(
        &mut self,
        step: u64,
        what: &str,
        value: f64,
        window: impl Fn(&mut Self) -> &mut VecDeque<f64>,
    ) {
        if !value.is_finite() {
            return;
        }
        let before = window(self);
        let count = before.len();
        let mean = before.iter().sum::<f64>() / count.max(1) as f64;
        let spread = before.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count.max(1) as f64;
        let z = (value - mean) / spread.sqrt().max(1e-12);
        before.push_back(value);
        if before.len() > WINDOW {
            before.pop_front();
        }
        if count >= ENOUGH && z > SPIKE && value > mean * SPIKE_RATIO {
            self.spikes.push_back(Warning {
                severity: Severity::Warning,
                title: format!("{what} spike"),
                reason: format!(
                    "{} at step {step}, {z:.0} standard deviations above the {} of the {count} steps before",
                    format::number(value),
                    format::number(mean),
                ),
                step,
            });
            if self.spikes.len() > KEPT {
                self.spikes.pop_front();
            }
        }
    }

    /// Forgets what was found from `step` on: a resume replaced it.
    pub fn keep_below(&mut self, step: u64) {
        self.spikes.retain(|spike| spike.step < step);
        let before = self.skipped.len();
        self.skipped.retain(|&skipped| skipped < step);
        self.skipped_count -= (before - self.skipped.len()) as u64;
        self.validations.retain(|validation| validation.0 < step);
    }

    /// Everything that deserves a look now, the newest and gravest first.
    pub fn warnings(&self, memory_limit: Option<u64>, metrics: &MetricStore) -> Vec<Warning> {
        let mut list: Vec<Warning> = self.spikes.iter().cloned().collect();
        if let Some(&last) = self.skipped.back() {
            let shown: Vec<String> = self
                .skipped
                .iter()
                .rev()
                .take(5)
                .map(u64::to_string)
                .collect();
            list.push(Warning {
                severity: Severity::Serious,
                title: "steps skipped".to_owned(),
                reason: format!(
                    "loss or gradient was not finite {}; the latest: {}",
                    match self.skipped_count {
                        1 => "once".to_owned(),
                        count => format!("{count} times"),
                    },
                    shown.join(", ")
                ),
                step: last,
            });
        }
        list.extend(self.validation_rising());
        list.extend(throughput_drop(metrics));
        list.extend(memory_nearly_full(memory_limit, metrics));
        list.extend(self.routing.iter().cloned());
        list.sort_by(|a, b| b.step.cmp(&a.step).then(b.severity.cmp(&a.severity)));
        list
    }

    fn validation_rising(&self) -> Option<Warning> {
        let [first, .., last] = self.validations.iter().rev().take(3).collect::<Vec<_>>()[..]
        else {
            return None;
        };
        // Newest first: three in a row, each above the one before, while training fell.
        let recent: Vec<_> = self.validations.iter().rev().take(3).collect();
        let rising = recent.len() == 3 && recent[0].1 > recent[1].1 && recent[1].1 > recent[2].1;
        let falling = first.2 < last.2;
        (rising && falling).then(|| Warning {
            severity: Severity::Warning,
            title: "validation rises while training falls".to_owned(),
            reason: format!(
                "validation {} → {} while training {} → {}, steps {} to {}: the model may learn its data by heart",
                format::number(last.1),
                format::number(first.1),
                format::number(last.2),
                format::number(first.2),
                last.0,
                first.0
            ),
            step: first.0,
        })
    }
}

/// Median of the newest 20 against the 200 before, of one process.
fn throughput_drop(metrics: &MetricStore) -> Option<Warning> {
    let last = metrics.last()?;
    let paces: Vec<f64> = metrics
        .recent()
        .iter()
        .rev()
        .take_while(|row| row.segment == last.segment)
        .map(|row| row.tokens_per_second)
        .filter(|pace| pace.is_finite())
        .take(220)
        .collect();
    if paces.len() < 60 {
        return None;
    }
    let (now, before) = (median(&paces[..20]), median(&paces[20..]));
    (now < before * DROP).then(|| Warning {
        severity: Severity::Warning,
        title: "throughput dropped".to_owned(),
        reason: format!(
            "{} tokens/s over the last 20 steps, {} over the {} before",
            format::count(now),
            format::count(before),
            paces.len() - 20
        ),
        step: last.step,
    })
}

fn memory_nearly_full(limit: Option<u64>, metrics: &MetricStore) -> Option<Warning> {
    let limit = limit?;
    let last = metrics.last()?;
    let used = last.memory_bytes?.max(last.peak_memory_bytes.unwrap_or(0));
    let share = used as f64 / limit as f64;
    (share >= NEARLY_FULL).then(|| Warning {
        severity: Severity::Serious,
        title: "memory near the limit".to_owned(),
        reason: format!(
            "{} of {} ({:.0} %) at the peak",
            format::bytes(used),
            format::bytes(limit),
            share * 100.0
        ),
        step: last.step,
    })
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Loads by expert.
type Loads = BTreeMap<(u32, u32), Vec<u64>>;

/// Follows loads for experts that die and routers that lose their balance.
#[derive(Clone, Debug, Default)]
pub struct RoutingWatch {
    /// Newest last.
    records: VecDeque<(u64, Loads)>,
}

impl RoutingWatch {
    /// Records of imbalance that are compared: the newest half with the half before.
    const SPAN: usize = 2 * DEAD_RECORDS;

    /// Looks at a recorded step.
    pub fn push(&mut self, step: u64, rows: &[RoutingRow]) {
        let mut loads = Loads::new();
        for row in rows {
            loads
                .entry((row.layer, row.iteration))
                .or_default()
                .push(row.tokens);
        }
        if loads.is_empty() {
            return;
        }
        self.records.push_back((step, loads));
        if self.records.len() > Self::SPAN {
            self.records.pop_front();
        }
    }

    /// Forgets steps from `step` on.
    pub fn keep_below(&mut self, step: u64) {
        self.records.retain(|record| record.0 < step);
    }

    /// What the newest records show.
    pub fn warnings(&self) -> Vec<Warning> {
        let Some((step, newest)) = self.records.back() else {
            return Vec::new();
        };
        let mut found = Vec::new();
        if self.records.len() >= DEAD_RECORDS {
            let from = self.records.len() - DEAD_RECORDS;
            let first = self.records[from].0;
            let mut alive: BTreeMap<(u32, u32), BTreeSet<usize>> = BTreeMap::new();
            for (_, loads) in self.records.range(from..) {
                for (key, loads) in loads {
                    let alive = alive.entry(*key).or_default();
                    alive.extend((0..loads.len()).filter(|&expert| loads[expert] > 0));
                }
            }
            for (&(layer, iteration), loads) in newest {
                let alive = &alive[&(layer, iteration)];
                let dead: Vec<String> = (0..loads.len())
                    .filter(|expert| !alive.contains(expert))
                    .map(|expert| expert.to_string())
                    .collect();
                if !dead.is_empty() {
                    found.push(Warning {
                        severity: Severity::Warning,
                        title: "dead expert".to_owned(),
                        reason: format!(
                            "layer {layer} iteration {iteration}: no token for {} in {DEAD_RECORDS} records, steps {first} to {step}",
                            dead.join(", ")
                        ),
                        step: *step,
                    });
                }
            }
        }
        if self.records.len() >= Self::SPAN {
            let (before, after) = (
                self.imbalance(0..DEAD_RECORDS),
                self.imbalance(DEAD_RECORDS..Self::SPAN),
            );
            for (key, now) in after {
                let then = before.get(&key).copied().unwrap_or(now);
                if now > 1.5 && now > then * 1.25 {
                    found.push(Warning {
                        severity: Severity::Warning,
                        title: "imbalance rising".to_owned(),
                        reason: format!(
                            "layer {} iteration {}: the fullest expert takes {now:.2} even shares, {then:.2} in the {DEAD_RECORDS} records before",
                            key.0, key.1
                        ),
                        step: *step,
                    });
                }
            }
        }
        found
    }

    fn imbalance(&self, records: std::ops::Range<usize>) -> BTreeMap<(u32, u32), f64> {
        let count = records.len() as f64;
        let mut sums: BTreeMap<(u32, u32), f64> = BTreeMap::new();
        for (_, loads) in self.records.range(records) {
            for (key, loads) in loads {
                let total: u64 = loads.iter().sum();
                let most = loads.iter().max().copied().unwrap_or(0);
                let share = most as f64 * loads.len() as f64 / total.max(1) as f64;
                *sums.entry(*key).or_default() += share / count;
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64, loss: f64) -> StepMetrics {
        StepMetrics {
            step,
            loss,
            grad_norm: Some(1.0),
            tokens_per_second: 100.0,
            ..StepMetrics::default()
        }
    }

    fn titles(rows: &[StepMetrics], memory_limit: Option<u64>) -> Vec<String> {
        let (mut detector, mut metrics) = (Detector::default(), MetricStore::default());
        for row in rows {
            detector.push(row);
            metrics.push(row);
        }
        let found = detector.warnings(memory_limit, &metrics);
        found.into_iter().map(|warning| warning.title).collect()
    }

    #[test]
    fn noise_and_a_falling_curve_are_no_spikes_and_a_spike_is_one() {
        let mut rows: Vec<_> = (1..200)
            .map(|step| row(step, 8.0 / (step as f64).sqrt() + 0.05 * (step % 7) as f64))
            .collect();
        assert!(titles(&rows, None).is_empty());
        rows.push(row(200, 9.0));
        assert_eq!(titles(&rows, None), ["loss spike"]);
    }

    #[test]
    fn a_skipped_step_is_told_and_a_resume_takes_it_back() {
        let mut detector = Detector::default();
        detector.push(&StepMetrics {
            skipped: true,
            ..row(5, f64::NAN)
        });
        let told = detector.warnings(None, &MetricStore::default());
        assert_eq!(told[0].title, "steps skipped");
        assert!(told[0].reason.contains("not finite once"));
        detector.keep_below(5);
        assert!(detector.warnings(None, &MetricStore::default()).is_empty());
    }

    #[test]
    fn validation_that_rises_while_training_falls_is_told() {
        let mut rows = Vec::new();
        for step in 1..=40 {
            let mut row = row(step, 5.0 - 0.05 * step as f64);
            if step % 10 == 0 {
                row.validation_loss = Some(4.0 + 0.01 * step as f64);
            }
            rows.push(row);
        }
        assert_eq!(
            titles(&rows, None),
            ["validation rises while training falls"]
        );
    }

    #[test]
    fn memory_near_the_limit_is_told_and_memory_without_a_limit_is_not() {
        let rows = [StepMetrics {
            memory_bytes: Some(80),
            peak_memory_bytes: Some(95),
            ..row(1, 2.0)
        }];
        assert_eq!(titles(&rows, Some(100)), ["memory near the limit"]);
        assert!(titles(&rows, Some(200)).is_empty());
        assert!(titles(&rows, None).is_empty());
    }

    #[test]
    fn throughput_is_compared_within_a_process() {
        let mut rows: Vec<_> = (1..=150).map(|step| row(step, 2.0)).collect();
        for row in &mut rows[130..] {
            row.tokens_per_second = 50.0;
        }
        assert_eq!(titles(&rows, None), ["throughput dropped"]);
        for row in &mut rows[130..] {
            row.segment = 1;
        }
        assert!(titles(&rows, None).is_empty());
    }

    #[test]
    fn an_expert_without_a_token_over_the_window_is_dead_and_a_rising_share_is_told() {
        let mut watch = RoutingWatch::default();
        for step in 0..RoutingWatch::SPAN as u64 {
            let busy = if step < DEAD_RECORDS as u64 { 12 } else { 40 };
            let rows: Vec<RoutingRow> = [busy, 10, 10, 0]
                .iter()
                .enumerate()
                .map(|(expert, &tokens)| RoutingRow {
                    layer: 1,
                    iteration: 0,
                    expert: expert as u32,
                    tokens,
                    probability: 0.25,
                    bias: None,
                })
                .collect();
            watch.push(step, &rows);
        }
        let told = watch.warnings();
        assert_eq!(told[0].title, "dead expert");
        assert!(told[0].reason.contains("no token for 3 in 20 records"));
        assert_eq!(told[1].title, "imbalance rising");
    }
}
