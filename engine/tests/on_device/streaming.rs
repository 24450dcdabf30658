//! Streamed gradients are the gradients.

use bellows_engine::config::ModelConfig;
use bellows_engine::model::{Decoder, Sequences};
use bellows_engine::objective::{BalanceScope, RouterObjective};
use bellows_engine::observer::{NoObserver, Observer, RoutingStats, Transitions};
use bellows_engine::step::{
    Backpropagation, IGNORE, MicroBatch, Settings, StepResult, evaluate, evaluate_with, run_with,
};
use bellows_engine::stream::{self, Keep};
use burn::module::Module;
use burn::tensor::Device;

use crate::batches::{assert_same_step, divided, ids, rows, step, whole};
use crate::device::test_device;
use crate::models::{all, build, coe, deepseek_v3, llama_tied, mixtral, olmoe, qwen3_sliding};
use crate::numbers::{assert_close, assert_near, host};

fn streamed(chunk: usize) -> Backpropagation {
    Backpropagation::Streamed(stream::Settings {
        chunk: Some(chunk),
        keep: Keep::F32,
        keep_attention: false,
    })
}

const CHECKPOINT: Backpropagation = Backpropagation::Streamed(stream::Settings {
    chunk: None,
    keep: Keep::F32,
    keep_attention: false,
});

fn step_by(
    backpropagation: Backpropagation,
    model: &Decoder,
    batches: &[MicroBatch],
    objective: &RouterObjective,
    device: &Device,
    observer: &mut dyn Observer,
) -> StepResult {
    let settings = Settings {
        backpropagation,
        ..Settings::default()
    };
    run_with(model, batches, objective, device, observer, &settings)
}

/// Every router loss that there is, of this scope.
fn objective(balance: BalanceScope) -> RouterObjective {
    RouterObjective {
        balance,
        balance_coefficient: 0.5,
        z_loss_coefficient: 0.1,
        ..RouterObjective::default()
    }
}

/// Asserts that all ways to stream `batches` make the plain step.
fn assert_streams(
    config: &ModelConfig,
    batches: &[MicroBatch],
    objective: &RouterObjective,
    ways: &[Backpropagation],
    device: &Device,
) -> StepResult {
    let model = build(config, device);
    let wanted = step(&model, batches, objective, device);
    for &way in ways {
        let found = step_by(way, &model, batches, objective, device, &mut NoObserver);
        assert_eq!(found.dropped, wanted.dropped);
        assert_same_step(&found, &wanted);
    }
    wanted
}

#[test]
fn every_architecture_streams_in_chunks_that_divide_nothing() {
    let Some(device) = test_device() else { return };
    for config in all() {
        // Of rows of five tokens, 3 leaves a shorter chunk and 11 holds two whole rows.
        let ways = [streamed(3), streamed(11), CHECKPOINT];
        let objective = objective(BalanceScope::MicroBatch);
        assert_streams(&config, &whole(), &objective, &ways, &device);
    }
}

#[test]
fn a_chunk_of_one_token_streams() {
    let Some(device) = test_device() else { return };
    let objective = objective(BalanceScope::MicroBatch);
    assert_streams(&coe(), &[rows(1, 3)], &objective, &[streamed(1)], &device);
}

#[test]
fn balance_losses_of_every_scope_count_the_whole_and_share_the_rest() {
    let Some(device) = test_device() else { return };
    let scopes = [
        BalanceScope::None,
        BalanceScope::Sequence,
        BalanceScope::MicroBatch,
        BalanceScope::Global,
        BalanceScope::GlobalRunning,
    ];
    for scope in scopes {
        let ways = [streamed(3), streamed(10)];
        let found = assert_streams(&coe(), &divided(), &objective(scope), &ways, &device);
        assert!(found.losses.z > 0.1);
    }
    let pooled = RouterObjective {
        pool_layers: true,
        ..objective(BalanceScope::Global)
    };
    assert_streams(&olmoe(), &divided(), &pooled, &[streamed(2)], &device);
}

#[test]
fn a_capacity_drops_what_the_whole_batch_drops() {
    let Some(device) = test_device() else { return };
    for (config, factor) in [(mixtral(), 0.7), (coe(), 0.9)] {
        let config = ModelConfig {
            capacity_factor: Some(factor),
            ..config
        };
        let ways = [streamed(3), streamed(5), CHECKPOINT];
        let objective = objective(BalanceScope::MicroBatch);
        let found = assert_streams(&config, &whole(), &objective, &ways, &device);
        assert!(found.dropped > 0, "the case must drop something");
        // A capacity of each chunk by itself would drop others.
        let model = build(&config, &device);
        let alone: u64 = (0..4)
            .map(|row| step(&model, &[rows(row, row + 1)], &objective, &device).dropped)
            .sum();
        assert_ne!(alone, found.dropped);
    }
}

#[test]
fn a_chunk_boundary_inside_a_packed_document_changes_nothing() {
    let Some(device) = test_device() else { return };
    let lengths = [4, 3, 1];
    let documents = lengths.iter().enumerate();
    let documents: Vec<u32> = documents
        .flat_map(|(document, &length)| vec![document as u32; length])
        .collect();
    let positions: Vec<i32> = lengths
        .iter()
        .flat_map(|&length| 0..length)
        .map(|at| at as i32)
        .collect();
    let all = ids(3, 17);
    let batch = MicroBatch {
        sequences: Sequences {
            batch: 2,
            time: 8,
            ids: all[..16].to_vec(),
            documents: Some(documents.repeat(2)),
            positions: Some(positions.repeat(2)),
        },
        labels: (0..16)
            .map(|at| if at % 4 == 3 { IGNORE } else { all[at + 1] })
            .collect(),
        ..MicroBatch::default()
    };
    for config in [qwen3_sliding(), coe()] {
        let ways = [streamed(3), streamed(5), streamed(8), CHECKPOINT];
        let objective = objective(BalanceScope::Sequence);
        assert_streams(
            &config,
            std::slice::from_ref(&batch),
            &objective,
            &ways,
            &device,
        );
    }
}

#[test]
fn a_batch_without_labels_streams_to_no_gradient() {
    let Some(device) = test_device() else { return };
    let model = build(&llama_tied(), &device);
    let mut silent = rows(1, 4);
    silent.labels.fill(IGNORE);
    let none = objective(BalanceScope::None);
    let found = step_by(
        streamed(3),
        &model,
        &[silent],
        &none,
        &device,
        &mut NoObserver,
    );
    assert_eq!(found.losses.total, 0.0);
    assert_eq!(found.gradients.global_norm(), 0.0);
}

#[test]
fn a_loss_scale_reaches_every_streamed_gradient() {
    let Some(device) = test_device() else { return };
    let model = build(&coe(), &device);
    let objective = objective(BalanceScope::MicroBatch);
    let scaled = |loss_scale| {
        let settings = Settings {
            loss_scale,
            backpropagation: streamed(3),
            ..Settings::default()
        };
        run_with(
            &model,
            &divided(),
            &objective,
            &device,
            &mut NoObserver,
            &settings,
        )
    };
    let (one, many) = (scaled(1.0), scaled(1024.0));
    assert_near("the loss", many.losses.total, one.losses.total);
    for (name, gradient) in one.gradients.by_name {
        let found = many.gradients.by_name[&name].clone().div_scalar(1024.0);
        assert_close(&name, &host(found), &host(gradient));
    }
}

#[test]
fn inputs_kept_on_the_host_or_in_the_compute_type_make_the_same_step_in_f32() {
    let Some(device) = test_device() else { return };
    let ways = [Keep::Host, Keep::Compute].map(|keep| {
        Backpropagation::Streamed(stream::Settings {
            chunk: Some(3),
            keep,
            keep_attention: false,
        })
    });
    let objective = objective(BalanceScope::MicroBatch);
    assert_streams(&deepseek_v3(), &divided(), &objective, &ways, &device);
}

#[test]
fn results_of_attention_that_are_kept_make_the_same_step_as_those_that_are_computed_again() {
    let Some(device) = test_device() else { return };
    let way = |chunk, keep, keep_attention| {
        Backpropagation::Streamed(stream::Settings {
            chunk,
            keep,
            keep_attention,
        })
    };
    let objective = objective(BalanceScope::MicroBatch);
    for config in [deepseek_v3(), qwen3_sliding(), coe()] {
        let model = build(&config, &device);
        for (chunk, keep) in [
            (Some(3), Keep::F32),
            (Some(3), Keep::Host),
            (None, Keep::Compute),
        ] {
            let step = |keep_attention| {
                let way = way(chunk, keep, keep_attention);
                step_by(
                    way,
                    &model,
                    &divided(),
                    &objective,
                    &device,
                    &mut NoObserver,
                )
            };
            let (kept, again) = (step(true), step(false));
            for (name, wanted) in again.gradients.by_name {
                let found = host(kept.gradients.by_name[&name].clone());
                assert_eq!(found, host(wanted), "{name}, {chunk:?}, {keep:?}");
            }
        }
    }
}

/// Wants everything, and keeps it.
#[derive(Default)]
struct Watch {
    stats: Vec<RoutingStats>,
    transitions: Vec<Transitions>,
}

impl Observer for Watch {
    fn wants_routing(&self) -> bool {
        true
    }
    fn wants_transitions(&self) -> bool {
        true
    }
    fn routing(&mut self, stats: Vec<RoutingStats>) {
        self.stats = stats;
    }
    fn transitions(&mut self, transitions: Vec<Transitions>) {
        self.transitions = transitions;
    }
}

#[test]
fn what_is_computed_again_is_observed_once() {
    let Some(device) = test_device() else { return };
    let config = ModelConfig {
        capacity_factor: Some(0.9),
        ..coe()
    };
    let model = build(&config, &device);
    let objective = objective(BalanceScope::Global);
    let watched = |way| {
        let mut watch = Watch::default();
        step_by(way, &model, &divided(), &objective, &device, &mut watch);
        watch
    };
    let (found, wanted) = (watched(streamed(3)), watched(Backpropagation::Plain));
    assert_eq!(found.transitions, wanted.transitions);
    assert_eq!(found.stats.len(), 4);
    for (found, wanted) in found.stats.iter().zip(&wanted.stats) {
        assert_eq!(
            (found.layer, found.iteration),
            (wanted.layer, wanted.iteration)
        );
        assert_eq!(
            (found.tokens, found.dropped),
            (wanted.tokens, wanted.dropped)
        );
        assert_eq!(found.chosen, wanted.chosen);
        assert_near("entropy", found.entropy, wanted.entropy);
        for (&found, &wanted) in found.probability.iter().zip(&wanted.probability) {
            assert_near("probability", found, wanted);
        }
    }
}

#[test]
fn evaluation_in_chunks_is_evaluation() {
    let Some(device) = test_device() else { return };
    let model = build(&coe(), &device).valid();
    for batch in divided() {
        let (wanted, labels) = evaluate(&model, &batch, &device);
        let found = evaluate_with(&model, &batch, &device, streamed(3));
        assert_eq!(found.1, labels);
        assert_near("the sum of losses", found.0, wanted);
    }
}
