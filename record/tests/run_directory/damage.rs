//! Files cut anywhere, filled with garbage, replaced under the reader's eyes.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::support::*;
use bellows_record::{RecordError, RunState, RunWriter, TraceRow};

/// Few, because some tests try every byte.
const STEPS: u64 = 3;

fn ended_run(root: &Path) -> PathBuf {
    let writer = create(root);
    for step in 1..=STEPS {
        write_step(&writer, step, 0);
    }
    let row = TraceRow {
        sequence: 0,
        position: 1,
        layer: 0,
        iteration: 1,
        slot: 0,
        expert: 2,
        weight: 0.5,
    };
    writer.trace(1, vec![row; 3]).unwrap();
    let path = writer.path().to_owned();
    writer.finish(RunState::Finished).unwrap();
    path
}

fn cut(path: &Path, length: u64) {
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(length)
        .unwrap();
}

/// Damages each byte of a file in turn, and looks at the file each time.
fn with_each_byte_damaged(path: &Path, bytes: &[u8], look: impl Fn()) {
    fs::write(path, bytes).unwrap();
    let mut file = File::options().write(true).open(path).unwrap();
    let mut put = |at: usize, byte: u8| {
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.write_all(&[byte]).unwrap();
    };
    for (at, &byte) in bytes.iter().enumerate() {
        put(at, byte ^ 0x55);
        look();
        put(at, byte);
    }
}

fn append(path: &Path, bytes: &[u8]) {
    let mut file = File::options().append(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn metrics_cut_at_any_byte_keep_every_whole_line() {
    let root = tempfile::tempdir().unwrap();
    let path = ended_run(root.path());
    let file = path.join("metrics.jsonl");
    let text = fs::read(&file).unwrap();
    let run = open(&path);
    for length in (0..=text.len()).rev() {
        cut(&file, length as u64);
        let whole = text[..length].iter().filter(|&&b| b == b'\n').count();
        let mut reader = run.metrics();
        let rows = reader.read_all().unwrap();
        assert_eq!(rows.len(), whole, "cut at {length}");
        assert!(rows.iter().zip(1..).all(|(row, step)| row.step == step));
        assert_eq!(reader.bad_lines().count, 0);
        let last = run.last_metrics(2).unwrap();
        assert_eq!(last, rows[rows.len().saturating_sub(2)..]);
    }
}

#[test]
fn a_half_line_is_read_when_its_other_half_arrives() {
    let root = tempfile::tempdir().unwrap();
    let path = ended_run(root.path());
    let file = path.join("metrics.jsonl");
    let text = fs::read(&file).unwrap();
    fs::write(&file, b"").unwrap();
    let mut reader = open(&path).metrics();
    let mut rows = Vec::new();
    for piece in text.chunks(37) {
        append(&file, piece);
        reader.poll().unwrap().apply(&mut rows, |row| row.step);
    }
    assert_eq!(rows.len() as u64, STEPS);
    assert!(reader.poll().unwrap().is_empty());
}

#[test]
fn streams_cut_at_any_byte_keep_every_whole_batch() {
    let root = tempfile::tempdir().unwrap();
    let path = ended_run(root.path());
    let file = path.join("routing.0.arrows");
    let bytes = fs::read(&file).unwrap();
    let run = open(&path);
    let mut before = STEPS as usize;
    for length in (0..=bytes.len()).rev() {
        cut(&file, length as u64);
        let mut reader = run.routing();
        let steps = reader.poll().unwrap().rows;
        assert_eq!(reader.problems(), [], "cut at {length}");
        assert!(steps.len() <= before && before - steps.len() <= 1);
        assert!(steps.iter().copied().eq(1..=steps.len() as u64));
        if steps.len() < before {
            // The step that just lost its last byte is gone; the one before it is whole.
            before = steps.len();
            if let Some(&last) = steps.last() {
                assert_eq!(reader.read(last).unwrap(), routing(last, 0));
            }
        }
    }
    assert_eq!(before, 0);
}

#[test]
fn a_growing_stream_is_followed_batch_by_batch() {
    let root = tempfile::tempdir().unwrap();
    let path = ended_run(root.path());
    let file = path.join("memory.0.arrows");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, b"").unwrap();
    let mut reader = open(&path).memory();
    let mut steps = Vec::new();
    for piece in bytes.chunks(101) {
        append(&file, piece);
        steps.extend(reader.poll().unwrap().rows);
        if let Some(&last) = steps.last() {
            assert_eq!(reader.read(last).unwrap(), memory(last));
        }
    }
    assert!(steps.iter().copied().eq(1..=STEPS));
}

#[test]
fn a_stream_that_ends_in_a_batch_says_where_and_a_whole_one_says_nothing() {
    let root = tempfile::tempdir().unwrap();
    let path = ended_run(root.path());
    let file = path.join("routing.0.arrows");
    let length = fs::metadata(&file).unwrap().len();
    let mut reader = open(&path).routing();
    reader.poll().unwrap();
    assert_eq!(reader.half_written().count(), 0);
    cut(&file, length - 20);
    let mut reader = open(&path).routing();
    reader.poll().unwrap();
    let half: Vec<_> = reader.half_written().collect();
    assert_eq!((half.len(), &half[0].path), (1, &file));
    // What stands before that byte is whole.
    cut(&file, half[0].offset);
    let mut reader = open(&path).routing();
    assert_eq!(reader.poll().unwrap().rows.len() as u64, STEPS - 1);
    assert_eq!(reader.half_written().count(), 0);
}

#[test]
fn a_killed_writers_tails_do_not_reach_the_next_segment() {
    let root = tempfile::tempdir().unwrap();
    let path = ended_run(root.path());
    for name in ["metrics.jsonl", "events.jsonl", "routing.0.arrows"] {
        let length = fs::metadata(path.join(name)).unwrap().len();
        cut(&path.join(name), length - 20);
    }
    fs::write(path.join(".tmp-1-manifest.json"), "half").unwrap();
    fs::write(path.join("traces/.tmp-1-00000009.0.arrow"), "half").unwrap();
    fs::create_dir_all(path.join("checkpoints/.tmp-00000009-1-0")).unwrap();
    fs::write(path.join("checkpoints/.tmp-00000009-1-0/model"), "half").unwrap();

    let writer = RunWriter::resume(&path, info(), STEPS).unwrap();
    write_step(&writer, STEPS, 5);
    writer.finish(RunState::Finished).unwrap();
    assert!(!path.join(".tmp-1-manifest.json").exists());
    assert_eq!(fs::read_dir(path.join("traces")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(path.join("checkpoints")).unwrap().count(), 0);
    let run = open(&path);
    let mut reader = run.metrics();
    let rows = reader.read_all().unwrap();
    assert_eq!(rows.len() as u64, STEPS);
    assert_eq!(rows.last().unwrap().loss, 5.0);
    let bad = reader.bad_lines();
    assert_eq!(bad.count, 1);
    assert_eq!(bad.last.as_ref().unwrap().line, STEPS);
    assert_eq!(run.events().read_all().unwrap().len() as u64, STEPS);
    let mut stream = run.routing();
    assert!(stream.poll().unwrap().rows.into_iter().eq(1..=STEPS));
    assert_eq!(stream.read(STEPS).unwrap(), routing(STEPS, 5));
}

#[test]
fn garbage_between_lines_is_counted_and_located_and_costs_no_row() {
    let root = tempfile::tempdir().unwrap();
    let path = ended_run(root.path());
    let file = path.join("metrics.jsonl");
    let good = fs::read(&file).unwrap();
    let mut text = b"\xff\xfe\x00 no UTF-8\n\n{\"step\":\n[1,2]\n".to_vec();
    text.extend(&good);
    text.extend(b"{\"step\":1e9,\"loss\":1}\n{\"step\":-4}\n");
    // One line too long to be a row, then a good one.
    text.extend(vec![b'x'; 9 << 20]);
    text.extend(b"\n{\"step\":4,\"loss\":1}\n");
    fs::write(&file, text).unwrap();
    for chunk in [1, 1000, 64 << 20] {
        let mut reader = open(&path).metrics();
        let mut rows = Vec::new();
        loop {
            let update = reader.poll_at_most(chunk).unwrap();
            let more = update.more;
            update.apply(&mut rows, |row| row.step);
            if !more {
                break;
            }
        }
        assert_eq!(rows.len() as u64, STEPS + 1);
        let bad = reader.bad_lines();
        assert_eq!(bad.count, 6);
        let last = bad.last.as_ref().unwrap();
        assert_eq!(last.line, STEPS + 7);
        assert!(last.message.contains("MiB"), "{}", last.message);
    }
}

#[test]
fn garbage_in_a_stream_ends_it_there_and_says_so() {
    let root = tempfile::tempdir().unwrap();
    let path = ended_run(root.path());
    let file = path.join("routing.0.arrows");
    let good = fs::read(&file).unwrap();
    let end_marker = 8;
    let whole = good.len() - end_marker;
    let with_tail = |tail: &[u8]| {
        fs::write(&file, &good[..whole]).unwrap();
        append(&file, tail);
        let mut reader = open(&path).routing();
        assert_eq!(reader.poll().unwrap().rows.len() as u64, STEPS);
        assert_eq!(reader.read(STEPS).unwrap(), routing(STEPS, 0));
        let problems = reader.problems().to_vec();
        assert_eq!(problems.len(), 1, "{tail:?}");
        assert_eq!(problems[0].offset, whole as u64);
    };
    // Zeros are what a power cut may leave; then plain garbage, absurd lengths, random metadata.
    with_tail(&[0; 64]);
    with_tail(b"hello, this is no arrow message");
    with_tail(&[0xff; 64]);
    with_tail(
        &[[0xff; 4], [40, 0, 0, 0]]
            .concat()
            .into_iter()
            .chain([7; 200])
            .collect::<Vec<_>>(),
    );
    // The schema again: two streams in one file.
    with_tail(&good);

    // Any single damaged byte: an error or other numbers, never a panic.
    with_each_byte_damaged(&file, &good, || {
        let mut reader = open(&path).routing();
        reader.poll().unwrap();
        for step in reader.steps().collect::<Vec<_>>() {
            let _ = reader.read(step);
        }
    });
}

#[test]
fn a_file_that_was_replaced_or_cut_is_read_anew() {
    let root = tempfile::tempdir().unwrap();
    let path = ended_run(root.path());
    let run = open(&path);
    let (mut lines, mut stream) = (run.metrics(), run.routing());
    let (mut rows, mut steps) = (Vec::new(), Vec::new());
    lines.poll().unwrap().apply(&mut rows, |row| row.step);
    stream.poll().unwrap().apply(&mut steps, |&step| step);
    assert_eq!((rows.len() as u64, steps.len() as u64), (STEPS, STEPS));

    let text = fs::read_to_string(path.join("metrics.jsonl")).unwrap();
    let half: String = text
        .lines()
        .take(2)
        .map(|line| format!("{line}\n"))
        .collect();
    cut(&path.join("metrics.jsonl"), half.len() as u64);
    let update = lines.poll().unwrap();
    assert_eq!(update.keep_below, Some(0));
    update.apply(&mut rows, |row| row.step);
    assert_eq!(rows.len(), 2);

    // Another file under the same name, no shorter than what was read.
    fs::write(path.join("other"), &text).unwrap();
    fs::rename(path.join("other"), path.join("metrics.jsonl")).unwrap();
    lines.poll().unwrap().apply(&mut rows, |row| row.step);
    assert_eq!(rows.len() as u64, STEPS);

    let bytes = fs::read(path.join("routing.0.arrows")).unwrap();
    fs::write(path.join("other"), &bytes).unwrap();
    fs::rename(path.join("other"), path.join("routing.0.arrows")).unwrap();
    stream.poll().unwrap().apply(&mut steps, |&step| step);
    assert!(steps.iter().copied().eq(1..=STEPS));
    assert_eq!(stream.read(STEPS).unwrap(), routing(STEPS, 0));

    fs::remove_dir_all(&path).unwrap();
    assert!(matches!(lines.poll(), Err(RecordError::NotARun { .. })));
    assert!(matches!(stream.poll(), Err(RecordError::NotARun { .. })));
}

#[test]
fn a_damaged_trace_is_an_error_that_names_its_file() {
    let root = tempfile::tempdir().unwrap();
    let path = ended_run(root.path());
    let file = path.join("traces/00000001.0.arrow");
    let good = fs::read(&file).unwrap();
    for length in (0..good.len()).rev() {
        cut(&file, length as u64);
        match open(&path).trace(1) {
            Err(RecordError::Arrow { path, .. }) => assert_eq!(path, file),
            other => panic!("cut at {length}: {other:?}"),
        }
    }
    // Any single damaged byte: an error or other numbers, never a panic.
    with_each_byte_damaged(&file, &good, || {
        let _ = open(&path).trace(1);
    });
    // Whole, but a table of another kind.
    fs::write(path.join("traces/probe.arrow"), &good).unwrap();
    let error = open(&path).probe().unwrap_err().to_string();
    assert!(error.contains("no column \"token\""), "{error}");
}
