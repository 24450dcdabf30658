use std::collections::HashMap;
use std::sync::Arc;

use bellows_record::ProbeToken;

use super::Stream;
use super::run::Run;
use crate::tokens::{TokenCell, TokenClass, TokenSequence};
use crate::{Gap, RouterId, Store};

/// No expert stands in this slot.
pub(crate) const NOBODY: u32 = u32::MAX;

/// The probe text.
pub(crate) struct Probe {
    /// By sequence and position.
    pub(crate) tokens: Vec<TokenCell>,
    pub(crate) sequences: Vec<TokenSequence>,
    /// Place of a token in `tokens`, by sequence and position.
    places: HashMap<(u32, u32), u32>,
}

impl Probe {
    pub(crate) fn of_run(store: &Store, run: &Run) -> Result<Arc<Self>, Gap> {
        let streams = run.streams()?;
        let make = || {
            let probe = Self::of(streams.reader.probe()?);
            if probe.tokens.is_empty() {
                return Err(match run.snapshot().not_recorded(Stream::Traces) {
                    Gap::NotRecorded { what, remedy, .. } if !run.snapshot().traces.is_empty() => {
                        Gap::NotRecorded {
                            what,
                            why: "traces/probe.arrow is missing, and with it the tokens' text"
                                .to_owned(),
                            remedy,
                        }
                    }
                    gap => gap,
                });
            }
            Ok(probe)
        };
        store.record(("probe", run.id), run.epoch(), make, Self::bytes)
    }

    fn of(mut rows: Vec<ProbeToken>) -> Self {
        rows.sort_by_key(|row| (row.sequence, row.position));
        rows.dedup_by_key(|row| (row.sequence, row.position));
        let mut sequences: Vec<TokenSequence> = Vec::new();
        let mut tokens: Vec<TokenCell> = Vec::with_capacity(rows.len());
        let mut places = HashMap::with_capacity(rows.len());
        for row in rows {
            let source = match tokens.last() {
                Some(last) if *last.source == row.source => last.source.clone(),
                _ => row.source.as_str().into(),
            };
            match sequences.last_mut() {
                Some(sequence) if sequence.sequence == row.sequence => sequence.tokens += 1,
                _ => sequences.push(TokenSequence {
                    sequence: row.sequence,
                    source: row.source.clone(),
                    first: tokens.len(),
                    tokens: 1,
                }),
            }
            places.insert((row.sequence, row.position), tokens.len() as u32);
            tokens.push(TokenCell {
                sequence: row.sequence,
                position: row.position,
                token: row.token,
                text: row.text,
                class: TokenClass::Name,
                source,
            });
        }
        for sequence in &sequences {
            let tokens = &mut tokens[sequence.first..][..sequence.tokens];
            let classes = TokenClass::of_text(
                tokens
                    .iter()
                    .map(|token| (token.text.as_str(), &*token.source)),
            );
            for (token, class) in tokens.iter_mut().zip(classes) {
                token.class = class;
            }
        }
        Self {
            tokens,
            sequences,
            places,
        }
    }

    /// Where a token stands in `tokens`.
    pub(crate) fn place(&self, sequence: u32, position: u32) -> Option<usize> {
        self.places
            .get(&(sequence, position))
            .map(|&place| place as usize)
    }

    pub(crate) fn bytes(&self) -> usize {
        let text: usize = self.tokens.iter().map(|token| token.text.capacity()).sum();
        self.tokens.len() * (size_of::<TokenCell>() + 24) + text
    }
}

/// How every probe token was routed at one step.
pub(crate) struct TraceRecord {
    pub(crate) step: u64,
    pub(crate) probe: Arc<Probe>,
    /// By layer and iteration.
    pub(crate) routers: Vec<RouterId>,
    /// Slots a token.
    pub(crate) k: usize,
    /// Router by router, in it token by token, in it slot by slot; [`NOBODY`] where nothing was recorded.
    chosen: Vec<u32>,
    weights: Vec<f32>,
}

impl TraceRecord {
    /// The last trace up to a cursor at `step`.
    pub(crate) fn at(store: &Store, run: &Run, step: u64) -> Result<Arc<Self>, Gap> {
        let step = run.record_at(Stream::Traces, step)?;
        Self::of_step(store, run, step)
    }

    /// The trace of a step that has one.
    pub(crate) fn of_step(store: &Store, run: &Run, step: u64) -> Result<Arc<Self>, Gap> {
        let probe = Probe::of_run(store, run)?;
        let streams = run.streams()?;
        let make = || {
            let rows = streams.reader.trace(step)?;
            if rows.is_empty() {
                return Err(Gap::Unreadable {
                    message: format!("the trace of step {step} is empty or gone"),
                    remedy: "other steps can still be read; move the cursor".to_owned(),
                });
            }
            let k = rows
                .iter()
                .map(|row| row.slot as usize + 1)
                .max()
                .unwrap_or(1);
            let mut routers: Vec<RouterId> = Vec::new();
            for row in &rows {
                let router = RouterId {
                    layer: row.layer,
                    iteration: row.iteration,
                };
                if routers.last() != Some(&router) {
                    routers.push(router);
                }
            }
            routers.sort_unstable();
            routers.dedup();
            let size = routers
                .len()
                .saturating_mul(probe.tokens.len())
                .saturating_mul(k);
            // A number of slots or routers that the rows cannot fill is damage.
            if size > rows.len().saturating_mul(4096) {
                return Err(Gap::Unreadable {
                    message: format!("the trace of step {step} is damaged: {k} slots a token"),
                    remedy: "other steps can still be read; move the cursor".to_owned(),
                });
            }
            let (mut chosen, mut weights) = (vec![NOBODY; size], vec![0.0; size]);
            let mut last = (
                RouterId {
                    layer: 0,
                    iteration: 0,
                },
                usize::MAX,
            );
            for row in &rows {
                let router = RouterId {
                    layer: row.layer,
                    iteration: row.iteration,
                };
                if last.0 != router || last.1 == usize::MAX {
                    last = (router, routers.binary_search(&router).unwrap_or_default());
                }
                // A token that the probe set lacks has no text to show.
                let Some(token) = probe.place(row.sequence, row.position) else {
                    continue;
                };
                let at = (last.1 * probe.tokens.len() + token) * k + row.slot as usize;
                chosen[at] = row.expert;
                weights[at] = row.weight;
            }
            Ok(Self {
                step,
                probe: probe.clone(),
                routers,
                k,
                chosen,
                weights,
            })
        };
        store.record(("trace", run.id, step), run.epoch(), make, Self::bytes)
    }

    /// A router's choices: `tokens × k`.
    pub(crate) fn chosen(&self, router: RouterId) -> Option<&[u32]> {
        let size = self.probe.tokens.len() * self.k;
        let at = self.routers.binary_search(&router).ok()?;
        Some(&self.chosen[at * size..][..size])
    }

    /// A router's weights: `tokens × k`.
    pub(crate) fn weights(&self, router: RouterId) -> Option<&[f32]> {
        let size = self.probe.tokens.len() * self.k;
        let at = self.routers.binary_search(&router).ok()?;
        Some(&self.weights[at * size..][..size])
    }

    /// A router's choices, or why there are none.
    pub(crate) fn router(&self, router: RouterId) -> Result<&[u32], Gap> {
        self.chosen(router).ok_or_else(|| Gap::NoSuch {
            what: format!("{router} in the trace of step {}", self.step),
            range: format!("{} routers are in it", self.routers.len()),
        })
    }

    fn bytes(&self) -> usize {
        self.chosen.len() * 8 + self.routers.len() * 8
    }
}
