use bellows_query::Gap;
use bellows_query::tokens::{
    ExpertTokens, Grouping, Saturation, Speciality, TokenClass, TokenPath, TracedText,
};

use crate::support::{self, router};

#[test]
fn tokens_are_special_by_lift_over_the_base_rate() {
    let run = support::small();
    let tokens = ExpertTokens {
        run: run.id,
        step: 30,
        router: router(0, 0),
        expert: 2,
        group: Grouping::Token,
        at_least: 1,
    };
    let found = run.ask(&tokens);
    // Two of six tokens are brackets, and they alone choose expert 2.
    assert_eq!(found.base, 2.0 / 6.0);
    assert_eq!(
        (found.rows[0].label.as_str(), found.rows[0].lift),
        ("(", 3.0)
    );
    let rare = run.ask(&ExpertTokens {
        at_least: 3,
        ..tokens
    });
    assert!(rare.rows.is_empty() && rare.rare > 0);
    let classes = run.ask(&Speciality {
        run: run.id,
        step: 30,
        router: router(0, 0),
        group: Grouping::Class,
    });
    let bracket = classes
        .groups
        .iter()
        .position(|group| group.0 == TokenClass::Bracket.name())
        .unwrap();
    assert_eq!(classes.lift[bracket * 4 + 2], 3.0);
    assert_eq!(classes.repeated[bracket], 1.0);
    let sources = run.ask(&Speciality {
        run: run.id,
        step: 30,
        router: router(0, 0),
        group: Grouping::Source,
    });
    assert_eq!(sources.groups.len(), 2);
}

#[test]
fn a_text_and_a_path_show_the_trace_at_or_before_the_cursor() {
    let run = support::small();
    let text = run.ask(&TracedText {
        run: run.id,
        step: 29,
        router: router(1, 0),
    });
    assert_eq!(
        (text.step, text.tokens.len(), text.sequences.len()),
        (10, 6, 2)
    );
    let chosen: Vec<_> = text.choices(0).collect();
    assert_eq!(chosen, [(3, 0.75), (2, 0.25)]);
    let path = run.ask(&TokenPath {
        run: run.id,
        step: 30,
        sequence: 0,
        position: 1,
    });
    assert_eq!(path.hops.len(), 4);
    assert_eq!(path.context.0, "fn");
    let nobody = run.store.answer(&TokenPath {
        run: run.id,
        step: 30,
        sequence: 9,
        position: 0,
    });
    assert!(matches!(nobody, Err(Gap::NoSuch { .. })));
}

#[test]
fn saturation_compares_every_trace_with_the_last() {
    let run = support::small();
    let curves = run.ask(&Saturation {
        run: run.id,
        layer: None,
    });
    assert_eq!(curves.steps, [10, 30]);
    assert_eq!(curves.mean[1], 1.0);
    assert!(curves.mean[0] < 0.7, "{:?}", curves.mean);
    assert_eq!(curves.chance, 0.5);
    assert_eq!(curves.settled(0.99), Some(30));
}
