use bellows_query::Span;
use bellows_query::memory::{
    MemoryAt, MemoryFit, MemoryRange, MemoryStep, MemoryTimeline, MemoryTree,
};

use crate::support;

#[test]
fn memory_adds_up_at_every_level_without_the_allocators_totals() {
    let run = support::small();
    let step = run.ask(&MemoryStep {
        run: run.id,
        step: 30,
    });
    assert_eq!(step.kinds, ["weights", "gradients", "activations"]);
    assert_eq!(step.moments.len(), 2);
    assert_eq!((step.peak, step.moments[1].total), (1, 100 + 60 + 300));
    assert_eq!(step.moments[1].fragmentation(), Some(0.5));
    assert_eq!(step.bands.len(), 2);
    let tree = run.ask(&MemoryTree {
        run: run.id,
        at: MemoryAt::Peak(Span::ALL),
    });
    assert_eq!((tree.step, tree.moment, tree.total), (30, 1, 460));
    assert_eq!(tree.nodes[0].bytes, tree.total);
    let children: u64 = tree.children(0).map(|child| tree.nodes[child].bytes).sum();
    assert_eq!(children, tree.total);
    let line = run.ask(&MemoryTimeline {
        run: run.id,
        span: Span::ALL,
        columns: 10,
    });
    assert_eq!(line.columns.len(), 3);
    assert_eq!(line.columns[line.peak.unwrap()].at, (30, 1));
    assert_eq!(line.limit, Some(1000));
    let range = run.ask(&MemoryRange {
        run: run.id,
        span: Span::between(10, 20),
    });
    assert_eq!((range.rows[0].max, range.rows[0].min), (360, 160));
    assert_eq!(range.records, 2);
}

#[test]
fn the_plan_is_shown_with_what_was_measured() {
    let run = support::small();
    let plan = run.ask(&MemoryFit { run: run.id });
    assert_eq!(plan.modes[0].mode, "stream");
    assert!(plan.modes[0].chosen && plan.modes[0].longest == Some(4096));
    assert_eq!(
        plan.modes[1].kinds,
        [("weights".to_owned(), 100), ("activations".to_owned(), 900)]
    );
    assert_eq!(plan.measured, Some(500));
    let line = run.ask(&MemoryTimeline {
        run: run.id,
        span: Span::ALL,
        columns: 10,
    });
    assert_eq!(line.planned, Some(480));
    // The head is last forward and first backward, and the mode is the run's.
    let step = run.ask(&MemoryStep {
        run: run.id,
        step: 30,
    });
    let foretold: Vec<_> = step
        .foretold
        .iter()
        .map(|moment| (moment.phase.as_str(), moment.layer, moment.bytes))
        .collect();
    assert_eq!(
        foretold,
        [
            ("forward", Some(0), 300),
            ("forward", Some(1), 400),
            ("forward", None, 470),
            ("backward", None, 480),
            ("backward", Some(1), 450),
            ("backward", Some(0), 350),
        ]
    );
}
