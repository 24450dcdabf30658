//! The largest parameter of a model: a device takes each in one buffer, and has a largest buffer.

use bellows_kernels::experts::lengths;

use super::families::F32;
use crate::config::ModelConfig;

/// A parameter by what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// What it is, in words.
    pub what: &'static str,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The keys of a configuration that it grows with.
    pub keys: &'static str,
}

impl Parameter {
    /// Its elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&length| length as u64).product()
    }

    /// Bytes of it, and of its gradient, which are f32 both.
    pub fn bytes(&self) -> u64 {
        F32 * self.elements()
    }
}

/// The largest parameter of `model` on a device whose largest buffer has `most` bytes, `None` where
/// nothing limits it: a layer's experts are divided as the model will divide them.
pub fn largest_parameter(model: &ModelConfig, most: Option<u64>) -> Parameter {
    let hidden = model.hidden_size;
    let mixtures = model.moe_layers();
    // As the mixture and the decoder make them: with biases, shared experts are dense layers.
    let (stacked, shared) = match (mixtures > 0, model.mlp_bias) {
        (false, _) => (0, 0),
        (true, true) => (model.n_routed_experts, model.n_shared_experts),
        (true, false) => (model.n_routed_experts + model.n_shared_experts, 0),
    };
    let wide = 2 * model.moe_intermediate_size;
    let blocks = lengths(stacked, F32 * (wide * hidden) as u64, most);
    let inner = match mixtures < model.num_hidden_layers {
        true => model.intermediate_size,
        false => 0,
    };
    let heads = model.num_attention_heads;
    let merged = heads * model.query_head_dim().max(model.value_head_dim());
    let candidates = [
        Parameter {
            what: "the embedding or the head",
            shape: vec![model.vocab_size, hidden],
            keys: "model.vocab_size or model.hidden_size",
        },
        Parameter {
            what: "a dense layer's projection",
            shape: vec![inner.max(shared * model.moe_intermediate_size), hidden],
            keys: "model.intermediate_size or model.hidden_size",
        },
        Parameter {
            what: "a projection of attention",
            shape: vec![merged, hidden],
            keys: "model.num_attention_heads, model.head_dim or model.hidden_size",
        },
        Parameter {
            what: "the gate and up projections of experts",
            shape: vec![blocks[0], wide, hidden],
            keys: "model.moe_intermediate_size or model.hidden_size",
        },
    ];
    let largest = candidates.into_iter().max_by_key(Parameter::elements);
    largest.expect("there are candidates")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_be_divided_is_larger_than_the_limit() {
        let mut model = ModelConfig {
            vocab_size: 1000,
            hidden_size: 64,
            intermediate_size: 256,
            n_routed_experts: 30,
            n_shared_experts: 2,
            moe_intermediate_size: 48,
            ..ModelConfig::default()
        };
        let found = largest_parameter(&model, None);
        assert_eq!(found.shape, [32, 96, 64]);
        assert_eq!(found.bytes(), 4 * 32 * 96 * 64);
        let expert = 4 * 96 * 64;
        // 256,000 bytes of the embedding are more than any block of at most ten experts.
        assert_eq!(
            largest_parameter(&model, Some(11 * expert)).shape,
            [11, 96, 64]
        );
        assert_eq!(
            largest_parameter(&model, Some(10 * expert)).shape,
            [1000, 64]
        );
        model.vocab_size = 10;
        assert_eq!(largest_parameter(&model, Some(1)).shape, [256, 64]);
        model.moe_intermediate_size = 256;
        assert_eq!(largest_parameter(&model, Some(1)).shape, [1, 512, 64]);
        model.n_routed_experts = 0;
        model.vocab_size = 1000;
        assert_eq!(largest_parameter(&model, None).shape, [1000, 64]);
    }
}
