//! Weights out of a model and into another.

use std::collections::BTreeSet;

use bellows_engine::config::{ModelConfig, ModelType};
use bellows_engine::model::{Decoder, Init};
use bellows_engine::objective::RouterObjective;
use bellows_engine::weights::{
    NamedTensor, SafetensorsSource, WeightError, export, import, parameters,
};
use burn::tensor::Device;
use safetensors::tensor::{Dtype, TensorView};

use crate::batches::{logits, step, whole};
use crate::device::test_device;
use crate::models::{all, build, coe, deepseek_v3, llama_tied, mixtral, qwen3_moe};
use crate::numbers::bits;

/// A tensor as bytes: name, type, shape, data.
type Raw = (String, Dtype, Vec<usize>, Vec<u8>);

fn raw(tensors: Vec<NamedTensor>) -> Vec<Raw> {
    let tensors = tensors.into_iter();
    tensors
        .map(|tensor| {
            let bytes = tensor.values.iter().flat_map(|value| value.to_le_bytes());
            (tensor.name, Dtype::F32, tensor.shape, bytes.collect())
        })
        .collect()
}

fn file(tensors: &[Raw]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).expect("a whole tensor");
        (name.as_str(), view)
    });
    safetensors::serialize(views, None).expect("it fits in memory")
}

fn load(tensors: &[Raw], config: &ModelConfig, device: &Device) -> Result<Decoder, WeightError> {
    let bytes = file(tensors);
    let source = SafetensorsSource::new(&[("model.safetensors".to_owned(), &bytes)])?;
    let empty = Decoder::new(&mut Init::empty(&device.clone().autodiff()), config);
    import(empty, &source)
}

/// A model whose correction biases are not zero, as far as it has any.
fn biased(config: &ModelConfig, device: &Device) -> Decoder {
    let mut model = build(config, device);
    for (layer, mixture) in model.mixtures_mut() {
        for (router, bias) in mixture.correction_bias.iter_mut().enumerate() {
            for (expert, value) in bias.iter_mut().enumerate() {
                *value = 0.1 * (layer + 2 * router) as f32 - 0.03 * expert as f32;
            }
        }
    }
    model
}

fn assert_round_trip(config: &ModelConfig, device: &Device) {
    let model = biased(config, device);
    let exported = export(&model);
    let names: BTreeSet<&str> = exported.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names.len(), exported.len(), "two tensors of one name");
    let values = exported
        .iter()
        .map(|tensor| tensor.values.len())
        .sum::<usize>();
    let biases = model
        .mixtures()
        .flat_map(|(_, mixture)| mixture.correction_bias.iter().flatten());
    let counted: usize = parameters(&model)
        .iter()
        .map(|(_, shape, _)| shape.iter().product::<usize>())
        .sum();
    assert_eq!(values, counted + biases.count(), "every weight once");

    let copy = load(&raw(exported.clone()), config, device).expect("its own export");
    assert_eq!(export(&copy), exported);
    let sequences = whole().remove(0).sequences;
    let wanted = logits(&model, &sequences, device);
    assert_eq!(bits(&logits(&copy, &sequences, device)), bits(&wanted));
}

#[test]
fn export_and_import_keep_every_bit_of_every_architecture() {
    let Some(device) = test_device() else { return };
    for config in all() {
        assert_round_trip(&config, &device);
    }
}

#[test]
fn chains_keep_the_weights_of_every_router_whatever_the_model_type() {
    let Some(device) = test_device() else { return };
    for use_igate in [true, false] {
        for score_correction_bias in [true, false] {
            let chain = ModelConfig {
                use_igate,
                score_correction_bias,
                ..coe()
            };
            assert_round_trip(&chain, &device);
        }
        // No public checkpoint of these has more than one router a layer; a run's own may.
        for config in [qwen3_moe(), mixtral(), deepseek_v3()] {
            let chain = ModelConfig {
                inner_iter: 2,
                inner_residual: true,
                use_igate,
                ..config
            };
            assert_round_trip(&chain, &device);
        }
    }
    let named_llama = ModelConfig {
        model_type: ModelType::Llama,
        ..coe()
    };
    assert_round_trip(&named_llama, &device);
}

#[test]
fn imported_weights_can_be_trained() {
    let Some(device) = test_device() else { return };
    let model = build(&coe(), &device);
    let copy = load(&raw(export(&model)), &coe(), &device).expect("its own export");
    let gradients = |model| step(model, &whole(), &RouterObjective::default(), &device).gradients;
    let (wanted, found) = (gradients(&model), gradients(&copy));
    assert!(wanted.global_norm() > 0.0);
    assert_eq!(found.global_norm(), wanted.global_norm());
}

#[test]
fn missing_unexpected_misshapen_and_integer_tensors_are_named() {
    let Some(device) = test_device() else { return };
    let config = deepseek_v3();
    let good = raw(export(&biased(&config, &device)));
    let broken = |change: &dyn Fn(&mut Vec<Raw>)| {
        let mut tensors = good.clone();
        change(&mut tensors);
        load(&tensors, &config, &device)
            .map(drop)
            .expect_err("it is broken")
    };
    let expert = "model.layers.1.mlp.experts.3.up_proj.weight";
    let bias = "model.layers.0.mlp.gate.e_score_correction_bias";
    for name in [expert, bias, "model.norm.weight"] {
        let error = broken(&|tensors| tensors.retain(|tensor| tensor.0 != name));
        assert!(matches!(&error, WeightError::Missing { name: found, .. } if found == name));

        let error = broken(&|tensors| {
            let tensor = tensors.iter_mut().find(|tensor| tensor.0 == name);
            tensor.expect("it is there").2.push(1);
        });
        assert!(matches!(&error, WeightError::Shape { name: found, .. } if found == name));

        let error = broken(&|tensors| {
            let tensor = tensors.iter_mut().find(|tensor| tensor.0 == name);
            tensor.expect("it is there").1 = Dtype::I32;
        });
        assert!(matches!(&error, WeightError::Dtype { name: found, .. } if found == name));
        assert!(error.to_string().contains("model.safetensors"));
    }
    let error = broken(&|tensors| {
        let extra = "model.layers.0.mlp.experts.6.up_proj.weight".to_owned();
        tensors.push((extra, Dtype::F32, vec![1], vec![0; 4]));
    });
    assert!(matches!(&error, WeightError::Unexpected { names, .. } if names.contains("experts.6")));
}

#[test]
fn rotary_buffers_and_a_written_out_tied_head_are_passed_over() {
    let Some(device) = test_device() else { return };
    let model = build(&llama_tied(), &device);
    let mut tensors = raw(export(&model));
    let embedding = tensors[0].clone();
    assert_eq!(embedding.0, "model.embed_tokens.weight");
    tensors.push((
        "lm_head.weight".into(),
        embedding.1,
        embedding.2,
        embedding.3,
    ));
    let buffer = "model.layers.0.self_attn.rotary_emb.inv_freq".to_owned();
    tensors.push((buffer, Dtype::F32, vec![1], vec![0; 4]));
    let copy = load(&tensors, &llama_tied(), &device).expect("nothing is wrong");
    assert_eq!(export(&copy), export(&model));
}
