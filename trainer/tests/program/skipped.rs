//! Steps whose loss is not finite.

use crate::common::Folder;

const DIVERGES: [&str; 5] = [
    "train.steps=50",
    "optimizer.learning_rate=1e30",
    "schedule.kind='constant'",
    "schedule.warmup_steps=0",
    "checkpoint.every=1",
];

#[test]
fn steps_without_a_finite_loss_are_skipped_counted_and_end_the_run_with_their_origin() {
    let folder = Folder::new();
    let mut settings = DIVERGES.to_vec();
    settings.push("train.skip_limit=3");
    let done = folder.train("run", &settings).refused(&[
        "3 steps in a row had no finite loss",
        "corpus/",
        ".txt",
        "optimizer.learning_rate",
    ]);
    let skips = done.stderr.matches("skipped: the loss is NaN").count();
    assert_eq!(skips, 3, "{}", done.stderr);

    let rows = folder.metrics("run");
    let good = rows
        .values()
        .filter(|row| row["skipped"] == "false")
        .count() as u64;
    assert!(good > 0, "no step was good");
    let events = folder.text("runs/run/events.jsonl");
    let events: Vec<serde_json::Value> = events
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let skipped: Vec<_> = events.iter().filter(|e| e["kind"] == "skipped").collect();
    assert_eq!(skipped.len(), 3);
    for (event, step) in skipped.iter().zip(good + 1..) {
        assert_eq!(event["step"], step);
        let origin = event["data"]["origin"].as_str().expect("an origin");
        assert!(origin.contains("corpus/"), "{origin}");
    }
    let failed = events.last().expect("events");
    assert_eq!(
        (&failed["kind"], &failed["step"]),
        (&"failed".into(), &(good + 3).into())
    );
    // Every skipped step has its row, the last one too.
    assert_eq!(rows.len() as u64, good + 3);
    assert!(
        rows.values()
            .skip(good as usize)
            .all(|row| row["skipped"] == "true")
    );

    // Steps that change nothing must not push good checkpoints out.
    assert_eq!(folder.checkpoints("run").last(), Some(&good));
    assert_eq!(folder.state("run"), "failed");
}

#[test]
fn a_few_bad_steps_do_not_end_a_run() {
    let folder = Folder::new();
    let mut settings = DIVERGES.to_vec();
    settings.extend(["train.skip_limit=100", "train.steps=10"]);
    let done = folder.train("run", &settings).ok();
    let rows = folder.metrics("run");
    assert_eq!(rows.len(), 10);
    let skipped = rows.values().filter(|row| row["skipped"] == "true").count();
    assert!(skipped > 3, "{}", done.stderr);
    assert_eq!(done.stderr.matches(" skipped: ").count(), skipped);
    // The run can be taken up: its last state was written, with the count of skips.
    let state = folder.checkpoint("run", 10, "state.json");
    let state: serde_json::Value =
        serde_json::from_slice(&std::fs::read(state).expect("a state")).expect("JSON");
    assert_eq!(state["skipped_in_a_row"], skipped);
    assert_eq!(state["updates"], 10 - skipped);
}
