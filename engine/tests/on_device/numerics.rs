//! Fused kernels and references must be two ways to one model.

use bellows_engine::config::ModelConfig;
use bellows_engine::kernels::Kernels;
use bellows_engine::model::Decoder;
use bellows_engine::objective::RouterObjective;
use bellows_engine::optim::{AdamW, AdamWConfig};
use bellows_engine::weights::parameters;

use crate::batches::{step, whole};
use crate::device::test_device;
use crate::models::{build, coe, deepseek_v3, qwen3_sliding};
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
