use super::TokenClass;
use crate::store::trace_record::{NOBODY, TraceRecord};
use crate::{Answer, Cost, Gap, Query, RouterId, RunId, Store, Table};

/// The probe text with every token's experts at one router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TracedText {
    /// The run.
    pub run: RunId,
    /// The cursor; the answer is of the last trace up to it.
    pub step: u64,
    /// The router.
    pub router: RouterId,
}

/// Answers [`TracedText`].
#[derive(Clone, Debug, PartialEq)]
pub struct TokenMap {
    /// The traced step.
    pub step: u64,
    /// The router.
    pub router: RouterId,
    /// Experts the router chooses from.
    pub experts: u32,
    /// Experts a token chooses.
    pub k: u32,
    /// The sequences; each is a run of `tokens`.
    pub sequences: Vec<TokenSequence>,
    /// The tokens, by sequence and position.
    pub tokens: Vec<TokenCell>,
    /// `tokens × k`: the experts chosen, the highest score first; `u32::MAX` where a slot is missing.
    pub chosen: Vec<u32>,
    /// `tokens × k`: the weights of their outputs.
    pub weights: Vec<f32>,
}

/// A piece of text.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenSequence {
    /// Its number.
    pub sequence: u32,
    /// Where its text comes from; of several documents the first.
    pub source: String,
    /// Its first token in [`TokenMap::tokens`].
    pub first: usize,
    /// How many tokens it has.
    pub tokens: usize,
}

/// A token of the probe text.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenCell {
    /// Its sequence.
    pub sequence: u32,
    /// Its position there.
    pub position: u32,
    /// Its id.
    pub token: u32,
    /// Its own text.
    pub text: String,
    /// What it is in the text.
    pub class: TokenClass,
    /// Where the text comes from.
    pub source: std::sync::Arc<str>,
}

impl Query for TracedText {
    type Answer = TokenMap;

    fn runs(&self) -> Vec<RunId> {
        vec![self.run]
    }

    fn cost(&self) -> Cost {
        Cost::Background
    }

    fn answer(&self, store: &Store) -> Result<TokenMap, Gap> {
        let run = store.find(self.run)?;
        let trace = TraceRecord::at(store, &run, self.step)?;
        let chosen = trace.router(self.router)?.to_vec();
        let most = chosen.iter().filter(|&&expert| expert != NOBODY).max();
        Ok(TokenMap {
            step: trace.step,
            router: self.router,
            experts: run
                .experts(self.router)
                .unwrap_or_else(|_| most.map_or(0, |most| most + 1)),
            k: trace.k as u32,
            sequences: trace.probe.sequences.clone(),
            tokens: trace.probe.tokens.clone(),
            weights: trace.weights(self.router).unwrap_or_default().to_vec(),
            chosen,
        })
    }
}

impl TokenMap {
    /// The experts and weights of a token, the highest score first.
    pub fn choices(&self, token: usize) -> impl Iterator<Item = (u32, f32)> + '_ {
        let slots = token * self.k as usize..(token + 1) * self.k as usize;
        let pairs = self.chosen[slots.clone()].iter().zip(&self.weights[slots]);
        pairs
            .map(|(&expert, &weight)| (expert, weight))
            .filter(|&(expert, _)| expert != NOBODY)
    }
}

impl Answer for TokenMap {
    fn summary(&self) -> String {
        let mut counts = vec![0usize; self.experts as usize];
        for token in 0..self.tokens.len() {
            if let Some((expert, _)) = self.choices(token).next()
                && let Some(count) = counts.get_mut(expert as usize)
            {
                *count += 1;
            }
        }
        let most =
            (0..counts.len()).max_by_key(|&expert| (counts[expert], std::cmp::Reverse(expert)));
        let most = most.map_or(String::new(), |expert| {
            format!(
                " The most frequent first choice is expert {expert}, for {} tokens.",
                counts[expert]
            )
        });
        format!(
            "{} tokens of {} sequences, coloured by their first choice at {}, step {}.{most}",
            self.tokens.len(),
            self.sequences.len(),
            self.router,
            self.step
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!("Traced tokens at {}, step {}", self.router, self.step),
            &[
                ("sequence", ""),
                ("position", ""),
                ("token", "id"),
                ("text", ""),
                ("class", ""),
                ("source", ""),
                ("slot", ""),
                ("expert", ""),
                ("weight", ""),
            ],
        );
        for (at, token) in self.tokens.iter().enumerate() {
            for (slot, (expert, weight)) in self.choices(at).enumerate() {
                table.push([
                    token.sequence.into(),
                    token.position.into(),
                    token.token.into(),
                    token.text.clone().into(),
                    token.class.name().into(),
                    (*token.source).into(),
                    slot.into(),
                    expert.into(),
                    weight.into(),
                ]);
            }
        }
        table
    }

    fn bytes(&self) -> usize {
        let text: usize = self.tokens.iter().map(|token| token.text.capacity()).sum();
        self.tokens.len() * size_of::<TokenCell>() + text + self.chosen.len() * 8
    }
}
