use super::*;
use crate::model::{Decoder, Init};
use crate::weights::parameters;

/// A mixture with latent attention: every rule applies to it.
fn valid() -> ModelConfig {
    ModelConfig {
        vocab_size: 11,
        hidden_size: 12,
        num_hidden_layers: 3,
        intermediate_size: 10,
        num_attention_heads: 2,
        num_key_value_heads: 2,
        attention: AttentionKind::Mla,
        q_lora_rank: Some(5),
        kv_lora_rank: 6,
        qk_nope_head_dim: 3,
        qk_rope_head_dim: 4,
        v_head_dim: 5,
        n_routed_experts: 6,
        num_experts_per_tok: 2,
        moe_intermediate_size: 7,
        n_shared_experts: 2,
        first_k_dense_replace: 1,
        topk_method: TopkMethod::NoauxTc,
        n_group: 3,
        topk_group: 2,
        inner_iter: 2,
        ..ModelConfig::default()
    }
}

fn grouped() -> ModelConfig {
    ModelConfig {
        attention: AttentionKind::Gqa,
        num_attention_heads: 6,
        num_key_value_heads: 3,
        ..valid()
    }
}

#[test]
fn each_broken_rule_names_its_field() {
    type Change = fn(&mut ModelConfig);
    let latent: [(&str, Change); 14] = [
        ("hidden_size", |c| c.hidden_size = 0),
        ("num_hidden_layers", |c| c.num_hidden_layers = 0),
        ("intermediate_size", |c| c.intermediate_size = 0),
        ("rms_norm_eps", |c| c.rms_norm_eps = f64::NAN),
        ("initializer_range", |c| c.initializer_range = -0.1),
        ("rope.theta", |c| c.rope.theta = 0.0),
        ("qk_rope_head_dim", |c| c.qk_rope_head_dim = 3),
        ("num_experts_per_tok", |c| c.num_experts_per_tok = 7),
        ("num_experts_per_tok", |c| {
            (c.topk_group, c.num_experts_per_tok) = (1, 3)
        }),
        ("n_group", |c| c.n_group = 4),
        ("topk_group", |c| c.topk_group = 4),
        ("inner_iter", |c| c.inner_iter = 0),
        ("capacity_factor", |c| c.capacity_factor = Some(0.0)),
        ("layer_types", |c| {
            c.layer_types = vec![LayerType::FullAttention]
        }),
    ];
    let heads: [(&str, Change); 4] = [
        ("num_attention_heads", |c| c.num_attention_heads = 5),
        ("num_key_value_heads", |c| c.num_key_value_heads = 4),
        ("head_dim", |c| c.head_dim = 3),
        ("sliding_window", |c| {
            c.layer_types = vec![LayerType::SlidingAttention; 3]
        }),
    ];
    for (base, cases) in [(valid(), latent.as_slice()), (grouped(), heads.as_slice())] {
        base.validate().expect("a valid model");
        for (wanted, change) in cases {
            let mut config = base.clone();
            change(&mut config);
            match config.validate() {
                Err(ConfigError::Invalid { field, .. }) => assert_eq!(field, *wanted),
                other => panic!("{wanted}: {other:?}"),
            }
        }
    }
}

#[test]
fn counted_parameters_are_those_that_a_model_has() {
    let bias = |base: ModelConfig| ModelConfig {
        attention_bias: true,
        attention_output_bias: true,
        mlp_bias: true,
        ..base
    };
    let tied = ModelConfig {
        tie_word_embeddings: true,
        q_lora_rank: None,
        use_igate: false,
        ..valid()
    };
    let normed = |qk_norm| ModelConfig {
        qk_norm,
        ..grouped()
    };
    for config in [
        valid(),
        bias(valid()),
        tied.clone(),
        bias(tied),
        grouped(),
        bias(grouped()),
        normed(QkNorm::Head),
        normed(QkNorm::Full),
    ] {
        let device = burn::tensor::Device::flex();
        let model = Decoder::new(&mut Init::empty(&device), &config);
        let sizes = parameters(&model)
            .into_iter()
            .map(|(_, shape, _)| shape.iter().product::<usize>());
        assert_eq!(
            config.parameter_counts().total,
            sizes.sum::<usize>(),
            "{config:?}"
        );
    }
}

#[test]
fn active_parameters_are_those_a_token_can_reach_in_all_iterations() {
    let mut config = valid();
    let expert = 3 * config.hidden_size * config.moe_intermediate_size;
    let counts = config.parameter_counts();
    // Two mixture layers; two iterations choose two each of 6 routed experts: 2 are out of reach.
    assert_eq!(counts.total - counts.active, 2 * 2 * expert);
    // What an iteration runs again is computed again.
    config.inner_iter = 1;
    let once = config.parameter_counts();
    let router = config.hidden_size * config.n_routed_experts;
    assert_eq!(counts.computed - once.computed, 2 * (4 * expert + router));
    config.n_routed_experts = 0;
    let dense = config.parameter_counts();
    assert_eq!(dense.total, dense.active);
}

#[test]
fn attention_counts_the_keys_that_a_causal_token_sees_with_and_without_a_window() {
    let mut config = valid();
    let width = (2 * (7 + 5)) as f64;
    // Four tokens see 1, 2, 3 and 4 keys.
    assert_eq!(config.attention_products(4), 3.0 * 2.5 * width);
    config.layer_types = vec![
        LayerType::SlidingAttention,
        LayerType::FullAttention,
        LayerType::FullAttention,
    ];
    config.sliding_window = Some(2);
    // In the first layer 1, 2, 2 and 2.
    assert_eq!(config.attention_products(4), (1.75 + 2.5 + 2.5) * width);
    config.sliding_window = Some(100);
    assert_eq!(config.attention_products(4), 3.0 * 2.5 * width);
}
