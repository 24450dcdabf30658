//! How often a training step waits for the device.

use bellows_engine::config::ModelConfig;
use bellows_engine::kernels::Kernels;
use bellows_engine::kernels::host::reads;
use bellows_engine::objective::{BalanceScope, RouterObjective, update_correction_bias};
use bellows_engine::observer::{NoObserver, Observer, RoutingStats, Transitions};
use bellows_engine::optim::{AdamW, AdamWConfig};
use bellows_engine::step::run;
use burn::tensor::Device;

use crate::batches::divided;
use crate::device::test_device;
use crate::models::{build, coe, deepseek_v3, llama_tied};

/// Waits of one router decision on a device with kernels, experts included.
const READS_OF_A_FUSED_DECISION: u64 = 0;

/// Waits of one router decision where the reference chooses: for the scores.
const READS_OF_A_REFERENCE_DECISION: u64 = 1;

#[derive(Default)]
struct Curious {
    reports: usize,
}

impl Observer for Curious {
    fn wants_routing(&self) -> bool {
        true
    }
    fn wants_transitions(&self) -> bool {
        true
    }
    fn routing(&mut self, _: Vec<RoutingStats>) {
        self.reports += 1;
    }
    fn transitions(&mut self, _: Vec<Transitions>) {
        self.reports += 1;
    }
}

fn objective(balance: BalanceScope) -> RouterObjective {
    RouterObjective {
        balance,
        balance_coefficient: 0.1,
        z_loss_coefficient: 0.1,
        bias_update_speed: 0.01,
        ..RouterObjective::default()
    }
}

fn per_decision(config: &ModelConfig, device: &Device) -> u64 {
    let fused = config.kernels == Kernels::Fused && *device != Device::flex();
    match fused {
        true => READS_OF_A_FUSED_DECISION,
        false => READS_OF_A_REFERENCE_DECISION,
    }
}

/// Waits of a forward and backward pass over two micro-batches, observed and not.
fn of_a_step(config: &ModelConfig, scope: BalanceScope, device: &Device) -> [u64; 2] {
    let model = build(config, device);
    let mut curious = Curious::default();
    let observers: [&mut dyn Observer; 2] = [&mut NoObserver, &mut curious];
    let counts = observers.map(|observer| {
        let before = reads();
        run(&model, &divided(), &objective(scope), device, observer);
        reads() - before
    });
    let told = if config.n_routed_experts > 0 { 2 } else { 0 };
    assert_eq!(curious.reports, told);
    counts
}

#[test]
fn a_step_reads_everything_it_reports_at_once() {
    let Some(device) = test_device() else { return };
    assert_eq!(
        of_a_step(&llama_tied(), BalanceScope::None, &device),
        [1; 2]
    );
    for kernels in [Kernels::Fused, Kernels::Reference] {
        for capacity_factor in [None, Some(1.0)] {
            // Two layers of two iterations.
            let config = ModelConfig {
                kernels,
                capacity_factor,
                ..coe()
            };
            let decisions = 4 * per_decision(&config, &device);
            for (scope, passes) in [
                (BalanceScope::None, 2),
                (BalanceScope::Sequence, 2),
                (BalanceScope::MicroBatch, 2),
                (BalanceScope::Global, 4),
                (BalanceScope::GlobalRunning, 2),
            ] {
                let wanted = 1 + passes * decisions;
                let found = of_a_step(&config, scope, &device);
                assert_eq!(found, [wanted; 2], "{kernels:?} {scope:?}");
            }
        }
    }
}

#[test]
fn an_update_waits_for_the_gradients_norm_alone() {
    let Some(device) = test_device() else { return };
    let config = deepseek_v3();
    let mut model = build(&config, &device);
    let mut optimizer = AdamW::new(&AdamWConfig::default());
    let objective = objective(BalanceScope::GlobalRunning);
    for _ in 0..2 {
        let before = reads();
        let result = run(&model, &divided(), &objective, &device, &mut NoObserver);
        update_correction_bias(&mut model, &result.frequencies, objective.bias_update_speed);
        let (next, update) = optimizer.update(model, result.gradients, 1e-3);
        assert!(update.applied);
        model = next;
        // Two layers, two micro-batches.
        assert_eq!(reads() - before, 2 + 4 * per_decision(&config, &device));
    }
}
