//! Two writers, killed writers, full disks.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::support::*;
use bellows_record::{Liveness, RecordError, RunState, RunWriter};

#[test]
fn a_run_has_one_writer_and_the_second_is_told_who_it_is() {
    let root = tempfile::tempdir().unwrap();
    let writer = create(root.path());
    let path = writer.path().to_owned();
    write_step(&writer, 1, 0);
    match RunWriter::resume(&path, info(), 2) {
        Err(RecordError::InUse { path: held, pid }) => {
            assert_eq!(held, path);
            if cfg!(unix) {
                assert_eq!(pid, Some(std::process::id()));
            }
        }
        other => panic!("{:?}", other.map(drop)),
    }
    // The refused one changed nothing.
    writer.flush().unwrap();
    assert_eq!(open(&path).manifest().segments.len(), 1);
    writer.finish(RunState::Stopped).unwrap();
    RunWriter::resume(&path, info(), 2).unwrap();
}

const CHILD: &str = "BELLOWS_RECORD_TEST_ROOT";

/// Not a test of its own: the process that `a_killed_writer_…` kills.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(root) = std::env::var_os(CHILD) else {
        return;
    };
    let writer = create(root.as_ref());
    for step in 1.. {
        write_step(&writer, step, 0);
        if step % 10 == 0 {
            writer.flush().unwrap();
            println!("flushed {step}");
        }
    }
}

#[test]
fn a_killed_writer_loses_nothing_it_flushed_and_leaves_the_run_to_others() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("run");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "writers::child_that_writes_until_it_is_killed",
            "--nocapture",
        ])
        .env(CHILD, root.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut flushed = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some((_, step)) = line.split_once("flushed ") {
            flushed = step.parse().unwrap();
        }
        if flushed == 30 {
            break;
        }
    }
    assert_eq!(flushed, 30);
    match RunWriter::resume(&path, info(), 1) {
        Err(RecordError::InUse { pid, .. }) => {
            if cfg!(unix) {
                assert_eq!(pid, Some(child.id()));
            }
        }
        other => panic!("{:?}", other.map(drop)),
    }
    assert_eq!(open(&path).liveness(), Liveness::Running);
    child.kill().unwrap();
    child.wait().unwrap();

    let run = open(&path);
    if cfg!(target_os = "linux") {
        assert_eq!(run.liveness(), Liveness::Crashed);
    }
    let rows = run.metrics().read_all().unwrap();
    assert!(rows.len() >= 30 && rows.iter().zip(1..).all(|(row, step)| row.step == step));
    let mut stream = run.transitions();
    let steps = stream.poll().unwrap().rows;
    assert!(steps.len() >= 30);
    for &step in &steps {
        assert_eq!(stream.read(step).unwrap(), transitions(step));
    }

    let writer = RunWriter::resume(&path, info(), 31).unwrap();
    write_step(&writer, 31, 1);
    writer.finish(RunState::Finished).unwrap();
    let rows = open(&path).metrics().read_all().unwrap();
    assert_eq!(rows.len(), 31);
    assert_eq!(rows[30].loss, 1.0);
}

// A device on which every write says that the disk is full stands in for a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_reported_and_spares_the_other_files() {
    let root = tempfile::tempdir().unwrap();
    let writer = create(root.path());
    let path = writer.path().to_owned();
    write_step(&writer, 1, 0);
    writer.finish(RunState::Stopped).unwrap();
    let metrics_file = path.join("metrics.jsonl");
    fs::rename(&metrics_file, path.join("aside")).unwrap();
    std::os::unix::fs::symlink("/dev/full", &metrics_file).unwrap();
    std::os::unix::fs::symlink("/dev/full", path.join("routing.1.arrows")).unwrap();

    let writer = RunWriter::resume(&path, info(), 2).unwrap();
    // The stream with that number is already there: this one gets the next.
    assert_eq!(writer.segment(), 2);
    writer.metrics(metrics(2, 1.0)).unwrap();
    let error = writer.flush().unwrap_err();
    assert!(error.is_disk_full(), "{error}");
    let words = error.to_string();
    assert!(
        words.contains("metrics.jsonl") && words.contains("free some space"),
        "{words}"
    );
    assert!(writer.last_error().unwrap().is_disk_full());
    // Each later call may bring the error, and its row is taken all the same.
    let _ = writer.sample(Default::default());
    let _ = writer.routing(2, routing(2, 0));
    assert!(writer.flush().is_err());
    assert!(writer.finish(RunState::Stopped).is_err());

    let run = open(&path);
    assert_eq!(run.liveness(), Liveness::Stopped);
    assert_eq!(run.samples().read_all().unwrap().len(), 2);
    let mut stream = run.routing();
    stream.poll().unwrap();
    assert_eq!(stream.read(2).unwrap(), routing(2, 0));
    fs::rename(path.join("aside"), &metrics_file).unwrap();
    assert_eq!(run.metrics().read_all().unwrap().len(), 1);
}

#[test]
fn a_directory_that_takes_nothing_is_known_before_training_starts() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("runs");
    fs::write(&file, "").unwrap();
    let error = RunWriter::create(&file, "run", info(), "")
        .map(drop)
        .unwrap_err();
    assert!(matches!(error, RecordError::Io { .. }));
    let error = RunWriter::create(root.path(), "../run", info(), "")
        .map(drop)
        .unwrap_err();
    assert!(matches!(error, RecordError::InvalidName { .. }));
}

#[test]
fn checkpoints_are_written_while_rows_go_on_and_appear_whole() {
    let root = tempfile::tempdir().unwrap();
    let writer = create(root.path());
    let run = open(writer.path());
    let pending = writer.begin_checkpoint(40).unwrap();
    let thread = std::thread::spawn(move || {
        fs::create_dir(pending.path().join("shards")).unwrap();
        fs::write(pending.path().join("shards/model.safetensors"), "weights").unwrap();
        fs::write(pending.path().join("state.json"), "{}").unwrap();
        pending
    });
    write_step(&writer, 41, 0);
    let pending = thread.join().unwrap();
    assert_eq!(run.checkpoints().unwrap(), []);
    let path = pending.commit().unwrap();
    assert_eq!(run.checkpoints().unwrap(), [(40, path.clone())]);
    assert_eq!(path, bellows_record::checkpoint_path(writer.path(), 40));
    assert!(path.join("shards/model.safetensors").is_file());
    writer.remove_checkpoint(40).unwrap();
    assert_eq!(run.checkpoints().unwrap(), []);
}
