//! Layers put together.

use bellows_kernels::attention::KeySums;
use bellows_kernels::linear::linear;
use bellows_kernels::memory::{enter_layer, enter_part, note};
use bellows_kernels::routing::Routing;
use burn::module::Module;
use burn::tensor::Tensor;

use super::{
    Attended, Attention, Cache, Choices, DenseFeedForward, Embedding, FeedForward, Init, Input,
    Keys, Linear, MixtureOfExperts, Numerics, RmsNorm, Stream,
};
use crate::config::ModelConfig;

/// One layer: attention and feed-forward, each behind a normalisation.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    /// Before attention.
    pub input_layernorm: RmsNorm,
    /// Attention.
    pub self_attn: Attention,
    /// Before the feed-forward part.
    pub post_attention_layernorm: RmsNorm,
    /// Feed-forward part.
    pub mlp: FeedForward,
    #[module(skip)]
    outer_residual: bool,
    #[module(skip)]
    slides: bool,
}

impl DecoderLayer {
    fn new(init: &mut Init, config: &ModelConfig, index: usize) -> Self {
        let (hidden, eps) = (config.hidden_size, config.rms_norm_eps);
        let mixture = config.is_moe_layer(index);
        Self {
            input_layernorm: RmsNorm::new(init, hidden, eps),
            self_attn: Attention::new(init, config),
            post_attention_layernorm: RmsNorm::new(init, hidden, eps),
            mlp: if mixture {
                FeedForward::Mixture(MixtureOfExperts::new(init, config))
            } else {
                let inner = config.intermediate_size;
                FeedForward::Dense(DenseFeedForward::new(init, hidden, inner, config.mlp_bias))
            },
            outer_residual: config.outer_residual || !mixture,
            slides: config.layer_window(index).is_some(),
        }
    }

    /// Reads `stream` and returns it with the layer's output still to be added, and each
    /// iteration's routing, which is as `choices` says; attention's result is as `attended` says. `past` holds the layer's keys and values
    /// of earlier tokens and is extended.
    pub fn forward(
        &self,
        stream: Stream,
        input: &Input,
        past: Option<&mut Option<(Tensor<4>, Tensor<4>)>>,
        choices: &mut Choices<'_>,
        attended: &mut Attended,
    ) -> (Stream, Vec<Routing>) {
        let _part = enter_part("attention");
        let (residual, normed) = self.input_layernorm.forward_stream(stream);
        let Keys { mut key, mut value } = self.self_attn.keys(normed.clone(), input);
        if let Some(past) = past {
            if let Some((old_key, old_value)) = past.take() {
                key = Tensor::cat(vec![old_key, key], 2);
                value = Tensor::cat(vec![old_value, value], 2);
                note(&key);
                note(&value);
            }
            *past = Some((key.clone(), value.clone()));
        }
        let keys = Keys { key, value };
        self.attend(residual, normed, keys, None, input, choices, attended)
    }

    /// Keys and values of the layer's input `x` `[batch · time, hidden]`.
    pub fn keys(&self, x: Tensor<2>, input: &Input) -> Keys {
        let _part = enter_part("attention");
        self.self_attn.keys(self.input_layernorm.forward(x), input)
    }

    /// [`DecoderLayer::forward`] of the layer's input `x`, with `keys` of all tokens up to its own
    /// last ones from [`DecoderLayer::keys`], whose gradients are added to `sums`.
    pub fn forward_against(
        &self,
        x: Tensor<2>,
        keys: Keys,
        sums: &KeySums,
        input: &Input,
        choices: &mut Choices<'_>,
        attended: &mut Attended,
    ) -> (Stream, Vec<Routing>) {
        let _part = enter_part("attention");
        let normed = self.input_layernorm.forward(x.clone());
        self.attend(x, normed, keys, Some(sums), input, choices, attended)
    }

    fn attend(
        &self,
        residual: Tensor<2>,
        normed: Tensor<2>,
        keys: Keys,
        sums: Option<&KeySums>,
        input: &Input,
        choices: &mut Choices<'_>,
        attended: &mut Attended,
    ) -> (Stream, Vec<Routing>) {
        let visible = match (&input.sliding, self.slides) {
            (Some(visible), true) => visible,
            _ => &input.full,
        };
        let update = self
            .self_attn
            .forward(normed, keys, sums, input, visible, attended);
        let _part = enter_part("feed-forward");
        let (residual, normed) = self.post_attention_layernorm.forward_stream(Stream {
            residual,
            update: Some(update),
        });
        let (y, routings) = match &self.mlp {
            FeedForward::Dense(mlp) => (mlp.forward(normed), Vec::new()),
            FeedForward::Mixture(mixture) => mixture.forward(normed, input.batch, choices),
        };
        let stream = if self.outer_residual {
            Stream {
                residual,
                update: Some(y),
            }
        } else {
            Stream {
                residual: y,
                update: None,
            }
        };
        (stream, routings)
    }
}

/// A decoder-only language model.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Token embedding.
    pub embed_tokens: Embedding,
    /// Layers, first to last.
    pub layers: Vec<DecoderLayer>,
    /// Normalisation after the last layer.
    pub norm: RmsNorm,
    /// Output head; absent where it is the embedding.
    pub lm_head: Option<Linear>,
    #[module(skip)]
    config: ModelConfig,
    #[module(skip)]
    numerics: Numerics,
}

/// What one router decided, and where it stands.
#[derive(Clone, Debug)]
pub struct RoutingAt {
    /// Layer, from 0.
    pub layer: usize,
    /// Iteration of the chain, from 0.
    pub iteration: usize,
    /// The decision.
    pub routing: Routing,
}

/// Result of a forward pass.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Normalised final hidden states `[batch · time, hidden]`.
    pub hidden: Tensor<2>,
    /// Routing of every mixture layer and iteration, in order.
    pub routings: Vec<RoutingAt>,
}

impl Decoder {
    /// A model with the parameters that `init` makes. `config` must be valid and have a
    /// vocabulary.
    pub fn new(init: &mut Init, config: &ModelConfig) -> Self {
        let (vocabulary, hidden) = (config.vocab_size, config.hidden_size);
        init.use_kernels(config.kernels);
        Self {
            embed_tokens: Embedding::new(init, vocabulary, hidden, config.pad_token_id),
            layers: (0..config.num_hidden_layers)
                .map(|index| DecoderLayer::new(init, config, index))
                .collect(),
            norm: RmsNorm::new(init, hidden, config.rms_norm_eps),
            lm_head: (!config.tie_word_embeddings)
                .then(|| Linear::new(init, hidden, vocabulary, false)),
            config: config.clone(),
            numerics: init.numerics(),
        }
    }

    /// The architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// How it computes.
    pub fn numerics(&self) -> Numerics {
        self.numerics
    }

    /// The same model, whose head takes so many bytes for logits, as [`Numerics::head_workspace`]
    /// says.
    pub fn with_head_workspace(mut self, bytes: usize) -> Self {
        self.numerics.head_workspace = bytes;
        self
    }

    /// Weight of the output head `[vocabulary, hidden]`.
    pub fn head(&self) -> Tensor<2> {
        match &self.lm_head {
            Some(head) => head.weight.val(),
            None => self.embed_tokens.weight.val(),
        }
    }

    /// Runs every layer. With a `cache`, keys and values of this input are added to it.
    pub fn forward(&self, input: &Input, mut cache: Option<&mut Cache>) -> Forward {
        let embedding = enter_part("embedding");
        let mut stream = Stream {
            residual: self.embed_tokens.forward(input.ids.clone()),
            update: None,
        };
        note(&stream.residual);
        drop(embedding);
        let mut routings = Vec::new();
        for (index, layer) in self.layers.iter().enumerate() {
            let _layer = enter_layer(index);
            let past = cache.as_mut().map(|cache| &mut cache.layers[index]);
            let (next, layer_routings) = layer.forward(
                stream,
                input,
                past,
                &mut Choices::Fresh,
                &mut Attended::Fresh,
            );
            stream = next;
            routings.extend(
                layer_routings
                    .into_iter()
                    .enumerate()
                    .map(|(iteration, routing)| RoutingAt {
                        layer: index,
                        iteration,
                        routing,
                    }),
            );
        }
        if let Some(cache) = cache {
            cache.length += input.time;
        }
        Forward {
            hidden: self.norm.forward_stream(stream).1,
            routings,
        }
    }

    /// Logits `[rows, vocabulary]` of hidden states `[rows, hidden]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        // A head of 16 bits is multiplied as it is: in f32 it would be copied for every token.
        let Numerics {
            kernels, weights, ..
        } = self.numerics;
        linear(hidden, self.head(), weights, kernels)
    }

    /// Mixture layers, with their index, for changes to their correction bias.
    pub fn mixtures_mut(&mut self) -> impl Iterator<Item = (usize, &mut MixtureOfExperts)> {
        self.layers
            .iter_mut()
            .enumerate()
            .filter_map(|(index, layer)| match &mut layer.mlp {
                FeedForward::Mixture(mixture) => Some((index, mixture)),
                FeedForward::Dense(_) => None,
            })
    }

    /// Mixture layers, with their index.
    pub fn mixtures(&self) -> impl Iterator<Item = (usize, &MixtureOfExperts)> {
        self.layers
            .iter()
            .enumerate()
            .filter_map(|(index, layer)| match &layer.mlp {
                FeedForward::Mixture(mixture) => Some((index, mixture)),
                FeedForward::Dense(_) => None,
            })
    }
}
