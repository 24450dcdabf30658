//! What the engine reports, as rows of the run's record.

use std::sync::Arc;

use bellows_data::ProbeSet;
use bellows_engine::kernels::host;
use bellows_engine::kernels::memory::{Ledger, Moment, Watch};
use bellows_engine::model::{Decoder, Input};
use bellows_engine::observer::{Observer, RoutingStats, Transitions};
use bellows_engine::optim::{AdamW, own_parameters};
use bellows_record::{
    ProbeToken, RouterRow, RoutingRow, RunWriter, TraceRow, TransitionKind, TransitionRow,
};
use burn::module::Module;
use burn::tensor::Device;

use super::ledger::{in_words, rows_of};
use super::micro_batch;
use crate::config::RecordSection;
use crate::error::Error;

/// A step with a ledger looks at the memory in use before one of so many launches: a look costs a
/// visit to the device's thread.
const LAUNCHES: u64 = 8;

/// Records one run. Rows go to a thread of [`RunWriter`]; here they are only made.
pub struct Recorder {
    writer: Arc<RunWriter>,
    settings: RecordSection,
    probe: Option<ProbeSet>,
    step: u64,
    correction_bias: Vec<Vec<f32>>,
    /// Kept until the step is known to be good: a skipped step reports nothing.
    rows: (Vec<RoutingStats>, Vec<Transitions>),
    /// Whether the memory in use is looked at before every launch.
    measures: bool,
    /// The step's memory, while it is watched.
    watch: Option<(Watch, Option<Ledger>)>,
    /// The fullest moments of the step, once it is over.
    moments: Vec<Moment>,
    /// The last ledger, and its step.
    ledger: Option<(u64, Vec<Moment>)>,
}

impl Recorder {
    /// Records into `writer`; `probe` is followed by traces.
    /// With `measures` the memory in use is looked at before every launch of every step.
    pub fn new(
        writer: Arc<RunWriter>,
        settings: RecordSection,
        probe: Option<ProbeSet>,
        measures: bool,
    ) -> Self {
        Self {
            writer,
            settings,
            probe,
            step: 0,
            correction_bias: Vec::new(),
            rows: Default::default(),
            measures,
            watch: None,
            moments: Vec::new(),
            ledger: None,
        }
    }

    /// Records at other intervals from the next step on.
    pub fn configure(&mut self, settings: RecordSection) {
        self.settings = settings;
    }

    /// The run's record.
    pub fn writer(&self) -> &Arc<RunWriter> {
        &self.writer
    }

    /// Writes the probe set's tokens, once a run.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn write_probe(&self) -> Result<(), Error> {
        let Some(probe) = &self.probe else {
            return Ok(());
        };
        let time = probe.batch.sequence_length;
        let mut tokens = Vec::new();
        for (row, sequence) in probe.sequences.iter().enumerate() {
            for (position, text) in sequence.tokens.iter().enumerate() {
                tokens.push(ProbeToken {
                    sequence: row as u32,
                    position: position as u32,
                    token: probe.batch.input_ids[row * time + position] as u32,
                    text: text.clone(),
                    source: sequence.source.clone(),
                });
            }
        }
        Ok(self.writer.probe(tokens)?)
    }

    /// Begins step `step`, with a ledger of its memory where one is due.
    pub fn begin(&mut self, step: u64, model: &Decoder, optimizer: &AdamW, device: &Device) {
        self.step = step;
        self.moments.clear();
        // A step that broke off left its own.
        self.watch = None;
        let ledger = due(self.settings.memory_every, step).then(Ledger::new);
        if ledger.is_some() {
            own_parameters(model);
            optimizer.own_moments();
        }
        if ledger.is_some() || self.measures {
            let every = if self.measures { 1 } else { LAUNCHES };
            self.watch = Some((Watch::new(device, every), ledger));
        }
        self.rows = Default::default();
        self.correction_bias.clear();
        if self.wants_routing() {
            for (_, mixture) in model.mixtures() {
                for iteration in 0..model.config().inner_iter {
                    let biases = &mixture.correction_bias;
                    let bias = biases.get(iteration.min(biases.len().saturating_sub(1)));
                    self.correction_bias.push(bias.cloned().unwrap_or_default());
                }
            }
        }
    }

    /// The update is done: what the step's memory was is known.
    pub fn end_of_step(&mut self) {
        let Some((watch, ledger)) = self.watch.take() else {
            return;
        };
        watch.look();
        self.moments = watch.finish();
        if ledger.is_some() {
            self.ledger = Some((self.step, self.moments.clone()));
        }
    }

    /// The most bytes that were in use during the step, if they were watched.
    pub fn peak(&self) -> Option<u64> {
        let readings = self.moments.iter().map(|moment| moment.reading.in_use);
        readings.max()
    }

    /// The fullest moment of the last ledger, in words.
    pub fn last_ledger(&self) -> Option<String> {
        let (step, moments) = self.ledger.as_ref()?;
        in_words(*step, moments)
    }

    /// Hands the step's rows to the record.
    ///
    /// # Errors
    /// An error of earlier rows, reported once; these rows are taken all the same.
    pub fn commit(&mut self, model: &Decoder, device: &Device) -> Result<(), Error> {
        let (stats, transitions) = std::mem::take(&mut self.rows);
        let mut result = Ok(());
        let mut keep = |outcome: bellows_record::Result<()>| {
            if let Err(error) = outcome {
                result = Err(Error::from(error));
            }
        };
        if !stats.is_empty() {
            keep(self.writer.routing(self.step, self.routing_rows(&stats)));
            keep(self.writer.routers(self.step, router_rows(&stats)));
        }
        if !transitions.is_empty() {
            keep(
                self.writer
                    .transitions(self.step, transition_rows(&transitions)),
            );
        }
        if due(self.settings.memory_every, self.step) {
            keep(self.writer.memory(self.step, rows_of(&self.moments)));
        }
        if due(self.settings.traces_every, self.step)
            && let Some(rows) = self.trace(model, device)
        {
            keep(self.writer.trace(self.step, rows));
        }
        result
    }

    fn routing_rows(&self, stats: &[RoutingStats]) -> Vec<RoutingRow> {
        let mut rows = Vec::new();
        for (index, router) in stats.iter().enumerate() {
            let bias = self
                .correction_bias
                .get(index)
                .filter(|bias| !bias.is_empty());
            for (expert, (&tokens, &probability)) in
                router.chosen.iter().zip(&router.probability).enumerate()
            {
                rows.push(RoutingRow {
                    layer: router.layer as u32,
                    iteration: router.iteration as u32,
                    expert: expert as u32,
                    tokens,
                    probability: probability as f32,
                    bias: bias.map(|bias| bias[expert]),
                });
            }
        }
        rows
    }

    /// Chosen experts and weights of every probe token, by a pass without gradients.
    fn trace(&self, model: &Decoder, device: &Device) -> Option<Vec<TraceRow>> {
        let probe = self.probe.as_ref()?;
        if model.config().moe_layers() == 0 {
            return None;
        }
        let time = probe.batch.sequence_length;
        let input = Input::new(
            model.config(),
            &micro_batch(&probe.batch).sequences,
            0,
            device,
        );
        let mut rows = Vec::new();
        for at in model.valid().forward(&input, None).routings {
            let plan = at.routing.plan.host();
            let weights = host::floats(at.routing.weights.clone());
            for (slot, (&expert, weight)) in plan.experts.iter().zip(weights).enumerate() {
                let token = slot / plan.top_k;
                let (sequence, position) = (token / time, token % time);
                if position < probe.sequences[sequence].length {
                    rows.push(TraceRow {
                        sequence: sequence as u32,
                        position: position as u32,
                        layer: at.layer as u32,
                        iteration: at.iteration as u32,
                        slot: (slot % plan.top_k) as u32,
                        expert,
                        weight,
                    });
                }
            }
        }
        Some(rows)
    }
}

impl Observer for Recorder {
    fn wants_routing(&self) -> bool {
        due(self.settings.routing_every, self.step)
    }

    fn wants_transitions(&self) -> bool {
        due(self.settings.transitions_every, self.step)
    }

    fn routing(&mut self, stats: Vec<RoutingStats>) {
        self.rows.0 = stats;
    }

    fn transitions(&mut self, transitions: Vec<Transitions>) {
        self.rows.1 = transitions;
    }
}

/// Whether something done every `every` steps (0: never) is due; the first step always is.
pub fn due(every: u64, step: u64) -> bool {
    every > 0 && (step == 1 || step.is_multiple_of(every))
}

fn router_rows(stats: &[RoutingStats]) -> Vec<RouterRow> {
    stats
        .iter()
        .map(|router| RouterRow {
            layer: router.layer as u32,
            iteration: router.iteration as u32,
            tokens: router.tokens,
            dropped: router.dropped,
            entropy: router.entropy as f32,
        })
        .collect()
}

fn transition_rows(transitions: &[Transitions]) -> Vec<TransitionRow> {
    let mut rows = Vec::new();
    for pair in transitions {
        let kind = if pair.from.0 == pair.to.0 {
            TransitionKind::Iteration
        } else {
            TransitionKind::Layer
        };
        for (index, &count) in pair
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0)
        {
            rows.push(TransitionRow {
                kind,
                from_layer: pair.from.0 as u32,
                from_iteration: pair.from.1 as u32,
                from_expert: (index / pair.experts) as u32,
                to_layer: pair.to.0 as u32,
                to_iteration: pair.to.1 as u32,
                to_expert: (index % pair.experts) as u32,
                count,
            });
        }
    }
    rows
}
