//! Configurations whose predicted memory is held against what a step of them takes.

use bellows_engine::config::{ModelConfig, ModelType, QkNorm};
use bellows_engine::kernels::Compute;
use bellows_engine::model::Numerics;
use bellows_engine::objective::{Mean, Objective, RouterObjective};
use bellows_engine::plan::Load;
use bellows_engine::step::Backpropagation;
use bellows_engine::stream::{Keep, Settings};

/// How large they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sizes {
    /// Seconds on a software renderer.
    #[default]
    Small,
    /// Seconds on a large card.
    Large,
}

/// One configuration.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What it is.
    pub name: String,
    /// Its architecture.
    pub model: ModelConfig,
    /// Its step.
    pub load: Load,
    /// How it computes.
    pub numerics: Numerics,
    /// How it keeps activations.
    pub way: Backpropagation,
    /// What it minimises.
    pub objective: Objective,
    /// And of its routers.
    pub router: RouterObjective,
}

/// Seven configurations: dense models, mixtures and chains of experts; plain, with checkpoints and
/// streamed; short and long sequences. Then preferences and groups, which go through the head twice.
/// All multiply in `compute`.
pub fn samples(sizes: Sizes, compute: Compute) -> Vec<Sample> {
    let large = sizes == Sizes::Large;
    let width = if large { 1024 } else { 128 };
    let dense = ModelConfig {
        model_type: ModelType::Qwen3,
        vocab_size: if large { 32_768 } else { 2048 },
        hidden_size: width,
        num_hidden_layers: if large { 8 } else { 4 },
        intermediate_size: 3 * width,
        num_attention_heads: if large { 16 } else { 4 },
        num_key_value_heads: if large { 8 } else { 2 },
        qk_norm: QkNorm::Head,
        max_position_embeddings: 1 << 20,
        ..ModelConfig::default()
    };
    let mixture = ModelConfig {
        model_type: ModelType::Qwen3Moe,
        num_hidden_layers: if large { 4 } else { 3 },
        n_routed_experts: if large { 32 } else { 8 },
        num_experts_per_tok: 4,
        moe_intermediate_size: if large { 704 } else { 96 },
        ..dense.clone()
    };
    let chain = ModelConfig {
        model_type: ModelType::CoeDeepseekV2,
        num_experts_per_tok: 2,
        inner_iter: 2,
        inner_residual: true,
        outer_residual: false,
        qk_norm: QkNorm::None,
        ..mixture.clone()
    };
    let load = |batch, time| Load {
        batch,
        time,
        micro_batches: 1,
        documents: false,
        training: true,
        head_twice: false,
    };
    let (short, middle, long) = match large {
        true => (1024, 8192, 32_768),
        false => (128, 512, 2048),
    };
    let of = |name: &str, model: &ModelConfig, load, way| Sample {
        name: name.into(),
        model: model.clone(),
        load,
        numerics: Numerics {
            compute,
            ..Numerics::default()
        },
        way,
        objective: Objective::default(),
        router: RouterObjective::default(),
    };
    let plain = Backpropagation::Plain;
    let kept = |chunk, keep_attention| {
        Backpropagation::Streamed(Settings {
            chunk,
            keep: Keep::F32,
            keep_attention,
        })
    };
    let checkpoint = kept(None, false);
    let streamed = |chunk| kept(Some(chunk), false);
    let compared = |sample: Sample, objective: Objective| Sample {
        load: Load {
            head_twice: objective.has_reference(),
            ..sample.load
        },
        objective,
        ..sample
    };
    let dpo = Objective::Dpo { beta: 0.1 };
    let grpo = Objective::Grpo {
        beta: 0.04,
        epsilon: 0.2,
        mean: Mean::Token,
    };
    vec![
        of("dense, plain", &dense, load(4, short), plain),
        of("dense, checkpoint", &dense, load(1, middle), checkpoint),
        of("dense, stream", &dense, load(1, long), streamed(long / 8)),
        of("mixture, plain", &mixture, load(4, short), plain),
        of(
            "mixture, stream",
            &mixture,
            load(1, middle),
            streamed(middle / 4),
        ),
        of("chain, checkpoint", &chain, load(2, middle), checkpoint),
        of(
            "dense, stream, attention kept",
            &dense,
            load(1, long),
            kept(Some(long / 8), true),
        ),
        compared(of("dense, DPO, plain", &dense, load(4, short), plain), dpo),
        compared(
            of(
                "mixture, GRPO, stream",
                &mixture,
                load(2, middle),
                streamed(middle / 4),
            ),
            grpo,
        ),
    ]
}
