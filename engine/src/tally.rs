//! What a step counts on the device, and reads once at its end.

use bellows_kernels::Kernels;
use bellows_kernels::host::Reading;
use bellows_kernels::routing::{Plan, Routing, transitions};
use burn::tensor::{Int, Tensor};

use crate::model::{Decoder, RoutingAt};
use crate::objective::{Counts, Frequencies, RouterTerms};
use crate::observer::{Observer, RoutingStats, Transitions};

/// Sums over the micro-batches of a step so far. Adding waits for nothing.
#[derive(Debug, Default)]
pub struct Tally {
    /// Choices of each expert.
    pub counts: Counts,
    /// Layer and iteration of each router decision.
    places: Vec<(usize, usize)>,
    experts: usize,
    tokens: u64,
    slots: u64,
    /// Slots that experts with a capacity kept, a decision.
    kept: Vec<Tensor<1, Int>>,
    /// Probability mass of each expert and sum of entropies, a decision `[E + 1]`; empty unless
    /// wanted.
    statistics: Vec<Tensor<1>>,
    /// Pairs of choices of consecutive decisions `[E · E]`; empty unless wanted.
    transitions: Vec<Tensor<1, Int>>,
    /// What the objective reports of each micro-batch.
    reports: Vec<Tensor<1>>,
    /// Router terms of each micro-batch and decision `[2]`.
    terms: Vec<Tensor<1>>,
}

/// The same in plain numbers.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Choices of each expert.
    pub frequencies: Frequencies,
    /// What the objective reports, the micro-batches added up.
    pub report: Vec<f64>,
    /// Load-balancing loss before its coefficient.
    pub balance: f64,
    /// Router z-loss before its coefficient.
    pub z: f64,
    /// Slots left out because an expert was full.
    pub dropped: u64,
    /// Of each decision; empty unless wanted.
    pub routing: Vec<RoutingStats>,
    /// Between consecutive decisions; empty unless wanted.
    pub transitions: Vec<Transitions>,
}

impl Tally {
    /// Adds the decisions of one micro-batch, with what `observer` wants of them.
    pub fn add(&mut self, model: &Decoder, routings: &[RoutingAt], observer: &dyn Observer) {
        let kernels = model.config().kernels;
        let mut before = None;
        for (decision, at) in routings.iter().enumerate() {
            let place = (at.layer, at.iteration);
            self.add_decision(decision, place, &at.routing, before, kernels, observer);
            before = Some(&at.routing.plan);
        }
    }

    /// Adds the decision of this number, counted in order of layer and iteration, about some
    /// tokens of the step; `place` is its layer and iteration, and `before` the decision before it
    /// about the same tokens. Every decision gets every token once.
    pub fn add_decision(
        &mut self,
        decision: usize,
        place: (usize, usize),
        routing: &Routing,
        before: Option<&Plan>,
        kernels: Kernels,
        observer: &dyn Observer,
    ) {
        let plan = &routing.plan;
        self.counts.add_decision(decision, plan);
        if decision == self.places.len() {
            self.places.push(place);
        }
        if decision == 0 {
            self.experts = plan.experts;
            self.tokens += plan.tokens as u64;
            self.slots += (plan.tokens * plan.top_k) as u64;
        }
        if plan.capacity.is_some() {
            let end = plan.offsets.clone().narrow(0, plan.experts, 1);
            add_at(&mut self.kept, decision, end, Tensor::add);
        }
        if observer.wants_routing() {
            let row = routing.statistics();
            add_at(&mut self.statistics, decision, row, Tensor::add);
        }
        if observer.wants_transitions()
            && let Some(before) = before
        {
            let pairs = transitions(before, plan, kernels);
            add_at(&mut self.transitions, decision - 1, pairs, Tensor::add);
        }
    }

    /// Adds the losses of one micro-batch: its share of what the objective reports, and router
    /// terms.
    pub fn add_losses(&mut self, report: Tensor<1>, terms: RouterTerms) {
        self.reports.push(report);
        self.terms.extend(terms.values);
    }

    /// Waits for the device, once, and returns everything.
    pub fn read(self) -> Totals {
        let mut reading = Reading::default();
        let counts = self.counts.register(&mut reading);
        let mut floats = |tensors: Vec<Tensor<1>>| -> Vec<usize> {
            let places = tensors.into_iter().map(|tensor| reading.floats(tensor));
            places.collect()
        };
        let reports = floats(self.reports);
        let terms = floats(self.terms);
        let statistics = floats(self.statistics);
        let mut integers = |tensors: Vec<Tensor<1, Int>>| -> Vec<usize> {
            let places = tensors.into_iter().map(|tensor| reading.integers(tensor));
            places.collect()
        };
        let kept = integers(self.kept);
        let pairs = integers(self.transitions);
        let read = reading.finish();

        let frequencies = Frequencies::from_read(&read, &counts);
        let sum = |places: &[usize], index: usize| -> f64 {
            let values = places.iter().map(|&place| read.floats(place)[index]);
            values.map(f64::from).sum()
        };
        let dropped: Vec<u64> = match kept.is_empty() {
            true => vec![0; self.places.len()],
            false => kept
                .iter()
                .map(|&place| self.slots - read.integers(place)[0] as u64)
                .collect(),
        };
        let tokens = self.tokens as f64;
        let routing = statistics.iter().enumerate().map(|(index, &place)| {
            let (layer, iteration) = self.places[index];
            let sums = read.floats(place);
            RoutingStats {
                layer,
                iteration,
                tokens: self.tokens,
                chosen: frequencies.chosen[index].clone(),
                probability: sums[..self.experts]
                    .iter()
                    .map(|&mass| f64::from(mass) / tokens)
                    .collect(),
                entropy: f64::from(sums[self.experts]) / tokens,
                dropped: dropped[index],
            }
        });
        let routing = routing.collect();
        let transitions = pairs.iter().zip(self.places.windows(2));
        let transitions = transitions.map(|(&place, pair)| Transitions {
            from: pair[0],
            to: pair[1],
            experts: self.experts,
            counts: read
                .integers(place)
                .into_iter()
                .map(|count| count as u64)
                .collect(),
        });
        let mut report: Vec<f64> = Vec::new();
        for &place in &reports {
            let own = read.floats(place);
            report.resize(own.len(), 0.0);
            for (sum, value) in report.iter_mut().zip(own) {
                *sum += f64::from(value);
            }
        }
        Totals {
            report,
            balance: sum(&terms, 0),
            z: sum(&terms, 1),
            dropped: dropped.iter().sum(),
            routing,
            transitions: transitions.collect(),
            frequencies,
        }
    }
}

/// Adds `new` to entry `index` of `sums`; the first time it is the entry.
fn add_at<T: Clone>(sums: &mut Vec<T>, index: usize, new: T, add: impl Fn(T, T) -> T) {
    match sums.get_mut(index) {
        Some(sum) => *sum = add(sum.clone(), new),
        None => sums.push(new),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    /// Burn's and CubeCL's ways to wait for a device.
    const READS: [&str; 13] = [
        "into_data",
        "to_data(",
        "into_scalar",
        "Transaction",
        "argwhere",
        "nonzero",
        ".execute(",
        ".read_one",
        ".read_tensor",
        ".read_async",
        "contains_nan",
        "all_close",
        ".sync()",
    ];

    fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
        let entries = std::fs::read_dir(folder).expect("a folder of sources");
        for entry in entries.map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                sources(&entry, files);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                files.push(entry);
            }
        }
    }

    #[test]
    fn one_place_reads_the_device_and_counts() {
        let engine = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = Vec::new();
        sources(&engine.join("src"), &mut files);
        sources(&engine.join("../kernels/src"), &mut files);
        assert!(files.len() > 30, "the sources are there");
        let mut found = Vec::new();
        for file in &files {
            let text = std::fs::read_to_string(file).expect("readable");
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for (number, line) in code.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                if READS.iter().any(|read| code.contains(read)) {
                    found.push((file, number + 1));
                }
            }
        }
        let elsewhere: Vec<_> = found
            .iter()
            .filter(|(file, _)| !file.ends_with("kernels/src/host.rs"))
            .collect();
        assert!(elsewhere.is_empty(), "not counted: {elsewhere:?}");
        assert!(!found.is_empty(), "host.rs does read");
    }
}
