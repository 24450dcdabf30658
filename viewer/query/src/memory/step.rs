use std::sync::Arc;

use bellows_record::serde_json::Value;

use super::timeline::{bytes, limit, planned};
use crate::store::memory_record::MemoryRecord;
use crate::store::run::{Run, read};
use crate::store::{RunSnapshot, Stream};
use crate::{Answer, Cell, Cost, Gap, Query, RunId, Store, Table};

/// Memory within one step, moment by moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemoryStep {
    /// The run.
    pub run: RunId,
    /// The cursor.
    pub step: u64,
}

/// Answers [`MemoryStep`].
#[derive(Clone, Debug, PartialEq)]
pub struct StepLedger {
    /// The recorded step.
    pub step: u64,
    /// The kinds of memory, in the order of the stack.
    pub kinds: Vec<String>,
    /// The moments, in order of time.
    pub moments: Vec<LedgerMoment>,
    /// `moments × kinds`: bytes.
    pub bytes: Vec<u64>,
    /// What training was doing: stretches of moments of one phase and layer.
    pub bands: Vec<Band>,
    /// The memory that the run may use: the plan's limit, or the device's memory, where one is known.
    pub limit: Option<u64>,
    /// The peak that the plan foretold, where there is a plan.
    pub planned: Option<u64>,
    /// What the plan foretold of the run's mode, part by part of the model, in order of time; empty where there is no plan.
    pub foretold: Vec<Foretold>,
    /// The moment with the most bytes, an index into `moments`.
    pub peak: usize,
}

/// The fullest moment of a part of a step, by the plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Foretold {
    /// What training does: `forward`, `backward` or `optimizer`.
    pub phase: String,
    /// The layer; none for what is outside of layers: embedding, head and loss.
    pub layer: Option<u32>,
    /// Bytes of all owners.
    pub bytes: u64,
}

/// A moment of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct LedgerMoment {
    /// Its number in the record.
    pub moment: u32,
    /// What training was doing.
    pub phase: String,
    /// Bytes of all owners.
    pub total: u64,
    /// Bytes that the allocator had taken from the device.
    pub reserved: Option<u64>,
    /// Bytes that the allocator had given out.
    pub in_use: Option<u64>,
}

impl LedgerMoment {
    /// Share of the reserved bytes that nobody used, 0 to 1.
    pub fn fragmentation(&self) -> Option<f32> {
        fragmentation(self.reserved, self.in_use)
    }
}

/// A stretch of moments of one phase.
#[derive(Clone, Debug, PartialEq)]
pub struct Band {
    /// The phase's name.
    pub phase: String,
    /// The layer, where the phase's name tells one (`backward layer 3`).
    pub layer: Option<u32>,
    /// Its first moment, an index into [`StepLedger::moments`].
    pub first: usize,
    /// Its last moment.
    pub last: usize,
}

pub(super) fn fragmentation(reserved: Option<u64>, in_use: Option<u64>) -> Option<f32> {
    let (reserved, in_use) = (reserved?, in_use?);
    (reserved > 0).then(|| reserved.saturating_sub(in_use) as f32 / reserved as f32)
}

impl Query for MemoryStep {
    type Answer = StepLedger;

    fn runs(&self) -> Vec<RunId> {
        vec![self.run]
    }

    fn cost(&self) -> Cost {
        Cost::Frame
    }

    fn answer(&self, store: &Store) -> Result<StepLedger, Gap> {
        let run = store.find(self.run)?;
        let step = run.record_at(Stream::Memory, self.step)?;
        let record = record(store, &run, step)?;
        let snapshot = run.snapshot();
        let moments: Vec<_> = record
            .moments
            .iter()
            .map(|moment| LedgerMoment {
                moment: moment.moment,
                phase: moment.phase.to_string(),
                total: moment.total(),
                reserved: moment.reserved,
                in_use: moment.in_use,
            })
            .collect();
        Ok(StepLedger {
            step,
            kinds: record.kinds.iter().map(|kind| kind.to_string()).collect(),
            bytes: record
                .moments
                .iter()
                .flat_map(|moment| moment.kinds.iter().copied())
                .collect(),
            bands: bands(&moments),
            limit: limit(&snapshot),
            planned: planned(&snapshot),
            foretold: foretold(&snapshot),
            peak: record.peak().unwrap_or(0),
            moments,
        })
    }
}

/// A record of memory, remembered; it has at least a moment.
pub(super) fn record(store: &Store, run: &Run, step: u64) -> Result<Arc<MemoryRecord>, Gap> {
    let streams = run.streams()?;
    let make = || {
        let record = MemoryRecord::read(&read(&streams.memory), step)?;
        if record.moments.is_empty() {
            return Err(Gap::Unreadable {
                message: format!("the memory record of step {step} is empty or gone"),
                remedy: "other steps can still be read; move the cursor".to_owned(),
            });
        }
        Ok(record)
    };
    store.record(
        ("memory", run.id, step),
        run.epoch(),
        make,
        MemoryRecord::bytes,
    )
}

fn foretold(snapshot: &RunSnapshot) -> Vec<Foretold> {
    let chosen = || {
        let plan = snapshot.plan.as_ref()?;
        let modes = plan.get("modes")?.as_array()?;
        let mode = modes
            .iter()
            .find(|mode| mode.get("mode") == plan.get("mode"))?;
        mode.get("moments")?.as_array()
    };
    let read = |moment: &Value| {
        Some(Foretold {
            phase: moment.get("phase")?.as_str()?.to_owned(),
            layer: moment
                .get("layer")
                .and_then(Value::as_u64)
                .map(|layer| layer as u32),
            bytes: moment.get("bytes")?.as_u64()?,
        })
    };
    let mut moments: Vec<_> = chosen().into_iter().flatten().filter_map(read).collect();
    // Of what is outside of layers, head and loss hold the most: forward ends and backward begins with them.
    let phases: Vec<String> = moments.iter().map(|moment| moment.phase.clone()).collect();
    moments.sort_by_key(|moment| {
        let phase = phases.iter().position(|phase| *phase == moment.phase);
        let last = match moment.phase.as_str() {
            "forward" => moment.layer.is_none(),
            _ => moment.layer.is_some(),
        };
        (phase, last)
    });
    moments
}

fn bands(moments: &[LedgerMoment]) -> Vec<Band> {
    let mut bands: Vec<Band> = Vec::new();
    for (at, moment) in moments.iter().enumerate() {
        match bands.last_mut() {
            Some(band) if band.phase == moment.phase => band.last = at,
            _ => bands.push(Band {
                phase: moment.phase.clone(),
                layer: moment
                    .phase
                    .rsplit(' ')
                    .next()
                    .and_then(|word| word.parse().ok()),
                first: at,
                last: at,
            }),
        }
    }
    bands
}

impl Answer for StepLedger {
    fn summary(&self) -> String {
        let Some(peak) = self.moments.get(self.peak) else {
            return format!("The memory record of step {} is empty.", self.step);
        };
        format!(
            "Memory within step {}: {} moments, the largest in {} with {}.",
            self.step,
            self.moments.len(),
            peak.phase,
            bytes(peak.total)
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            format!("Memory within step {}", self.step),
            &[("moment", ""), ("phase", ""), ("kind", ""), ("bytes", "B")],
        );
        for moment in &self.foretold {
            let part = moment
                .layer
                .map_or("outside of layers".to_owned(), |layer| {
                    format!("layer {layer}")
                });
            table.push([
                Cell::Missing,
                moment.phase.clone().into(),
                format!("foretold, {part}").into(),
                moment.bytes.into(),
            ]);
        }
        for (at, moment) in self.moments.iter().enumerate() {
            let mut row = |kind: &str, bytes: u64| {
                table.push([
                    moment.moment.into(),
                    moment.phase.clone().into(),
                    kind.into(),
                    bytes.into(),
                ]);
            };
            for (kind, name) in self.kinds.iter().enumerate() {
                row(name, self.bytes[at * self.kinds.len() + kind]);
            }
            row("total", moment.total);
            moment
                .reserved
                .into_iter()
                .for_each(|bytes| row("allocator reserved", bytes));
            moment
                .in_use
                .into_iter()
                .for_each(|bytes| row("allocator in use", bytes));
        }
        table
    }

    fn bytes(&self) -> usize {
        self.moments.len() * (size_of::<LedgerMoment>() + 16 + self.kinds.len() * 8)
    }
}
