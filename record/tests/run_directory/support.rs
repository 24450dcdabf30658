//! A small run to write and look at.

use std::path::Path;

use bellows_record::{
    DeviceInfo, Event, EventKind, MemoryRow, ModelSummary, RouterRow, RoutingRow, RunInfo,
    RunReader, RunWriter, Sample, StepMetrics, TransitionKind, TransitionRow,
};

pub fn info() -> RunInfo {
    RunInfo {
        program_version: "0.1.0".into(),
        device: DeviceInfo {
            name: "a processor".into(),
            kind: "cpu".into(),
            ..DeviceInfo::default()
        },
        model: ModelSummary {
            model_type: "coe_deepseekv2".into(),
            experts: 4,
            ..ModelSummary::default()
        },
        total_steps: 100,
    }
}

pub fn create(root: &Path) -> RunWriter {
    RunWriter::create(root, "run", info(), "steps = 100\n").unwrap()
}

pub fn metrics(step: u64, loss: f64) -> StepMetrics {
    StepMetrics {
        step,
        loss,
        tokens: step * 1000,
        time: step as f64 * 0.5,
        ..StepMetrics::default()
    }
}

pub fn routing(step: u64, salt: u64) -> Vec<RoutingRow> {
    let row = |layer, iteration, expert| RoutingRow {
        layer,
        iteration,
        expert,
        tokens: step * 100 + u64::from(expert) + salt,
        probability: 0.25,
        bias: (expert % 2 == 0).then_some(expert as f32 * 0.5),
    };
    (0..2)
        .flat_map(|layer| (0..2).map(move |iteration| (layer, iteration)))
        .flat_map(|(layer, iteration)| (0..4).map(move |expert| row(layer, iteration, expert)))
        .collect()
}

pub fn routers(step: u64) -> Vec<RouterRow> {
    vec![RouterRow {
        layer: 0,
        iteration: 1,
        tokens: step,
        dropped: 2,
        entropy: 1.25,
    }]
}

pub fn transitions(step: u64) -> Vec<TransitionRow> {
    [TransitionKind::Iteration, TransitionKind::Layer]
        .map(|kind| TransitionRow {
            kind,
            from_layer: 0,
            from_iteration: 0,
            from_expert: 1,
            to_layer: u32::from(kind == TransitionKind::Layer),
            to_iteration: 1,
            to_expert: 3,
            count: step,
        })
        .to_vec()
}

pub fn memory(step: u64) -> Vec<MemoryRow> {
    let row = |layer, kind: &'static str, owner: &'static str, bytes| MemoryRow {
        moment: 0,
        phase: "forward".into(),
        layer,
        kind: kind.into(),
        owner: owner.into(),
        bytes,
    };
    vec![
        row(Some(3), "weights", "q_proj", 4096 + step),
        row(None, "weights", "embed_tokens", 8192),
        row(None, MemoryRow::ALLOCATOR, MemoryRow::RESERVED, 1 << 40),
    ]
}

pub fn write_step(writer: &RunWriter, step: u64, salt: u64) {
    writer.metrics(metrics(step, salt as f64)).unwrap();
    writer.routing(step, routing(step, salt)).unwrap();
    writer.routers(step, routers(step)).unwrap();
    writer.transitions(step, transitions(step)).unwrap();
    writer.memory(step, memory(step)).unwrap();
    writer
        .event(Event::new(step, EventKind::Evaluated, "every step"))
        .unwrap();
    writer
        .sample(Sample {
            step,
            text: format!("fn f{step}() {{\n}}"),
            ..Sample::default()
        })
        .unwrap();
}

pub fn open(run: &Path) -> RunReader {
    RunReader::open(run).unwrap()
}
