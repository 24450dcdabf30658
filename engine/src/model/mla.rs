//! Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434).

use bellows_kernels::rope::rotate;
use burn::module::Module;
use burn::tensor::Tensor;

use super::attention::{Keys, split_heads};
use super::{Init, Input, Linear, Numerics, RmsNorm, rotary};
use crate::config::ModelConfig;

/// The latent normalisations use this epsilon whatever `rms_norm_eps` says, as in the reference.
const LATENT_EPS: f64 = 1e-6;

/// Keys and values through a low-rank latent; one rotary key for all heads.
#[derive(Module, Debug)]
pub struct MultiHeadLatentAttention {
    /// Queries directly, where there is no query compression.
    pub q_proj: Option<Linear>,
    /// Compression of queries.
    pub q_a_proj: Option<Linear>,
    /// Normalisation of compressed queries.
    pub q_a_layernorm: Option<RmsNorm>,
    /// Compressed queries to heads.
    pub q_b_proj: Option<Linear>,
    /// Compression of keys and values, and the rotary key.
    pub kv_a_proj_with_mqa: Linear,
    /// Normalisation of the latent.
    pub kv_a_layernorm: RmsNorm,
    /// Latent to keys and values of each head.
    pub kv_b_proj: Linear,
    /// Heads back to the residual stream.
    pub o_proj: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    rank: usize,
    #[module(skip)]
    plain_width: usize,
    #[module(skip)]
    rotary_width: usize,
    #[module(skip)]
    value_width: usize,
    #[module(skip)]
    pub(super) scale: f64,
    #[module(skip)]
    pub(super) numerics: Numerics,
}

impl MultiHeadLatentAttention {
    pub(super) fn new(init: &mut Init, config: &ModelConfig) -> Self {
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        let query_width = heads * config.query_head_dim();
        let (rank, bias) = (config.kv_lora_rank, config.attention_bias);
        let (mut q_proj, mut q_a_proj, mut q_a_layernorm, mut q_b_proj) = (None, None, None, None);
        match config.q_lora_rank {
            None => q_proj = Some(Linear::new(init, hidden, query_width, false)),
            Some(rank) => {
                q_a_proj = Some(Linear::new(init, hidden, rank, bias));
                q_a_layernorm = Some(RmsNorm::new(init, rank, LATENT_EPS));
                q_b_proj = Some(Linear::new(init, rank, query_width, false));
            }
        }
        let key_value = heads * (config.qk_nope_head_dim + config.v_head_dim);
        Self {
            q_proj,
            q_a_proj,
            q_a_layernorm,
            q_b_proj,
            kv_a_proj_with_mqa: Linear::new(init, hidden, rank + config.qk_rope_head_dim, bias),
            kv_a_layernorm: RmsNorm::new(init, rank, LATENT_EPS),
            kv_b_proj: Linear::new(init, rank, key_value, false),
            o_proj: Linear::new(
                init,
                heads * config.v_head_dim,
                hidden,
                config.attention_output_bias,
            ),
            heads,
            rank,
            plain_width: config.qk_nope_head_dim,
            rotary_width: config.qk_rope_head_dim,
            value_width: config.v_head_dim,
            scale: (config.query_head_dim() as f64).powf(-0.5)
                * rotary::mla_softmax_factor(&config.rope),
            numerics: init.numerics(),
        }
    }

    pub(super) fn queries(&self, x: Tensor<2>, input: &Input) -> Tensor<4> {
        let query = match (
            &self.q_proj,
            &self.q_a_proj,
            &self.q_a_layernorm,
            &self.q_b_proj,
        ) {
            (None, Some(a), Some(norm), Some(b)) => b.forward(norm.forward(a.forward(x))),
            (Some(direct), ..) => direct.forward(x),
            _ => unreachable!("new() makes the direct projection or all three of the compression"),
        };
        // The rotation is as wide as the last part of a head: it leaves the rest.
        rotate(
            split_heads(query, self.heads, input),
            &input.rotation,
            self.numerics.kernels,
        )
    }

    pub(super) fn keys(&self, x: Tensor<2>, input: &Input) -> Keys {
        let kernels = self.numerics.kernels;
        let compressed = self.kv_a_proj_with_mqa.forward(x);
        let latent = compressed.clone().narrow(1, 0, self.rank);
        let rotary = compressed.narrow(1, self.rank, self.rotary_width);
        let rotary = rotate(split_heads(rotary, 1, input), &input.rotation, kernels).expand([
            input.batch,
            self.heads,
            input.time,
            self.rotary_width,
        ]);
        let both = self.kv_b_proj.forward(self.kv_a_layernorm.forward(latent));
        let both = split_heads(both, self.heads, input);
        let plain = both.clone().narrow(3, 0, self.plain_width);
        Keys {
            key: Tensor::cat(vec![plain, rotary], 3),
            value: both.narrow(3, self.plain_width, self.value_width),
        }
    }
}
