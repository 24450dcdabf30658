//! Fused kernels and references must be two ways to one model.

use bellows_engine::config::ModelConfig;
use bellows_engine::kernels::{Compute, Kernels};
use bellows_engine::model::{Decoder, Numerics};
use bellows_engine::objective::RouterObjective;
use bellows_engine::observer::NoObserver;
use bellows_engine::optim::{AdamW, AdamWConfig};
use bellows_engine::step::{Backpropagation, Settings, run_with};
use bellows_engine::stream::{self, Keep};
use bellows_engine::weights::{NamedTensor, TensorSource, WeightError, export, import, parameters};
use burn::tensor::{DType, Device};

use crate::batches::{step, whole};
use crate::device::test_device;
use crate::models::{build, build_with, coe, deepseek_v3, llama_tied, qwen3_sliding};
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

/// Conversion from 16 bits is exact: a model that holds its matrices so has to make the very step of
/// one that holds the rounded values in f32.
#[test]
fn weights_held_in_sixteen_bits_make_the_step_of_their_rounded_values_to_the_bit() {
    let Some(device) = test_device() else { return };
    let types = [Compute::F16, Compute::Bf16];
    let stored: Vec<Compute> = types
        .into_iter()
        .filter(|held| device != Device::flex() && held.stored_by(&device))
        .collect();
    if stored.is_empty() {
        println!(
            "SKIPPED weights_held_in_sixteen_bits_make_the_step_of_their_rounded_values_to_the_bit: \
             the device has kernels for no 16-bit type"
        );
    }
    for compute in stored {
        for config in [qwen3_sliding(), llama_tied(), deepseek_v3(), coe()] {
            let numerics = |weights| Numerics {
                compute,
                weights,
                ..Numerics::default()
            };
            let small = build_with(&config, numerics(compute), &device);
            for (name, _, values) in parameters(&small) {
                // Vectors and routers stay as they are.
                let exact =
                    name.contains("norm") || name.ends_with("bias") || name.contains(".gate.");
                let wanted = if exact { DType::F32 } else { compute.dtype() };
                assert_eq!(values.dtype(), wanted, "{name}");
            }
            let large = build_with(&config, numerics(Compute::F32), &device);
            let large = import(large, &Exported(export(&small))).expect("the same model");
            let ways = [
                Backpropagation::Plain,
                Backpropagation::Streamed(stream::Settings {
                    chunk: Some(5),
                    keep: Keep::F32,
                    keep_attention: false,
                }),
            ];
            for backpropagation in ways {
                let settings = Settings {
                    backpropagation,
                    ..Settings::default()
                };
                let run = |model: &Decoder| {
                    let (batches, routers) = (whole(), RouterObjective::default());
                    let device = device.clone().autodiff();
                    run_with(
                        model,
                        &batches,
                        &routers,
                        &device,
                        &mut NoObserver,
                        &settings,
                    )
                };
                let (found, wanted) = (run(&small), run(&large));
                assert_eq!(found.losses, wanted.losses, "{compute:?}, {settings:?}");
                for (name, gradient) in found.gradients.by_name {
                    assert_eq!(gradient.dtype(), DType::F32, "{name}");
                    let wanted = host(wanted.gradients.by_name[&name].clone());
                    assert_eq!(host(gradient), wanted, "{compute:?}, {settings:?}: {name}");
                }
            }
            // Back into a model that holds 16 bits: nothing is lost that was not lost before.
            let again = build_with(&config, numerics(compute), &device);
            let again = import(again, &Exported(export(&large))).expect("the same model");
            for ((name, _, found), (_, _, wanted)) in
                parameters(&again).into_iter().zip(parameters(&small))
            {
                assert_eq!(found.dtype(), wanted.dtype(), "{name}");
                assert_eq!(host(found), host(wanted), "{name}");
            }
        }
    }
}

#[test]
fn an_update_of_weights_in_sixteen_bits_is_refused_and_not_lost_in_rounding() {
    let Some(device) = test_device() else { return };
    if device == Device::flex() || !Compute::F16.stored_by(&device) {
        println!(
            "SKIPPED an_update_of_weights_in_sixteen_bits_is_refused_and_not_lost_in_rounding: the \
             device has kernels for no f16"
        );
        return;
    }
    let numerics = Numerics {
        compute: Compute::F16,
        weights: Compute::F16,
        ..Numerics::default()
    };
    let model = build_with(&qwen3_sliding(), numerics, &device);
    let gradients = step(&model, &whole(), &RouterObjective::default(), &device).gradients;
    let update = std::panic::AssertUnwindSafe(|| {
        AdamW::new(&AdamWConfig::default()).apply(model, gradients, 0.01)
    });
    let refused = std::panic::catch_unwind(update).expect_err("16 bits are refused");
    let words = refused.downcast_ref::<String>().expect("a message");
    assert!(words.contains("AdamW updates weights in f32"), "{words}");
}

/// Weights on the host as a source.
#[derive(Debug)]
struct Exported(Vec<NamedTensor>);

impl TensorSource for Exported {
    fn read(&self, name: &str, _: &[usize]) -> Result<Vec<f32>, WeightError> {
        let tensor = self.0.iter().find(|tensor| tensor.name == name);
        Ok(tensor.expect("every weight was exported").values.clone())
    }

    fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|tensor| tensor.name == name)
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|tensor| tensor.name.clone()).collect()
    }

    fn place(&self) -> String {
        "this test".into()
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
