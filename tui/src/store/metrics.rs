use std::collections::{BTreeMap, VecDeque};

use bellows_record::StepMetrics;

use super::Pyramid;

/// Rows that stay whole: for the headline, rates and warnings.
const RECENT: usize = 2048;

/// Columns that say where a row stands, not what was measured.
const POSITION: [&str; 3] = ["step", "segment", "time"];

/// Every metric's history, and the newest rows whole.
#[derive(Clone, Debug, Default)]
pub struct MetricStore {
    series: BTreeMap<String, Pyramid>,
    recent: VecDeque<StepMetrics>,
    /// The last validation loss and its step.
    validation: Option<(u64, f64)>,
}

impl MetricStore {
    /// Forgets steps from `step` on. `false`: that lies so far back that the file has to be read
    /// from its start.
    #[must_use]
    pub fn keep_below(&mut self, step: u64) -> bool {
        for pyramid in self.series.values_mut() {
            if !pyramid.keep_below(step) {
                return false;
            }
        }
        self.series.retain(|_, pyramid| !pyramid.is_empty());
        self.recent.retain(|row| row.step < step);
        self.validation = self.validation.filter(|(at, _)| *at < step);
        true
    }

    /// Adds a row later than all before.
    pub fn push(&mut self, row: &StepMetrics) {
        for (name, value) in row.values() {
            if POSITION.contains(&name) {
                continue;
            }
            match self.series.get_mut(name) {
                Some(pyramid) => pyramid.push(row.step, value),
                None => {
                    let mut pyramid = Pyramid::default();
                    pyramid.push(row.step, value);
                    self.series.insert(name.to_owned(), pyramid);
                }
            }
        }
        if let Some(loss) = row.validation_loss {
            self.validation = Some((row.step, loss));
        }
        self.recent.push_back(row.clone());
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }

    /// A metric's history.
    pub fn get(&self, name: &str) -> Option<&Pyramid> {
        self.series.get(name)
    }

    /// The metrics recorded, the ones people look at first in front, plain counts last.
    pub fn names(&self) -> Vec<&str> {
        const FIRST: [&str; 8] = [
            "loss",
            "grad_norm",
            "learning_rate",
            "tokens_per_second",
            "validation_loss",
            "memory_bytes",
            "aux_loss",
            "cross_entropy",
        ];
        // Counts that mostly stay as they are.
        const LAST: [&str; 4] = ["tokens", "dropped", "skipped", "skipped_steps"];
        let rank = |name: &str| {
            let first = FIRST.iter().position(|first| *first == name);
            let last = LAST.iter().position(|last| *last == name);
            first.or(last.map(|at| 100 + at)).unwrap_or(99)
        };
        let mut names: Vec<&str> = self.series.keys().map(String::as_str).collect();
        names.sort_by_key(|name| rank(name));
        names
    }

    /// The newest rows, oldest first.
    pub fn recent(&self) -> &VecDeque<StepMetrics> {
        &self.recent
    }

    /// The newest row.
    pub fn last(&self) -> Option<&StepMetrics> {
        self.recent.back()
    }

    /// The last validation loss and its step.
    pub fn validation(&self) -> Option<(u64, f64)> {
        self.validation
    }

    /// First and last step recorded.
    pub fn steps(&self) -> Option<(u64, u64)> {
        let first = self.series.values().filter_map(Pyramid::first_step).min()?;
        Some((first, self.recent.back()?.step))
    }
}
