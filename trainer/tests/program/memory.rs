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
