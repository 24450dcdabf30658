//! Records that cannot be read whole, as the dashboard tells of them.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bellows_record::control::{
    Acknowledgement, CONTROL_VERSION, ControlListener, Intervals, Outcome, Reply, Status,
};
use bellows_record::{Liveness, RunInfo, RunState, RunWriter, StepMetrics};
use bellows_tui::store::{HomeData, HomeFollower, Loading, RunData, RunFollower, Shared};
use bellows_tui::theme::ThemeName;

use crate::runs::{Setting, alone};

fn record(root: &Path) -> RunWriter {
    let info = RunInfo {
        total_steps: 100,
        ..RunInfo::default()
    };
    let writer = RunWriter::create(root, "run", info, "[train]\nsteps = 100\n").expect("a run");
    for step in 1..=50 {
        writer.metrics(row(step)).expect("a row");
    }
    writer.flush().expect("it is written");
    writer
}

fn row(step: u64) -> StepMetrics {
    StepMetrics {
        step,
        loss: 4.0 - step as f64 / 100.0,
        ..StepMetrics::default()
    }
}

/// Waits until the store says so; the test's own limit ends a wait in vain.
fn wait(data: &Shared<RunData>, what: impl Fn(&RunData) -> bool) {
    while !what(&data.read()) {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The screen of a run that is followed, as text.
fn screen(follower: RunFollower) -> String {
    let setting = Setting::new(120, 40, ThemeName::None);
    setting.text(&mut alone(&setting, follower))
}

#[test]
fn a_half_written_line_waits_for_its_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let writer = record(folder.path());
    let path = writer.path().to_owned();
    writer.finish(RunState::Stopped).expect("closed");
    let metrics = path.join("metrics.jsonl");
    let whole = serde_json::to_string(&row(51)).expect("JSON");
    let append = |text: &str| {
        let mut file = OpenOptions::new()
            .append(true)
            .open(&metrics)
            .expect("the file");
        file.write_all(text.as_bytes()).expect("it is written");
    };
    append(&whole[..30]);
    let follower = RunFollower::start(path, Arc::new(|| {}));
    let data = follower.data.clone();
    wait(&data, |data| data.loading == Loading::Complete);
    assert_eq!(data.read().metrics.last().map(|row| row.step), Some(50));
    assert_eq!(data.read().trouble, None);
    append(&whole[30..]);
    append("\n");
    wait(&data, |data| {
        data.metrics.last().is_some_and(|row| row.step == 51)
    });
}

#[test]
fn a_record_of_another_schema_is_named_with_both_versions() {
    let folder = tempfile::tempdir().expect("a folder");
    let writer = record(folder.path());
    let path = writer.path().to_owned();
    writer.finish(RunState::Stopped).expect("closed");
    let manifest = path.join("manifest.json");
    let text = std::fs::read_to_string(&manifest).expect("a manifest");
    let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    json["schema_version"] = "9.3".into();
    std::fs::write(&manifest, json.to_string()).expect("written");
    let follower = RunFollower::start(path, Arc::new(|| {}));
    wait(&follower.data.clone(), |data| data.trouble.is_some());
    let text = screen(follower);
    assert!(text.contains("9.3") && text.contains("1."), "{text}");
}

#[test]
fn a_run_deleted_under_the_dashboard_is_told_in_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let writer = record(folder.path());
    let path = writer.path().to_owned();
    writer.finish(RunState::Stopped).expect("closed");
    let follower = RunFollower::start(path.clone(), Arc::new(|| {}));
    let data = follower.data.clone();
    wait(&data, |data| data.loading == Loading::Complete);
    std::fs::remove_dir_all(&path).expect("deleted");
    wait(&data, |data| data.trouble.is_some());
    let text = screen(follower);
    assert!(
        text.contains("is gone: the run was deleted or moved"),
        "{text}"
    );
}

#[test]
fn a_damaged_line_is_left_out_and_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    let writer = record(folder.path());
    let path = writer.path().to_owned();
    writer.finish(RunState::Stopped).expect("closed");
    let metrics = path.join("metrics.jsonl");
    let mut text = std::fs::read_to_string(&metrics).expect("rows");
    text.push_str("{\"step\": what?}\n");
    text.push_str(&serde_json::to_string(&row(52)).expect("JSON"));
    text.push('\n');
    std::fs::write(&metrics, text).expect("written");
    let follower = RunFollower::start(path, Arc::new(|| {}));
    let data = follower.data.clone();
    wait(&data, |data| {
        data.loading == Loading::Complete && !data.notes.is_empty()
    });
    assert_eq!(data.read().metrics.last().map(|row| row.step), Some(52));
    let notes = data.read().notes.join("; ");
    assert!(notes.contains("metrics.jsonl"), "{notes}");
}

/// Answers one client after the other with a status, as a run does whose disk is full.
fn answer(listener: &ControlListener) {
    while let Ok(mut stream) = listener.accept() {
        let status = Status {
            run: "run".into(),
            state: RunState::Running,
            step: 71,
            total_steps: 100,
            tokens: 0,
            loss: None,
            validation_loss: None,
            tokens_per_second: None,
            learning_rate_scale: 1.0,
            micro_batches: 1,
            intervals: Intervals::default(),
            trouble: Some("cannot write metrics.jsonl: No space left on device".into()),
        };
        let done = Acknowledgement {
            step: 71,
            status: Some(Box::new(status)),
            ..Acknowledgement::default()
        };
        let reply = Reply {
            version: CONTROL_VERSION,
            id: None,
            outcome: Outcome::Done(done),
        };
        let mut asked = [0; 1024];
        let _ = stream.read(&mut asked);
        let _ = stream.write_all(&reply.to_line());
    }
}

#[test]
fn a_run_whose_disk_is_full_lives_and_says_why_it_is_silent() {
    let folder = tempfile::tempdir().expect("a folder");
    let writer = record(folder.path());
    let path = writer.path().to_owned();
    writer.finish(RunState::Stopped).expect("closed");
    let manifest = path.join("manifest.json");
    let text = std::fs::read_to_string(&manifest).expect("a manifest");
    let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    json["state"] = "running".into();
    json["heartbeat"] = "2026-01-01T00:00:00Z".into();
    std::fs::write(&manifest, json.to_string()).expect("written");
    let listener = ControlListener::bind(&path, "run").expect("a socket");
    std::thread::spawn(move || answer(&listener));
    let follower = RunFollower::start(path, Arc::new(|| {}));
    wait(&follower.data.clone(), |data| data.unwritten.is_some());
    assert_eq!(follower.data.read().liveness, Some(Liveness::Running));
    let text = screen(follower);
    assert!(
        text.contains("the run goes on, step 71, but its record is not written"),
        "{text}"
    );
    assert!(text.contains("No space left on device"), "{text}");

    // The list of runs does not call it crashed either.
    let home = HomeFollower::start(folder.path().to_owned(), Arc::new(|| {}));
    wait_for_list(&home, |data| data.looked);
    let row = home.data.read().runs[0].summary.clone();
    assert_eq!((row.liveness, row.step), (Liveness::Running, 71));
}

fn wait_for_list(home: &HomeFollower, what: impl Fn(&HomeData) -> bool) {
    while !what(&home.data.read()) {
        std::thread::sleep(Duration::from_millis(5));
    }
}
