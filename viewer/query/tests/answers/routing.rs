use bellows_query::routing::{
    Balance, BalanceFigure, ExpertCard, Health, LoadOverTime, Measure, Order, RoutingLoad,
};
use bellows_query::{Answer, Gap, Span};

use crate::support::{self, Opened, router};

fn load(run: &Opened, span: Span, measure: Measure, order: Order) -> RoutingLoad {
    RoutingLoad {
        run: run.id,
        span,
        measure,
        order,
        layer: None,
    }
}

#[test]
fn loads_are_in_even_shares_and_every_order_keeps_numbers_with_their_expert() {
    let run = support::small();
    let by_index = run.ask(&load(&run, Span::at(10), Measure::Tokens, Order::Index));
    assert_eq!(
        by_index.routers,
        [router(0, 0), router(0, 1), router(1, 0), router(1, 1)]
    );
    // 10, 20, 30, 40 tokens: in shares of 25.
    assert_eq!(by_index.values[..4], [0.4, 0.8, 1.2, 1.6]);
    assert_eq!(by_index.tokens[..4], [10, 20, 30, 40]);
    let by_load = run.ask(&load(&run, Span::at(10), Measure::Tokens, Order::Load));
    assert_eq!(by_load.order[..4], [3, 2, 1, 0]);
    assert_eq!(by_load.values[..4], [1.6, 1.2, 0.8, 0.4]);
    assert_eq!(by_load.place(0, 3), Some(0));
    let difference = run.ask(&load(&run, Span::at(10), Measure::Difference, Order::Index));
    assert!((difference.values[0] - (0.4 - 1.0)).abs() < 1e-6);
    assert_eq!(difference.scale().neutral, Some(0.0));
    let clustered = run.ask(&load(&run, Span::at(10), Measure::Tokens, Order::Cluster));
    let mut experts = clustered.order[..4].to_vec();
    experts.sort_unstable();
    assert_eq!(experts, [0, 1, 2, 3]);
    for place in 0..4 {
        assert_eq!(
            clustered.tokens[place],
            10 * (u64::from(clustered.order[place]) + 1)
        );
    }
}

#[test]
fn a_cursor_shows_the_record_before_it_and_a_range_sums_its_records() {
    let run = support::small();
    let between = run.ask(&load(&run, Span::at(19), Measure::Tokens, Order::Index));
    assert_eq!(between.steps.first, 10);
    let range = run.ask(&load(
        &run,
        Span::between(30, 10),
        Measure::Tokens,
        Order::Index,
    ));
    assert_eq!(
        (range.steps.first, range.steps.last, range.steps.read),
        (10, 30, 3)
    );
    // The second and third records are the other way round.
    assert_eq!(
        range.tokens[..4],
        [10 + 40 + 40, 20 + 30 + 30, 30 + 20 + 20, 40 + 10 + 10]
    );
    assert_eq!(range.table().rows.len(), 16);
    let early = run
        .store
        .answer(&load(&run, Span::at(9), Measure::Tokens, Order::Index));
    assert!(
        matches!(
            early,
            Err(Gap::TooEarly {
                first: 10,
                step: 9,
                ..
            })
        ),
        "{early:?}"
    );
}

#[test]
fn a_dead_expert_is_dead_only_if_the_whole_window_gave_it_nothing() {
    let run = support::small();
    let dead = |span| {
        let health = run.ask(&Health { run: run.id, span });
        // Layer 1 iteration 1.
        health.routers[3].dead.clone()
    };
    assert_eq!(dead(Span::at(10)), [0, 1]);
    assert_eq!(dead(Span::at(20)), [2, 3]);
    assert_eq!(dead(Span::ALL), Vec::<u32>::new());
    let health = run.ask(&Health {
        run: run.id,
        span: Span::at(10),
    });
    let first = &health.routers[0];
    assert!((first.imbalance - 1.6).abs() < 1e-6 && first.fullest == 3);
    assert_eq!(
        (first.tokens, first.assignments, first.dropped),
        (Some(50), 100, 2)
    );
    assert!((first.relative_entropy().unwrap() - 1.0 / 4f32.ln()).abs() < 1e-6);
    let balance = run.ask(&Balance {
        run: run.id,
        span: Span::ALL,
        columns: 10,
        figure: BalanceFigure::Dead,
    });
    assert_eq!(
        balance.curves[3]
            .1
            .iter()
            .map(|point| point.max)
            .collect::<Vec<_>>(),
        [2.0, 2.0, 2.0]
    );
    assert!(!balance.reading);
}

#[test]
fn loads_over_time_follow_the_records() {
    let run = support::small();
    let time = LoadOverTime {
        run: run.id,
        router: router(0, 0),
        span: Span::ALL,
        columns: 100,
        measure: Measure::Tokens,
        order: Order::Index,
    };
    let found = run.ask(&time);
    assert_eq!(
        found
            .columns
            .iter()
            .map(|column| column.first)
            .collect::<Vec<_>>(),
        [10, 20, 30]
    );
    // Expert 0 in row 0.
    assert_eq!(found.values[..3], [0.4, 1.6, 1.6]);
    let joined = run.ask(&LoadOverTime { columns: 1, ..time });
    assert_eq!(joined.columns.len(), 1);
    assert!((joined.values[0] - 1.2).abs() < 1e-6);
    let none = run.store.answer(&LoadOverTime {
        router: router(7, 0),
        ..time
    });
    assert!(matches!(none, Err(Gap::NoSuch { .. })));
}

#[test]
fn an_expert_card_gathers_what_is_known_and_says_what_is_not() {
    let run = support::small();
    let card = run.ask(&ExpertCard {
        run: run.id,
        router: router(0, 0),
        expert: 3,
        step: 10,
        columns: 50,
    });
    assert_eq!((card.tokens, card.rank), (40, 1));
    assert_eq!(card.history.len(), 3);
    // Transitions were recorded at step 30 alone.
    assert!(matches!(card.before, Err(Gap::TooEarly { .. })));
    let later = run.ask(&ExpertCard {
        run: run.id,
        router: router(0, 0),
        expert: 0,
        step: 30,
        columns: 50,
    });
    assert!(matches!(later.before, Err(Gap::NoSuch { .. })));
    assert!((later.after.as_ref().unwrap()[0].lift - 4.0 / 3.0).abs() < 1e-6);
}
