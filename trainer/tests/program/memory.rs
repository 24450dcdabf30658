//! How a run keeps activations.

use crate::common::Folder;

/// The loss of the last of twelve steps, and what the record says of the run's memory.
fn train(folder: &Folder, name: &str, settings: &[&str]) -> (f64, String) {
    folder.train(name, settings).ok();
    let reader = bellows_record::RunReader::open(&folder.run(name)).expect("a run");
    let rows = reader.metrics().read_all().expect("metrics");
    let events = reader.events().read_all().expect("events");
    let started = &events.first().expect("an event").data;
    let memory = started["memory"].as_str().expect("a way").to_owned();
    (rows.last().expect("a row").loss, memory)
}

/// Bytes that a step takes in plain mode, by the plan.
fn needed(folder: &Folder, settings: &[&str]) -> u64 {
    let settings = settings.join(" --set ");
    let plan = folder.bellows(&format!("plan run.toml --json --set {settings}"));
    let plain = &plan.ok().json()["modes"][0];
    assert_eq!(plain["mode"], "plain");
    plain["reserved_bytes"].as_u64().expect("bytes")
}

#[test]
fn every_way_trains_alike_and_the_record_says_which() {
    let folder = Folder::new();
    let (plain, said) = train(&folder, "plain", &["train.memory='plain'"]);
    assert_eq!(said, "plain");
    let auto = train(&folder, "auto", &[]);
    assert_eq!(auto, (plain, "plain".to_owned()));
    let ways: [(&[&str], &str); 4] = [
        (
            &["train.memory='checkpoint'"],
            "checkpoint, inputs and attention kept as f32",
        ),
        (
            &["train.memory='stream'", "stream.chunk=12"],
            "stream in chunks of 12 tokens, inputs and attention kept as f32",
        ),
        (
            &["train.memory='stream'", "stream.keep='host'"],
            "stream in chunks of 256 tokens, inputs and attention kept as host",
        ),
        (
            &["train.memory='stream'", "stream.attention='recompute'"],
            "stream in chunks of 256 tokens, inputs kept as f32",
        ),
    ];
    for (index, (settings, words)) in ways.into_iter().enumerate() {
        let (loss, said) = train(&folder, &format!("way-{index}"), settings);
        assert_eq!(said, words);
        // Rounding differs, and twelve steps of AdamW carry it on.
        assert!((loss - plain).abs() < 1e-3, "{loss} and {plain}: {words}");
    }
}

#[test]
fn a_way_that_does_not_exist_is_refused_with_those_that_do() {
    let folder = Folder::new();
    let words = ["train.memory", "plain", "checkpoint", "stream", "auto"];
    folder
        .train("run", &["train.memory='streams'"])
        .refused(&words);
    let words = ["stream.keep", "f32", "compute", "host"];
    folder.train("run", &["stream.keep='disk'"]).refused(&words);
    let words = ["stream.attention", "auto", "keep", "recompute"];
    folder
        .train("run", &["stream.attention='no'"])
        .refused(&words);
}

#[test]
fn memory_that_the_run_itself_takes_changes_its_way_or_stops_it_with_a_checkpoint() {
    let folder = Folder::new();
    let long = [
        "train.sequence_length=512",
        "train.batch_size=4",
        "train.steps=2",
    ];
    let needed = needed(&folder, &long);
    // It fits when it is planned, beside a few hundred KiB; then its data takes some MiB.
    let limit = format!("train.memory_limit={}", needed + (1 << 20));
    let train = |name: &str, more: &[&str]| {
        let settings: Vec<&str> = long.iter().chain(more).copied().collect();
        folder.train(name, &settings).ok().stderr
    };

    let told = train("changed", &[&limit]);
    assert!(told.contains("in plain mode"), "{told}");
    assert!(told.contains("it goes on in"), "{told}");
    let reader = bellows_record::RunReader::open(&folder.run("changed")).expect("a run");
    assert_eq!(reader.metrics().read_all().expect("metrics").len(), 2);
    let events = reader.events().read_all().expect("events");
    let ways: Vec<&str> = events
        .iter()
        .filter_map(|event| event.data.get("memory")?.as_str())
        .collect();
    assert_eq!(ways[0], "plain");
    assert!(ways.len() > 1 && !ways[1..].contains(&"plain"), "{ways:?}");

    let told = train("stopped", &[&limit, "train.memory='plain'"]);
    for words in ["what fits is", "stopping with a checkpoint", "goes on"] {
        assert!(told.contains(words), "{words} is not in {told}");
    }
    assert_eq!(folder.checkpoints("stopped"), [0]);
    folder.bellows("resume runs/stopped --memory 1GiB").ok();
    assert_eq!(folder.metrics("stopped").len(), 2);
}

#[test]
fn a_checkpoint_that_is_being_written_takes_no_memory_that_the_next_step_lacks() {
    let folder = Folder::new();
    // Weights and moments are most of it.
    let wide = [
        "model.hidden_size=256",
        "model.moe_intermediate_size=256",
        "model.intermediate_size=512",
        "train.steps=6",
        "checkpoint.every=1",
        "record.memory_every=1",
    ];
    let train = |name: &str, limit: u64| {
        let limit = format!("train.memory_limit={limit}");
        let more = ["train.memory='plain'", &limit];
        let settings: Vec<&str> = wide.iter().chain(&more).copied().collect();
        let told = folder.train(name, &settings).ok().stderr;
        let reader = bellows_record::RunReader::open(&folder.run(name)).expect("a run");
        (told, reader)
    };
    let (_, ample) = train("ample", 1 << 40);
    let resident = 12 * ample.manifest().info.model.parameters;
    // What the program itself takes is some MiB, and there is no room for a copy of the rest.
    let limit = needed(&folder, &wide) + resident / 2;
    assert!(resident > 24 << 20, "{resident}");
    let (told, tight) = train("tight", limit);
    assert!(!told.contains("goes on in"), "{told}");
    assert!(!told.contains("stopping with a checkpoint"), "{told}");
    assert_eq!(folder.checkpoints("tight"), [1, 2, 3, 4, 5, 6]);
    let mut memory = tight.memory();
    while memory.poll().expect("readable").more {}
    for step in 1..=6 {
        let peaks = memory.read(step).expect("readable").into_iter();
        let most = peaks
            .filter(|row| row.owner == bellows_record::MemoryRow::PEAK)
            .map(|row| row.bytes)
            .max();
        assert!(
            most.is_some_and(|most| most <= limit),
            "step {step}: {most:?} of {limit}"
        );
    }
    folder.assert_equal_runs("ample", "tight", 6);
}
