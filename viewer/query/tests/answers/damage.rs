//! Runs that are cut, foreign, incomplete or gone: each says so, and the rest of it is still answered.

use std::fs::{self, OpenOptions};
use std::path::Path;

use bellows_query::flow::{Revisits, Transitions};
use bellows_query::routing::{Measure, Order, RoutingLoad};
use bellows_query::tokens::TracedText;
use bellows_query::{Gap, Options, RunId, Severity, Span, Store};
use bellows_record::{ModelSummary, RunInfo, RunState, RunWriter};

use crate::support::{self, PATIENCE, router};

fn open(run: &Path) -> (Store, RunId) {
    let store = Store::new(Options::default());
    let id = store.open(run);
    store.wait(id, PATIENCE);
    (store, id)
}

fn load(run: RunId, step: u64) -> RoutingLoad {
    RoutingLoad {
        run,
        span: Span::at(step),
        measure: Measure::Tokens,
        order: Order::Index,
        layer: None,
    }
}

fn cut(file: &Path, bytes: u64) {
    let length = fs::metadata(file).unwrap().len();
    OpenOptions::new()
        .write(true)
        .open(file)
        .unwrap()
        .set_len(length - bytes)
        .unwrap();
}

#[test]
fn a_stream_cut_in_a_batch_shows_the_steps_before_and_says_where_it_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let run = support::write(folder.path(), "run");
    // Behind the last batch stand the eight bytes of the stream's end.
    cut(&run.join("routing.0.arrows"), 100);
    let (store, id) = open(&run);
    let shown = store.answer(&load(id, 30)).unwrap();
    assert_eq!(shown.steps.first, 20);
    let snapshot = store.run(id).unwrap();
    let note = snapshot
        .notes
        .iter()
        .find(|note| note.file == "routing.0.arrows")
        .unwrap();
    assert_eq!(note.severity, Severity::Warning);
    assert!(
        note.text.contains("cut") && note.remedy.contains("step 20"),
        "{note:?}"
    );
}

#[test]
fn garbage_in_a_stream_or_a_line_is_noted_and_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let run = support::write(folder.path(), "run");
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    fs::write(
        run.join("metrics.jsonl"),
        metrics.replacen("\"step\":5,", "\"step\":nonsense,", 1),
    )
    .unwrap();
    let mut routing = fs::read(run.join("routing.0.arrows")).unwrap();
    let end = routing.len() - 8;
    routing.splice(end.., *b"this is no Arrow message at all");
    fs::write(run.join("routing.0.arrows"), routing).unwrap();
    let (store, id) = open(&run);
    assert_eq!(store.answer(&load(id, 30)).unwrap().steps.first, 30);
    let notes = store.run(id).unwrap().notes.clone();
    let of_file = |file: &str| {
        notes
            .iter()
            .any(|note| note.file == file && note.severity == Severity::Warning)
    };
    assert!(
        of_file("metrics.jsonl") && of_file("routing.0.arrows"),
        "{notes:?}"
    );
}

#[test]
fn another_schema_is_named_with_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    let run = support::write(folder.path(), "run");
    let manifest = fs::read_to_string(run.join("manifest.json")).unwrap();
    let at = manifest.find("\"schema_version\": \"").unwrap();
    let end = at + 19 + manifest[at + 19..].find('"').unwrap();
    fs::write(
        run.join("manifest.json"),
        format!(
            "{}\"schema_version\": \"99.0{}",
            &manifest[..at],
            &manifest[end..]
        ),
    )
    .unwrap();
    let (store, id) = open(&run);
    let gap = store.answer(&load(id, 30)).unwrap_err();
    assert!(matches!(gap, Gap::NewerSchema { .. }), "{gap}");
    assert!(gap.to_string().contains("99.0") && gap.remedy().is_some());
    assert!(store.run(id).unwrap().problem.is_some());
}

#[test]
fn a_missing_trace_says_which_setting_would_have_written_it() {
    let folder = tempfile::tempdir().unwrap();
    let run = support::write(folder.path(), "run");
    fs::remove_dir_all(run.join("traces")).unwrap();
    let (store, id) = open(&run);
    let text = TracedText {
        run: id,
        step: 30,
        router: router(0, 0),
    };
    let gap = store.answer(&text).unwrap_err();
    assert!(
        matches!(gap, Gap::NotRecorded { .. }) && gap.remedy().unwrap().contains("traces_every"),
        "{gap:?}"
    );
    // Everything else is there.
    assert!(store.answer(&load(id, 30)).is_ok());
    assert!(
        store
            .run(id)
            .unwrap()
            .notes
            .iter()
            .any(|note| note.severity == Severity::Info && note.file == "traces")
    );
}

#[test]
fn a_trace_without_its_text_or_cut_short_is_explained_and_the_others_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let run = support::write(folder.path(), "run");
    cut(&run.join("traces/00000030.0.arrow"), 50);
    let (store, id) = open(&run);
    let text = |step| TracedText {
        run: id,
        step,
        router: router(0, 0),
    };
    let gap = store.answer(&text(30)).unwrap_err();
    assert!(
        matches!(gap, Gap::Unreadable { .. }) && gap.to_string().contains("00000030.0.arrow"),
        "{gap}"
    );
    assert!(store.answer(&text(29)).is_ok());
    fs::remove_file(run.join("traces/probe.arrow")).unwrap();
    let (store, id) = open(&run);
    let gap = store
        .answer(&TracedText {
            run: id,
            step: 10,
            router: router(0, 0),
        })
        .unwrap_err();
    assert!(gap.to_string().contains("probe.arrow"), "{gap}");
}

#[test]
fn a_dense_model_and_a_plain_mixture_say_what_they_have_not() {
    let folder = tempfile::tempdir().unwrap();
    let writer = RunWriter::create(folder.path(), "dense", RunInfo::default(), "").unwrap();
    let path = writer.path().to_owned();
    writer.finish(RunState::Finished).unwrap();
    let (store, id) = open(&path);
    let gap = store.answer(&load(id, 1)).unwrap_err();
    assert!(gap.to_string().contains("dense"), "{gap}");

    let info = RunInfo {
        model: ModelSummary {
            experts: 4,
            iterations: 1,
            experts_per_token: 1,
            ..ModelSummary::default()
        },
        ..RunInfo::default()
    };
    let writer = RunWriter::create(
        folder.path(),
        "moe",
        info,
        "[record]\ntransitions_every = 0\n",
    )
    .unwrap();
    let row = |expert| bellows_record::RoutingRow {
        layer: 0,
        iteration: 0,
        expert,
        tokens: 5,
        probability: 0.25,
        bias: Some(0.5),
    };
    writer.routing(1, (0..4).map(row).collect()).unwrap();
    let path = writer.path().to_owned();
    writer.finish(RunState::Finished).unwrap();
    let (store, id) = open(&path);
    let gap = store.answer(&Revisits { run: id, step: 1 }).unwrap_err();
    assert!(gap.to_string().contains("routes once"), "{gap}");
    let transitions = Transitions {
        run: id,
        step: 1,
        from: router(0, 0),
        to: router(1, 0),
        order: Order::Index,
    };
    let gap = store.answer(&transitions).unwrap_err();
    assert!(gap.to_string().contains("transitions_every = 0"), "{gap}");
    assert_eq!(store.answer(&load(id, 1)).unwrap().bias, [0.5; 4]);
}

#[test]
fn a_path_that_is_no_run_is_a_problem_in_words_and_not_a_wait() {
    let folder = tempfile::tempdir().unwrap();
    let (store, id) = open(&folder.path().join("nowhere"));
    let gap = store.answer(&load(id, 1)).unwrap_err();
    assert!(matches!(gap, Gap::Unreadable { .. }), "{gap:?}");
    store.close(id);
    assert!(matches!(
        store.answer(&load(id, 1)),
        Err(Gap::NoSuch { .. })
    ));
    assert!(store.run(id).is_none());
}

#[test]
fn an_expert_number_that_damage_made_up_does_not_fill_memory() {
    let folder = tempfile::tempdir().unwrap();
    let writer = support::writer(folder.path(), "run");
    let row = |expert| bellows_record::RoutingRow {
        layer: 0,
        iteration: 0,
        expert,
        tokens: 5,
        probability: 0.25,
        bias: None,
    };
    writer.routing(10, vec![row(0), row(u32::MAX - 1)]).unwrap();
    writer.routing(20, vec![row(0), row(1)]).unwrap();
    let path = writer.path().to_owned();
    writer.finish(RunState::Finished).unwrap();
    let (store, id) = open(&path);
    let gap = store.answer(&load(id, 10)).unwrap_err();
    assert!(gap.to_string().contains("damaged"), "{gap}");
    assert_eq!(store.answer(&load(id, 20)).unwrap().experts, 2);
}
