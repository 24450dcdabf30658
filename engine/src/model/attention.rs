//! Attention layers: which projections make queries, keys and values.

use bellows_kernels::attention::{KeySums, Settings, Visible, attention_again};
use bellows_kernels::memory::note;
use bellows_kernels::rope::rotate;
use burn::module::Module;
use burn::tensor::Tensor;

use super::{Attended, Init, Input, Linear, MultiHeadLatentAttention, Numerics, RmsNorm};
use crate::config::{AttentionKind, ModelConfig, QkNorm};

/// Attention of one layer.
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "one a layer; a box would hide the module tree"
)]
pub enum Attention {
    /// Grouped-query attention.
    Gqa(GroupedQueryAttention),
    /// Multi-head latent attention.
    Mla(MultiHeadLatentAttention),
}

/// Keys, rotated, and values of one layer `[batch, groups, time, width]`.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Keys.
    pub key: Tensor<4>,
    /// Values.
    pub value: Tensor<4>,
}

impl Attention {
    /// The attention that `config` asks for.
    pub fn new(init: &mut Init, config: &ModelConfig) -> Self {
        match config.attention {
            AttentionKind::Gqa => Attention::Gqa(GroupedQueryAttention::new(init, config)),
            AttentionKind::Mla => Attention::Mla(MultiHeadLatentAttention::new(init, config)),
        }
    }

    /// Keys and values of `x` `[batch · time, hidden]`, normalised.
    pub fn keys(&self, x: Tensor<2>, input: &Input) -> Keys {
        match self {
            Attention::Gqa(layer) => layer.keys(x, input),
            Attention::Mla(layer) => layer.keys(x, input),
        }
    }

    /// `x`: `[batch · time, hidden]`, normalised, whose queries read `keys`; these end with its own.
    /// With `sums` their gradients are added there instead of going the way of autodiff. The result
    /// comes from where `attended` says. Returns the same shape.
    pub fn forward(
        &self,
        x: Tensor<2>,
        keys: Keys,
        sums: Option<&KeySums>,
        input: &Input,
        visible: &Visible,
        attended: &mut Attended,
    ) -> Tensor<2> {
        let (query, scale, output, numerics) = match self {
            Attention::Gqa(layer) => (
                layer.queries(x, input),
                layer.scale,
                &layer.o_proj,
                layer.numerics,
            ),
            Attention::Mla(layer) => (
                layer.queries(x, input),
                layer.scale,
                &layer.o_proj,
                layer.numerics,
            ),
        };
        let settings = Settings {
            kernels: numerics.kernels,
            compute: numerics.compute,
            tier: None,
        };
        let Keys { key, value } = keys;
        let before = attended.take();
        let (y, known) = attention_again(query, key, value, visible, scale, settings, sums, before);
        attended.put(known);
        let [batch, heads, time, width] = y.dims();
        let heads = y.swap_dims(1, 2).reshape([batch * time, heads * width]);
        note(&heads);
        output.forward(heads)
    }
}

/// Grouped-query attention (arXiv 2305.13245).
#[derive(Module, Debug)]
pub struct GroupedQueryAttention {
    /// Queries of all heads.
    pub q_proj: Linear,
    /// Keys of all groups.
    pub k_proj: Linear,
    /// Values of all groups.
    pub v_proj: Linear,
    /// Heads back to the residual stream.
    pub o_proj: Linear,
    /// Normalisation of queries.
    pub q_norm: Option<RmsNorm>,
    /// Normalisation of keys.
    pub k_norm: Option<RmsNorm>,
    #[module(skip)]
    qk_norm: QkNorm,
    #[module(skip)]
    clip: Option<f64>,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    groups: usize,
    #[module(skip)]
    scale: f64,
    #[module(skip)]
    numerics: Numerics,
}

impl GroupedQueryAttention {
    fn new(init: &mut Init, config: &ModelConfig) -> Self {
        let (heads, groups) = (config.num_attention_heads, config.num_key_value_heads);
        let (hidden, width) = (config.hidden_size, config.query_head_dim());
        let bias = config.attention_bias;
        let mut norm = |heads: usize| match config.qk_norm {
            QkNorm::None => None,
            QkNorm::Head => Some(RmsNorm::new(init, width, config.rms_norm_eps)),
            QkNorm::Full => Some(RmsNorm::new(init, heads * width, config.rms_norm_eps)),
        };
        let (q_norm, k_norm) = (norm(heads), norm(groups));
        Self {
            q_proj: Linear::new(init, hidden, heads * width, bias),
            k_proj: Linear::new(init, hidden, groups * width, bias),
            v_proj: Linear::new(init, hidden, groups * width, bias),
            o_proj: Linear::new(init, heads * width, hidden, config.attention_output_bias),
            q_norm,
            k_norm,
            qk_norm: config.qk_norm,
            clip: config.clip_qkv,
            heads,
            groups,
            scale: (width as f64).powf(-0.5),
            numerics: init.numerics(),
        }
    }

    fn queries(&self, x: Tensor<2>, input: &Input) -> Tensor<4> {
        let query = self.q_proj.forward(x);
        rotate(
            self.heads(query, self.q_norm.as_ref(), self.heads, input),
            &input.rotation,
            self.numerics.kernels,
        )
    }

    fn keys(&self, x: Tensor<2>, input: &Input) -> Keys {
        let key = self.k_proj.forward(x.clone());
        let value = self.clipped(self.v_proj.forward(x));
        Keys {
            key: rotate(
                self.heads(key, self.k_norm.as_ref(), self.groups, input),
                &input.rotation,
                self.numerics.kernels,
            ),
            value: split_heads(value, self.groups, input),
        }
    }

    fn heads(
        &self,
        x: Tensor<2>,
        norm: Option<&RmsNorm>,
        heads: usize,
        input: &Input,
    ) -> Tensor<4> {
        match (norm, self.qk_norm) {
            (Some(norm), QkNorm::Full) => split_heads(self.clipped(norm.forward(x)), heads, input),
            (Some(norm), _) => {
                // Before the heads are apart, while their features lie side by side: nothing copies
                // them, and the rotation reads them as they lie.
                let width = x.dims()[1] / heads;
                let x = self.clipped(x);
                let x = x.reshape([input.batch, input.time, heads, width]);
                norm.forward(x).swap_dims(1, 2)
            }
            (None, _) => split_heads(self.clipped(x), heads, input),
        }
    }

    fn clipped(&self, x: Tensor<2>) -> Tensor<2> {
        match self.clip {
            Some(limit) => x.clamp(-limit, limit),
            None => x,
        }
    }
}

/// `[batch · time, heads · width]` to `[batch, heads, time, width]`.
pub(super) fn split_heads(x: Tensor<2>, heads: usize, input: &Input) -> Tensor<4> {
    let width = x.dims()[1] / heads;
    x.reshape([input.batch, input.time, heads, width])
        .swap_dims(1, 2)
}
