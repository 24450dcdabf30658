//! One description of every decoder that the engine builds.
//!
//! Field names are Hugging Face's. [`huggingface`] reads and writes the `config.json` of each
//! supported `model_type`; the structures here are what the engine itself understands, so a
//! configuration file of a run uses them directly.

pub mod huggingface;
mod rope;
#[cfg(test)]
mod tests;
mod validate;

pub use rope::{RopeConfig, RopeScaling};
pub use validate::ConfigError;

use bellows_kernels::Kernels;
use serde::{Deserialize, Serialize};

/// The architecture whose names, file layout and conventions a checkpoint follows.
///
/// The computation is decided by the other fields of [`ModelConfig`]; this one decides how
/// weights are named on disk and what `config.json` looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelType {
    /// Llama: dense SwiGLU, GQA.
    Llama,
    /// Qwen2: Llama with biases on the query, key and value projections.
    Qwen2,
    /// Qwen3: per-head RMS normalisation of queries and keys.
    Qwen3,
    /// Mixtral: every layer is a mixture of experts.
    Mixtral,
    /// Qwen3-MoE.
    Qwen3Moe,
    /// OLMoE: full-width query and key normalisation.
    Olmoe,
    /// DeepSeek-V2: MLA, shared experts, dense first layers.
    DeepseekV2,
    /// DeepSeek-V3: sigmoid router with a score-correction bias.
    DeepseekV3,
    /// Chain-of-Experts on the DeepSeek-V2 shape (arXiv 2506.18945).
    #[serde(rename = "coe_deepseekv2")]
    CoeDeepseekV2,
}

impl ModelType {
    /// Every supported architecture.
    pub const ALL: [ModelType; 9] = [
        ModelType::Llama,
        ModelType::Qwen2,
        ModelType::Qwen3,
        ModelType::Mixtral,
        ModelType::Qwen3Moe,
        ModelType::Olmoe,
        ModelType::DeepseekV2,
        ModelType::DeepseekV3,
        ModelType::CoeDeepseekV2,
    ];

    /// The value of `model_type` in `config.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            ModelType::Llama => "llama",
            ModelType::Qwen2 => "qwen2",
            ModelType::Qwen3 => "qwen3",
            ModelType::Mixtral => "mixtral",
            ModelType::Qwen3Moe => "qwen3_moe",
            ModelType::Olmoe => "olmoe",
            ModelType::DeepseekV2 => "deepseek_v2",
            ModelType::DeepseekV3 => "deepseek_v3",
            ModelType::CoeDeepseekV2 => "coe_deepseekv2",
        }
    }
}

/// How queries, keys and values are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionKind {
    /// Grouped-query attention; multi-head attention when the head counts are equal.
    #[default]
    Gqa,
    /// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434).
    Mla,
}

/// RMS normalisation of queries and keys before the rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QkNorm {
    /// None.
    #[default]
    None,
    /// One weight of `head_dim`, shared by the heads (Qwen3).
    Head,
    /// One weight over all heads together (OLMoE).
    Full,
}

/// The positions that a layer's attention sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerType {
    /// Every earlier position of the document.
    FullAttention,
    /// The last `sliding_window` positions of the document, the current one included.
    SlidingAttention,
}

/// What turns router logits into scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoringFunc {
    /// Softmax over all experts.
    #[default]
    Softmax,
    /// Sigmoid of each logit by itself.
    Sigmoid,
}

/// Which experts may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TopkMethod {
    /// The `num_experts_per_tok` best scores.
    #[default]
    Greedy,
    /// The best among the `topk_group` groups with the highest best score (DeepSeek-V2).
    GroupLimitedGreedy,
    /// As above, a group ranked by the sum of its two best corrected scores, experts chosen by
    /// score plus correction bias (DeepSeek-V3).
    NoauxTc,
}

/// How [`Kernels`] are written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Kernels", rename_all = "snake_case")]
enum KernelsName {
    Fused,
    Reference,
}

/// The whole architecture of a decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Naming and layout of checkpoints.
    pub model_type: ModelType,
    /// Rows of the embedding. `0` in a run's configuration takes the tokenizer's size.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Inner width of dense feed-forward layers.
    pub intermediate_size: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads of grouped-query attention.
    pub num_key_value_heads: usize,
    /// Width of one head of grouped-query attention. `0` takes `hidden_size / num_attention_heads`.
    pub head_dim: usize,
    /// How queries, keys and values are made.
    pub attention: AttentionKind,
    /// Rank of the query compression of MLA; absent: queries are projected directly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub q_lora_rank: Option<usize>,
    /// Rank of the key and value compression of MLA.
    pub kv_lora_rank: usize,
    /// Width of a head's part without rotary embedding, MLA.
    pub qk_nope_head_dim: usize,
    /// Width of a head's rotary part, MLA.
    pub qk_rope_head_dim: usize,
    /// Width of a value head, MLA.
    pub v_head_dim: usize,
    /// Bias on query, key and value projections.
    pub attention_bias: bool,
    /// Bias on the output projection of attention.
    pub attention_output_bias: bool,
    /// Normalisation of queries and keys.
    pub qk_norm: QkNorm,
    /// Clamp queries, keys and values to ± this value (OLMoE).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_qkv: Option<f64>,
    /// Window of `sliding_attention` layers, in tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sliding_window: Option<usize>,
    /// One entry a layer; empty: every layer is `full_attention`.
    pub layer_types: Vec<LayerType>,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// Longest sequence that the model is meant for.
    pub max_position_embeddings: usize,
    /// Epsilon of every RMS normalisation of the residual stream.
    pub rms_norm_eps: f64,
    /// Bias on the projections of dense feed-forward layers.
    pub mlp_bias: bool,
    /// Token whose embedding gets no gradient from look-ups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_token_id: Option<usize>,
    /// The head uses the embedding's weight.
    pub tie_word_embeddings: bool,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
    /// Routed experts of a mixture layer; `0`: a dense model.
    pub n_routed_experts: usize,
    /// Experts chosen for each token, in each iteration.
    pub num_experts_per_tok: usize,
    /// Inner width of one expert.
    pub moe_intermediate_size: usize,
    /// Experts that see every token; they act as one of `n_shared_experts · moe_intermediate_size`.
    pub n_shared_experts: usize,
    /// The first layers that stay dense.
    pub first_k_dense_replace: usize,
    /// Of the remaining layers every n-th is a mixture (layer index + 1 divisible by n for Qwen,
    /// layer index divisible by n for DeepSeek: see `moe_layer_offset`).
    pub moe_layer_freq: usize,
    /// Added to the layer index before the division by `moe_layer_freq`.
    pub moe_layer_offset: usize,
    /// Further layers that stay dense.
    pub mlp_only_layers: Vec<usize>,
    /// Router score function.
    pub scoring_func: ScoringFunc,
    /// Selection method.
    pub topk_method: TopkMethod,
    /// Groups of experts for the group-limited methods.
    pub n_group: usize,
    /// Groups that a token may choose from.
    pub topk_group: usize,
    /// Divide the chosen weights by their sum.
    pub norm_topk_prob: bool,
    /// Factor on the chosen weights.
    pub routed_scaling_factor: f64,
    /// A bias on the scores, used for the choice alone; loss-free balancing updates it.
    pub score_correction_bias: bool,
    /// Slots an expert may take, as a multiple of the even share; absent: dropless.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_factor: Option<f64>,
    /// Iterations C of a Chain-of-Experts layer; `1` is an ordinary mixture.
    pub inner_iter: usize,
    /// Add each iteration's input to its output.
    pub inner_residual: bool,
    /// Add the layer's input, before its normalisation, to the last iteration's output, as every
    /// ordinary decoder does; the authors' Chain-of-Experts leaves it out.
    pub outer_residual: bool,
    /// A router for each iteration; otherwise one for all.
    pub use_igate: bool,
    /// What computes routers and experts. It decides no number beyond rounding, so it is no part
    /// of a checkpoint.
    #[serde(with = "KernelsName")]
    pub kernels: Kernels,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            model_type: ModelType::Llama,
            vocab_size: 0,
            hidden_size: 256,
            num_hidden_layers: 4,
            intermediate_size: 704,
            num_attention_heads: 4,
            num_key_value_heads: 4,
            head_dim: 0,
            attention: AttentionKind::Gqa,
            q_lora_rank: None,
            kv_lora_rank: 0,
            qk_nope_head_dim: 0,
            qk_rope_head_dim: 0,
            v_head_dim: 0,
            attention_bias: false,
            attention_output_bias: false,
            qk_norm: QkNorm::None,
            clip_qkv: None,
            sliding_window: None,
            layer_types: Vec::new(),
            rope: RopeConfig::default(),
            max_position_embeddings: 2048,
            rms_norm_eps: 1e-6,
            mlp_bias: false,
            pad_token_id: None,
            tie_word_embeddings: false,
            initializer_range: 0.02,
            n_routed_experts: 0,
            num_experts_per_tok: 1,
            moe_intermediate_size: 0,
            n_shared_experts: 0,
            first_k_dense_replace: 0,
            moe_layer_freq: 1,
            moe_layer_offset: 0,
            mlp_only_layers: Vec::new(),
            scoring_func: ScoringFunc::Softmax,
            topk_method: TopkMethod::Greedy,
            n_group: 1,
            topk_group: 1,
            norm_topk_prob: false,
            routed_scaling_factor: 1.0,
            score_correction_bias: false,
            capacity_factor: None,
            inner_iter: 1,
            inner_residual: false,
            outer_residual: true,
            use_igate: true,
            kernels: Kernels::Fused,
        }
    }
}

impl ModelConfig {
    /// Whether layer `index` (from 0) is a mixture of experts.
    pub fn is_moe_layer(&self, index: usize) -> bool {
        self.n_routed_experts > 0
            && index >= self.first_k_dense_replace
            && (index + self.moe_layer_offset).is_multiple_of(self.moe_layer_freq.max(1))
            && !self.mlp_only_layers.contains(&index)
    }

    /// The number of mixture layers.
    pub fn moe_layers(&self) -> usize {
        (0..self.num_hidden_layers)
            .filter(|&index| self.is_moe_layer(index))
            .count()
    }

    /// Routers of one mixture layer: one an iteration, or one for all.
    pub fn routers(&self) -> usize {
        if self.use_igate { self.inner_iter } else { 1 }
    }

    /// Width of a query and key head, rotary part included.
    pub fn query_head_dim(&self) -> usize {
        match self.attention {
            AttentionKind::Mla => self.qk_nope_head_dim + self.qk_rope_head_dim,
            AttentionKind::Gqa if self.head_dim > 0 => self.head_dim,
            AttentionKind::Gqa => self.hidden_size / self.num_attention_heads.max(1),
        }
    }

    /// Width of a value head.
    pub fn value_head_dim(&self) -> usize {
        match self.attention {
            AttentionKind::Mla => self.v_head_dim,
            AttentionKind::Gqa => self.query_head_dim(),
        }
    }

    /// Width of the part of a head that is rotated.
    pub fn rotary_dim(&self) -> usize {
        match self.attention {
            AttentionKind::Mla => self.qk_rope_head_dim,
            AttentionKind::Gqa => self.query_head_dim(),
        }
    }

    /// The window of layer `index` in tokens, if it has one.
    pub fn layer_window(&self, index: usize) -> Option<usize> {
        match self.layer_types.get(index) {
            Some(LayerType::SlidingAttention) => self.sliding_window,
            _ => None,
        }
    }

    /// Multiply-adds of attention's scores and of the values they weight, for a token of a sequence
    /// of `time` tokens on average: causal, in layers with a window within it. The part of a token's
    /// arithmetic that [`ParameterCounts::computed`] leaves out.
    pub fn attention_products(&self, time: usize) -> f64 {
        let width = self.num_attention_heads * (self.query_head_dim() + self.value_head_dim());
        let time = time.max(1) as f64;
        let keys = |layer| {
            let window = self
                .layer_window(layer)
                .map_or(time, |window| time.min(window as f64));
            // Tokens before the window is full see as many keys as there are, the others all of it.
            (window * (window + 1.0) / 2.0 + (time - window) * window) / time
        };
        (0..self.num_hidden_layers).map(keys).sum::<f64>() * width as f64
    }

    /// Parameters of the model, by what a token does with them.
    pub fn parameter_counts(&self) -> ParameterCounts {
        let h = self.hidden_size;
        let (q, v) = (self.query_head_dim(), self.value_head_dim());
        let heads = self.num_attention_heads;
        let attention = match self.attention {
            AttentionKind::Gqa => {
                let kv = self.num_key_value_heads;
                let bias = if self.attention_bias {
                    q * (heads + 2 * kv)
                } else {
                    0
                };
                let norm = match self.qk_norm {
                    QkNorm::None => 0,
                    QkNorm::Head => 2 * q,
                    QkNorm::Full => q * (heads + kv),
                };
                h * q * (heads + 2 * kv) + heads * q * h + bias + norm
            }
            AttentionKind::Mla => {
                let query = match self.q_lora_rank {
                    Some(rank) => h * rank + rank + rank * heads * q,
                    None => h * heads * q,
                };
                let compressed = self.kv_lora_rank + self.qk_rope_head_dim;
                // Only the compressions have a bias.
                let bias = if self.attention_bias {
                    compressed + self.q_lora_rank.unwrap_or(0)
                } else {
                    0
                };
                query
                    + bias
                    + h * compressed
                    + self.kv_lora_rank
                    + self.kv_lora_rank * heads * (self.qk_nope_head_dim + v)
                    + heads * v * h
            }
        } + usize::from(self.attention_output_bias) * h;
        let dense_bias = usize::from(self.mlp_bias) * (2 * self.intermediate_size + h);
        let dense = 3 * h * self.intermediate_size + dense_bias;
        let expert = 3 * h * self.moe_intermediate_size;
        let shared_bias = match self.n_shared_experts {
            0 => 0,
            count => usize::from(self.mlp_bias) * (2 * count * self.moe_intermediate_size + h),
        };
        let shared = self.n_shared_experts * expert + shared_bias;
        let router = self.routers() * h * self.n_routed_experts;
        let norms = 2 * h;
        let mut counts = ParameterCounts::default();
        let mut add = |total: usize, active: usize, computed: usize| {
            counts.total += total;
            counts.active += active;
            counts.computed += computed;
        };
        for layer in 0..self.num_hidden_layers {
            add(attention + norms, attention + norms, attention);
            if self.is_moe_layer(layer) {
                let (all, chosen) = (self.n_routed_experts, self.num_experts_per_tok);
                let reachable = (self.inner_iter * chosen).min(all);
                add(
                    all * expert + shared + router,
                    reachable * expert + shared + router,
                    self.inner_iter * (chosen * expert + shared + h * all),
                );
            } else {
                add(dense, dense, dense);
            }
        }
        let table = self.vocab_size * h;
        let tables = if self.tie_word_embeddings { 1 } else { 2 };
        add(tables * table + h, tables * table + h, table);
        counts
    }
}

/// What [`ModelConfig::parameter_counts`] returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParameterCounts {
    /// All parameters.
    pub total: usize,
    /// Parameters that one token can reach: of the routed experts, those chosen in any iteration.
    pub active: usize,
    /// Multiply-adds of one token's matrix products, scores of attention left out. An expert chosen
    /// in two iterations of a chain counts twice.
    pub computed: usize,
}
