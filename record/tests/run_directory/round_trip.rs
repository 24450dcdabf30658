//! What is written is what is read; what a resume replaces is gone.

use std::fs;

use crate::support::*;
use bellows_record::{
    Event, EventKind, Liveness, ProbeToken, RecordError, RunReader, RunState, RunWriter, Sample,
    TraceRow, is_run, list_runs, serde_json,
};

#[test]
fn everything_written_is_read_back() {
    let root = tempfile::tempdir().unwrap();
    let writer = create(root.path());
    let path = writer.path().to_owned();
    let trace: Vec<TraceRow> = (0..2)
        .map(|slot| TraceRow {
            sequence: 0,
            position: 5,
            layer: 1,
            iteration: 0,
            slot,
            expert: 3 - slot,
            weight: 0.75,
        })
        .collect();
    let probe = vec![ProbeToken {
        sequence: 0,
        position: 5,
        token: 77,
        text: "fn\u{fffd} 🦀".into(),
        source: "serde".into(),
    }];
    let plan = serde_json::json!({"peak": 12, "rejected": []});
    for step in 1..=3 {
        write_step(&writer, step, 0);
    }
    writer.trace(2, trace.clone()).unwrap();
    writer.probe(probe.clone()).unwrap();
    writer.plan(&plan).unwrap();
    writer.flush().unwrap();
    assert_eq!(open(&path).liveness(), Liveness::Running);
    writer.finish(RunState::Finished).unwrap();

    let run = open(&path);
    assert_eq!(run.liveness(), Liveness::Finished);
    assert_eq!(run.manifest().info, info());
    assert_eq!(run.manifest().progress.tokens, 3000);
    assert_eq!(run.config().unwrap(), "steps = 100\n");
    assert_eq!(run.plan().unwrap(), Some(plan));
    let losses: Vec<u64> = run
        .metrics()
        .read_all()
        .unwrap()
        .iter()
        .map(|row| row.step)
        .collect();
    assert_eq!(losses, [1, 2, 3]);
    assert_eq!(
        run.samples().read_all().unwrap()[1],
        Sample {
            step: 2,
            text: "fn f2() {\n}".into(),
            ..Sample::default()
        }
    );
    let events = run.events().read_all().unwrap();
    assert_eq!(events.len(), 3);
    assert_eq!(events[2].kind, EventKind::Evaluated);

    macro_rules! stream {
        ($name:ident, $rows:expr) => {
            let mut stream = run.$name();
            assert_eq!(stream.poll().unwrap().rows, [1, 2, 3]);
            for step in 1..=3 {
                assert_eq!(stream.read(step).unwrap(), $rows(step));
            }
            assert_eq!(stream.read(4).unwrap(), []);
            assert_eq!(
                (stream.latest(), stream.at_or_before(99)),
                (Some(3), Some(3))
            );
            assert_eq!(stream.at_or_before(0), None);
            assert_eq!(stream.row_count(2), $rows(2).len() as u64);
            assert_eq!(stream.problems(), []);
        };
    }
    stream!(routing, |step| routing(step, 0));
    stream!(routers, routers);
    stream!(transitions, transitions);
    stream!(memory, memory);
    assert_eq!(run.trace_steps().unwrap(), [2]);
    assert_eq!(run.trace(2).unwrap(), trace);
    assert_eq!(run.trace(1).unwrap(), []);
    assert_eq!(run.probe().unwrap(), probe);
    assert_eq!(run.checkpoints().unwrap(), []);
}

#[test]
fn a_resume_replaces_the_steps_after_its_checkpoint() {
    let root = tempfile::tempdir().unwrap();
    let writer = create(root.path());
    let path = writer.path().to_owned();
    for step in 1..=13 {
        write_step(&writer, step, 0);
    }
    writer.trace(8, Vec::new()).unwrap();
    writer.trace(12, Vec::new()).unwrap();
    writer.finish(RunState::Stopped).unwrap();

    // One who watched all the time, and holds what it was told.
    let watcher = open(&path);
    let (mut lines, mut stream, mut log) = (watcher.metrics(), watcher.routing(), watcher.events());
    let (mut rows, mut steps) = (Vec::new(), Vec::new());
    lines.poll().unwrap().apply(&mut rows, |row| row.step);
    stream.poll().unwrap().apply(&mut steps, |&step| step);
    assert_eq!((rows.len(), steps.len()), (13, 13));
    assert_eq!(log.poll().unwrap().rows.len(), 13);

    let writer = RunWriter::resume(&path, info(), 11).unwrap();
    assert_eq!(writer.segment(), 1);
    writer.flush().unwrap();
    // Before the new process took a step, the steps it will take again no longer count.
    lines.poll().unwrap().apply(&mut rows, |row| row.step);
    stream.poll().unwrap().apply(&mut steps, |&step| step);
    assert_eq!((rows.len(), steps.len()), (10, 10));
    for step in 11..=12 {
        write_step(&writer, step, 7);
    }
    writer.finish(RunState::Stopped).unwrap();
    lines.poll().unwrap().apply(&mut rows, |row| row.step);
    stream.poll().unwrap().apply(&mut steps, |&step| step);
    assert_eq!(log.poll().unwrap().rows.len(), 2);

    let run = open(&path);
    let metrics = run.metrics().read_all().unwrap();
    assert_eq!(rows, metrics);
    let read: Vec<(u64, u32, f64)> = metrics
        .iter()
        .map(|row| (row.step, row.segment, row.loss))
        .collect();
    assert_eq!(read[9], (10, 0, 0.0));
    assert_eq!(read[10..], [(11, 1, 7.0), (12, 1, 7.0)]);
    assert_eq!(run.last_metrics(3).unwrap(), metrics[9..]);
    assert_eq!(run.samples().read_all().unwrap().len(), 12);
    assert_eq!(run.events().read_all().unwrap().len(), 15);
    let mut fresh = run.routing();
    assert_eq!(fresh.poll().unwrap().rows, steps);
    assert_eq!(fresh.latest(), Some(12));
    assert_eq!(fresh.read(10).unwrap(), routing(10, 0));
    assert_eq!(fresh.read(11).unwrap(), routing(11, 7));
    assert_eq!(stream.read(12).unwrap(), routing(12, 7));
    assert_eq!(run.trace_steps().unwrap(), [8]);

    // Back further still, past a segment's beginning.
    let writer = RunWriter::resume(&path, info(), 6).unwrap();
    assert_eq!(writer.segment(), 2);
    write_step(&writer, 6, 9);
    writer.finish(RunState::Stopped).unwrap();
    lines.poll().unwrap().apply(&mut rows, |row| row.step);
    stream.poll().unwrap().apply(&mut steps, |&step| step);
    assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
    assert_eq!(rows.last().unwrap().loss, 9.0);
    assert_eq!(rows, open(&path).metrics().read_all().unwrap());
    // Nothing was thrown away for good.
    let text = fs::read_to_string(path.join("metrics.jsonl")).unwrap();
    assert_eq!(text.lines().count(), 13 + 2 + 1);
}

#[test]
fn a_segment_the_manifest_lost_still_replaces_from_its_first_row_on() {
    let root = tempfile::tempdir().unwrap();
    let path = {
        let writer = create(root.path());
        for step in 1..=9 {
            write_step(&writer, step, 0);
        }
        writer.path().to_owned()
    };
    let manifest = fs::read(path.join("manifest.json")).unwrap();
    let writer = RunWriter::resume(&path, info(), 4).unwrap();
    for step in 4..=5 {
        write_step(&writer, step, 1);
    }
    drop(writer);
    fs::write(path.join("manifest.json"), manifest).unwrap();
    let run = open(&path);
    let mut stream = run.routing();
    stream.poll().unwrap();
    assert_eq!(stream.steps().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(stream.read(4).unwrap(), routing(4, 1));
    assert_eq!(run.metrics().read_all().unwrap().len(), 5);
    // And its number is not given away again.
    let writer = RunWriter::resume(&path, info(), 6).unwrap();
    assert_eq!(writer.segment(), 2);
}

#[test]
fn a_taken_name_gets_a_number() {
    let root = tempfile::tempdir().unwrap();
    let writers = [
        create(root.path()),
        create(root.path()),
        create(root.path()),
    ];
    assert_eq!(
        writers.each_ref().map(|writer| writer.name()),
        ["run", "run-2", "run-3"]
    );
    let ids = writers.map(|writer| open(writer.path()).manifest().run_id.clone());
    assert!(ids[0] != ids[1] && ids[1] != ids[2]);
}

#[test]
fn a_newer_major_version_is_refused_in_words_and_a_newer_minor_one_is_read() {
    let root = tempfile::tempdir().unwrap();
    let writer = create(root.path());
    write_step(&writer, 1, 0);
    let path = writer.path().to_owned();
    writer.finish(RunState::Finished).unwrap();
    let manifest = fs::read_to_string(path.join("manifest.json")).unwrap();
    let with_version = |version: &str| {
        let other = manifest.replace(
            &format!("\"{}\"", bellows_record::SCHEMA_VERSION),
            &format!("\"{version}\""),
        );
        assert_ne!(other, manifest);
        fs::write(path.join("manifest.json"), other).unwrap();
    };

    with_version("2.0");
    for error in [
        RunReader::open(&path).unwrap_err(),
        RunWriter::resume(&path, info(), 2).map(drop).unwrap_err(),
    ] {
        assert!(matches!(error, RecordError::UnsupportedVersion { .. }));
        let words = error.to_string();
        assert!(
            words.contains("schema 2.0") && words.contains("newer Bellows"),
            "{words}"
        );
    }
    let list = list_runs(root.path()).unwrap();
    assert_eq!((list.runs.len(), list.unreadable.len()), (0, 1));

    with_version("1.7");
    let text = fs::read_to_string(path.join("manifest.json")).unwrap();
    let text = text.replacen('{', "{\"colour\": \"blue\",", 1);
    fs::write(path.join("manifest.json"), text).unwrap();
    assert_eq!(open(&path).metrics().read_all().unwrap().len(), 1);
    // What an older program does not know survives its resume.
    drop(RunWriter::resume(&path, info(), 2).unwrap());
    let manifest = open(&path).manifest().clone();
    assert_eq!(manifest.extra["colour"], "blue");
    assert_eq!(manifest.schema_version.to_string(), "1.7");
}

#[test]
fn what_is_no_run_is_said_to_be_none_and_left_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("photos");
    fs::create_dir(&path).unwrap();
    let refused = [
        RunReader::open(&path).map(drop),
        RunWriter::resume(&path, info(), 1).map(drop),
    ];
    for result in refused {
        assert!(matches!(result, Err(RecordError::NotARun { .. })));
    }
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    assert!(!is_run(&path));
    let missing = RunReader::open(&root.path().join("nowhere"));
    assert!(matches!(missing, Err(RecordError::Io { .. })));

    fs::write(
        path.join("manifest.json"),
        "{\"schema_version\": \"1.0\",\n \"name\": 3",
    )
    .unwrap();
    match RunReader::open(&path) {
        Err(RecordError::Json { line, .. }) => assert_eq!(line, 2),
        other => panic!("{other:?}"),
    }
}

#[test]
fn runs_are_listed_newest_first_with_what_a_table_shows() {
    let root = tempfile::tempdir().unwrap();
    assert!(
        list_runs(&root.path().join("runs"))
            .unwrap()
            .runs
            .is_empty()
    );
    let first = create(root.path());
    let mut row = metrics(7, 1.5);
    row.validation_loss = Some(1.75);
    first.metrics(row).unwrap();
    first.metrics(metrics(8, f64::NAN)).unwrap();
    first.finish(RunState::Finished).unwrap();
    let second = create(root.path());
    second.flush().unwrap();
    fs::create_dir(root.path().join("photos")).unwrap();

    let list = list_runs(root.path()).unwrap();
    assert!(list.unreadable.is_empty());
    // Made within a millisecond they have the same time.
    let find = |name: &str| list.runs.iter().find(|run| run.name == name).unwrap();
    assert_eq!(list.runs.len(), 2);
    assert!(
        list.runs
            .is_sorted_by_key(|run| std::cmp::Reverse(run.created))
    );
    let run = find("run");
    assert_eq!(run.liveness, Liveness::Finished);
    assert_eq!((run.step, run.total_steps), (8, 100));
    assert_eq!((run.loss, run.validation_loss), (None, Some(1.75)));
    assert_eq!(run.device, "a processor");
    assert_eq!(find("run-2").liveness, Liveness::Running);
}

#[test]
fn a_writer_dropped_without_a_word_has_failed_and_wrote_everything() {
    let root = tempfile::tempdir().unwrap();
    let writer = create(root.path());
    let path = writer.path().to_owned();
    for step in 1..=500 {
        writer.metrics(metrics(step, 1.0)).unwrap();
    }
    writer.set_state(RunState::Paused).unwrap();
    writer.flush().unwrap();
    assert_eq!(open(&path).liveness(), Liveness::Paused);
    drop(writer);
    let run = open(&path);
    assert_eq!(run.liveness(), Liveness::Failed);
    assert_eq!(run.manifest().progress.step, 500);
    assert_eq!(run.metrics().read_all().unwrap().len(), 500);
}

#[test]
fn rows_from_many_threads_all_arrive() {
    let root = tempfile::tempdir().unwrap();
    let writer = create(root.path());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let writer = &writer;
            scope.spawn(move || {
                for step in 0..300 {
                    let event = Event::new(step, EventKind::Command, "").with("thread", thread);
                    writer.event(event).unwrap();
                }
            });
        }
    });
    writer.flush().unwrap();
    assert_eq!(open(writer.path()).events().read_all().unwrap().len(), 1200);
}

#[test]
fn a_spread_of_metrics_reaches_over_the_run_and_a_resume_and_holds_no_row_twice() {
    let root = tempfile::tempdir().unwrap();
    let writer = create(root.path());
    let path = writer.path().to_owned();
    assert!(open(&path).spread_metrics(8).unwrap().is_empty());
    for step in 1..=400 {
        writer.metrics(metrics(step, 1.0)).unwrap();
    }
    writer.finish(RunState::Stopped).unwrap();
    // What was written after step 300 is given up.
    let writer = RunWriter::resume(&path, info(), 301).unwrap();
    for step in 301..=500 {
        writer.metrics(metrics(step, 2.0)).unwrap();
    }
    writer.finish(RunState::Finished).unwrap();

    let spread = open(&path).spread_metrics(64).unwrap();
    assert!((40..=64).contains(&spread.len()), "{} rows", spread.len());
    assert!(spread.windows(2).all(|pair| pair[0].step < pair[1].step));
    assert!(spread[0].step == 1 && spread[spread.len() - 1].step > 450);
    for row in &spread {
        let loss = if row.step > 300 { 2.0 } else { 1.0 };
        assert_eq!(row.loss, loss, "step {}", row.step);
    }
    // More places than rows: each row once.
    let all = open(&path).spread_metrics(5000).unwrap();
    assert!(all.len() <= 500 && all.len() > 450);
}
