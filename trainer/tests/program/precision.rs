//! The type that a run multiplies in, on the CPU backend.

use crate::common::Folder;

#[test]
fn a_type_that_the_device_does_not_offer_is_refused_before_anything_is_written() {
    let folder = Folder::new();
    for precision in ["f16", "bf16"] {
        let setting = format!("train.precision='{precision}'");
        folder.train("run", &[&setting]).refused(&[
            precision,
            "offers f32",
            "the CPU backend computes in f32",
            "train.precision to \"auto\"",
        ]);
        assert!(!folder.run("run").exists());
    }
}

#[test]
fn the_choice_and_its_reason_are_told_and_recorded() {
    let folder = Folder::new();
    let done = folder.train("run", &["train.steps=2"]).ok();
    assert!(
        done.stderr.contains("f32: the CPU backend"),
        "{}",
        done.stderr
    );
    let reader = bellows_record::RunReader::open(&folder.run("run")).expect("a run");
    assert_eq!(reader.manifest().info.device.precision, "f32");
    let events = reader.events().read_all().expect("events");
    let started = &events.first().expect("an event").data;
    assert_eq!(started["precision"], "f32");
    let reason = started["precision_reason"].as_str().expect("a reason");
    assert!(reason.contains("CPU"), "{reason}");
    // Nothing is scaled in f32, and its checkpoints know of no scale.
    let rows = reader.metrics().read_all().expect("metrics");
    assert!(rows.iter().all(|row| row.loss_scale.is_none()));
    let state = folder.checkpoint("run", 2, "state.json");
    let state = std::fs::read_to_string(state).expect("a state");
    assert!(!state.contains("loss_scale"), "{state}");
}

#[test]
fn a_scale_out_of_range_is_refused_with_its_place() {
    let folder = Folder::new();
    for setting in [
        "loss_scale.initial=0.5",
        "loss_scale.initial=1e31",
        "loss_scale.growth_interval=0",
        "train.precision='f64'",
    ] {
        let key = setting.split('=').next().expect("a key");
        let last = key.split('.').next_back().expect("a name");
        folder.train("run", &[setting]).refused(&[last]);
    }
}

#[test]
fn a_model_is_not_read_in_a_type_that_the_device_does_not_offer() {
    let folder = Folder::new();
    folder.train("run", &["train.steps=1"]).ok();
    for command in ["eval runs/run", "generate runs/run -p x"] {
        let command = format!("{command} --device cpu --precision bf16");
        let words = [
            "--precision is \"bf16\"",
            "offers f32",
            "--precision one of f32",
        ];
        folder.bellows(&command).refused(&words);
    }
}
