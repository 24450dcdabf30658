//! Tiny models of every architecture. Sizes are shared where they can be: on a GPU every new shape
//! costs a compilation.

use bellows_engine::config::{
    AttentionKind, LayerType, ModelConfig, ModelType, QkNorm, RopeConfig, ScoringFunc, TopkMethod,
};
use bellows_engine::model::{Decoder, Init, Numerics};
use burn::tensor::Device;

/// Token ids are below this.
pub const VOCABULARY: usize = 13;

fn base(model_type: ModelType) -> ModelConfig {
    ModelConfig {
        model_type,
        vocab_size: VOCABULARY,
        hidden_size: 16,
        num_hidden_layers: 2,
        intermediate_size: 12,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        max_position_embeddings: 32,
        ..ModelConfig::default()
    }
}

fn mixture(model_type: ModelType) -> ModelConfig {
    ModelConfig {
        intermediate_size: 6,
        n_routed_experts: 6,
        num_experts_per_tok: 2,
        moe_intermediate_size: 6,
        ..base(model_type)
    }
}

fn latent(model_type: ModelType) -> ModelConfig {
    ModelConfig {
        intermediate_size: 12,
        attention: AttentionKind::Mla,
        kv_lora_rank: 6,
        qk_nope_head_dim: 4,
        qk_rope_head_dim: 4,
        v_head_dim: 6,
        num_key_value_heads: 4,
        n_shared_experts: 1,
        rope: RopeConfig {
            interleaved: true,
            ..RopeConfig::default()
        },
        ..mixture(model_type)
    }
}

/// Dense, grouped heads, a tied head.
pub fn llama_tied() -> ModelConfig {
    ModelConfig {
        tie_word_embeddings: true,
        ..base(ModelType::Llama)
    }
}

/// Dense, biases.
pub fn qwen2() -> ModelConfig {
    ModelConfig {
        attention_bias: true,
        ..base(ModelType::Qwen2)
    }
}

/// Dense, norms of queries and keys, a window of three tokens in the second layer.
pub fn qwen3_sliding() -> ModelConfig {
    ModelConfig {
        qk_norm: QkNorm::Head,
        sliding_window: Some(3),
        layer_types: vec![LayerType::FullAttention, LayerType::SlidingAttention],
        ..base(ModelType::Qwen3)
    }
}

/// A mixture in every layer, weights normalised.
pub fn mixtral() -> ModelConfig {
    ModelConfig {
        norm_topk_prob: true,
        ..mixture(ModelType::Mixtral)
    }
}

/// A mixture in the second layer.
pub fn qwen3_moe() -> ModelConfig {
    ModelConfig {
        qk_norm: QkNorm::Head,
        mlp_only_layers: vec![0],
        ..mixture(ModelType::Qwen3Moe)
    }
}

/// Mixtures, full-width norms of queries and keys.
pub fn olmoe() -> ModelConfig {
    ModelConfig {
        qk_norm: QkNorm::Full,
        ..mixture(ModelType::Olmoe)
    }
}

/// Latent attention, groups of experts, a dense first layer.
pub fn deepseek_v2() -> ModelConfig {
    ModelConfig {
        topk_method: TopkMethod::GroupLimitedGreedy,
        n_group: 3,
        topk_group: 2,
        first_k_dense_replace: 1,
        ..latent(ModelType::DeepseekV2)
    }
}

/// Compressed queries, sigmoid scores with a correction bias.
pub fn deepseek_v3() -> ModelConfig {
    ModelConfig {
        q_lora_rank: Some(6),
        scoring_func: ScoringFunc::Sigmoid,
        topk_method: TopkMethod::NoauxTc,
        score_correction_bias: true,
        norm_topk_prob: true,
        routed_scaling_factor: 2.5,
        ..latent(ModelType::DeepseekV3)
    }
}

/// A chain of two iterations with a router each.
pub fn coe() -> ModelConfig {
    ModelConfig {
        inner_iter: 2,
        inner_residual: true,
        outer_residual: false,
        ..latent(ModelType::CoeDeepseekV2)
    }
}

/// One of every architecture.
pub fn all() -> Vec<ModelConfig> {
    vec![
        llama_tied(),
        qwen2(),
        qwen3_sliding(),
        mixtral(),
        qwen3_moe(),
        olmoe(),
        deepseek_v2(),
        deepseek_v3(),
        coe(),
    ]
}

/// A model with weights large enough that attention and routers decide something. On an autodiff
/// device.
pub fn build(config: &ModelConfig, device: &Device) -> Decoder {
    build_with(config, Numerics::default(), device)
}

/// The same, computing as `numerics` says.
pub fn build_with(config: &ModelConfig, numerics: Numerics, device: &Device) -> Decoder {
    config.validate().expect("a valid model");
    let device = device.clone().autodiff();
    let mut init = Init::random(&device, 17, 0.4).with_numerics(numerics);
    Decoder::new(&mut init, config)
}
