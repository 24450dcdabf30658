use std::path::Path;

use super::*;

/// Every `config.json` of the parity vectors: what the reference implementations write.
fn reference_files() -> Vec<(String, Value)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../trainer/tests/fixtures");
    let mut files = Vec::new();
    for group in ["coe", "extra", "hf"] {
        let group = root.join(group).read_dir().expect("the parity vectors");
        let mut folders: Vec<_> = group
            .map(|entry| entry.expect("a readable folder").path())
            .filter(|folder| folder.is_dir())
            .collect();
        folders.sort();
        files.extend(folders.into_iter().map(|folder| {
            let text = std::fs::read_to_string(folder.join("config.json")).expect("a config.json");
            let json = serde_json::from_str(&text).expect("JSON");
            (folder.display().to_string(), json)
        }));
    }
    files
}

fn reference(model_type: &str) -> Value {
    reference_files()
        .into_iter()
        .map(|(_, json)| json)
        .find(|json| json["model_type"] == model_type)
        .expect("one of every architecture")
}

fn public(mut json: Value) -> Value {
    let object = json.as_object_mut().expect("an object");
    assert!(object.remove(OWN_KEY).is_some());
    json
}

#[test]
fn what_is_written_reads_back_as_the_same_model() {
    let files = reference_files();
    for model_type in ModelType::ALL {
        let found = files
            .iter()
            .any(|(_, json)| json["model_type"] == model_type.as_str());
        assert!(found, "{model_type:?} is not tested");
    }
    for (file, json) in files {
        let config = from_json(&json).expect(&file);
        let written = to_json(&config, Some(1), None).expect(&file);
        assert_eq!(written["model_type"], json["model_type"]);
        assert_eq!(
            (&written["bos_token_id"], &written["eos_token_id"]),
            (&json!(1), &Value::Null)
        );
        assert_eq!(from_json(&written).expect(&file), config, "{file}");
        // Others read the public keys alone, and must see the same model.
        let seen = from_json(&public(written.clone())).expect(&file);
        assert_eq!(first_difference(&seen, &config), None, "{file}");
        let again = to_json(&seen, Some(1), None).expect(&file);
        assert_eq!(public(again), public(written), "{file}");
        assert_eq!(
            from_json(&own_json(&config, None, None)).expect(&file),
            config,
            "{file}"
        );
    }
}

#[test]
fn what_is_written_keeps_the_keys_of_the_reference_file() {
    for (file, json) in reference_files() {
        let config = from_json(&json).expect(&file);
        let written = to_json(&config, None, None).expect(&file);
        for key in [
            "hidden_size",
            "num_attention_heads",
            "num_experts_per_tok",
            "moe_intermediate_size",
            "norm_topk_prob",
            "routed_scaling_factor",
            "kv_lora_rank",
            "n_shared_experts",
            "tie_word_embeddings",
            "sliding_window",
            "layer_types",
            "clip_qkv",
            "inner_iter",
            "use_igate",
        ] {
            // DeepSeek-V2 ignores `norm_topk_prob`, whatever its file says.
            let ignored = key == "norm_topk_prob" && json["model_type"] == "deepseek_v2";
            if let (Some(found), Some(wanted)) = (written.get(key), json.get(key))
                && !ignored
            {
                assert_eq!(found, wanted, "{file}: {key}");
            }
        }
    }
}

#[test]
fn a_model_that_the_architecture_cannot_express_is_refused_with_the_field() {
    type Change = fn(&mut ModelConfig);
    let cases: [(&str, &str, Change); 8] = [
        ("llama", "qk_norm", |config| config.qk_norm = QkNorm::Head),
        ("llama", "clip_qkv", |config| config.clip_qkv = Some(8.0)),
        ("llama", "rope", |config| config.rope.interleaved = true),
        ("qwen2", "attention_output_bias", |config| {
            config.attention_output_bias = true;
        }),
        ("mixtral", "n_shared_experts", |config| {
            config.n_shared_experts = 1
        }),
        ("olmoe", "inner_iter", |config| config.inner_iter = 2),
        ("deepseek_v2", "score_correction_bias", |config| {
            config.score_correction_bias = true;
        }),
        ("deepseek_v3", "scoring_func", |config| {
            config.scoring_func = ScoringFunc::Softmax;
        }),
    ];
    for (model_type, field, change) in cases {
        let mut config = from_json(&reference(model_type)).expect("a reference file");
        change(&mut config);
        config.validate().expect("a valid model all the same");
        match to_json(&config, None, None) {
            Err(ConfigError::Invalid { rule, .. }) => {
                assert!(rule.contains(field), "{model_type}: {rule}");
            }
            other => panic!("{model_type} with another {field}: {other:?}"),
        }
        let own = own_json(&config, None, None);
        assert_eq!(from_json(&own).expect("the engine's own key"), config);
    }
}

#[test]
fn a_broken_config_json_names_the_field() {
    let with = |field: &str, value: Value| {
        let mut json = reference("mixtral");
        json[field] = value;
        from_json(&json).expect_err(field)
    };
    let error = with("model_type", json!("gpt5"));
    assert!(matches!(error, ConfigError::UnknownModelType { .. }));
    for (field, value) in [
        ("hidden_size", json!("32")),
        ("hidden_size", json!(-32)),
        ("hidden_size", Value::Null),
        ("rms_norm_eps", json!([])),
        ("tie_word_embeddings", json!(1)),
        ("hidden_act", json!("gelu")),
        ("rope_parameters", json!(3)),
        ("model_type", json!(3)),
        ("bellows", json!({ "hidden_sizes": 3 })),
    ] {
        match with(field, value.clone()) {
            ConfigError::Json { field: found, .. } => assert_eq!(found, field),
            other => panic!("{field} = {value}: {other:?}"),
        }
    }
    let unknown = with("rope_parameters", json!({ "rope_type": "longrope" }));
    assert!(unknown.to_string().contains("longrope"));
    assert!(from_json(&json!([])).is_err());
}

#[test]
fn the_reference_objective_counts_like_the_reference() {
    let json = reference("coe_deepseekv2");
    let config = from_json(&json).expect("a reference file");
    let objective = reference_objective(&json, &config).expect("numbers");
    assert_eq!(objective.balance_coefficient, json["aux_loss_alpha"]);
    assert!(!objective.pool_layers);

    let mut json = reference("olmoe");
    let config = from_json(&json).expect("a reference file");
    let objective = reference_objective(&json, &config).expect("numbers");
    let k = json["num_experts_per_tok"].as_f64().expect("a number");
    let coefficient = json["router_aux_loss_coef"].as_f64().expect("a number");
    assert_eq!(objective.balance_coefficient, coefficient * k);
    assert!(objective.pool_layers);
    json["output_router_logits"] = json!(false);
    let silent = reference_objective(&json, &config).expect("numbers");
    assert_eq!(silent.balance, BalanceScope::None);
}

#[test]
fn what_computes_a_model_is_not_written_with_it() {
    let mut config = from_json(&reference("coe_deepseekv2")).expect("readable");
    let fused = to_json(&config, None, None).expect("expressible");
    config.kernels = bellows_kernels::Kernels::Reference;
    assert_eq!(to_json(&config, None, None).expect("expressible"), fused);
    assert_eq!(own_json(&config, None, None)[OWN_KEY], fused[OWN_KEY]);
    assert!(fused[OWN_KEY].get("kernels").is_none());
}
