use std::collections::BTreeMap;

use crate::store::trace_record::{NOBODY, TraceRecord};
use crate::{Answer, Cell, Cost, Gap, Query, RunId, Store, Table};

/// How many different combinations of experts tokens use, against what is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Combinations {
    /// The run.
    pub run: RunId,
    /// The cursor; the answer is of the last trace up to it.
    pub step: u64,
}

/// Answers [`Combinations`].
#[derive(Clone, Debug, PartialEq)]
pub struct CombinationTable {
    /// The traced step.
    pub step: u64,
    /// Traced tokens: no more combinations than these can be seen.
    pub tokens: u64,
    /// By layer.
    pub layers: Vec<LayerCombinations>,
}

/// One layer's combinations.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerCombinations {
    /// The layer.
    pub layer: u32,
    /// Experts of the layer.
    pub experts: u32,
    /// Experts a token chooses in an iteration.
    pub k: u32,
    /// Different sets of experts by iteration; `experts choose k` are possible.
    pub sets: Vec<u64>,
    /// Different rows of sets over all iterations: what a chain adds.
    pub chains: u64,
    /// Decimal logarithm of how many sets an iteration can choose.
    pub possible_sets_log10: f64,
    /// Decimal logarithm of how many rows of sets there can be.
    pub possible_chains_log10: f64,
    /// Exponential of the entropy of the rows' frequencies: as many equally frequent rows would be as diverse.
    pub effective_chains: f64,
    /// The most frequent rows, each an iteration's experts after the other's, with their share of tokens.
    pub top: Vec<(Vec<Vec<u32>>, f32)>,
}

/// Combinations listed.
const LISTED: usize = 10;

impl Query for Combinations {
    type Answer = CombinationTable;

    fn runs(&self) -> Vec<RunId> {
        vec![self.run]
    }

    fn cost(&self) -> Cost {
        Cost::Background
    }

    fn answer(&self, store: &Store) -> Result<CombinationTable, Gap> {
        let run = store.find(self.run)?;
        let trace = TraceRecord::at(store, &run, self.step)?;
        let tokens = trace.probe.tokens.len();
        let mut layers = Vec::new();
        for routers in trace.routers.chunk_by(|a, b| a.layer == b.layer) {
            let experts = run.experts(routers[0]).ok();
            let chosen: Vec<&[u32]> = routers
                .iter()
                .filter_map(|&router| trace.chosen(router))
                .collect();
            let most = chosen
                .iter()
                .flat_map(|chosen| chosen.iter())
                .filter(|&&expert| expert != NOBODY)
                .max();
            let experts = experts.unwrap_or_else(|| most.map_or(0, |most| most + 1));
            let mut sets: Vec<BTreeMap<Vec<u32>, u64>> = vec![BTreeMap::new(); routers.len()];
            let mut chains: BTreeMap<Vec<Vec<u32>>, u64> = BTreeMap::new();
            for token in 0..tokens {
                let mut chain = Vec::with_capacity(routers.len());
                for (chosen, sets) in chosen.iter().zip(&mut sets) {
                    let mut set: Vec<u32> = chosen[token * trace.k..][..trace.k].to_vec();
                    set.retain(|&expert| expert != NOBODY);
                    // A set: which of them came first is the weights' business.
                    set.sort_unstable();
                    *sets.entry(set.clone()).or_default() += 1;
                    chain.push(set);
                }
                *chains.entry(chain).or_default() += 1;
            }
            let possible = log10_choose(u64::from(experts), trace.k as u64);
            let counts: Vec<u64> = chains.values().copied().collect();
            let mut top: Vec<_> = chains.into_iter().collect();
            top.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            layers.push(LayerCombinations {
                layer: routers[0].layer,
                experts,
                k: trace.k as u32,
                sets: sets.iter().map(|sets| sets.len() as u64).collect(),
                chains: top.len() as u64,
                possible_sets_log10: possible,
                possible_chains_log10: possible * routers.len() as f64,
                effective_chains: super::pairs::entropy(&counts).exp(),
                top: top
                    .into_iter()
                    .take(LISTED)
                    .map(|(chain, count)| (chain, count as f32 / tokens as f32))
                    .collect(),
            });
        }
        Ok(CombinationTable {
            step: trace.step,
            tokens: tokens as u64,
            layers,
        })
    }
}

/// Decimal logarithm of n choose k.
fn log10_choose(n: u64, k: u64) -> f64 {
    (0..k.min(n))
        .map(|i| ((n - i) as f64 / (i + 1) as f64).log10())
        .sum()
}

impl LayerCombinations {
    /// How many rows of sets there can be, in digits or as a power of ten.
    pub fn possible_chains(&self) -> String {
        possible(self.possible_chains_log10)
    }

    /// How many sets an iteration can choose, in digits or as a power of ten.
    pub fn possible_sets(&self) -> String {
        possible(self.possible_sets_log10)
    }
}

fn possible(log10: f64) -> String {
    if log10 < 9.0 {
        format!("{:.0}", 10f64.powf(log10))
    } else {
        format!("10^{log10:.1}")
    }
}

impl Answer for CombinationTable {
    fn summary(&self) -> String {
        let layers = self.layers.iter().map(|layer| {
            format!(
                " Layer {}: {} of {} ({:.0} in effect).",
                layer.layer,
                layer.chains,
                layer.possible_chains(),
                layer.effective_chains
            )
        });
        format!(
            "Different combinations of experts over {} traced tokens at step {}, against what is possible.{}",
            self.tokens,
            self.step,
            layers.take(4).collect::<String>()
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!(
                "Combinations of experts over {} traced tokens, step {}",
                self.tokens, self.step
            ),
            &[
                ("layer", ""),
                ("experts", ""),
                ("k", ""),
                ("what", ""),
                ("used", ""),
                ("possible", "log10"),
                ("share_of_tokens", ""),
            ],
        );
        for layer in &self.layers {
            let mut row = |what: String, used: Cell, possible: Cell, share: Cell| {
                table.push([
                    layer.layer.into(),
                    layer.experts.into(),
                    layer.k.into(),
                    what.into(),
                    used,
                    possible,
                    share,
                ]);
            };
            for (iteration, &sets) in layer.sets.iter().enumerate() {
                row(
                    format!("sets of iteration {iteration}"),
                    sets.into(),
                    layer.possible_sets_log10.into(),
                    Cell::Missing,
                );
            }
            row(
                "chains".to_owned(),
                layer.chains.into(),
                layer.possible_chains_log10.into(),
                Cell::Missing,
            );
            row(
                "effective chains".to_owned(),
                layer.effective_chains.into(),
                Cell::Missing,
                Cell::Missing,
            );
            for (chain, share) in &layer.top {
                let set =
                    |set: &Vec<u32>| set.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
                let chain: Vec<_> = chain.iter().map(set).collect();
                row(
                    chain.join(" > "),
                    Cell::Missing,
                    Cell::Missing,
                    (*share).into(),
                );
            }
        }
        table
    }

    fn bytes(&self) -> usize {
        self.layers.len() * (size_of::<LayerCombinations>() + LISTED * 256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_possible_does_not_overflow() {
        assert_eq!(possible(log10_choose(8, 2)), "28");
        assert_eq!(possible(2.0 * log10_choose(8, 2)), "784");
        assert_eq!(possible(log10_choose(256, 8)), "10^14.6");
        assert_eq!(log10_choose(4, 9), 0.0);
    }
}
