use bellows_query::compare::LoadDifference;
use bellows_query::routing::Measure;
use bellows_query::scalars::{Axis, ConfigDifferences, Curves};
use bellows_query::search::{Search, Target};
use bellows_query::{Gap, RouterId, Span};

use crate::support;

#[test]
fn curves_smooth_clip_and_stretch_along_any_axis() {
    let run = support::small();
    let curve = Curves {
        runs: vec![run.id],
        metric: "loss".to_owned(),
        span: Span::ALL,
        columns: 1000,
        axis: Axis::Step,
        smoothing: 0,
        outliers: 0,
    };
    let plain = run.ask(&curve);
    assert_eq!(plain.curves[0].points.len(), 30);
    let spike = plain.range.unwrap().1;
    assert_eq!(spike, 1000.0);
    assert_eq!(
        plain.curves[0]
            .points
            .iter()
            .map(|point| point.bad)
            .sum::<u32>(),
        1
    );
    let clipped = run.ask(&Curves {
        outliers: 50,
        ..curve.clone()
    });
    assert!(clipped.range.unwrap().1 < 10.0);
    let smooth = run.ask(&Curves {
        smoothing: 900,
        ..curve.clone()
    });
    assert!(smooth.curves[0].points[29].smooth > plain.curves[0].points[29].mean);
    let tokens = run.ask(&Curves {
        axis: Axis::Tokens,
        ..curve.clone()
    });
    assert_eq!(tokens.curves[0].points[29].x, 30_000.0);
    let none = run.store.answer(&Curves {
        metric: "no such".to_owned(),
        ..curve
    });
    assert!(matches!(none, Err(Gap::NoSuch { .. })));
}

#[test]
fn two_runs_are_compared_by_loads_and_settings() {
    let run = support::small();
    let other = support::write(run.folder.path(), "other");
    let other = run.store.open(&other);
    assert!(run.store.wait(other, support::PATIENCE));
    let change = run.ask(&LoadDifference {
        before: (run.id, Span::at(10)),
        after: (other, Span::at(20)),
        measure: Measure::Tokens,
    });
    assert!((change.values[0] - 1.2).abs() < 1e-6);
    assert!((change.moved[0] - 0.4).abs() < 1e-6);
    let settings = run.ask(&ConfigDifferences {
        runs: vec![run.id, other],
        only_different: true,
    });
    assert_eq!(settings.settings.len(), 1);
    assert_eq!(settings.settings[0].key, "run.name");
}

#[test]
fn search_finds_metrics_settings_tokens_experts_and_steps() {
    let run = support::small();
    let find = |text: &str| {
        let hits = run.ask(&Search {
            runs: vec![run.id],
            text: text.to_owned(),
            limit: 5,
        });
        hits.hits
            .iter()
            .map(|hit| hit.target.clone())
            .collect::<Vec<_>>()
    };
    assert!(find("LOSS").contains(&Target::Metric("loss".to_owned())));
    assert!(find("routing nothing").is_empty());
    assert!(find("routing_every").contains(&Target::Setting("record.routing_every".to_owned())));
    assert!(find("layer 1 expert 3").contains(&Target::Expert(
        RouterId {
            layer: 1,
            iteration: 0
        },
        3
    )));
    assert!(find("30").contains(&Target::Step(30)));
    assert!(
        find("main")
            .iter()
            .any(|target| matches!(target, Target::Token(0, 1)))
    );
    assert!(find("hello").contains(&Target::Event(3)));
    assert!(find(" ").is_empty());
}

#[test]
fn every_answer_has_a_sentence_and_a_table_of_full_rows() {
    let run = support::small();
    let mut asked = 0;
    support::every_question(&run.store, run.id, 30, |name, answer| {
        let answer = answer.unwrap_or_else(|gap| panic!("{name}: {gap}"));
        support::check(name, answer);
        asked += 1;
    });
    assert_eq!(asked, 26);
}
