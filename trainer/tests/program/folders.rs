//! Model folders: export, import, generate, evaluate.

use std::path::Path;

use bellows::models::{ModelFolder, write_tensors};
use bellows_engine::model::{Input, Sequences};
use bellows_engine::weights::NamedTensor;
use burn::module::Module;
use burn::tensor::Device;

use crate::common::Folder;

/// Settings that turn the model of the tests into one of each shape, with all that the shape can do.
const SHAPES: [(&str, &[&str]); 5] = [
    ("coe_deepseekv2", &[]),
    (
        "llama",
        &[
            "model.model_type='llama'",
            "model.attention='gqa'",
            "model.rope.interleaved=false",
            "model.num_key_value_heads=1",
            "model.n_routed_experts=0",
            "model.n_shared_experts=0",
            "model.inner_iter=1",
            "model.tie_word_embeddings=true",
        ],
    ),
    (
        "qwen3_moe",
        &[
            "model.model_type='qwen3_moe'",
            "model.attention='gqa'",
            "model.rope.interleaved=false",
            "model.num_key_value_heads=1",
            "model.head_dim=12",
            "model.qk_norm='head'",
            "model.norm_topk_prob=true",
            "model.mlp_only_layers=[0]",
            "model.n_shared_experts=0",
            "model.inner_iter=1",
            "router.balance='micro-batch'",
            "router.pool_layers=true",
        ],
    ),
    (
        "olmoe",
        &[
            "model.model_type='olmoe'",
            "model.attention='gqa'",
            "model.rope.interleaved=false",
            "model.qk_norm='full'",
            "model.clip_qkv=8.0",
            "model.moe_intermediate_size=8",
            "model.intermediate_size=8",
            "model.n_shared_experts=0",
            "model.inner_iter=1",
            "router.balance='micro-batch'",
        ],
    ),
    (
        "deepseek_v3",
        &[
            "model.model_type='deepseek_v3'",
            "model.scoring_func='sigmoid'",
            "model.topk_method='noaux_tc'",
            "model.score_correction_bias=true",
            "model.norm_topk_prob=true",
            "model.q_lora_rank=8",
            "model.first_k_dense_replace=1",
            "model.n_group=2",
            "model.topk_group=1",
            "model.inner_iter=1",
            "model.rope.interleaved=true",
            "router.balance='none'",
            "router.bias_update_speed=0.01",
        ],
    ),
];

/// Tokens `[2, 24]` and what the model in `folder` makes of them `[2, 24, vocabulary]`.
fn logits(folder: &Path) -> (Vec<i32>, Vec<f32>, usize) {
    let device = Device::flex();
    let source = ModelFolder::open(folder).unwrap_or_else(|error| panic!("{error}"));
    let model = source
        .load(&device)
        .unwrap_or_else(|error| panic!("{error}"))
        .valid();
    let vocabulary = source.config.vocab_size;
    let ids: Vec<i32> = (0..48)
        .map(|at| (at * 37 + 11) % vocabulary as i32)
        .collect();
    let sequences = Sequences::plain(2, 24, ids.clone());
    let input = Input::new(&source.config, &sequences, 0, &device);
    let hidden = model.forward(&input, None).hidden;
    let data = model.logits(hidden).into_data().convert::<f32>();
    (
        ids,
        data.try_to_vec().expect("converted to f32"),
        vocabulary,
    )
}

/// For `xtask/fixtures/check_export.py`: with `BELLOWS_EXPORT_CHECK_DIR` set, keeps the exported
/// folder there, and beside it `input_ids` and `logits` as the engine computes them.
fn keep_for_transformers(exported: &Path, name: &str) {
    let Some(root) = std::env::var_os("BELLOWS_EXPORT_CHECK_DIR") else {
        return;
    };
    let target = Path::new(&root).join(name);
    crate::common::copy_folder(exported, &target);
    let (ids, logits, vocabulary) = logits(exported);
    let tensors = [
        NamedTensor {
            name: "input_ids".into(),
            shape: vec![2, 24],
            // Whole numbers of this size are exact.
            values: ids.iter().map(|&id| id as f32).collect(),
        },
        NamedTensor {
            name: "logits".into(),
            shape: vec![2, 24, vocabulary],
            values: logits,
        },
    ];
    let file = Path::new(&root).join(format!("{name}.logits.safetensors"));
    write_tensors(&tensors, &file).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn an_export_imports_and_exports_again_without_a_change() {
    let folder = Folder::new();
    for (name, settings) in SHAPES {
        let mut settings = settings.to_vec();
        settings.push("optimizer.learning_rate=0.01");
        folder.train(name, &settings).ok();
        let (first, imported, second) = (
            format!("{name}-export"),
            format!("{name}-import"),
            format!("{name}-again"),
        );
        let told = folder
            .bellows(&format!("export runs/{name} --output {first} --json"))
            .ok()
            .json();
        assert_eq!(told["model_type"], name);
        assert_eq!(told["files"], serde_json::json!(["model.safetensors"]));
        folder
            .bellows(&format!("import {first} --output {imported}"))
            .ok();
        folder
            .bellows(&format!("export {imported} --output {second}"))
            .ok();
        for file in [
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "model.safetensors",
        ] {
            let [first, imported, second] = [&first, &imported, &second]
                .map(|folder_| folder.read(&format!("{folder_}/{file}")));
            assert!(first == imported, "{name}: {file} differs after the import");
            assert!(
                first == second,
                "{name}: {file} differs after the second export"
            );
        }
        // Nothing of the computation is lost either.
        let checkpoint = folder.run(name).join("checkpoints/00000012");
        let (_, trained, _) = logits(&checkpoint);
        assert!(trained.iter().all(|logit| logit.is_finite()));
        assert_eq!(trained, logits(&folder.path(&second)).1, "{name}");
        keep_for_transformers(&folder.path(&first), name);
    }
}

#[test]
fn a_sharded_export_holds_the_same_model() {
    let folder = Folder::new();
    for (name, settings) in SHAPES {
        let mut settings = settings.to_vec();
        settings.push("train.steps=2");
        folder.train(name, &settings).ok();
        let sharded = format!("{name}-sharded");
        let told = folder
            .bellows(&format!(
                "export runs/{name} --output {sharded} --max-shard-size 20KB --json"
            ))
            .ok()
            .json();
        let files = told["files"].as_array().expect("a list");
        assert!(files.len() > 1, "{told}");
        let index: serde_json::Value = serde_json::from_slice(
            &folder.read(&format!("{sharded}/model.safetensors.index.json")),
        )
        .expect("JSON");
        assert_eq!(index["metadata"]["total_size"], told["bytes"]);
        folder
            .bellows(&format!("export runs/{name} --output {name}-whole"))
            .ok();
        folder
            .bellows(&format!("import {sharded} --output {name}-import"))
            .ok();
        let file = |folder_: &str| folder.read(&format!("{name}-{folder_}/model.safetensors"));
        assert!(file("whole") == file("import"), "{name} differs");
        keep_for_transformers(&folder.path(&sharded), &sharded);
    }
    // An index that reaches out of its folder is refused.
    let index = "llama-sharded/model.safetensors.index.json";
    let text = folder.text(index).replace("model-00001", "../model-00001");
    folder.write(index, text);
    folder
        .bellows("generate llama-sharded -p the --device cpu")
        .refused(&["outside its folder"]);
    // So is a shard that is missing.
    std::fs::remove_file(
        folder
            .path("olmoe-sharded")
            .join("model-00002-of-00003.safetensors"),
    )
    .or_else(|_| {
        let shards = std::fs::read_dir(folder.path("olmoe-sharded"))?;
        let second = shards
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.to_string_lossy().contains("model-00002"));
        std::fs::remove_file(second.expect("a second shard"))
    })
    .expect("a shard");
    folder
        .bellows("generate olmoe-sharded -p the --device cpu")
        .refused(&["model-00002"]);
}

#[test]
fn a_model_that_its_architecture_cannot_express_is_not_exported_but_still_writes() {
    let folder = Folder::new();
    let settings = [
        "model.model_type='llama'",
        "model.attention='gqa'",
        "train.steps=2",
    ];
    folder.train("run", &settings).ok();
    folder
        .bellows("export runs/run --output out")
        .refused(&["model.model_type"]);
    assert!(!folder.path("out").exists());
    folder
        .bellows("generate runs/run -p the --max-tokens 2 --device cpu")
        .ok();
}

#[test]
fn the_likeliest_text_is_always_the_same_and_seeds_choose_others() {
    let folder = Folder::new();
    folder
        .train("run", &["train.steps=40", "optimizer.learning_rate=0.01"])
        .ok();
    let generate = |options: &str| {
        let command = format!("generate runs/run -p the --max-tokens 24 --device cpu {options}");
        folder.bellows(&command).ok()
    };
    let greedy = generate("--temperature 0 --json").json();
    let again = generate("--temperature 0 --seed 9 --json").json();
    assert_eq!(greedy["prompt"], "the");
    assert_eq!(greedy["device"], "cpu");
    assert_eq!(greedy["samples"][0]["text"], again["samples"][0]["text"]);
    assert_eq!(greedy["samples"][0]["seed"], 0);
    let plain = generate("--temperature 0").stdout;
    let text = greedy["samples"][0]["text"].as_str().expect("a text");
    assert_eq!(plain, format!("the{text}\n"));

    let drawn = generate("--temperature 1.5 --top-k 0 --top-p 1 -n 3 --json").json();
    let texts: Vec<_> = drawn["samples"]
        .as_array()
        .expect("a list")
        .iter()
        .collect();
    assert_eq!(texts.len(), 3);
    assert_ne!(texts[0]["text"], texts[1]["text"]);
    // The second of three is the first of its own seed.
    let second = generate("--temperature 1.5 --top-k 0 --top-p 1 --seed 1 --json").json();
    assert_eq!(texts[1]["text"], second["samples"][0]["text"]);
    // An exported folder says the same.
    folder.bellows("export runs/run --output exported").ok();
    let exported = folder
        .bellows("generate exported -p the --max-tokens 24 --device cpu --temperature 0")
        .ok();
    assert_eq!(exported.stdout, plain);
}

#[test]
fn an_evaluation_measures_what_the_run_did() {
    let folder = Folder::new();
    folder.train("run", &[]).ok();
    let rows = folder.metrics("run");
    for (options, step) in [("", 12), ("--checkpoint 12", 12)] {
        let command = format!("eval runs/run --json --device cpu {options}");
        let told = folder.bellows(&command).ok().json();
        // Not nearly: the same numbers in the same order.
        let loss: f64 = rows[&step]["validation_loss"].parse().expect("a number");
        assert_eq!(told["validation_loss"], loss);
        assert_eq!(told["perplexity"], loss.exp());
        assert!(told["labels"].as_u64() > Some(0));
        assert!(told["unigram_entropy"].as_f64() > Some(0.0));
    }
    // The whole split holds more labels than two batches of it.
    let labels = |options: &str| {
        let command = format!("eval runs/run --json --device cpu {options}");
        folder.bellows(&command).ok().json()["labels"].as_u64()
    };
    assert!(labels("--batches 0") > labels(""));
    // An exported folder is measured on the data of a configuration.
    folder.bellows("export runs/run --output exported").ok();
    folder
        .bellows("eval exported --device cpu")
        .refused(&["--data"]);
    let told = folder
        .bellows("eval exported --data run.toml --json --device cpu")
        .ok()
        .json();
    let loss: f64 = rows[&12]["validation_loss"].parse().expect("a number");
    assert_eq!(told["validation_loss"], loss);
}
