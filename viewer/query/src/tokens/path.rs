use super::TokenCell;
use crate::store::trace_record::{NOBODY, TraceRecord};
use crate::{Answer, Cost, Gap, Query, RouterId, RunId, Store, Table};

/// One token's way through all layers and iterations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenPath {
    /// The run.
    pub run: RunId,
    /// The cursor; the answer is of the last trace up to it.
    pub step: u64,
    /// The token's sequence.
    pub sequence: u32,
    /// Its position there.
    pub position: u32,
}

/// Answers [`TokenPath`].
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    /// The traced step.
    pub step: u64,
    /// The token.
    pub token: TokenCell,
    /// The text around it: up to 8 tokens before and after.
    pub context: (String, String),
    /// The routers it passes, in order.
    pub hops: Vec<Hop>,
}

/// A router's decision about the token.
#[derive(Clone, Debug, PartialEq)]
pub struct Hop {
    /// The router.
    pub router: RouterId,
    /// Experts the router chooses from.
    pub experts: u32,
    /// The experts chosen and the weights of their outputs, the highest score first.
    pub chosen: Vec<(u32, f32)>,
}

/// Tokens shown on either side.
const CONTEXT: usize = 8;

impl Query for TokenPath {
    type Answer = Path;

    fn runs(&self) -> Vec<RunId> {
        vec![self.run]
    }

    fn cost(&self) -> Cost {
        Cost::Background
    }

    fn answer(&self, store: &Store) -> Result<Path, Gap> {
        let run = store.find(self.run)?;
        let trace = TraceRecord::at(store, &run, self.step)?;
        let probe = &trace.probe;
        let at = probe
            .place(self.sequence, self.position)
            .ok_or_else(|| Gap::NoSuch {
                what: format!(
                    "token {} of sequence {} in the probe text",
                    self.position, self.sequence
                ),
                range: format!(
                    "it has {} tokens in {} sequences",
                    probe.tokens.len(),
                    probe.sequences.len()
                ),
            })?;
        let sequence = probe
            .sequences
            .iter()
            .find(|sequence| sequence.sequence == self.sequence);
        let (first, end) = sequence.map_or((at, at + 1), |sequence| {
            (sequence.first, sequence.first + sequence.tokens)
        });
        let text = |tokens: std::ops::Range<usize>| {
            probe.tokens[tokens]
                .iter()
                .map(|token| token.text.as_str())
                .collect()
        };
        let hop = |&router: &RouterId| {
            let slots = at * trace.k..(at + 1) * trace.k;
            let chosen = &trace.chosen(router)?[slots.clone()];
            let weights = &trace.weights(router)?[slots];
            let chosen: Vec<_> = chosen
                .iter()
                .copied()
                .zip(weights.iter().copied())
                .filter(|&(expert, _)| expert != NOBODY)
                .collect();
            let most = chosen.iter().map(|choice| choice.0).max().unwrap_or(0);
            Some(Hop {
                router,
                experts: run.experts(router).unwrap_or(most + 1),
                chosen,
            })
        };
        Ok(Path {
            step: trace.step,
            token: probe.tokens[at].clone(),
            context: (
                text(at.saturating_sub(CONTEXT).max(first)..at),
                text(at + 1..(at + 1 + CONTEXT).min(end)),
            ),
            hops: trace.routers.iter().filter_map(hop).collect(),
        })
    }
}

impl Answer for Path {
    fn summary(&self) -> String {
        let hops = self.hops.iter().map(|hop| {
            let chosen: Vec<_> = hop
                .chosen
                .iter()
                .map(|(expert, weight)| format!("{expert} ({:.0} %)", weight * 100.0))
                .collect();
            format!("{}: {}", hop.router, chosen.join(", "))
        });
        let hops: Vec<_> = hops.take(16).collect();
        format!(
            "The way of {:?}, token {} of sequence {}, at step {}: {}.",
            self.token.text,
            self.token.position,
            self.token.sequence,
            self.step,
            hops.join("; ")
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!("The way of {:?} at step {}", self.token.text, self.step),
            &[
                ("layer", ""),
                ("iteration", ""),
                ("slot", ""),
                ("expert", ""),
                ("weight", ""),
            ],
        );
        for hop in &self.hops {
            for (slot, &(expert, weight)) in hop.chosen.iter().enumerate() {
                table.push([
                    hop.router.layer.into(),
                    hop.router.iteration.into(),
                    slot.into(),
                    expert.into(),
                    weight.into(),
                ]);
            }
        }
        table
    }

    fn bytes(&self) -> usize {
        self.hops
            .iter()
            .map(|hop| size_of::<Hop>() + hop.chosen.len() * 8)
            .sum::<usize>()
            + 512
    }
}
