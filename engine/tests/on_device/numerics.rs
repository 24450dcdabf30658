//! Fused kernels and references must be two ways to one model.

use bellows_engine::config::ModelConfig;
use bellows_engine::kernels::{Compute, Kernels};
use bellows_engine::model::{Decoder, Numerics};
use bellows_engine::objective::RouterObjective;
use bellows_engine::optim::{AdamW, AdamWConfig};
use bellows_engine::weights::parameters;
use burn::tensor::{DType, Device};

use crate::batches::{step, whole};
use crate::device::test_device;
use crate::models::{build, build_with, coe, deepseek_v3, qwen3_sliding};
use crate::numbers::{assert_close, assert_near, host};

#[test]
fn the_kernels_and_their_references_make_the_same_step() {
    let Some(device) = test_device() else { return };
    // Heads with a norm of their own, latent attention, and layers without an outer residual.
    for config in [qwen3_sliding(), deepseek_v3(), coe()] {
        let run = |kernels| {
            let config = ModelConfig {
                kernels,
                ..config.clone()
            };
            let model = build(&config, &device);
            assert_eq!(model.numerics().kernels, kernels);
            let result = step(&model, &whole(), &RouterObjective::default(), &device);
            let gradients: Vec<(String, Vec<f32>)> = result
                .gradients
                .by_name
                .iter()
                .map(|(name, gradient)| (name.clone(), host(gradient.clone())))
                .collect();
            let mut optimizer = AdamW::new(&AdamWConfig::default());
            let (model, update): (Decoder, _) = optimizer.update(model, result.gradients, 0.01);
            assert!(update.applied);
            let weights: Vec<Vec<f32>> = parameters(&model)
                .into_iter()
                .map(|(.., values)| host(values))
                .collect();
            (result.losses.total, gradients, weights)
        };
        let (loss, gradients, weights) = run(Kernels::Fused);
        let (wanted_loss, wanted_gradients, wanted_weights) = run(Kernels::Reference);
        assert_near("loss", loss, wanted_loss);
        for ((name, found), (_, wanted)) in gradients.iter().zip(&wanted_gradients) {
            assert_close(name, found, wanted);
        }
        // Adam's first step is the gradient's sign: where a gradient is next to nothing, rounding
        // decides it. The bulk of the weights does not care.
        for (found, wanted) in weights.iter().zip(&wanted_weights) {
            let far = found
                .iter()
                .zip(wanted)
                .filter(|(found, wanted)| (*found - *wanted).abs() > 1e-4)
                .count();
            assert!(far * 100 <= found.len(), "{far} of {}", found.len());
        }
    }
}

/// A device that stores a type without computing in it, as Vulkan does with bf16, cannot compile a
/// Burn operation on it: a step that comes to its end has handed none to Burn.
#[test]
fn no_arithmetic_of_burns_receives_the_sixteen_bits_that_matrices_are_multiplied_in() {
    let Some(device) = test_device() else { return };
    let types = [Compute::F16, Compute::Bf16];
    let stored: Vec<Compute> = types
        .into_iter()
        .filter(|compute| device != Device::flex() && compute.stored_by(&device))
        .collect();
    if stored.is_empty() {
        println!(
            "SKIPPED no_arithmetic_of_burns_receives_the_sixteen_bits_that_matrices_are_multiplied_in: \
             the device has kernels for no 16-bit type"
        );
    }
    for compute in stored {
        for config in [qwen3_sliding(), deepseek_v3(), coe()] {
            let numerics = Numerics {
                compute,
                ..Numerics::default()
            };
            let wanted = step(
                &build(&config, &device),
                &whole(),
                &RouterObjective::default(),
                &device,
            );
            let model = build_with(&config, numerics, &device);
            let found = step(&model, &whole(), &RouterObjective::default(), &device);
            let (found_loss, wanted_loss) = (found.losses.total, wanted.losses.total);
            assert!(
                (found_loss - wanted_loss).abs() <= 0.05 * wanted_loss,
                "{compute:?}: a loss of {found_loss}, in f32 {wanted_loss}"
            );
            for (name, gradient) in found.gradients.by_name {
                assert_eq!(gradient.dtype(), DType::F32, "{compute:?}: {name}");
                let values = host(gradient);
                assert!(values.iter().all(|value| value.is_finite()), "{name}");
            }
            let mut optimizer = AdamW::new(&AdamWConfig::default());
            let gradients = step(&model, &whole(), &RouterObjective::default(), &device).gradients;
            let (model, update): (Decoder, _) = optimizer.update(model, gradients, 0.01);
            assert!(update.applied);
            for (name, .., values) in parameters(&model) {
                assert_eq!(values.dtype(), DType::F32, "{compute:?}: {name}");
            }
        }
    }
}

#[test]
fn pre_activations_of_experts_computed_again_change_no_gradient() {
    let Some(device) = test_device() else { return };
    let config = coe();
    let run = |recompute_experts| {
        let numerics = Numerics {
            recompute_experts,
            ..Numerics::default()
        };
        let model = build_with(&config, numerics, &device);
        assert_eq!(model.numerics().recompute_experts, recompute_experts);
        let result = step(&model, &whole(), &RouterObjective::default(), &device);
        let gradients = result.gradients.by_name.into_iter();
        let gradients: Vec<_> = gradients.map(|(name, own)| (name, host(own))).collect();
        (result.losses.total, gradients)
    };
    let (loss, gradients) = run(true);
    let (wanted_loss, wanted) = run(false);
    assert_near("loss", loss, wanted_loss);
    for ((name, found), (_, wanted)) in gradients.iter().zip(&wanted) {
        assert_close(name, found, wanted);
    }
}
