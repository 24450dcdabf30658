//! The memory plan: what it tells, what training does about it, and what the ledger says.

use std::collections::BTreeMap;

use bellows_record::{MemoryRow, RunReader};
use serde_json::Value;

use crate::common::Folder;

/// Settings whose activations outweigh the weights by far.
const LONG: &str = "--set train.sequence_length=2048 --set train.batch_size=4";

fn plan(folder: &Folder, more: &str) -> Value {
    folder
        .bellows(&format!("plan run.toml --json {more}"))
        .ok()
        .json()
}

/// What each mode needs.
fn needs(plan: &Value) -> BTreeMap<String, u64> {
    let modes = plan["modes"].as_array().expect("three modes").iter();
    modes
        .map(|mode| {
            let name = mode["mode"].as_str().expect("a name").to_owned();
            (name, mode["reserved_bytes"].as_u64().expect("bytes"))
        })
        .collect()
}

#[test]
fn a_plan_needs_no_corpus_and_writes_nothing() {
    let folder = Folder::new();
    std::fs::remove_dir_all(folder.path("corpus")).expect("it was there");
    let plan = plan(&folder, "");
    for key in [
        "verdict",
        "fits",
        "mode",
        "chunk",
        "peak_bytes",
        "limit_bytes",
        "longest_sequence",
        "device",
        "advice",
    ] {
        assert!(plan.get(key).is_some(), "{key} is missing");
    }
    assert_eq!(plan["fits"], true);
    assert_eq!(plan["mode"], "plain");
    assert!(!folder.run("run").exists() && !folder.path("cache").exists());
    let text = folder.bellows("plan run.toml").ok().stdout;
    for word in [
        "plain *",
        "checkpoint",
        "stream",
        "activations",
        "longest",
        "fits:",
    ] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
}

#[test]
fn the_fastest_mode_that_fits_is_chosen_and_its_absence_is_an_answer() {
    let folder = Folder::new();
    let keeping = needs(&plan(&folder, LONG));
    let again = format!("{LONG} --set stream.attention='recompute'");
    let free = plan(&folder, &again);
    assert_eq!(free["mode"], "plain");
    let needs = needs(&free);
    assert!(needs["stream"] < needs["checkpoint"] && needs["checkpoint"] < needs["plain"]);
    let limited = |limit: u64| plan(&folder, &format!("{again} --memory {limit}"));
    assert_eq!(limited(needs["plain"])["mode"], "plain");
    assert_eq!(limited(needs["plain"] - 1)["mode"], "checkpoint");
    assert_eq!(limited(needs["checkpoint"] - 1)["mode"], "stream");
    // Results of attention are kept where there is room for them, and a mode is not given up for it.
    assert!(needs["checkpoint"] < keeping["checkpoint"]);
    for (limit, keeps) in [(0, true), (1, false)] {
        let limit = keeping["checkpoint"] - limit;
        let plan = plan(
            &folder,
            &format!("{LONG} --set train.memory='checkpoint' --memory {limit}"),
        );
        assert_eq!(plan["mode"], "checkpoint");
        assert_eq!(plan["keeps_attention"], keeps);
    }
    // What is said to fit does, and a step more does not.
    let tight = format!("{LONG} --memory {}", needs["stream"] * 3 / 2);
    let longest = plan(&folder, &tight)["longest_sequence"]
        .as_u64()
        .expect("some sequence fits");
    assert!(longest >= 2048, "{longest}");
    for (time, fits) in [(longest, true), (longest + 32, false)] {
        let asked = format!("{tight} --set train.sequence_length={time}");
        assert_eq!(plan(&folder, &asked)["fits"], fits, "{time}");
    }
    let batch = |limit: u64| {
        let plan = limited(limit);
        assert_eq!(plan["fits"], false, "{plan}");
        plan["verdict"].as_str().expect("a sentence").to_owned()
    };
    let verdict = batch(needs["stream"] / 3);
    assert!(
        verdict.starts_with("does not fit") && verdict.contains("the nearest that fits is"),
        "{verdict}"
    );
}

#[test]
fn a_configuration_is_measured_in_every_way_that_fits() {
    let folder = Folder::new();
    let long = format!("{LONG} --set data.packing='respect' --set train.accumulation=2");
    let found = plan(&folder, &format!("{long} --measure"));
    let steps = found.as_array().expect("a step a way");
    let names: Vec<&str> = steps
        .iter()
        .map(|step| step["configuration"].as_str().expect("a name"))
        .collect();
    assert_eq!(
        names,
        ["plain, what the plan chooses", "checkpoint", "stream"]
    );
    for step in steps {
        let bytes = |key: &str| step[key].as_u64().expect("bytes");
        assert_eq!(bytes("sequence_length"), 2048);
        let (predicted, measured) = (bytes("predicted_bytes"), bytes("measured_bytes"));
        // Beside the tensors the CPU's matrix products pack their operands.
        assert!(
            predicted.abs_diff(measured) * 5 < measured,
            "{predicted} predicted, {measured} measured"
        );
    }
    let limit = steps[0]["predicted_bytes"].as_u64().expect("bytes") / 2;
    let found = plan(&folder, &format!("{long} --measure --memory {limit}"));
    assert!(found.as_array().expect("steps").len() < 3);
    folder
        .bellows("plan run.toml --measure --memory 64KiB")
        .refused(&["does not fit"]);
    folder
        .bellows("plan run.toml --measure --sizes large")
        .refused(&["--sizes"]);
}

#[test]
fn a_run_that_cannot_fit_is_refused_with_numbers_and_what_would() {
    let folder = Folder::new();
    let words = ["does not fit", " of 512 KiB", "help:"];
    folder
        .train("run", &["train.memory_limit='512KiB'"])
        .refused(&words);
    assert!(!folder.run("run").exists());
    folder
        .train("run", &["train.memory_limit='much'"])
        .refused(&["memory_limit", "is no size"]);
}

#[test]
fn a_run_keeps_its_plan_and_the_ledger_explains_its_memory() {
    let folder = Folder::new();
    let settings = [
        "train.steps=4",
        "train.memory='checkpoint'",
        "train.sequence_length=64",
        "train.measure_memory=true",
        "record.memory_every=2",
    ];
    folder.train("run", &settings).ok();
    let reader = RunReader::open(&folder.run("run")).expect("a run");
    let plan = reader.plan().expect("readable").expect("a plan");
    assert_eq!(plan["mode"], "checkpoint");
    assert_eq!(plan["fits"], true);
    assert!(plan["limit_bytes"].as_u64() > plan["peak_bytes"].as_u64());

    let mut memory = reader.memory();
    while memory.poll().expect("readable").more {}
    let rows = memory.read(4).expect("readable");
    let mut moments: BTreeMap<u32, Vec<&MemoryRow>> = BTreeMap::new();
    for row in &rows {
        moments.entry(row.moment).or_default().push(row);
    }
    let phases: Vec<&str> = moments
        .values()
        .map(|rows| rows[0].phase.as_ref())
        .collect();
    assert_eq!(phases, ["forward", "backward", "optimizer", "idle"]);
    for rows in moments.values() {
        let sum = |wanted: &dyn Fn(&MemoryRow) -> bool| -> u64 {
            let rows = rows.iter().filter(|row| wanted(row));
            rows.map(|row| row.bytes).sum()
        };
        let total = |owner: &str| sum(&|row| row.kind == "allocator" && row.owner == owner);
        let unexplained = sum(&|row| row.kind == MemoryRow::UNEXPLAINED);
        // The thread that writes the record takes and gives back beside the step.
        let explained = sum(&|row| row.kind != "allocator");
        assert!(explained.abs_diff(total("in_use")) * 50 < total("in_use"));
        assert!(unexplained * 10 < total("in_use"), "{unexplained}");
        assert!(total("in_use") <= total("peak") && total("peak") <= total("reserved"));
        assert!(total("peak") <= total("in_use") + total("in_use") / 50);
    }
    // A backward pass may be fullest in the head, before there is any gradient.
    let kinds = ["weights", "optimizer", "activations", "gradients"];
    for (moment, kinds) in [(1, &kinds[..3]), (2, &kinds)] {
        for kind in kinds {
            let rows = &moments[&moment];
            assert!(
                rows.iter().any(|row| row.kind == *kind),
                "no {kind}: {rows:?}"
            );
        }
    }
    let metrics = reader.metrics().read_all().expect("metrics");
    assert!(
        metrics
            .iter()
            .all(|row| row.peak_memory_bytes >= row.memory_bytes)
    );
}

#[test]
fn a_resumed_run_goes_on_the_way_it_was_planned() {
    let folder = Folder::new();
    folder.train("run", &["train.steps=6"]).ok();
    let way = |segment: usize| {
        let reader = RunReader::open(&folder.run("run")).expect("a run");
        let events = reader.events().read_all().expect("events");
        let begun = events
            .iter()
            .filter(|event| event.data.contains_key("memory"));
        let words = begun.map(|event| event.data["memory"].as_str().expect("words").to_owned());
        words.collect::<Vec<_>>()[segment].clone()
    };
    assert_eq!(way(0), "plain");
    // As if the run had begun on a smaller device.
    let path = folder.run("run").join("plan.json");
    let mut plan: Value =
        serde_json::from_slice(&std::fs::read(&path).expect("it is there")).expect("JSON");
    plan["mode"] = "stream".into();
    plan["chunk"] = 16.into();
    plan["keeps_attention"] = true.into();
    std::fs::write(&path, plan.to_string()).expect("written");
    folder.bellows("resume runs/run --steps 8").ok();
    assert_eq!(
        way(1),
        "stream in chunks of 16 tokens, inputs and attention kept as f32"
    );
}
