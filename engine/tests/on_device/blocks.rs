//! Experts in several blocks, as a device with small buffers holds them.

use std::collections::BTreeMap;

use bellows_engine::config::ModelConfig;
use bellows_engine::model::{Decoder, FeedForward, Init};
use bellows_engine::objective::{BalanceScope, RouterObjective};
use bellows_engine::observer::NoObserver;
use bellows_engine::optim::{AdamW, AdamWConfig, Gradients};
use bellows_engine::step::{Backpropagation, Settings, run_with};
use bellows_engine::stream::{self, Keep};
use bellows_engine::weights::{NamedTensor, export, stack_name};
use burn::tensor::Device;

use crate::batches::divided;
use crate::device::test_device;
use crate::models::{build, coe, deepseek_v3, mixtral};
use crate::numbers::{bits, host};

/// As [`build`], where no buffer holds more than two experts.
fn build_in_blocks(config: &ModelConfig, device: &Device) -> Decoder {
    let expert = 4 * 2 * config.moe_intermediate_size * config.hidden_size;
    let mut init = Init::random(&device.clone().autodiff(), 17, 0.4)
        .with_largest_buffer(2 * expert as u64 + 1);
    let model = Decoder::new(&mut init, config);
    let stacked = config.n_routed_experts + config.n_shared_experts;
    for layer in &model.layers {
        if let FeedForward::Mixture(mixture) = &layer.mlp {
            let blocks = mixture.experts.bank().blocks().len();
            assert_eq!(blocks, stacked.div_ceil(2), "the case must have blocks");
        }
    }
    model
}

fn joined(gradients: &Gradients) -> BTreeMap<String, Vec<u32>> {
    let mut stacks: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for (name, gradient) in &gradients.by_name {
        let stack = stacks.entry(stack_name(name).to_owned()).or_default();
        stack.extend(bits(&host(gradient.clone())));
    }
    stacks
}

fn to_bits(tensors: Vec<NamedTensor>) -> Vec<(String, Vec<u32>)> {
    let named = tensors.into_iter();
    named
        .map(|tensor| (tensor.name, bits(&tensor.values)))
        .collect()
}

#[test]
fn a_model_in_blocks_starts_steps_and_streams_as_one_in_one() {
    let Some(device) = test_device() else { return };
    let objective = RouterObjective {
        balance: BalanceScope::MicroBatch,
        balance_coefficient: 0.5,
        z_loss_coefficient: 0.1,
        ..RouterObjective::default()
    };
    // Chains and shared experts, which may lie in a block with routed ones.
    for config in [mixtral(), deepseek_v3(), coe()] {
        for way in [
            Backpropagation::Plain,
            Backpropagation::Streamed(stream::Settings {
                chunk: Some(3),
                keep: Keep::F32,
                keep_attention: false,
            }),
        ] {
            let run = |model: Decoder| {
                let start = to_bits(export(&model));
                let settings = Settings {
                    backpropagation: way,
                    ..Settings::default()
                };
                let batches = divided();
                let mut observer = NoObserver;
                let step = run_with(
                    &model,
                    &batches,
                    &objective,
                    &device,
                    &mut observer,
                    &settings,
                );
                let (loss, gradients) = (step.losses.total.to_bits(), joined(&step.gradients));
                // The norm is a sum over parameters: by another division its last bit may differ.
                let unclipped = AdamWConfig {
                    max_grad_norm: None,
                    ..AdamWConfig::default()
                };
                let mut optimizer = AdamW::new(&unclipped);
                let (model, update) = optimizer.update(model, step.gradients, 0.01);
                assert!(update.applied);
                (start, loss, gradients, to_bits(export(&model)))
            };
            let wanted = run(build(&config, &device));
            assert_ne!(wanted.0, wanted.3, "the update must change something");
            let found = run(build_in_blocks(&config, &device));
            assert_eq!(found.0, wanted.0, "weights at the start");
            assert_eq!(found.1, wanted.1, "loss");
            assert_eq!(found.2, wanted.2, "gradients");
            assert_eq!(found.3, wanted.3, "weights after an update");
        }
    }
}
