//! What a run leaves for readers.

use std::collections::BTreeMap;

use bellows_record::{Liveness, RunReader, TransitionKind};

use crate::common::Folder;

/// Everything at every step; two micro-batches of two sequences of 32 tokens.
const SETTINGS: [&str; 5] = [
    "train.accumulation=2",
    "record.routing_every=1",
    "record.transitions_every=1",
    "record.memory_every=1",
    "record.traces_every=4",
];
const TOKENS: u64 = 2 * 2 * 32;
const TOP_K: u64 = 2;

#[test]
fn a_run_has_the_files_that_it_should_and_lines_of_json() {
    let folder = Folder::new();
    folder.train("run", &SETTINGS).ok();
    let entries = std::fs::read_dir(folder.run("run")).expect("a run");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.into_string().expect("a plain name"))
        .collect();
    names.sort();
    for name in [
        "checkpoints",
        "config.toml",
        "events.jsonl",
        "manifest.json",
        "memory.0.arrows",
        "metrics.jsonl",
        "routers.0.arrows",
        "routing.0.arrows",
        "samples.jsonl",
        "traces",
        "transitions.0.arrows",
    ] {
        assert!(
            names.iter().any(|found| found == name),
            "no {name}: {names:?}"
        );
    }
    for file in ["metrics.jsonl", "events.jsonl", "samples.jsonl"] {
        let text = folder.text(&format!("runs/run/{file}"));
        assert!(text.ends_with('\n'), "{file}");
        for line in text.lines() {
            let value: Result<serde_json::Value, _> = serde_json::from_str(line);
            assert!(value.expect("JSON").is_object(), "{file}");
        }
    }
    for file in [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "tokenizer.json",
    ] {
        assert!(folder.checkpoint("run", 12, file).exists(), "{file}");
    }
    // The configuration of the run, every default written out, resolves to itself.
    let resolved = folder.bellows("config runs/run/config.toml").ok();
    assert_eq!(resolved.stdout, folder.text("runs/run/config.toml"));
}

#[test]
fn the_story_of_a_run_is_told_in_its_events_and_manifest() {
    let folder = Folder::new();
    folder.train("run", &SETTINGS).ok();
    folder.bellows("resume runs/run --steps 14").ok();
    let reader = RunReader::open(&folder.run("run")).expect("a run");
    assert_eq!(reader.liveness(), Liveness::Finished);
    let manifest = reader.manifest();
    assert_eq!((manifest.progress.step, manifest.segment), (14, 1));
    assert_eq!(manifest.progress.tokens, 14 * TOKENS);
    let first_steps: Vec<u64> = manifest.segments.iter().map(|s| s.first_step).collect();
    assert_eq!(first_steps, [1, 13]);
    assert_eq!(manifest.info.total_steps, 14);
    assert_eq!(manifest.info.model.experts, 4);
    assert_eq!(manifest.info.model.iterations, 2);
    assert_eq!(manifest.info.device.kind, "cpu");

    let metrics = reader.metrics().read_all().expect("metrics");
    let steps: Vec<u64> = metrics.iter().map(|row| row.step).collect();
    assert_eq!(steps, (1..=14).collect::<Vec<_>>());
    for row in &metrics {
        assert_eq!(row.tokens, row.step * TOKENS);
        assert!(row.loss.is_finite() && row.loss > 0.0);
        assert!(row.grad_norm.is_some_and(|norm| norm > 0.0));
        assert!(row.step_seconds > 0.0 && row.tokens_per_second > 0.0);
        let balance = row.aux_loss.expect("a load-balancing loss");
        let total = row.cross_entropy + 0.001 * balance;
        assert!((row.loss - total).abs() < 1e-5, "{} {total}", row.loss);
        assert_eq!(
            row.validation_loss.is_some(),
            row.step % 4 == 0 || row.step == 14
        );
    }
    // Time goes on where it was.
    assert!(metrics.windows(2).all(|pair| pair[0].time < pair[1].time));

    let events = reader.events().read_all().expect("events");
    let of = |kind: &str| -> Vec<u64> {
        let with = events
            .iter()
            .map(|event| serde_json::to_value(event).expect("JSON"));
        with.filter(|event| event["kind"] == kind)
            .map(|event| event["step"].as_u64().expect("a step"))
            .collect()
    };
    assert_eq!(of("started"), [0]);
    assert_eq!(of("resumed"), [12]);
    assert_eq!(of("evaluated"), [4, 8, 12, 14]);
    assert_eq!(of("finished"), [12, 14]);
    assert!(
        of("checkpoint").ends_with(&[12, 14]),
        "{:?}",
        of("checkpoint")
    );
    let samples = reader.samples().read_all().expect("samples");
    let told: Vec<(u64, &str)> = samples
        .iter()
        .map(|s| (s.step, s.prompt.as_str()))
        .collect();
    assert_eq!(told, [(12, "the "), (14, "the ")]);
}

#[test]
fn every_routed_token_is_counted_once_for_each_of_its_experts() {
    let folder = Folder::new();
    folder.train("run", &SETTINGS).ok();
    let reader = RunReader::open(&folder.run("run")).expect("a run");
    let mut routing = reader.routing();
    while routing.poll().expect("readable").more {}
    assert_eq!(
        routing.steps().collect::<Vec<_>>(),
        (1..=12).collect::<Vec<_>>()
    );
    for step in 1..=12 {
        let mut sums: BTreeMap<(u32, u32), (u64, f64, u32)> = BTreeMap::new();
        for row in routing.read(step).expect("readable") {
            let sum = sums.entry((row.layer, row.iteration)).or_default();
            sum.0 += row.tokens;
            sum.1 += f64::from(row.probability);
            sum.2 += 1;
        }
        // Two layers of two iterations.
        assert_eq!(sums.len(), 4);
        for (at, (tokens, probability, experts)) in sums {
            assert_eq!(tokens, TOKENS * TOP_K, "{at:?}");
            assert!((probability - 1.0).abs() < 1e-4, "{at:?}: {probability}");
            assert_eq!(experts, 4);
        }
    }
    let mut routers = reader.routers();
    while routers.poll().expect("readable").more {}
    for row in routers.read(12).expect("readable") {
        assert_eq!((row.tokens, row.dropped), (TOKENS, 0));
        assert!(row.entropy > 0.0 && f64::from(row.entropy) <= 4f64.ln() + 1e-6);
    }
    let mut transitions = reader.transitions();
    while transitions.poll().expect("readable").more {}
    let mut sums = BTreeMap::new();
    for row in transitions.read(12).expect("readable") {
        let kind = row.kind == TransitionKind::Iteration;
        assert_eq!(kind, row.from_layer == row.to_layer);
        let from = (row.from_layer, row.from_iteration);
        *sums
            .entry((from, (row.to_layer, row.to_iteration)))
            .or_insert(0) += row.count;
    }
    let pairs: Vec<_> = sums.into_iter().collect();
    // Each pair of a token's choices counts once.
    let count = TOKENS * TOP_K * TOP_K;
    assert_eq!(
        pairs,
        [
            (((0, 0), (0, 1)), count),
            (((0, 1), (1, 0)), count),
            (((1, 0), (1, 1)), count),
        ]
    );
}

#[test]
fn the_ledger_and_the_traces_agree_with_the_model() {
    let folder = Folder::new();
    // A step beside a checkpoint that is being written may hold what it changes twice.
    let settings = [&SETTINGS[..], &["checkpoint.every=0"]].concat();
    folder.train("run", &settings).ok();
    let reader = RunReader::open(&folder.run("run")).expect("a run");
    let mut memory = reader.memory();
    while memory.poll().expect("readable").more {}
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for row in memory.read(12).expect("readable") {
        *kinds.entry(row.kind.into_owned()).or_default() += row.bytes;
    }
    let parameters = reader.manifest().info.model.parameters;
    // On the CPU blocks below a KiB are not counted, and every one of four moments has the rest.
    for (kind, each) in [("weights", parameters * 4), ("optimizer", parameters * 8)] {
        let held = kinds[kind] / 4;
        assert!(held <= each && held * 10 > each * 9, "{kind}: {held}");
    }
    assert!(kinds["allocator"] > kinds["weights"] + kinds["optimizer"]);

    let probe = reader.probe().expect("a probe");
    assert!(!probe.is_empty());
    // The tokens together are text of the document that they say they come from.
    let source = &probe[0].source;
    let text: String = probe
        .iter()
        .take_while(|token| token.source == *source && token.sequence == 0)
        .map(|token| token.text.as_str())
        .collect();
    assert!(
        folder.text(&format!("corpus/{source}")).contains(&text),
        "{text}"
    );
    assert_eq!(reader.trace_steps().expect("traces"), [1, 4, 8, 12]);
    let trace = reader.trace(12).expect("a trace");
    assert_eq!(trace.len() as u64, probe.len() as u64 * 4 * TOP_K);
    assert!(
        trace
            .iter()
            .all(|row| row.expert < 4 && u64::from(row.slot) < TOP_K)
    );
    assert!(
        trace
            .iter()
            .all(|row| row.weight > 0.0 && row.weight <= 1.0)
    );
    // The two experts of a token are two, the likelier first.
    for pair in trace.chunks_exact(TOP_K as usize) {
        assert_ne!(pair[0].expert, pair[1].expert);
        assert!(pair[0].weight >= pair[1].weight);
        let place =
            |row: &bellows_record::TraceRow| (row.sequence, row.position, row.layer, row.iteration);
        assert_eq!(place(&pair[0]), place(&pair[1]));
    }
}

#[test]
fn what_is_recorded_changes_nothing_that_is_computed() {
    let folder = Folder::new();
    folder.train("much", &SETTINGS).ok();
    let none = [
        "train.accumulation=2",
        "record.routing_every=0",
        "record.transitions_every=0",
        "record.memory_every=0",
        "record.traces_every=0",
    ];
    folder.train("little", &none).ok();
    folder.assert_equal_runs("much", "little", 12);
    assert!(!folder.run("little").join("routing.0.arrows").exists());
}
