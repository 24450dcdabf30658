//! Checks of a [`ModelConfig`] that serde cannot make.

use super::{AttentionKind, LayerType, ModelConfig, TopkMethod};

/// A value of a model configuration that cannot work.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A field is outside its range.
    #[error("model.{field} is {value}: {rule}")]
    Invalid {
        /// The field's name.
        field: &'static str,
        /// What it holds.
        value: String,
        /// What it must be.
        rule: String,
    },
    /// `config.json` names an architecture that the engine does not know.
    #[error("model_type \"{found}\" is not supported; supported are {supported}")]
    UnknownModelType {
        /// The value found.
        found: String,
        /// The values known.
        supported: String,
    },
    /// A field of `config.json` is missing or has another type than expected.
    #[error("config.json: {field}: {problem}")]
    Json {
        /// The field's name.
        field: String,
        /// What is wrong.
        problem: String,
    },
}

impl ModelConfig {
    /// Checks every rule that ties fields together.
    ///
    /// `vocab_size` may still be 0 (filled in from the tokenizer later).
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] names the first field that breaks a rule, and the rule.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.check_sizes()?;
        self.check_attention()?;
        self.check_experts()
    }

    fn check_sizes(&self) -> Result<(), ConfigError> {
        at_least_one("hidden_size", self.hidden_size)?;
        at_least_one("num_hidden_layers", self.num_hidden_layers)?;
        at_least_one("num_attention_heads", self.num_attention_heads)?;
        at_least_one("max_position_embeddings", self.max_position_embeddings)?;
        if (0..self.num_hidden_layers).any(|layer| !self.is_moe_layer(layer)) {
            at_least_one("intermediate_size", self.intermediate_size)?;
        }
        positive("rms_norm_eps", self.rms_norm_eps)?;
        positive("initializer_range", self.initializer_range)?;
        positive("rope.theta", self.rope.theta)
    }

    fn check_attention(&self) -> Result<(), ConfigError> {
        match self.attention {
            AttentionKind::Gqa => {
                at_least_one("num_key_value_heads", self.num_key_value_heads)?;
                if self.head_dim == 0 && !self.hidden_size.is_multiple_of(self.num_attention_heads)
                {
                    return invalid(
                        "num_attention_heads",
                        self.num_attention_heads,
                        format!(
                            "it must divide hidden_size ({}), or set model.head_dim",
                            self.hidden_size
                        ),
                    );
                }
                if !self
                    .num_attention_heads
                    .is_multiple_of(self.num_key_value_heads)
                {
                    return invalid(
                        "num_key_value_heads",
                        self.num_key_value_heads,
                        format!(
                            "it must divide num_attention_heads ({})",
                            self.num_attention_heads
                        ),
                    );
                }
            }
            AttentionKind::Mla => {
                at_least_one("kv_lora_rank", self.kv_lora_rank)?;
                at_least_one("qk_nope_head_dim", self.qk_nope_head_dim)?;
                at_least_one("qk_rope_head_dim", self.qk_rope_head_dim)?;
                at_least_one("v_head_dim", self.v_head_dim)?;
                if let Some(rank) = self.q_lora_rank {
                    at_least_one("q_lora_rank", rank)?;
                }
            }
        }
        if !self.rotary_dim().is_multiple_of(2) {
            let field = match self.attention {
                AttentionKind::Gqa => "head_dim",
                AttentionKind::Mla => "qk_rope_head_dim",
            };
            return invalid(
                field,
                self.rotary_dim(),
                "the rotary embedding turns pairs: it must be even".into(),
            );
        }
        if !self.layer_types.is_empty() && self.layer_types.len() != self.num_hidden_layers {
            return invalid(
                "layer_types",
                format!("a list of {}", self.layer_types.len()),
                format!("it needs one entry a layer ({})", self.num_hidden_layers),
            );
        }
        if self.layer_types.contains(&LayerType::SlidingAttention) {
            match self.sliding_window {
                Some(window) => at_least_one("sliding_window", window)?,
                None => {
                    return invalid(
                        "sliding_window",
                        "absent",
                        "layer_types asks for sliding_attention: give the window in tokens".into(),
                    );
                }
            }
        }
        Ok(())
    }

    fn check_experts(&self) -> Result<(), ConfigError> {
        if self.n_routed_experts == 0 {
            return Ok(());
        }
        at_least_one("moe_intermediate_size", self.moe_intermediate_size)?;
        at_least_one("num_experts_per_tok", self.num_experts_per_tok)?;
        at_least_one("moe_layer_freq", self.moe_layer_freq)?;
        at_least_one("inner_iter", self.inner_iter)?;
        if self.num_experts_per_tok > self.n_routed_experts {
            return invalid(
                "num_experts_per_tok",
                self.num_experts_per_tok,
                format!(
                    "a token cannot choose more experts than there are (n_routed_experts = {})",
                    self.n_routed_experts
                ),
            );
        }
        if let Some(factor) = self.capacity_factor {
            positive("capacity_factor", factor)?;
        }
        if self.topk_method == TopkMethod::Greedy {
            return Ok(());
        }
        at_least_one("n_group", self.n_group)?;
        if !self.n_routed_experts.is_multiple_of(self.n_group) {
            return invalid(
                "n_group",
                self.n_group,
                format!(
                    "it must divide n_routed_experts ({})",
                    self.n_routed_experts
                ),
            );
        }
        if self.topk_group == 0 || self.topk_group > self.n_group {
            return invalid(
                "topk_group",
                self.topk_group,
                format!("it must be from 1 to n_group ({})", self.n_group),
            );
        }
        let reachable = self.topk_group * (self.n_routed_experts / self.n_group);
        if self.num_experts_per_tok > reachable {
            return invalid(
                "num_experts_per_tok",
                self.num_experts_per_tok,
                format!("topk_group groups hold only {reachable} experts"),
            );
        }
        Ok(())
    }
}

fn at_least_one(field: &'static str, value: usize) -> Result<(), ConfigError> {
    if value == 0 {
        return invalid(field, value, "it must be at least 1".into());
    }
    Ok(())
}

fn positive(field: &'static str, value: f64) -> Result<(), ConfigError> {
    if !(value.is_finite() && value > 0.0) {
        return invalid(field, value, "it must be a finite number above 0".into());
    }
    Ok(())
}

fn invalid<T>(
    field: &'static str,
    value: impl std::fmt::Display,
    rule: String,
) -> Result<T, ConfigError> {
    Err(ConfigError::Invalid {
        field,
        value: value.to_string(),
        rule,
    })
}
