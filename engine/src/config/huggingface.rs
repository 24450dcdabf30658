//! `config.json` as Hugging Face writes it, for every supported `model_type`.

use serde_json::{Map, Value, json};

use super::{
    AttentionKind, ConfigError, LayerType, ModelConfig, ModelType, QkNorm, RopeConfig, RopeScaling,
    ScoringFunc, TopkMethod,
};
use crate::objective::{BalanceScope, RouterObjective};

/// The key under which an exported `config.json` keeps the engine's own description, for what the
/// architecture's own keys cannot say.
pub const OWN_KEY: &str = "bellows";

/// Reads a `config.json`.
///
/// # Errors
/// If `model_type` is unknown, a needed field is missing or of another type, or the result is not
/// valid.
pub fn from_json(json: &Value) -> Result<ModelConfig, ConfigError> {
    let reader = Reader::new(json)?;
    if let Some(own) = reader.0.get(OWN_KEY) {
        let config: ModelConfig = serde_json::from_value(own.clone())
            .map_err(|error| problem(OWN_KEY, error.to_string()))?;
        config.validate()?;
        return Ok(config);
    }
    let model_type = reader.model_type()?;
    let mut config = reader.common(model_type)?;
    match model_type {
        ModelType::Llama => {
            config.attention_bias = reader.flag("attention_bias", false)?;
            config.attention_output_bias = config.attention_bias;
            config.mlp_bias = reader.flag("mlp_bias", false)?;
        }
        ModelType::Qwen2 => config.attention_bias = true,
        ModelType::Qwen3 => reader.qwen3(&mut config, 128)?,
        ModelType::Qwen3Moe => {
            let head_dim = config.head_dim;
            reader.qwen3(&mut config, head_dim)?;
            reader.qwen3_moe(&mut config)?;
        }
        ModelType::Mixtral => reader.mixtral(&mut config)?,
        ModelType::Olmoe => reader.olmoe(&mut config)?,
        ModelType::DeepseekV2 | ModelType::DeepseekV3 | ModelType::CoeDeepseekV2 => {
            reader.deepseek(&mut config)?;
        }
    }
    reader.windows(&mut config)?;
    config.validate()?;
    Ok(config)
}

/// The router objective that the reference implementation trains a `config.json` with.
///
/// # Errors
/// If a coefficient is not a number.
pub fn reference_objective(
    json: &Value,
    config: &ModelConfig,
) -> Result<RouterObjective, ConfigError> {
    let reader = Reader::new(json)?;
    let mut objective = RouterObjective {
        balance: BalanceScope::None,
        balance_coefficient: 0.0,
        ..RouterObjective::default()
    };
    let pools = matches!(
        config.model_type,
        ModelType::Mixtral | ModelType::Qwen3Moe | ModelType::Olmoe
    );
    if pools && reader.flag("output_router_logits", false)? {
        objective.balance = BalanceScope::MicroBatch;
        objective.pool_layers = true;
        // Its frequencies sum to k over the experts, ours to 1.
        objective.balance_coefficient =
            reader.number("router_aux_loss_coef", 0.001)? * config.num_experts_per_tok as f64;
    }
    if config.model_type == ModelType::CoeDeepseekV2 {
        objective.balance_coefficient = reader.number("aux_loss_alpha", 0.001)?;
        objective.balance = if reader.flag("seq_aux", true)? {
            BalanceScope::Sequence
        } else {
            BalanceScope::MicroBatch
        };
    }
    Ok(objective)
}

struct Reader<'a>(&'a Map<String, Value>);

fn problem(field: &str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Json {
        field: field.to_owned(),
        problem: problem.into(),
    }
}

impl<'a> Reader<'a> {
    fn new(json: &'a Value) -> Result<Self, ConfigError> {
        json.as_object()
            .map(Reader)
            .ok_or_else(|| problem("the whole file", "it must be a JSON object"))
    }

    fn get(&self, field: &str) -> Option<&'a Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    fn model_type(&self) -> Result<ModelType, ConfigError> {
        let found = self
            .get("model_type")
            .and_then(Value::as_str)
            .ok_or_else(|| problem("model_type", "it is missing or not a string"))?;
        ModelType::ALL
            .into_iter()
            .find(|model_type| model_type.as_str() == found)
            .ok_or_else(|| ConfigError::UnknownModelType {
                found: found.to_owned(),
                supported: ModelType::ALL.map(ModelType::as_str).join(", "),
            })
    }

    fn optional_size(&self, field: &str) -> Result<Option<usize>, ConfigError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) => value
                .as_u64()
                .map(|value| Some(value as usize))
                .ok_or_else(|| problem(field, format!("{value} is not a whole number from 0"))),
        }
    }

    fn size(&self, field: &str) -> Result<usize, ConfigError> {
        self.optional_size(field)?
            .ok_or_else(|| problem(field, "it is missing"))
    }

    fn size_or(&self, field: &str, default: usize) -> Result<usize, ConfigError> {
        Ok(self.optional_size(field)?.unwrap_or(default))
    }

    fn number(&self, field: &str, default: f64) -> Result<f64, ConfigError> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .ok_or_else(|| problem(field, format!("{value} is not a number"))),
        }
    }

    fn flag(&self, field: &str, default: bool) -> Result<bool, ConfigError> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| problem(field, format!("{value} is not true or false"))),
        }
    }

    fn text(&self, field: &str) -> Option<&'a str> {
        self.get(field).and_then(Value::as_str)
    }

    fn common(&self, model_type: ModelType) -> Result<ModelConfig, ConfigError> {
        let activation = self.text("hidden_act").unwrap_or("silu");
        if activation != "silu" {
            return Err(problem(
                "hidden_act",
                format!("\"{activation}\" is not supported, only \"silu\""),
            ));
        }
        let hidden_size = self.size("hidden_size")?;
        let heads = self.size("num_attention_heads")?;
        let max_position_embeddings = self.size_or("max_position_embeddings", 2048)?;
        let pad_token_id = self
            .get("pad_token_id")
            .and_then(Value::as_u64)
            .map(|id| id as usize);
        Ok(ModelConfig {
            model_type,
            vocab_size: self.size("vocab_size")?,
            hidden_size,
            num_hidden_layers: self.size("num_hidden_layers")?,
            intermediate_size: self.size_or("intermediate_size", 0)?,
            num_attention_heads: heads,
            num_key_value_heads: self.size_or("num_key_value_heads", heads)?,
            head_dim: self.size_or("head_dim", 0)?,
            rope: self.rope(model_type, max_position_embeddings)?,
            max_position_embeddings,
            rms_norm_eps: self.number("rms_norm_eps", 1e-6)?,
            pad_token_id,
            tie_word_embeddings: self.flag("tie_word_embeddings", false)?,
            initializer_range: self.number("initializer_range", 0.02)?,
            ..ModelConfig::default()
        })
    }

    fn qwen3(&self, config: &mut ModelConfig, head_dim: usize) -> Result<(), ConfigError> {
        config.qk_norm = QkNorm::Head;
        config.head_dim = self.size_or("head_dim", head_dim)?;
        config.attention_bias = self.flag("attention_bias", false)?;
        config.attention_output_bias = config.attention_bias;
        Ok(())
    }

    fn qwen3_moe(&self, config: &mut ModelConfig) -> Result<(), ConfigError> {
        config.n_routed_experts = match self.optional_size("num_experts")? {
            Some(count) => count,
            None => self.size("num_local_experts")?,
        };
        config.num_experts_per_tok = self.size("num_experts_per_tok")?;
        config.moe_intermediate_size = self.size("moe_intermediate_size")?;
        config.norm_topk_prob = self.flag("norm_topk_prob", false)?;
        config.moe_layer_freq = self.size_or("decoder_sparse_step", 1)?;
        config.moe_layer_offset = 1;
        if let Some(layers) = self.get("mlp_only_layers") {
            config.mlp_only_layers = serde_json::from_value(layers.clone())
                .map_err(|error| problem("mlp_only_layers", error.to_string()))?;
        }
        Ok(())
    }

    fn mixtral(&self, config: &mut ModelConfig) -> Result<(), ConfigError> {
        config.n_routed_experts = self.size("num_local_experts")?;
        config.num_experts_per_tok = self.size("num_experts_per_tok")?;
        config.moe_intermediate_size = config.intermediate_size;
        config.norm_topk_prob = true;
        Ok(())
    }

    fn olmoe(&self, config: &mut ModelConfig) -> Result<(), ConfigError> {
        config.qk_norm = QkNorm::Full;
        config.attention_bias = self.flag("attention_bias", false)?;
        config.attention_output_bias = config.attention_bias;
        config.clip_qkv = self.get("clip_qkv").and_then(Value::as_f64);
        config.n_routed_experts = self.size("num_experts")?;
        config.num_experts_per_tok = self.size("num_experts_per_tok")?;
        config.moe_intermediate_size = config.intermediate_size;
        config.norm_topk_prob = self.flag("norm_topk_prob", false)?;
        Ok(())
    }

    fn deepseek(&self, config: &mut ModelConfig) -> Result<(), ConfigError> {
        let v3 = config.model_type == ModelType::DeepseekV3;
        let coe = config.model_type == ModelType::CoeDeepseekV2;
        config.attention = AttentionKind::Mla;
        config.head_dim = 0;
        config.q_lora_rank = self.optional_size("q_lora_rank")?;
        config.kv_lora_rank = self.size("kv_lora_rank")?;
        config.qk_nope_head_dim = self.size("qk_nope_head_dim")?;
        config.qk_rope_head_dim = self.size("qk_rope_head_dim")?;
        config.v_head_dim = self.size("v_head_dim")?;
        config.attention_bias = self.flag("attention_bias", false)?;
        config.attention_output_bias = config.attention_bias;
        config.mlp_bias = !v3 && self.flag("mlp_bias", false)?;
        config.n_routed_experts = self.size_or("n_routed_experts", 0)?;
        config.num_experts_per_tok = self.size_or("num_experts_per_tok", 1)?;
        config.moe_intermediate_size = self.size_or("moe_intermediate_size", 0)?;
        config.n_shared_experts = self.size_or("n_shared_experts", 0)?;
        config.first_k_dense_replace = self.size_or("first_k_dense_replace", 0)?;
        config.n_group = self.size_or("n_group", 1)?.max(1);
        config.topk_group = self.size_or("topk_group", 1)?.max(1);
        config.routed_scaling_factor = self.number("routed_scaling_factor", 1.0)?;
        config.norm_topk_prob = self.flag("norm_topk_prob", v3)?;
        if v3 {
            config.scoring_func = ScoringFunc::Sigmoid;
            config.topk_method = TopkMethod::NoauxTc;
            config.score_correction_bias = true;
            return Ok(());
        }
        config.topk_method = match self.text("topk_method").unwrap_or("greedy") {
            "greedy" => TopkMethod::Greedy,
            "group_limited_greedy" => TopkMethod::GroupLimitedGreedy,
            other => {
                return Err(problem(
                    "topk_method",
                    format!("\"{other}\" is not known for this model_type"),
                ));
            }
        };
        if !coe {
            // transformers' DeepSeek-V2 never divides by the sum, whatever the file says.
            config.norm_topk_prob = false;
            return Ok(());
        }
        if config.norm_topk_prob && config.num_experts_per_tok > 1 {
            // The authors normalise or scale, never both.
            config.routed_scaling_factor = 1.0;
        } else {
            config.norm_topk_prob = false;
        }
        config.moe_layer_freq = self.size_or("moe_layer_freq", 1)?;
        config.inner_iter = self.size_or("inner_iter", 1)?;
        config.inner_residual = self.flag("inner_residual", true)?;
        config.outer_residual = self.flag("outer_residual", false)?;
        config.use_igate = self.flag("use_igate", true)?;
        Ok(())
    }

    /// Which layers slide differs by family; see each family's configuration class.
    fn windows(&self, config: &mut ModelConfig) -> Result<(), ConfigError> {
        let Some(window) = self.optional_size("sliding_window")? else {
            return Ok(());
        };
        let enabled = match config.model_type {
            ModelType::Mixtral => true,
            ModelType::Qwen2 | ModelType::Qwen3 | ModelType::Qwen3Moe => {
                self.flag("use_sliding_window", false)?
            }
            _ => false,
        };
        if !enabled {
            return Ok(());
        }
        let layers = config.num_hidden_layers;
        config.sliding_window = Some(window);
        config.layer_types = match config.model_type {
            ModelType::Mixtral | ModelType::Qwen3Moe => vec![LayerType::SlidingAttention; layers],
            _ => match self.get("layer_types") {
                Some(types) => serde_json::from_value(types.clone())
                    .map_err(|error| problem("layer_types", error.to_string()))?,
                None => {
                    let first = self.size_or("max_window_layers", 28)?;
                    let slides = |layer| match layer >= first {
                        true => LayerType::SlidingAttention,
                        false => LayerType::FullAttention,
                    };
                    (0..layers).map(slides).collect()
                }
            },
        };
        Ok(())
    }

    /// Newer files say `rope_parameters`, older ones `rope_theta` and `rope_scaling`.
    fn rope(&self, model_type: ModelType, longest: usize) -> Result<RopeConfig, ConfigError> {
        let interleaved = match model_type {
            ModelType::DeepseekV2 | ModelType::CoeDeepseekV2 => true,
            ModelType::DeepseekV3 => self.flag("rope_interleave", true)?,
            _ => false,
        };
        let (field, parameters) = match (self.get("rope_scaling"), self.get("rope_parameters")) {
            (Some(old), _) => ("rope_scaling", Some(old)),
            (None, new) => ("rope_parameters", new),
        };
        let empty = Map::new();
        let parameters = match parameters {
            None => &empty,
            Some(value) => value
                .as_object()
                .ok_or_else(|| problem(field, "it must be an object"))?,
        };
        let inner = Reader(parameters);
        let default_theta = match model_type {
            ModelType::Mixtral => 1e6,
            _ => 1e4,
        };
        let theta = inner.number("rope_theta", self.number("rope_theta", default_theta)?)?;
        let kind = inner
            .text("rope_type")
            .or_else(|| inner.text("type"))
            .unwrap_or("default");
        let original = match self.optional_size("original_max_position_embeddings")? {
            Some(original) => original,
            None => inner.size_or(
                "original_max_position_embeddings",
                match model_type {
                    ModelType::CoeDeepseekV2 => 4096,
                    _ => longest,
                },
            )?,
        };
        let optional = |field: &str| parameters.get(field).and_then(Value::as_f64);
        let needed = |name: &str| {
            optional(name)
                .ok_or_else(|| problem(&format!("{field}.{name}"), "it is missing or not a number"))
        };
        let scaling = match kind {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear {
                factor: needed("factor")?,
            },
            "llama3" => RopeScaling::Llama3 {
                factor: needed("factor")?,
                low_freq_factor: needed("low_freq_factor")?,
                high_freq_factor: needed("high_freq_factor")?,
                original_max_position_embeddings: original,
            },
            "yarn" => RopeScaling::Yarn {
                factor: match optional("factor") {
                    Some(factor) => factor,
                    None => longest as f64 / original.max(1) as f64,
                },
                original_max_position_embeddings: original,
                beta_fast: optional("beta_fast").unwrap_or(32.0),
                beta_slow: optional("beta_slow").unwrap_or(1.0),
                attention_factor: match (model_type, optional("mscale_all_dim")) {
                    // The authors' code divides by 1 where mscale_all_dim is absent or 0.
                    (ModelType::CoeDeepseekV2, None | Some(0.0)) => {
                        let (factor, mscale) =
                            (needed("factor")?, optional("mscale").unwrap_or(1.0));
                        Some(if factor > 1.0 {
                            0.1 * mscale * factor.ln() + 1.0
                        } else {
                            1.0
                        })
                    }
                    _ => optional("attention_factor"),
                },
                mscale: optional("mscale"),
                mscale_all_dim: optional("mscale_all_dim"),
                truncate: inner.flag("truncate", true)?,
            },
            other => {
                return Err(problem(
                    &format!("{field}.rope_type"),
                    format!("\"{other}\" is not supported: default, linear, llama3, yarn"),
                ));
            }
        };
        Ok(RopeConfig {
            theta,
            interleaved,
            scaling,
        })
    }
}

/// Writes a `config.json` that the reference implementation of `config.model_type` reads, with the
/// engine's own description beside it under [`OWN_KEY`].
///
/// # Errors
/// [`ConfigError::Invalid`] where the architecture cannot express the model (an MLA model called
/// llama, say): the reader would compute something else.
pub fn to_json(
    config: &ModelConfig,
    bos: Option<u32>,
    eos: Option<u32>,
) -> Result<Value, ConfigError> {
    let mut json = architecture_json(config);
    let object = json.as_object_mut().expect("built as an object");
    object.insert("bos_token_id".into(), json!(bos));
    object.insert("eos_token_id".into(), json!(eos));
    // Read it back without the engine's own key: what a reader of the public keys would build.
    let seen = from_json(&json)?;
    if let Some(field) = first_difference(&seen, config) {
        return Err(ConfigError::Invalid {
            field: "model_type",
            value: config.model_type.as_str().to_owned(),
            rule: format!("this architecture cannot express the model's {field}"),
        });
    }
    let own = own_value(config).map_err(|error| problem(OWN_KEY, error.to_string()))?;
    json.as_object_mut()
        .expect("built as an object")
        .insert(OWN_KEY.into(), own);
    Ok(json)
}

/// The engine's own description alone, under [`OWN_KEY`] and its `model_type`.
pub fn own_json(config: &ModelConfig, bos: Option<u32>, eos: Option<u32>) -> Value {
    json!({
        "model_type": config.model_type.as_str(),
        "bos_token_id": bos,
        "eos_token_id": eos,
        OWN_KEY: own_value(config).unwrap_or(Value::Null),
    })
}

/// The engine's own description: everything but what computes it, which is no part of a model.
fn own_value(config: &ModelConfig) -> serde_json::Result<Value> {
    let mut own = serde_json::to_value(config)?;
    if let Some(fields) = own.as_object_mut() {
        fields.shift_remove("kernels");
    }
    Ok(own)
}

/// First field of two configurations that computes something different.
fn first_difference(seen: &ModelConfig, wanted: &ModelConfig) -> Option<String> {
    let normal = |config: &ModelConfig| {
        let mut config = config.clone();
        config.head_dim = config.query_head_dim();
        if config.attention == AttentionKind::Mla {
            config.num_key_value_heads = config.num_attention_heads;
        } else {
            config.kv_lora_rank = 0;
            config.q_lora_rank = None;
            (config.qk_nope_head_dim, config.qk_rope_head_dim) = (0, 0);
            config.v_head_dim = 0;
        }
        let all_dense = config.moe_layers() == 0;
        let all_mixtures = config.moe_layers() == config.num_hidden_layers;
        if all_dense {
            let plain = ModelConfig::default();
            config.n_routed_experts = 0;
            config.num_experts_per_tok = plain.num_experts_per_tok;
            config.moe_intermediate_size = 0;
            config.n_shared_experts = 0;
            config.norm_topk_prob = false;
            config.scoring_func = plain.scoring_func;
            config.topk_method = plain.topk_method;
            config.score_correction_bias = false;
            config.routed_scaling_factor = 1.0;
            (config.inner_iter, config.inner_residual) = (1, false);
            (config.outer_residual, config.use_igate) = (true, true);
        }
        if all_mixtures {
            config.intermediate_size = 0;
        }
        if config.topk_method == TopkMethod::Greedy {
            (config.n_group, config.topk_group) = (1, 1);
        }
        if config.inner_iter == 1 {
            config.use_igate = true;
        }
        // Which layers are mixtures counts, not how that is said.
        config.mlp_only_layers = (0..config.num_hidden_layers)
            .filter(|&layer| !config.is_moe_layer(layer))
            .collect();
        (config.first_k_dense_replace, config.moe_layer_freq) = (0, 1);
        config.moe_layer_offset = 0;
        config.layer_types = (0..config.num_hidden_layers)
            .map(|layer| match config.layer_window(layer) {
                Some(_) => LayerType::SlidingAttention,
                None => LayerType::FullAttention,
            })
            .collect();
        // What computes a model is no part of it.
        config.kernels = ModelConfig::default().kernels;
        // Only training and sampling use these.
        config.capacity_factor = None;
        config.initializer_range = 1.0;
        serde_json::to_value(&config).unwrap_or(Value::Null)
    };
    let (seen, wanted) = (normal(seen), normal(wanted));
    let (seen, wanted) = (seen.as_object()?, wanted.as_object()?);
    wanted
        .iter()
        .find(|(field, value)| seen.get(*field) != Some(value))
        .map(|(field, _)| field.clone())
        .or_else(|| seen.keys().find(|key| !wanted.contains_key(*key)).cloned())
}

fn architecture_json(config: &ModelConfig) -> Value {
    let architecture = match config.model_type {
        ModelType::Llama => "LlamaForCausalLM",
        ModelType::Qwen2 => "Qwen2ForCausalLM",
        ModelType::Qwen3 => "Qwen3ForCausalLM",
        ModelType::Mixtral => "MixtralForCausalLM",
        ModelType::Qwen3Moe => "Qwen3MoeForCausalLM",
        ModelType::Olmoe => "OlmoeForCausalLM",
        ModelType::DeepseekV2 => "DeepseekV2ForCausalLM",
        ModelType::DeepseekV3 => "DeepseekV3ForCausalLM",
        ModelType::CoeDeepseekV2 => "CoeForCausalLM",
    };
    let rope = rope_json(&config.rope);
    let mut json = json!({
        "architectures": [architecture],
        "model_type": config.model_type.as_str(),
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.query_head_dim(),
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": config.tie_word_embeddings,
        "pad_token_id": config.pad_token_id,
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
        "dtype": "float32",
        "use_cache": true,
        // Old and new readers each take the form they know.
        "rope_theta": config.rope.theta,
        "rope_parameters": rope,
    });
    let object = json.as_object_mut().expect("built as an object");
    let mut put = |key: &str, value: Value| {
        object.insert(key.to_owned(), value);
    };
    let window = json!(config.sliding_window);
    match config.model_type {
        ModelType::Llama => put("mlp_bias", json!(config.mlp_bias)),
        ModelType::Qwen2 | ModelType::Qwen3 => {
            put("use_sliding_window", json!(config.sliding_window.is_some()));
            put("sliding_window", window);
            let types: Vec<LayerType> = (0..config.num_hidden_layers)
                .map(|layer| match config.layer_window(layer) {
                    Some(_) => LayerType::SlidingAttention,
                    None => LayerType::FullAttention,
                })
                .collect();
            put("layer_types", json!(types));
        }
        ModelType::Mixtral => {
            put("intermediate_size", json!(config.moe_intermediate_size));
            put("num_local_experts", json!(config.n_routed_experts));
            put("num_experts_per_tok", json!(config.num_experts_per_tok));
            put("sliding_window", window);
        }
        ModelType::Qwen3Moe => {
            put("num_experts", json!(config.n_routed_experts));
            put("num_experts_per_tok", json!(config.num_experts_per_tok));
            put("moe_intermediate_size", json!(config.moe_intermediate_size));
            put("norm_topk_prob", json!(config.norm_topk_prob));
            put("decoder_sparse_step", json!(1));
            let dense: Vec<usize> = (0..config.num_hidden_layers)
                .filter(|&layer| !config.is_moe_layer(layer))
                .collect();
            put("mlp_only_layers", json!(dense));
            put("use_sliding_window", json!(config.sliding_window.is_some()));
            put("sliding_window", window);
        }
        ModelType::Olmoe => {
            put("intermediate_size", json!(config.moe_intermediate_size));
            put("num_experts", json!(config.n_routed_experts));
            put("num_experts_per_tok", json!(config.num_experts_per_tok));
            put("norm_topk_prob", json!(config.norm_topk_prob));
            put("clip_qkv", json!(config.clip_qkv));
        }
        ModelType::DeepseekV2 | ModelType::DeepseekV3 | ModelType::CoeDeepseekV2 => {
            put("q_lora_rank", json!(config.q_lora_rank));
            put("kv_lora_rank", json!(config.kv_lora_rank));
            put("qk_nope_head_dim", json!(config.qk_nope_head_dim));
            put("qk_rope_head_dim", json!(config.qk_rope_head_dim));
            put("v_head_dim", json!(config.v_head_dim));
            put("head_dim", json!(config.qk_rope_head_dim));
            put("num_key_value_heads", json!(config.num_attention_heads));
            put("n_routed_experts", json!(config.n_routed_experts));
            put("num_experts_per_tok", json!(config.num_experts_per_tok));
            put("moe_intermediate_size", json!(config.moe_intermediate_size));
            put("n_shared_experts", json!(config.n_shared_experts));
            let dense = (0..config.num_hidden_layers)
                .take_while(|&layer| !config.is_moe_layer(layer))
                .count();
            put("first_k_dense_replace", json!(dense));
            put("moe_layer_freq", json!(config.moe_layer_freq));
            put("n_group", json!(config.n_group));
            put("topk_group", json!(config.topk_group));
            put("norm_topk_prob", json!(config.norm_topk_prob));
            put("routed_scaling_factor", json!(config.routed_scaling_factor));
            let (scores, method) = match config.model_type {
                ModelType::DeepseekV3 => ("sigmoid", "noaux_tc"),
                _ if config.topk_method == TopkMethod::Greedy => ("softmax", "greedy"),
                _ => ("softmax", "group_limited_greedy"),
            };
            put("scoring_func", json!(scores));
            put("topk_method", json!(method));
            if config.model_type == ModelType::DeepseekV3 {
                put("rope_interleave", json!(config.rope.interleaved));
            } else {
                put("mlp_bias", json!(config.mlp_bias));
            }
            if config.model_type == ModelType::CoeDeepseekV2 {
                put("inner_iter", json!(config.inner_iter));
                put("inner_residual", json!(config.inner_residual));
                put("outer_residual", json!(config.outer_residual));
                put("use_igate", json!(config.use_igate));
            }
        }
    }
    json
}

fn rope_json(rope: &RopeConfig) -> Value {
    let mut json = serde_json::to_value(&rope.scaling).unwrap_or_else(|_| json!({}));
    if let Some(object) = json.as_object_mut() {
        object.insert("rope_theta".into(), json!(rope.theta));
    }
    json
}

#[cfg(test)]
mod tests;
