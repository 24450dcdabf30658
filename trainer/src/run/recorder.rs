//! What the engine reports, as rows of the run's record.

use std::sync::Arc;

use bellows_data::ProbeSet;
use bellows_engine::kernels::host;
use bellows_engine::model::{Decoder, Input};
use bellows_engine::observer::{Observer, RoutingStats, Transitions};
use bellows_engine::optim::{AdamW, Gradients};
use bellows_engine::weights::parameters;
use bellows_record::{
    MemoryRow, ProbeToken, RouterRow, RoutingRow, RunWriter, TraceRow, TransitionKind,
    TransitionRow,
};
use burn::module::Module;
use burn::tensor::Device;

use super::micro_batch;
use crate::config::RecordSection;
use crate::error::Error;

/// Records one run. Rows go to a thread of [`RunWriter`]; here they are only made.
pub struct Recorder {
    writer: Arc<RunWriter>,
    settings: RecordSection,
    probe: Option<ProbeSet>,
    step: u64,
    correction_bias: Vec<Vec<f32>>,
    /// Kept until the step is known to be good: a skipped step reports nothing.
    rows: (Vec<RoutingStats>, Vec<Transitions>),
    /// Gradients and the allocator's totals while they were alive.
    backward: Vec<MemoryRow>,
}

impl Recorder {
    /// Records into `writer`; `probe` is followed by traces.
    pub fn new(writer: Arc<RunWriter>, settings: RecordSection, probe: Option<ProbeSet>) -> Self {
        Self {
            writer,
            settings,
            probe,
            step: 0,
            correction_bias: Vec::new(),
            rows: Default::default(),
            backward: Vec::new(),
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

    /// Begins step `step`.
    pub fn begin(&mut self, step: u64, model: &Decoder) {
        self.step = step;
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

    /// Notes the step's gradients for the memory ledger, while they are alive.
    pub fn gradients(&mut self, gradients: &Gradients, device: &Device) {
        self.backward.clear();
        if due(self.settings.memory_every, self.step) {
            let sizes = gradients.by_name.iter().map(|(name, gradient)| {
                memory_row(BACKWARD, "gradients", name, gradient.dims()[0])
            });
            self.backward.extend(sizes);
            self.backward.extend(allocator_rows(BACKWARD, device));
        }
    }

    /// Hands the step's rows to the record.
    ///
    /// # Errors
    /// An error of earlier rows, reported once; these rows are taken all the same.
    pub fn commit(
        &mut self,
        model: &Decoder,
        optimizer: &AdamW,
        device: &Device,
    ) -> Result<(), Error> {
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
            let mut rows = std::mem::take(&mut self.backward);
            rows.extend(memory_rows(model, optimizer, device));
            keep(self.writer.memory(self.step, rows));
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

/// A moment of a step at which memory is looked at.
#[derive(Clone, Copy)]
struct Moment {
    index: u32,
    phase: &'static str,
}

const BACKWARD: Moment = Moment {
    index: 0,
    phase: "backward",
};
const OPTIMIZER: Moment = Moment {
    index: 1,
    phase: "optimizer",
};

fn memory_row(moment: Moment, kind: &'static str, name: &str, elements: usize) -> MemoryRow {
    MemoryRow {
        moment: moment.index,
        phase: moment.phase.into(),
        layer: name
            .strip_prefix("layers.")
            .and_then(|rest| rest.split('.').next()?.parse().ok()),
        kind: kind.into(),
        owner: name.to_owned().into(),
        bytes: elements as u64 * 4,
    }
}

fn allocator_rows(moment: Moment, device: &Device) -> impl Iterator<Item = MemoryRow> {
    let memory = memory_use(device);
    [("in_use", memory.in_use), ("reserved", memory.reserved)]
        .into_iter()
        .filter_map(move |(owner, bytes)| {
            Some(MemoryRow {
                moment: moment.index,
                phase: moment.phase.into(),
                layer: None,
                kind: "allocator".into(),
                owner: owner.into(),
                bytes: bytes?,
            })
        })
}

/// Weights and moments after the update, from the tensors that exist, and the allocator's totals.
fn memory_rows(model: &Decoder, optimizer: &AdamW, device: &Device) -> Vec<MemoryRow> {
    let weights = parameters(model)
        .into_iter()
        .map(|(name, shape, _)| memory_row(OPTIMIZER, "weights", &name, shape.iter().product()));
    let moments = optimizer.state().map(|(name, moments)| {
        let elements = moments.first.dims()[0] + moments.second.dims()[0];
        memory_row(OPTIMIZER, "optimizer", name, elements)
    });
    weights
        .chain(moments)
        .chain(allocator_rows(OPTIMIZER, device))
        .collect()
}

/// What is known of the memory in use.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryUse {
    /// Bytes of live buffers: the device's pools; on the CPU the process's resident memory.
    pub in_use: Option<u64>,
    /// Bytes held by the device's pools.
    pub reserved: Option<u64>,
}

/// Memory in use on `device`.
pub fn memory_use(device: &Device) -> MemoryUse {
    match device.memory_pool_usage() {
        Some(usage) => MemoryUse {
            in_use: Some(usage.bytes_in_use),
            reserved: Some(usage.bytes_reserved),
        },
        None => MemoryUse {
            in_use: resident_memory(),
            reserved: None,
        },
    }
}

/// Resident memory of this process, in bytes.
fn resident_memory() -> Option<u64> {
    use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
    let pid = Pid::from_u32(std::process::id());
    let mut system = System::new();
    let what = ProcessRefreshKind::nothing().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, what);
    system.process(pid).map(|process| process.memory())
}
