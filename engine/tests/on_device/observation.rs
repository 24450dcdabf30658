//! What an observer is told.

use bellows_engine::objective::{BalanceScope, RouterObjective};
use bellows_engine::observer::{Observer, RoutingStats, Transitions};
use bellows_engine::step::{MicroBatch, StepResult, run};
use burn::tensor::Device;

use crate::batches::{divided, whole};
use crate::device::test_device;
use crate::models::{build, coe};
use crate::numbers::assert_near;

#[derive(Default)]
struct Notes {
    routing: Vec<RoutingStats>,
    transitions: Vec<Transitions>,
}

impl Observer for Notes {
    fn wants_routing(&self) -> bool {
        true
    }
    fn wants_transitions(&self) -> bool {
        true
    }
    fn routing(&mut self, stats: Vec<RoutingStats>) {
        assert!(self.routing.is_empty(), "once a step");
        self.routing = stats;
    }
    fn transitions(&mut self, transitions: Vec<Transitions>) {
        assert!(self.transitions.is_empty(), "once a step");
        self.transitions = transitions;
    }
}

fn observe(
    capacity_factor: Option<f64>,
    batches: &[MicroBatch],
    device: &Device,
) -> (Notes, StepResult) {
    let mut config = coe();
    config.capacity_factor = capacity_factor;
    let model = build(&config, device);
    let objective = RouterObjective {
        balance: BalanceScope::None,
        ..RouterObjective::default()
    };
    let mut notes = Notes::default();
    let result = run(&model, batches, &objective, device, &mut notes);
    (notes, result)
}

#[test]
fn statistics_of_a_step_add_up_however_it_is_divided() {
    let Some(device) = test_device() else { return };
    let (notes, result) = observe(None, &divided(), &device);
    let places: Vec<_> = notes
        .routing
        .iter()
        .map(|row| (row.layer, row.iteration))
        .collect();
    assert_eq!(places, [(0, 0), (0, 1), (1, 0), (1, 1)]);
    for (row, chosen) in notes.routing.iter().zip(&result.frequencies.chosen) {
        assert_eq!(row.tokens, 20);
        assert_eq!(row.chosen.iter().sum::<u64>(), 40);
        assert_eq!(&row.chosen, chosen);
        assert_eq!(row.dropped, 0);
        assert_near("probability", row.probability.iter().sum(), 1.0);
        assert!(row.entropy > 0.0 && row.entropy <= 6f64.ln());
    }
    let (large, _) = observe(None, &whole(), &device);
    for (found, wanted) in notes.routing.iter().zip(&large.routing) {
        assert_near("entropy", found.entropy, wanted.entropy);
        assert_eq!(found.chosen, wanted.chosen);
        for (found, wanted) in found.probability.iter().zip(&wanted.probability) {
            assert_near("probability", *found, *wanted);
        }
    }
    assert_eq!(notes.transitions, large.transitions);
}

#[test]
fn transitions_link_consecutive_decisions_and_count_every_pair() {
    let Some(device) = test_device() else { return };
    let (notes, _) = observe(None, &divided(), &device);
    let links: Vec<_> = notes
        .transitions
        .iter()
        .map(|row| (row.from, row.to))
        .collect();
    assert_eq!(
        links,
        [((0, 0), (0, 1)), ((0, 1), (1, 0)), ((1, 0), (1, 1))]
    );
    for (index, row) in notes.transitions.iter().enumerate() {
        assert_eq!(row.counts.iter().sum::<u64>(), 20 * 2 * 2);
        // Each choice of a source is paired with the k choices of its token, and the other way.
        for expert in 0..row.experts {
            let from: u64 = row.counts[expert * row.experts..][..row.experts]
                .iter()
                .sum();
            let to: u64 = row.counts.iter().skip(expert).step_by(row.experts).sum();
            assert_eq!(from, 2 * notes.routing[index].chosen[expert]);
            assert_eq!(to, 2 * notes.routing[index + 1].chosen[expert]);
        }
    }
}

#[test]
fn dropped_slots_are_reported_and_still_counted_as_chosen() {
    let Some(device) = test_device() else { return };
    let (notes, result) = observe(Some(1.0), &whole(), &device);
    let reported: u64 = notes.routing.iter().map(|row| row.dropped).sum();
    assert!(reported > 0, "the case must drop something");
    assert_eq!(result.dropped, reported);
    for row in &notes.routing {
        assert_eq!(row.chosen.iter().sum::<u64>(), 40);
        // ⌈1.0 · 20 · 2 / 6⌉ slots an expert.
        let over: u64 = row
            .chosen
            .iter()
            .map(|&count| count.saturating_sub(7))
            .sum();
        assert_eq!(row.dropped, over);
    }
}
