//! Runs in f16: the loss is scaled, overflows are survived, and a resume repeats them.

use crate::common::{Done, Folder};

/// A first scale of 2²², which takes gradients of around 0.1 out of the range of f16 where the
/// experts multiply them; a few halvings bring them back.
const OVERFLOWS: [&str; 7] = [
    "run.device='gpu'",
    "train.precision='f16'",
    "train.steps=16",
    "train.skip_limit=1",
    "loss_scale.initial=4194304",
    "loss_scale.growth_interval=2",
    "checkpoint.every=4",
];

fn skip(reason: &str) {
    let test = std::thread::current();
    println!("SKIPPED {}: {reason}", test.name().unwrap_or("unnamed"));
}

/// Trains the run `name` on the device under test; `None`, with a counted skip, where that has no
/// f16.
fn train(folder: &Folder, name: &str) -> Option<()> {
    match std::env::var("BELLOWS_TEST_DEVICE").as_deref() {
        Err(std::env::VarError::NotPresent) | Ok("cpu") => {
            skip("the CPU backend computes in f32");
            return None;
        }
        Ok("gpu") => {}
        other => panic!("BELLOWS_TEST_DEVICE is {other:?}; it must be \"cpu\" or \"gpu\""),
    }
    let done = folder.train(name, &OVERFLOWS);
    if done.stderr.contains("f16 needs it in buffers") {
        skip("the device has no f16");
        return None;
    }
    done.ok();
    Some(())
}

#[test]
fn overflows_skip_their_step_halve_the_scale_and_good_steps_raise_it_again() {
    let folder = Folder::new();
    let Some(()) = train(&folder, "run") else {
        return;
    };
    let reader = bellows_record::RunReader::open(&folder.run("run")).expect("a run");
    let rows = reader.metrics().read_all().expect("metrics");
    assert_eq!(rows.len(), 16);
    let scale = |row: &bellows_record::StepMetrics| row.loss_scale.expect("a run in f16 has one");
    assert_eq!(scale(&rows[0]), 4194304.0);
    let (mut skipped, mut good, mut grown) = (0, 0, 0);
    for pair in rows.windows(2) {
        let (row, next) = (&pair[0], &pair[1]);
        if row.skipped {
            (skipped, good) = (skipped + 1, 0);
            assert!(row.loss.is_finite(), "the loss itself is not scaled");
            assert_eq!(scale(next), scale(row) / 2.0, "after step {}", row.step);
        } else if good == 1 {
            (good, grown) = (0, grown + 1);
            let bounded = f64::max(scale(row), 16_777_216.0);
            assert_eq!(scale(next), f64::min(2.0 * scale(row), bounded));
        } else {
            good += 1;
            assert_eq!(scale(next), scale(row), "after step {}", row.step);
        }
        assert_eq!(row.skipped_steps, Some(skipped), "step {}", row.step);
    }
    // More in a row than `train.skip_limit` allows of steps that have another cause.
    assert!(skipped > 1 && grown > 0, "{skipped} skipped, {grown} grown");
    let events = reader.events().read_all().expect("events");
    let overflows = events
        .iter()
        .filter(|event| event.kind == bellows_record::EventKind::Overflow)
        .count() as u64;
    // The pairs leave out whether the last step itself was skipped.
    let last = rows.last().expect("a step");
    assert_eq!(overflows, skipped + u64::from(last.skipped));
    let first = events.first().expect("an event");
    assert_eq!(first.data["precision"], "f16");
    let manifest = reader.manifest();
    assert_eq!(manifest.info.device.precision, "f16");
    assert_eq!(manifest.info.device.dtype, "f32");
}

#[test]
fn a_model_held_in_f16_has_the_loss_of_one_in_f32_but_for_rounding() {
    if std::env::var("BELLOWS_TEST_DEVICE").as_deref() != Ok("gpu") {
        skip("the CPU backend computes in f32");
        return;
    }
    let folder = Folder::new();
    folder
        .train("run", &["run.device='cpu'", "train.steps=4"])
        .ok();
    let eval = |precision: &str| {
        let options = "--batches 1 --json --device gpu --precision";
        folder.bellows(&format!("eval runs/run {options} {precision}"))
    };
    let in_f16 = eval("f16");
    if in_f16.stderr.contains("f16 needs it in buffers") {
        skip("the device has no f16");
        return;
    }
    let loss = |done: Done| {
        let document = done.ok().stdout;
        let document: serde_json::Value = serde_json::from_str(&document).expect("JSON");
        document["validation_loss"].as_f64().expect("a number")
    };
    let (found, wanted) = (loss(in_f16), loss(eval("f32")));
    assert!(
        (found - wanted).abs() < 0.01 * wanted,
        "{found}, in f32 {wanted}"
    );
    assert_ne!(found, wanted, "something was rounded");
}

#[test]
fn a_resume_goes_on_with_the_scale_and_its_count() {
    let folder = Folder::new();
    let Some(()) = train(&folder, "run") else {
        return;
    };
    let checkpoints = folder.checkpoints("run");
    let from = checkpoints.iter().min().expect("a checkpoint");
    folder.copy_run("run", "again");
    let resume = format!("resume runs/again --from {from}");
    folder.bellows(&resume).ok();
    folder.assert_equal_runs("run", "again", 16);
    let state = |run: &str, step: u64| -> serde_json::Value {
        let text = std::fs::read(folder.checkpoint(run, step, "state.json")).expect("a state");
        serde_json::from_slice(&text).expect("JSON")
    };
    let last = state("run", 16);
    assert!(last["loss_scale"]["scale"].is_f64(), "{last}");
    assert_eq!(last["loss_scale"], state("again", 16)["loss_scale"]);
    assert_eq!(last["updates"], state("again", 16)["updates"]);
}
