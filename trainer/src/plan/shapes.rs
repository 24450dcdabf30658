//! Configurations whose predicted memory is held against what a step of them takes.

use bellows_engine::config::{ModelConfig, ModelType, QkNorm};
use bellows_engine::objective::{Mean, Objective};
use bellows_engine::plan::{Load, Mode};

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
    pub name: &'static str,
    /// Its architecture.
    pub model: ModelConfig,
    /// Its step.
    pub load: Load,
    /// How it keeps activations.
    pub mode: Mode,
    /// Tokens of a chunk, where it streams.
    pub chunk: usize,
    /// Whether it keeps the results of attention.
    pub keep_attention: bool,
    /// What it minimises.
    pub objective: Objective,
}

/// Seven configurations: dense models, mixtures and chains of experts; plain, with checkpoints and
/// streamed; short and long sequences. Then preferences and groups, which go through the head twice.
pub fn samples(sizes: Sizes) -> Vec<Sample> {
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
    let of = |name, model: &ModelConfig, load, mode, chunk| Sample {
        name,
        model: model.clone(),
        load,
        mode,
        chunk,
        keep_attention: false,
        objective: Objective::default(),
    };
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
        of("dense, plain", &dense, load(4, short), Mode::Plain, 0),
        of(
            "dense, checkpoint",
            &dense,
            load(1, middle),
            Mode::Checkpoint,
            0,
        ),
        of(
            "dense, stream",
            &dense,
            load(1, long),
            Mode::Stream,
            long / 8,
        ),
        of("mixture, plain", &mixture, load(4, short), Mode::Plain, 0),
        of(
            "mixture, stream",
            &mixture,
            load(1, middle),
            Mode::Stream,
            middle / 4,
        ),
        of(
            "chain, checkpoint",
            &chain,
            load(2, middle),
            Mode::Checkpoint,
            0,
        ),
        Sample {
            keep_attention: true,
            ..of(
                "dense, stream, attention kept",
                &dense,
                load(1, long),
                Mode::Stream,
                long / 8,
            )
        },
        compared(
            of("dense, DPO, plain", &dense, load(4, short), Mode::Plain, 0),
            dpo,
        ),
        compared(
            of(
                "mixture, GRPO, stream",
                &mixture,
                load(2, middle),
                Mode::Stream,
                middle / 4,
            ),
            grpo,
        ),
    ]
}
