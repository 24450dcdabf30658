use bellows_record::serde_json::Value;

use super::timeline::{bytes, limit};
use crate::store::memory_record::stack_order;
use crate::{Answer, Cost, Gap, Query, RunId, Store, Table};

/// What would fit: the plan's numbers for other modes and longer sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemoryFit {
    /// The run.
    pub run: RunId,
}

/// Answers [`MemoryFit`].
#[derive(Clone, Debug, PartialEq)]
pub struct PlanTable {
    /// The plan's verdict in words.
    pub verdict: String,
    /// What it advises, in words.
    pub advice: Vec<String>,
    /// The memory that the plan had to keep within, bytes.
    pub limit: Option<u64>,
    /// Sequences of a micro-batch, and tokens of a sequence, that the plan is for.
    pub batch: (Option<u64>, Option<u64>),
    /// The peak that was measured so far, bytes: the largest moment of the ledger, or the metric where there is none.
    pub measured: Option<u64>,
    /// The modes, the chosen one first.
    pub modes: Vec<PlanMode>,
}

/// A way to keep activations.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanMode {
    /// Its name: `plain`, `checkpoint`, `stream`.
    pub mode: String,
    /// Whether the run chose it.
    pub chosen: bool,
    /// Tokens of a chunk, where the mode has chunks.
    pub chunk: Option<u64>,
    /// The predicted peak, bytes.
    pub peak: Option<u64>,
    /// The bytes that the allocator is predicted to take from the device.
    pub reserved: Option<u64>,
    /// The prediction by kind, bytes, in the order of the stack.
    pub kinds: Vec<(String, u64)>,
    /// The longest sequence that fits in this mode, tokens; where the plan looked for it.
    pub longest: Option<u64>,
    /// The largest batch of the run's sequences that fits.
    pub largest_batch: Option<u64>,
    /// Whether it fits.
    pub fits: Option<bool>,
}

impl Query for MemoryFit {
    type Answer = PlanTable;

    fn runs(&self) -> Vec<RunId> {
        vec![self.run]
    }

    fn cost(&self) -> Cost {
        Cost::Frame
    }

    fn answer(&self, store: &Store) -> Result<PlanTable, Gap> {
        let run = store.find(self.run)?;
        let snapshot = run.snapshot();
        // So that a run that cannot be read says so.
        let streams = run.streams()?;
        let Some(plan) = snapshot.plan.clone() else {
            streams.reader.plan()?;
            return Err(Gap::NotRecorded {
                what: "a memory plan".to_owned(),
                why: "the run has no plan.json: it was made before Bellows planned memory"
                    .to_owned(),
                remedy: "`bellows plan` foretells the memory of a configuration".to_owned(),
            });
        };
        let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_u64);
        let text = |key: &str| {
            plan.get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let chosen = text("mode");
        let modes = plan
            .get("modes")
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        let mut modes: Vec<PlanMode> = modes
            .iter()
            .map(|mode| {
                let name = mode
                    .get("mode")
                    .and_then(Value::as_str)
                    .unwrap_or("unnamed");
                PlanMode {
                    mode: name.to_owned(),
                    chosen: name == chosen,
                    chunk: number(mode, "chunk"),
                    peak: number(mode, "peak_bytes"),
                    reserved: number(mode, "reserved_bytes"),
                    kinds: kinds(mode),
                    longest: number(mode, "longest_sequence"),
                    largest_batch: number(mode, "largest_batch"),
                    fits: mode.get("fits").and_then(Value::as_bool),
                }
            })
            .collect();
        if modes.is_empty() {
            return Err(Gap::Unreadable {
                message: "plan.json names no modes: another version wrote it, or it is damaged"
                    .to_owned(),
                remedy: "the rest of the run can be read".to_owned(),
            });
        }
        modes.sort_by_key(|mode| !mode.chosen);
        let metric = || {
            run.metrics()
                .get("peak_memory_bytes")?
                .view(0, u64::MAX, 1)
                .first()
                .map(|point| point.max as u64)
        };
        let ledger = run
            .memory()
            .view(0, u64::MAX, 1)
            .iter()
            .map(|column| column.in_use.max.max(column.total.max))
            .max();
        let advice = match plan.get("advice") {
            Some(Value::Array(lines)) => lines
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            Some(Value::String(line)) => vec![line.clone()],
            _ => Vec::new(),
        };
        Ok(PlanTable {
            verdict: text("verdict"),
            advice,
            limit: limit(&snapshot),
            batch: (
                number(&plan, "batch_size"),
                number(&plan, "sequence_length"),
            ),
            measured: ledger.or_else(metric),
            modes,
        })
    }
}

fn kinds(mode: &Value) -> Vec<(String, u64)> {
    let kinds = mode.get("by_kind").and_then(Value::as_object);
    let mut kinds: Vec<(String, u64)> = kinds
        .into_iter()
        .flatten()
        .filter_map(|(kind, bytes)| Some((kind.clone(), bytes.as_u64()?)))
        .collect();
    kinds.sort_by(|a, b| stack_order(&a.0).cmp(&stack_order(&b.0)));
    kinds
}

impl Answer for PlanTable {
    fn summary(&self) -> String {
        let modes: Vec<_> = self
            .modes
            .iter()
            .map(|mode| {
                let longest = mode
                    .longest
                    .map_or(String::new(), |tokens| format!(", up to {tokens} tokens"));
                let chosen = if mode.chosen { " (chosen)" } else { "" };
                format!(
                    "{}{chosen} {}{longest}",
                    mode.mode,
                    mode.peak.map_or("unknown".to_owned(), bytes)
                )
            })
            .collect();
        let measured = self.measured.map_or(String::new(), |peak| {
            format!(" Measured so far: {}.", bytes(peak))
        });
        let verdict = match self.verdict.trim_end_matches('.') {
            "" => String::new(),
            verdict => format!("{verdict}. "),
        };
        format!("{verdict}Predicted peaks: {}.{measured}", modes.join("; "))
    }

    fn table(&self) -> Table {
        let mut table = Table::new(
            "What would fit, by the plan",
            &[
                ("mode", ""),
                ("chosen", ""),
                ("fits", ""),
                ("chunk", "tokens"),
                ("kind", ""),
                ("bytes", "B"),
                ("longest_sequence", "tokens"),
                ("largest_batch", "sequences"),
            ],
        );
        for mode in &self.modes {
            let mut row = |kind: &str, bytes: Option<u64>| {
                table.push([
                    mode.mode.clone().into(),
                    if mode.chosen { "yes" } else { "no" }.into(),
                    mode.fits.map(|fits| if fits { "yes" } else { "no" }).into(),
                    mode.chunk.into(),
                    kind.into(),
                    bytes.into(),
                    mode.longest.into(),
                    mode.largest_batch.into(),
                ]);
            };
            row("peak", mode.peak);
            row("reserved", mode.reserved);
            mode.kinds
                .iter()
                .for_each(|(kind, bytes)| row(kind, Some(*bytes)));
        }
        table
    }

    fn bytes(&self) -> usize {
        self.modes
            .iter()
            .map(|mode| size_of::<PlanMode>() + mode.kinds.len() * 48)
            .sum()
    }
}
