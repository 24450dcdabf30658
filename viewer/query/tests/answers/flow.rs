use bellows_query::compare::TransitionDifference;
use bellows_query::flow::{Combinations, FlowStrength, Revisits, Sankey, SankeyPath, Transitions};
use bellows_query::routing::Order;

use crate::support::{self, router};

#[test]
fn transitions_are_conditional_on_the_expert_before_and_compared_with_chance() {
    let run = support::small();
    let matrix = run.ask(&Transitions {
        run: run.id,
        step: 30,
        from: router(0, 0),
        to: router(0, 1),
        order: Order::Index,
    });
    assert_eq!(matrix.conditional[..4], [0.5, 0.5, 0.0, 0.0]);
    assert_eq!(matrix.independent, [0.375, 0.375, 0.125, 0.125]);
    assert_eq!((matrix.lift[2 * 4 + 2], matrix.lift[2]), (2.0, 0.0));
    assert!((matrix.mutual_information - 0.2157).abs() < 1e-3);
    assert!((matrix.relative_information - 0.1718).abs() < 1e-3);
    // Experts 2 and 3 of the last iteration got nothing: no probability at all, not 0.
    let next = run.ask(&Transitions {
        run: run.id,
        step: 30,
        from: router(0, 1),
        to: router(1, 0),
        order: Order::Cluster,
    });
    let row = next.rows.iter().position(|&expert| expert == 2).unwrap();
    assert!(next.conditional[row * 4].is_nan() && next.lift[row * 4].is_nan());
    let layers = run.ask(&FlowStrength {
        run: run.id,
        step: 30,
    });
    assert_eq!(layers.pairs.len(), 3);
    // From layer 0 to layer 1 everything goes everywhere: nothing is told.
    assert!(layers.pairs[1].relative_information.abs() < 1e-9);
    let sankey = run.ask(&Sankey {
        run: run.id,
        step: 30,
        path: SankeyPath::Layers { first: 0, last: 1 },
        experts: 1,
    });
    assert_eq!(sankey.stages.len(), 4);
    for stage in 0..4 {
        let share: f32 = sankey
            .nodes
            .iter()
            .filter(|node| node.stage == stage)
            .map(|node| node.share)
            .sum();
        assert!((share - 1.0).abs() < 1e-5, "stage {stage}: {share}");
    }
    let same = run.ask(&TransitionDifference {
        before: (run.id, 30),
        after: (run.id, 30),
        from: router(0, 0),
        to: router(0, 1),
    });
    assert!(
        same.values
            .iter()
            .all(|value| value.is_nan() || *value == 0.0)
    );
}

#[test]
fn experts_seen_again_are_counted_by_tokens_not_by_pairs() {
    let run = support::small();
    let revisits = run.ask(&Revisits {
        run: run.id,
        step: 30,
    });
    let first = &revisits.layers[0];
    // k is 2, so an expert's 4 pairs are 2 tokens; a pair of an expert with itself is one token.
    assert!(!first.traced);
    assert_eq!(first.experts, [1.0, 1.0, 0.5, 0.5]);
    assert_eq!((first.share, first.chance), (0.75, 0.5));
}

#[test]
fn combinations_are_sets_and_are_measured_against_all_that_are_possible() {
    let run = support::small();
    let found = run.ask(&Combinations {
        run: run.id,
        step: 30,
    });
    assert_eq!((found.step, found.tokens), (30, 6));
    let layer = &found.layers[0];
    // 4 choose 2.
    assert_eq!(
        (
            layer.possible_sets().as_str(),
            layer.possible_chains().as_str()
        ),
        ("6", "36")
    );
    assert_eq!(layer.chains, 2);
    assert_eq!(layer.top[0].0, [vec![0, 1], vec![0, 1]]);
    assert!(layer.effective_chains > 1.0 && layer.effective_chains <= 2.0);
}
