//! A record as large as is wanted, written by the one writer there is: what the viewer is measured with.
//!
//! Its numbers are made up and deterministic, and look like training: loads begin uneven and even out, an expert dies
//! and one layer has a spike, experts prefer successors, tokens prefer experts.

use std::path::{Path, PathBuf};

use bellows_record::{
    DeviceInfo, Event, EventKind, MemoryRow, ModelSummary, ProbeToken, Result, RouterRow,
    RoutingRow, RunInfo, RunState, RunWriter, Sample, StepMetrics, TraceRow, TransitionKind,
    TransitionRow,
};

/// How large a record is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Steps, each with a record of metrics and routing.
    pub steps: u64,
    pub layers: u32,
    pub iterations: u32,
    pub experts: u32,
    /// Experts a token chooses.
    pub k: u32,
    /// Steps between two records of transitions, and between two traces.
    pub rare: u64,
    /// Tokens of the probe text.
    pub probe: u32,
}

impl Size {
    /// What the viewer has to open in under three seconds.
    pub const LARGE: Self = Self {
        steps: 10_000,
        layers: 32,
        iterations: 2,
        experts: 256,
        k: 8,
        rare: 500,
        probe: 512,
    };
}

const TOKENS: u64 = 8192;

/// Writes a finished run named `name` into `root` and returns its directory.
pub fn write(root: &Path, name: &str, size: Size) -> Result<PathBuf> {
    let writer = RunWriter::create(root, name, info(size), CONFIG)?;
    let path = writer.path().to_owned();
    writer.event(Event::new(0, EventKind::Started, "a generated record"))?;
    writer.probe(probe(size))?;
    for step in 1..=size.steps {
        record(&writer, size, step)?;
    }
    writer.finish(RunState::Finished)?;
    Ok(path)
}

/// What the writer of such a run says about it.
pub fn info(size: Size) -> RunInfo {
    RunInfo {
        program_version: "generated".into(),
        device: DeviceInfo {
            name: "generated".into(),
            kind: "discrete".into(),
            memory_bytes: Some(80 << 30),
            ..DeviceInfo::default()
        },
        model: ModelSummary {
            model_type: "coe_deepseekv2".into(),
            layers: size.layers,
            moe_layers: size.layers,
            iterations: size.iterations,
            experts: size.experts,
            experts_per_token: size.k,
            sequence_length: 2048,
            ..ModelSummary::default()
        },
        total_steps: size.steps,
    }
}

/// The settings that a reader looks for.
pub const CONFIG: &str =
    "[record]\nrouting_every = 1\ntransitions_every = 500\nmemory_every = 1\ntraces_every = 500\n";

/// Writes everything that belongs to one step.
pub fn record(writer: &RunWriter, size: Size, step: u64) -> Result<()> {
    let noise = noise(step, 0, 0);
    let loss =
        2.0 + 8.0 * (-(step as f64) / (0.2 * size.steps as f64)).exp() + 0.1 * f64::from(noise);
    writer.metrics(StepMetrics {
        step,
        time: step as f64 * 0.8,
        tokens: step * TOKENS,
        loss: if step == size.steps / 3 {
            f64::NAN
        } else {
            loss
        },
        cross_entropy: loss - 0.02,
        validation_loss: step.is_multiple_of(size.rare).then_some(loss + 0.1),
        grad_norm: Some(1.0 + f64::from(noise).abs()),
        learning_rate: 1e-3,
        tokens_per_second: 10_000.0,
        step_seconds: 0.8,
        memory_bytes: Some(40 << 30),
        ..StepMetrics::default()
    })?;
    writer.routing(step, routing(size, step))?;
    writer.routers(step, routers(size, step))?;
    writer.memory(step, memory(size, step))?;
    if step.is_multiple_of(size.rare) || step == 1 {
        writer.transitions(step, transitions(size, step))?;
        writer.trace(step, trace(size, step))?;
        writer.sample(Sample {
            step,
            prompt: "fn main() {".into(),
            text: format!("\n    let step = {step};\n}}"),
            ..Sample::default()
        })?;
    }
    Ok(())
}

/// How far training has come, 0 to 1.
fn progress(size: Size, step: u64) -> f32 {
    step as f32 / size.steps as f32
}

/// Popularity of an expert: uneven in the beginning, later nearly even.
fn popularity(size: Size, step: u64, layer: u32, iteration: u32, expert: u32) -> f32 {
    let progress = progress(size, step);
    // One expert dies half way, and one layer has a spike of a single step.
    if (layer, expert) == (1 % size.layers, 3) && progress > 0.5 {
        return 0.0;
    }
    if (layer, expert) == (0, 1) && step == size.steps * 3 / 4 {
        return 20.0;
    }
    let own = noise(u64::from(expert), u64::from(layer), 17);
    let wave = (progress * 40.0 + own * 9.0).sin();
    let uneven = 1.5 * (-4.0 * progress).exp();
    (1.0 + 0.5 * own * uneven
        + 0.15 * wave
        + 0.1 * noise(step, u64::from(layer * 2 + iteration), u64::from(expert)))
    .max(0.01)
}

fn routing(size: Size, step: u64) -> Vec<RoutingRow> {
    let mut rows = Vec::with_capacity((size.layers * size.iterations * size.experts) as usize);
    for layer in 0..size.layers {
        for iteration in 0..size.iterations {
            let shares: Vec<f32> = (0..size.experts)
                .map(|expert| popularity(size, step, layer, iteration, expert))
                .collect();
            let total: f32 = shares.iter().sum();
            rows.extend(shares.iter().zip(0..).map(|(share, expert)| RoutingRow {
                layer,
                iteration,
                expert,
                tokens: (share / total * (TOKENS * u64::from(size.k)) as f32) as u64,
                probability: (share / total + 0.25 / size.experts as f32) / 1.25,
                bias: None,
            }));
        }
    }
    rows
}

fn routers(size: Size, step: u64) -> Vec<RouterRow> {
    let of_layer = |layer| (0..size.iterations).map(move |iteration| (layer, iteration));
    let row = |(layer, iteration)| RouterRow {
        layer,
        iteration,
        tokens: TOKENS,
        dropped: u64::from(step.is_multiple_of(97)),
        entropy: (size.experts as f32).ln() * (0.95 - 0.4 * progress(size, step)),
    };
    (0..size.layers).flat_map(of_layer).map(row).collect()
}

fn memory(size: Size, step: u64) -> Vec<MemoryRow> {
    let mut rows = Vec::new();
    for (moment, phase) in (0..).zip(["forward", "backward", "optimizer", "idle"]) {
        let before = rows.len();
        let mut row = |layer, kind: &'static str, owner: String, bytes: u64| {
            rows.push(MemoryRow {
                moment,
                phase: phase.into(),
                layer,
                kind: kind.into(),
                owner: owner.into(),
                bytes,
            });
        };
        for layer in 0..size.layers {
            let saved = if phase == "backward" { 400 } else { 20 }
                + u64::from(step.is_multiple_of(250)) * 80;
            row(
                Some(layer),
                "weights",
                format!("layers.{layer}.mlp.experts"),
                256 << 20,
            );
            row(
                Some(layer),
                "optimizer",
                format!("layers.{layer}.mlp.experts"),
                512 << 20,
            );
            row(
                Some(layer),
                "gradients",
                format!("layers.{layer}.mlp.experts"),
                if moment == 0 { 0 } else { 128 << 20 },
            );
            row(
                Some(layer),
                "activations",
                format!("layers.{layer}.hidden"),
                saved << 20,
            );
        }
        row(None, "weights", "embed_tokens".into(), 512 << 20);
        row(None, "unexplained", "unexplained".into(), 300 << 20);
        let in_use: u64 = rows[before..].iter().map(|row| row.bytes).sum();
        for (owner, bytes) in [
            (MemoryRow::IN_USE, in_use),
            (MemoryRow::RESERVED, in_use + (2 << 30)),
        ] {
            rows.push(MemoryRow {
                moment,
                phase: phase.into(),
                layer: None,
                kind: MemoryRow::ALLOCATOR.into(),
                owner: owner.into(),
                bytes,
            });
        }
    }
    rows
}

fn transitions(size: Size, step: u64) -> Vec<TransitionRow> {
    let mut rows = Vec::new();
    for layer in 0..size.layers {
        for iteration in 0..size.iterations {
            let last = iteration + 1 == size.iterations;
            if last && layer + 1 == size.layers {
                continue;
            }
            let (kind, to_layer, to_iteration) = if last {
                (TransitionKind::Layer, layer + 1, 0)
            } else {
                (TransitionKind::Iteration, layer, iteration + 1)
            };
            for from_expert in 0..size.experts {
                // Each expert has some successors that it prefers, and spreads the rest.
                for turn in 0..24.min(size.experts) {
                    let favourite = turn < 4;
                    let to_expert = if favourite {
                        (from_expert * 7 + layer + turn * turn) % size.experts
                    } else {
                        (from_expert + turn * 11 + step as u32 % 5) % size.experts
                    };
                    rows.push(TransitionRow {
                        kind,
                        from_layer: layer,
                        from_iteration: iteration,
                        from_expert,
                        to_layer,
                        to_iteration,
                        to_expert,
                        count: if favourite { 400 } else { 20 },
                    });
                }
            }
        }
    }
    rows
}

const WORDS: [&str; 12] = [
    "fn",
    " main",
    "(",
    ")",
    " {",
    "\n",
    " let",
    " x",
    " =",
    " 1",
    ";",
    " // note\n",
];

fn probe(size: Size) -> Vec<ProbeToken> {
    let token = |at: u32| ProbeToken {
        sequence: at / 128,
        position: at % 128,
        token: at % 12,
        text: WORDS[(at % 12) as usize].into(),
        source: if at < size.probe / 2 {
            "crate-a/src/lib.rs".into()
        } else {
            "crate-b/src/main.rs".into()
        },
    };
    (0..size.probe).map(token).collect()
}

fn trace(size: Size, step: u64) -> Vec<TraceRow> {
    let mut rows =
        Vec::with_capacity((size.probe * size.layers * size.iterations * size.k) as usize);
    for layer in 0..size.layers {
        for iteration in 0..size.iterations {
            for at in 0..size.probe {
                // Choices settle: the older the run, the more of them are the token's own.
                let settled =
                    noise(u64::from(at), u64::from(layer), 5).abs() < 1.2 * progress(size, step);
                let base = if settled {
                    at % 12 * 13 + layer
                } else {
                    at + step as u32
                };
                rows.extend((0..size.k.min(size.experts)).map(|slot| TraceRow {
                    sequence: at / 128,
                    position: at % 128,
                    layer,
                    iteration,
                    slot,
                    expert: (base + slot * (3 + iteration)) % size.experts,
                    weight: 1.0 / size.k as f32,
                }));
            }
        }
    }
    rows
}

/// −1 to 1, the same for the same three numbers.
fn noise(a: u64, b: u64, c: u64) -> f32 {
    let mut bits = a.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ b.wrapping_mul(0xbf58_476d_1ce4_e5b9)
        ^ c.wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    bits = bits.wrapping_mul(0xd6e8_feb8_6659_fd93);
    bits ^= bits >> 32;
    (bits >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}
