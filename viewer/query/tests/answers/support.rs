//! A run of two layers, two iterations and four experts, small enough to work out by hand.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bellows_query::compare::{Agreement, LoadDifference, TransitionDifference};
use bellows_query::flow::{Combinations, FlowStrength, Revisits, Sankey, SankeyPath, Transitions};
use bellows_query::memory::{
    MemoryAt, MemoryFit, MemoryRange, MemoryStep, MemoryTimeline, MemoryTree,
};
use bellows_query::routing::{
    Balance, BalanceFigure, ExpertCard, Health, LoadOverTime, Measure, Order, RoutingLoad,
};
use bellows_query::scalars::{Axis, ConfigDifferences, Curves};
use bellows_query::search::Search;
use bellows_query::tokens::{
    ExpertTokens, Grouping, Saturation, Speciality, TokenPath, TracedText,
};
use bellows_query::{Answer, Options, Query, RouterId, RunId, Span, Store};
use bellows_record::{
    DeviceInfo, Event, EventKind, MemoryRow, ModelSummary, ProbeToken, RouterRow, RoutingRow,
    RunInfo, RunState, RunWriter, StepMetrics, TraceRow, TransitionKind, TransitionRow,
};
use tempfile::TempDir;

/// Longer than anything takes, on any machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn router(layer: u32, iteration: u32) -> RouterId {
    RouterId { layer, iteration }
}

/// A store with one run, all of it read.
pub struct Opened {
    pub store: Store,
    pub id: RunId,
    pub folder: TempDir,
}

impl Opened {
    pub fn ask<Q: Query>(&self, query: &Q) -> std::sync::Arc<Q::Answer> {
        self.store.answer(query).unwrap()
    }
}

pub fn small() -> Opened {
    let folder = tempfile::tempdir().unwrap();
    let run = write(folder.path(), "run");
    let store = Store::new(Options::default());
    let id = store.open(&run);
    assert!(store.wait(id, PATIENCE));
    Opened { store, id, folder }
}

pub fn info() -> RunInfo {
    RunInfo {
        device: DeviceInfo {
            memory_bytes: Some(1000),
            ..DeviceInfo::default()
        },
        model: ModelSummary {
            layers: 2,
            moe_layers: 2,
            iterations: 2,
            experts: 4,
            experts_per_token: 2,
            ..ModelSummary::default()
        },
        total_steps: 30,
        ..RunInfo::default()
    }
}

pub fn writer(root: &Path, name: &str) -> RunWriter {
    let config = format!(
        "[run]\nname = {name:?}\n[record]\nrouting_every = 10\ntransitions_every = 10\nmemory_every = 10\ntraces_every = 10\n"
    );
    RunWriter::create(root, name, info(), &config).unwrap()
}

pub fn write(root: &Path, name: &str) -> PathBuf {
    let writer = writer(root, name);
    for step in 1..=30 {
        metrics(&writer, step);
    }
    writer
        .event(Event::new(3, EventKind::Warning, "hello"))
        .unwrap();
    for step in [10, 20, 30] {
        routing(&writer, step);
        memory(&writer, step);
    }
    writer.transitions(30, transitions()).unwrap();
    writer.probe(probe()).unwrap();
    writer.trace(10, trace(|_, _| [3, 2])).unwrap();
    // Brackets go to experts 2 and 3 of layer 0, and everything else to 0 and 1.
    let settled = |layer, token| {
        if layer == 0 && matches!(token, 2 | 4) {
            [2, 3]
        } else {
            [0, 1]
        }
    };
    writer.trace(30, trace(settled)).unwrap();
    let plan = r#"{"verdict": "it fits", "mode": "stream", "peak_bytes": 480, "limit_bytes": 1000, "batch_size": 8,
        "sequence_length": 128, "modes": [
        {"mode": "plain", "fits": false, "peak_bytes": 1200, "by_kind": {"activations": 900, "weights": 100}},
        {"mode": "stream", "chunk": 64, "fits": true, "peak_bytes": 480, "longest_sequence": 4096, "moments": [
            {"phase": "forward", "layer": null, "bytes": 470}, {"phase": "forward", "layer": 0, "bytes": 300},
            {"phase": "forward", "layer": 1, "bytes": 400}, {"phase": "backward", "layer": null, "bytes": 480},
            {"phase": "backward", "layer": 1, "bytes": 450}, {"phase": "backward", "layer": 0, "bytes": 350}]}]}"#;
    writer
        .plan(&bellows_record::serde_json::from_str(plan).unwrap())
        .unwrap();
    let path = writer.path().to_owned();
    writer.finish(RunState::Finished).unwrap();
    path
}

pub fn metrics(writer: &RunWriter, step: u64) {
    let loss = match step {
        7 => f64::NAN,
        15 => 1000.0,
        _ => 5.0 - step as f64 * 0.1,
    };
    let row = StepMetrics {
        step,
        loss,
        tokens: step * 1000,
        time: step as f64,
        ..StepMetrics::default()
    };
    writer.metrics(row).unwrap();
}

pub fn routing(writer: &RunWriter, step: u64) {
    let first = if step == 10 {
        [10, 20, 30, 40]
    } else {
        [40, 30, 20, 10]
    };
    let last = if step == 20 {
        [50, 50, 0, 0]
    } else {
        [0, 0, 50, 50]
    };
    let (mut rows, mut routers) = (Vec::new(), Vec::new());
    for (at, tokens) in [first, [25; 4], [25; 4], last].into_iter().enumerate() {
        let (layer, iteration) = (at as u32 / 2, at as u32 % 2);
        rows.extend((0..).zip(tokens).map(|(expert, tokens)| RoutingRow {
            layer,
            iteration,
            expert,
            tokens,
            probability: 0.25,
            bias: None,
        }));
        routers.push(RouterRow {
            layer,
            iteration,
            tokens: 50,
            dropped: if at == 0 { 2 } else { 0 },
            entropy: 1.0,
        });
    }
    writer.routing(step, rows).unwrap();
    writer.routers(step, routers).unwrap();
}

fn memory(writer: &RunWriter, step: u64) {
    let mut rows = Vec::new();
    let mut row =
        |moment, phase: &'static str, layer, kind: &'static str, owner: &'static str, bytes| {
            rows.push(MemoryRow {
                moment,
                phase: phase.into(),
                layer,
                kind: kind.into(),
                owner: owner.into(),
                bytes,
            });
        };
    for (moment, phase) in [(0, "forward"), (1, "backward")] {
        row(moment, phase, Some(0), "gradients", "experts", 60);
        row(moment, phase, Some(0), "weights", "experts", 40);
        row(moment, phase, None, "weights", "embedding", 60);
        if moment == 1 {
            row(
                moment,
                phase,
                Some(1),
                "activations",
                "hidden",
                if step == 30 { 300 } else { 200 },
            );
        }
        row(
            moment,
            phase,
            None,
            MemoryRow::ALLOCATOR,
            MemoryRow::RESERVED,
            1000,
        );
        row(
            moment,
            phase,
            None,
            MemoryRow::ALLOCATOR,
            MemoryRow::IN_USE,
            500,
        );
    }
    writer.memory(step, rows).unwrap();
}

/// Four tokens, two experts each. From layer 0's first iteration to its second: two from {0, 1} to {0, 1}, one from
/// {2, 3} to {2, 3} and one from there to {0, 1}. From layer 0 to 1: from {0, 1} to all alike. Within layer 1: all stay.
fn transitions() -> Vec<TransitionRow> {
    let mut rows = Vec::new();
    let mut add = |from: RouterId, to: RouterId, befores: &[u32], afters: &[u32], count| {
        for &from_expert in befores {
            for &to_expert in afters {
                rows.push(TransitionRow {
                    kind: if from.layer == to.layer {
                        TransitionKind::Iteration
                    } else {
                        TransitionKind::Layer
                    },
                    from_layer: from.layer,
                    from_iteration: from.iteration,
                    from_expert,
                    to_layer: to.layer,
                    to_iteration: to.iteration,
                    to_expert,
                    count,
                });
            }
        }
    };
    add(router(0, 0), router(0, 1), &[0, 1], &[0, 1], 2);
    add(router(0, 0), router(0, 1), &[2, 3], &[0, 1, 2, 3], 1);
    add(router(0, 1), router(1, 0), &[0, 1], &[0, 1, 2, 3], 2);
    add(router(1, 0), router(1, 1), &[0, 1, 2, 3], &[2, 3], 2);
    rows
}

fn probe() -> Vec<ProbeToken> {
    let token = |(at, text): (u32, &str)| ProbeToken {
        sequence: at / 3,
        position: at % 3,
        token: at,
        text: text.to_owned(),
        source: if at < 3 { "a.rs" } else { "b.rs" }.to_owned(),
    };
    (0..)
        .zip(["fn", " main", "(", "let", "(", "x"])
        .map(token)
        .collect()
}

fn trace(chosen: impl Fn(u32, u32) -> [u32; 2]) -> Vec<TraceRow> {
    let mut rows = Vec::new();
    for at in 0..6 {
        for (layer, iteration) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            rows.extend((0..).zip(chosen(layer, at)).map(|(slot, expert)| TraceRow {
                sequence: at / 3,
                position: at % 3,
                layer,
                iteration,
                slot,
                expert,
                weight: if slot == 0 { 0.75 } else { 0.25 },
            }));
        }
    }
    rows
}

/// Asks every question there is about one run at one step, and hands each answer to `each`.
pub fn every_question(
    store: &Store,
    run: RunId,
    step: u64,
    mut each: impl FnMut(&str, Result<&dyn Answer, bellows_query::Gap>),
) {
    macro_rules! ask {
        ($($query:expr),+ $(,)?) => {
            $({
                let query = $query;
                let name = stringify!($query).split_once(' ').map_or("", |(name, _)| name);
                match store.answer(&query) {
                    Ok(answer) => each(name, Ok(&*answer)),
                    Err(gap) => each(name, Err(gap)),
                }
            })+
        };
    }
    let (from, to) = (router(0, 0), router(0, 1));
    let (span, columns, order) = (Span::ALL, 64, Order::Cluster);
    let (at, measure, group) = (Span::at(step), Measure::Tokens, Grouping::Class);
    let both = ((run, step), (run, u64::MAX));
    ask!(
        RoutingLoad {
            run,
            span: at,
            measure,
            order,
            layer: None
        },
        LoadOverTime {
            run,
            router: from,
            span,
            columns,
            measure,
            order
        },
        Health { run, span },
        Balance {
            run,
            span,
            columns,
            figure: BalanceFigure::Imbalance
        },
        ExpertCard {
            run,
            router: from,
            expert: 0,
            step,
            columns
        },
        Transitions {
            run,
            step,
            from,
            to,
            order
        },
        Sankey {
            run,
            step,
            path: SankeyPath::Iterations { layer: 0 },
            experts: 8
        },
        FlowStrength { run, step },
        Revisits { run, step },
        Combinations { run, step },
        TracedText {
            run,
            step,
            router: from
        },
        TokenPath {
            run,
            step,
            sequence: 0,
            position: 0
        },
        ExpertTokens {
            run,
            step,
            router: from,
            expert: 0,
            group,
            at_least: 1
        },
        Speciality {
            run,
            step,
            router: from,
            group
        },
        Saturation { run, layer: None },
        LoadDifference {
            before: (run, at),
            after: (run, Span::at(u64::MAX)),
            measure
        },
        TransitionDifference {
            before: both.0,
            after: both.1,
            from,
            to
        },
        Agreement {
            before: both.0,
            after: both.1
        },
        MemoryTimeline { run, span, columns },
        MemoryStep { run, step },
        MemoryTree {
            run,
            at: MemoryAt::Step(step)
        },
        MemoryRange { run, span },
        MemoryFit { run },
        Curves {
            runs: vec![run],
            metric: "loss".to_owned(),
            span,
            columns,
            axis: Axis::Tokens,
            smoothing: 900,
            outliers: 10
        },
        ConfigDifferences {
            runs: vec![run],
            only_different: false
        },
        Search {
            runs: vec![run],
            text: "layer 0".to_owned(),
            limit: 10
        },
    );
}

/// Makes sure that an answer can be shown to everybody.
pub fn check(name: &str, answer: &dyn Answer) {
    let (summary, table) = (answer.summary(), answer.table());
    assert!(
        summary.len() > 10 && !summary.contains("NaN"),
        "{name}: {summary:?}"
    );
    assert!(
        !table.rows.is_empty() && !table.title.is_empty(),
        "{name}: an empty table"
    );
    for row in &table.rows {
        assert_eq!(row.len(), table.columns.len(), "{name}");
    }
    assert!(answer.bytes() > 0, "{name}");
}
