//! Runs that are stopped, killed, or wanted twice.

use std::time::Duration;

use crate::common::{Folder, Random, Running};

/// Steps of a run that is to be killed ten times on its way.
const STEPS: u64 = 500;
/// Steps between its checkpoints.
const EVERY: u64 = 10;

const SETTINGS: [&str; 8] = [
    "train.steps=500",
    "checkpoint.keep_last=3",
    "train.batch_size=1",
    "checkpoint.every=10",
    "evaluate.every=100",
    "record.transitions_every=10",
    "record.traces_every=50",
    "model.num_hidden_layers=1",
];

/// Both files of a checkpoint hold whole tensors.
fn assert_loads(folder: &Folder, run: &str, step: u64) {
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let bytes = std::fs::read(folder.checkpoint(run, step, file)).expect("a checkpoint");
        let tensors = safetensors::SafeTensors::deserialize(&bytes)
            .unwrap_or_else(|error| panic!("{file} of step {step}: {error}"));
        assert!(!tensors.is_empty());
    }
}

fn newest(folder: &Folder, run: &str) -> u64 {
    // A killed writer may leave a checkpoint begun: only named ones count.
    let entries = std::fs::read_dir(folder.run(run).join("checkpoints"));
    let steps = entries.into_iter().flatten().filter_map(|entry| {
        let name = entry.expect("an entry").file_name();
        name.to_str()?.parse().ok()
    });
    steps.max().unwrap_or(0)
}

#[test]
fn killed_at_any_moment_a_run_loses_only_the_steps_since_its_checkpoint() {
    let folder = Folder::new();
    folder.train("whole", &SETTINGS).ok();
    let mut random = Random(7);
    let mut running = Running::start(&mut folder.train_command("killed", &SETTINGS));
    running.wait_until(|| newest(&folder, "killed") > 0);
    let mut before = newest(&folder, "killed");
    for kill in 1..=10 {
        // Some kills come while the program starts or opens its checkpoint, most a few steps on,
        // each at some moment of a step, or of a checkpoint being written.
        if random.below(4) > 0 {
            let wanted = before + random.below(3) * EVERY;
            running.wait_until(|| newest(&folder, "killed") >= wanted);
        }
        std::thread::sleep(Duration::from_micros(random.below(40_000)));
        assert!(!running.ended(), "it ended before kill {kill}");
        running.signal(libc::SIGKILL);
        let done = running.finish();
        assert_eq!(done.code, None, "{}", done.stderr);

        let last = newest(&folder, "killed");
        assert!(
            last >= before,
            "checkpoint {before} was lost, {last} is left"
        );
        assert_loads(&folder, "killed", last);
        // Everything to the checkpoint is on disk.
        let rows = folder.metrics("killed");
        for step in 1..=last {
            assert!(rows.contains_key(&step), "row {step} was lost at {last}");
        }
        assert_eq!(folder.state("killed"), "crashed");

        before = last;
        running = Running::start(&mut folder.command("resume runs/killed"));
        running.wait_for_line(&format!("runs/killed from step {last}"));
    }
    let done = running.finish().ok();
    assert!(done.stderr.contains("500 of 500"), "{}", done.stderr);
    folder.assert_equal_runs("whole", "killed", STEPS);
    // Nothing half-written stays behind: every name among the checkpoints is a step.
    assert_eq!(folder.checkpoints("killed"), [480, 490, 500]);
    // The Arrow streams of eleven segments read as one.
    let steps = |run: &str| {
        let reader = bellows_record::RunReader::open(&folder.run(run)).expect("a run");
        let mut routing = reader.routing();
        while routing.poll().expect("readable").more {}
        let steps: Vec<u64> = routing.steps().collect();
        let rows: Vec<_> = steps
            .iter()
            .map(|&step| routing.read(step).expect("readable"))
            .collect();
        (steps, rows)
    };
    assert_eq!(steps("whole"), steps("killed"));
}

#[test]
fn ctrl_c_stops_after_the_step_with_a_checkpoint_and_resume_goes_on_exactly() {
    let folder = Folder::new();
    let settings = [
        "train.steps=150",
        "train.accumulation=2",
        "checkpoint.every=20",
    ];
    folder.train("whole", &settings).ok();
    for (name, signal) in [("interrupted", libc::SIGINT), ("terminated", libc::SIGTERM)] {
        let mut running = Running::start(&mut folder.train_command(name, &settings));
        running.wait_until(|| newest(&folder, name) > 0);
        running.signal(signal);
        let done = running.finish().ok();
        assert!(
            done.stderr.contains("stopping after this step"),
            "{}",
            done.stderr
        );
        assert!(
            done.stderr.contains("Stopped interrupted"),
            "{}",
            done.stderr
        );
        let resume = format!("bellows resume runs/{name}");
        assert!(done.stderr.contains(&resume), "{}", done.stderr);
        let rows = folder.metrics(name).len() as u64;
        assert!(rows < 150, "it was not stopped");
        assert_eq!(
            folder.checkpoints(name).last(),
            Some(&rows),
            "no checkpoint of the last step"
        );
        assert_eq!(folder.state(name), "stopped");
        folder.bellows(&format!("resume runs/{name}")).ok();
        folder.assert_equal_runs("whole", name, 150);
    }
}

#[test]
fn a_second_ctrl_c_stops_at_once() {
    let folder = Folder::new();
    // One step that takes far longer than the test.
    let settings = ["train.accumulation=1000000"];
    let mut running = Running::start(&mut folder.train_command("run", &settings));
    running.wait_for_line("Training");
    running.signal(libc::SIGINT);
    running.wait_for_line("Ctrl-C again stops at once");
    running.signal(libc::SIGINT);
    let done = running.finish();
    assert_eq!(done.code, Some(130), "{}", done.stderr);
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    assert!(folder.checkpoints_or_none("run").is_empty());
}

#[test]
fn a_run_in_use_is_refused_with_the_process_that_has_it() {
    let folder = Folder::new();
    let settings = ["train.steps=100000", "checkpoint.every=500"];
    let mut running = Running::start(&mut folder.train_command("run", &settings));
    running.wait_until(|| newest(&folder, "run") > 0);
    let pid = format!("process {}", running.pid());
    folder
        .bellows("resume runs/run --from 500")
        .refused(&["runs/run is in use by", &pid]);
    assert!(!running.ended(), "the live run was disturbed");
    // Another run of the name gets a folder of its own.
    folder.train("run", &["train.steps=1"]).ok();
    assert!(folder.run("run-2").join("manifest.json").exists());
    running.signal(libc::SIGINT);
    running.finish().ok();
}

#[test]
fn ctrl_c_while_the_corpus_is_prepared_ends_without_a_run() {
    let folder = Folder::new();
    let sentence = "a long corpus takes a while to be split into tokens, line by line.\n";
    folder.write("corpus/long.txt", sentence.repeat(400_000));
    let mut running = Running::start(&mut folder.train_command("run", &[]));
    running.wait_for_line("Data");
    running.signal(libc::SIGINT);
    let done = running.finish();
    assert_eq!(done.code, Some(130), "{}", done.stderr);
    assert!(!folder.path("runs").exists());
}
