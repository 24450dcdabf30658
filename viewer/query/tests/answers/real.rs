//! A record that the program made: sixty steps of `examples/rust-code.toml`.

use std::path::Path;

use bellows_query::flow::Revisits;
use bellows_query::routing::{Measure, Order, RoutingLoad};
use bellows_query::{Options, Severity, Span, Store};

use crate::support::{self, PATIENCE};

fn open() -> (Store, bellows_query::RunId) {
    let store = Store::new(Options::default());
    let id = store.open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/rust-code"));
    assert!(store.wait(id, PATIENCE), "{:?}", store.run(id));
    (store, id)
}

#[test]
fn every_question_has_an_answer_in_a_run_that_the_program_made() {
    let (store, id) = open();
    let last = store.run(id).unwrap().range().unwrap().1;
    support::every_question(&store, id, last, |name, answer| match answer {
        Ok(answer) => support::check(name, answer),
        Err(gap) => panic!("{name}: {gap}"),
    });
    let notes = store.run(id).unwrap().notes.clone();
    assert!(
        notes.iter().all(|note| note.severity == Severity::Info),
        "{notes:?}"
    );
}

#[test]
fn every_token_of_a_real_run_is_assigned_k_times() {
    let (store, id) = open();
    let snapshot = store.run(id).unwrap();
    let k = u64::from(snapshot.shape.k);
    let load = RoutingLoad {
        run: id,
        span: Span::at(u64::MAX),
        measure: Measure::Tokens,
        order: Order::Index,
        layer: None,
    };
    let load = store.answer(&load).unwrap();
    assert_eq!(load.routers.len(), 8);
    for health in &load.health {
        assert_eq!(
            Some(health.assignments),
            health.tokens.map(|tokens| tokens * k)
        );
        let mean: f32 = load.probability.iter().sum::<f32>() / load.routers.len() as f32;
        assert!((mean - 1.0).abs() < 1e-3);
    }
    // The shares of tokens that experts see again come from pairs; they are shares.
    let revisits = store
        .answer(&Revisits {
            run: id,
            step: u64::MAX,
        })
        .unwrap();
    for layer in &revisits.layers {
        let shares = |share: &f32| share.is_nan() || (0.0..=1.0).contains(share);
        assert!(
            !layer.traced && layer.experts.iter().all(shares),
            "{layer:?}"
        );
        assert!((0.0..=1.0).contains(&layer.share));
        assert!((layer.chance - 0.25).abs() < 0.1, "{layer:?}");
    }
}
