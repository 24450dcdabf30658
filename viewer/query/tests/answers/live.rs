//! Runs that grow, go back or appear while they are looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bellows_query::routing::{Measure, Order, RoutingLoad};
use bellows_query::scalars::{Axis, Curves};
use bellows_query::{Options, RunId, RunSnapshot, Span, Store};
use bellows_record::{RunState, RunWriter};

use crate::support::{self, PATIENCE};

fn wait(store: &Store, run: RunId, what: &str, enough: impl Fn(&RunSnapshot) -> bool) {
    let began = Instant::now();
    while !store.run(run).is_some_and(|run| enough(&run)) {
        assert!(began.elapsed() < PATIENCE, "{what}: {:?}", store.run(run));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn load(run: RunId) -> RoutingLoad {
    RoutingLoad {
        run,
        span: Span::at(u64::MAX),
        measure: Measure::Tokens,
        order: Order::Index,
        layer: None,
    }
}

#[test]
fn a_step_that_is_written_reaches_remembered_answers_and_rings_the_bell() {
    let folder = tempfile::tempdir().unwrap();
    let writer = support::writer(folder.path(), "run");
    support::metrics(&writer, 1);
    support::routing(&writer, 10);
    let rings = Arc::new(AtomicUsize::new(0));
    let bell = rings.clone();
    let store = Store::new(Options {
        notify: Arc::new(move || _ = bell.fetch_add(1, Ordering::Relaxed)),
        ..Options::default()
    });
    let id = store.open(writer.path());
    wait(&store, id, "the first step", |run| *run.routing == [10]);
    assert_eq!(
        store.ask(&load(id)).answer.unwrap().unwrap().steps.first,
        10
    );
    let before = (rings.load(Ordering::Relaxed), store.revision(id));
    support::routing(&writer, 20);
    support::metrics(&writer, 2);
    wait(&store, id, "the second step", |run| {
        *run.routing == [10, 20] && run.steps == Some((1, 2))
    });
    assert_eq!(
        store.ask(&load(id)).answer.unwrap().unwrap().steps.first,
        20
    );
    assert!(rings.load(Ordering::Relaxed) > before.0 && store.revision(id) > before.1);
    assert!(store.run(id).unwrap().liveness.unwrap().is_live());
    writer.finish(RunState::Finished).unwrap();
    wait(&store, id, "the end", |run| {
        run.liveness.is_some_and(|liveness| !liveness.is_live())
    });
}

#[test]
fn a_resume_takes_back_what_it_replaces() {
    let folder = tempfile::tempdir().unwrap();
    let path = support::write(folder.path(), "run");
    let store = Store::new(Options::default());
    let id = store.open(&path);
    assert!(store.wait(id, PATIENCE));
    let before = store.answer(&load(id)).unwrap();
    assert_eq!(before.tokens[0], 40);
    let writer = RunWriter::resume(&path, support::info(), 11).unwrap();
    support::metrics(&writer, 11);
    wait(&store, id, "the rest is void", |run| {
        *run.routing == [10] && run.steps == Some((1, 11))
    });
    assert_eq!(store.answer(&load(id)).unwrap().tokens[0], 10);
    let curves = Curves {
        runs: vec![id],
        metric: "loss".to_owned(),
        span: Span::ALL,
        columns: 100,
        axis: Axis::Step,
        smoothing: 0,
        outliers: 0,
    };
    assert_eq!(store.answer(&curves).unwrap().curves[0].points.len(), 11);
    writer.finish(RunState::Finished).unwrap();
}

#[test]
fn a_run_that_appears_later_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(Options::default());
    let id = store.open(&folder.path().join("run"));
    wait(&store, id, "a problem", |run| run.problem.is_some());
    support::write(folder.path(), "run");
    wait(&store, id, "the run", |run| {
        run.problem.is_none() && *run.routing == [10, 20, 30]
    });
}

#[test]
fn runs_of_one_name_are_told_apart_and_a_path_is_opened_once() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Store::new(Options::default());
    let paths = [one.path(), two.path()].map(|root| support::write(root, "run"));
    let ids = paths.each_ref().map(|path| store.open(path));
    assert_eq!(store.open(&paths[0]), ids[0]);
    assert_eq!(store.runs(), ids);
    let names = ids.map(|id| store.run(id).unwrap().name.clone());
    assert_ne!(names[0], names[1]);
}

#[test]
fn many_questions_keep_within_the_memory_limit() {
    let run = support::small();
    let store = Store::new(Options {
        memory_limit: 0,
        ..Options::default()
    });
    let id = store.open(&run.store.run(run.id).unwrap().path);
    assert!(store.wait(id, PATIENCE));
    let limit = store.memory().limit;
    for limit_of_hits in 1..20_000 {
        let query = bellows_query::search::Search {
            runs: vec![id],
            text: format!("loss {limit_of_hits}"),
            limit: limit_of_hits,
        };
        store.answer(&query).unwrap();
    }
    let memory = store.memory();
    assert!(
        memory.answers > 1 << 20 && memory.histories + memory.answers <= limit,
        "{memory:?}"
    );
}
