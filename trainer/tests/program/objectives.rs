//! Fine-tuning, preferences and rewards, from a model that the program itself trained before.

use serde_json::{Value, json};

use crate::common::{Done, Folder};

const CONFIG: &str = r#"
[run]
device = "cpu"

[data]
cache = "cache"

[data.source]
kind = "jsonl"
chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"

[data.validation]
fraction = 0.2

[train]
init_from = "runs/base"
steps = 3
batch_size = 2
sequence_length = 32
accumulation = 2

[schedule]
warmup_steps = 1

[router]
balance = "sequence"
balance_coefficient = 0.01

[evaluate]
every = 2
batches = 2

[sample]
prompts = ["the "]
max_tokens = 4

[checkpoint]
every = 1
keep_last = 99
keep_best = false

[record]
probe_tokens = 32
"#;

const KINDS: [&str; 3] = ["sft", "dpo", "grpo"];

/// A folder with a Chain-of-Experts model in `runs/base`, and rows of every kind.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.train("base", &["train.steps=2"]).ok();
    folder.write("tune.toml", CONFIG);
    let lines = |row: &dyn Fn(usize) -> Value| {
        let rows: Vec<String> = (0..24).map(|i| row(i).to_string()).collect();
        rows.join("\n")
    };
    let says = |role: &str, text: &str| json!({"role": role, "content": text});
    let word = |i: usize| ["cat", "dog", "rain", "hills", "mat"][i % 5];
    folder.write(
        "sft.jsonl",
        lines(&|i| match i % 2 {
            0 => json!({"messages": [says("user", word(i)), says("assistant", "far")]}),
            _ => json!({"prompt": format!("the {} ", word(i)), "completion": "ran away"}),
        }),
    );
    folder.write(
        "dpo.jsonl",
        lines(&|i| {
            json!({"prompt": format!("the {} ", word(i)), "chosen": "ran away", "rejected": "sat"})
        }),
    );
    folder.write(
        "grpo.jsonl",
        lines(&|i| {
            json!({"prompt": format!("the {} ", word(i)), "completions": ["ran", "sat on", "fell"],
                   "rewards": [1, 0.5, i % 3]})
        }),
    );
    folder
}

fn tune(folder: &Folder, kind: &str, name: &str, settings: &str) -> Done {
    let sets: String = settings
        .split_whitespace()
        .map(|set| format!(" --set {set}"))
        .collect();
    folder.bellows(&format!(
        "train tune.toml --name {name} --set objective.kind={kind} --set data.source.paths={kind}.jsonl{sets}"
    ))
}

/// A number of a run's step.
fn number(folder: &Folder, run: &str, step: u64, name: &str) -> f64 {
    let row = &folder.metrics(run)[&step];
    let value = row
        .get(name)
        .unwrap_or_else(|| panic!("{run} has no {name}: {row:?}"));
    value.parse().expect("a number")
}

#[test]
fn every_objective_trains_alike_in_every_memory_mode_and_resumes_bit_for_bit() {
    let folder = folder();
    for kind in KINDS {
        let ways = [
            ("plain", "train.memory=plain"),
            ("checkpoint", "train.memory=checkpoint"),
            ("stream", "train.memory=stream stream.chunk=12"),
        ];
        let mut losses = Vec::new();
        for (way, settings) in ways {
            let name = format!("{kind}-{way}");
            tune(&folder, kind, &name, settings).ok();
            let again = format!("{name}-again");
            folder.copy_run(&name, &again);
            folder
                .bellows(&format!("resume runs/{again} --from 2"))
                .ok();
            folder.assert_equal_runs(&name, &again, 3);
            losses.push([1, 3].map(|step| number(&folder, &name, step, "loss")));
        }
        for other in &losses[1..] {
            // The first step is the same up to rounding; two updates of AdamW carry that on.
            assert!((other[0] - losses[0][0]).abs() < 1e-5, "{kind}: {losses:?}");
            assert!((other[1] - losses[0][1]).abs() < 1e-3, "{kind}: {losses:?}");
        }
    }
}

#[test]
fn the_starting_policy_is_the_reference_and_is_asked_once() {
    let folder = folder();
    let first = tune(&folder, "dpo", "one", "router.balance=none").ok();
    assert!(
        first.stderr.contains("under the starting policy"),
        "{}",
        first.stderr
    );
    // Nothing was learned yet: no margin, ln 2.
    assert!((number(&folder, "one", 1, "loss") - std::f64::consts::LN_2).abs() < 1e-5);
    assert!(number(&folder, "one", 1, "rewards_margins").abs() < 1e-5);
    assert!(number(&folder, "one", 3, "rewards_margins").abs() > 1e-5);
    for name in [
        "rewards_chosen",
        "rewards_rejected",
        "rewards_accuracies",
        "cross_entropy",
    ] {
        assert!(number(&folder, "one", 3, name).is_finite());
    }
    let second = tune(&folder, "dpo", "two", "router.balance=none").ok();
    assert!(
        second.stderr.contains("starting policy (cached)"),
        "{}",
        second.stderr
    );
    folder.assert_equal_runs("one", "two", 3);
    let events = bellows_record::RunReader::open(&folder.run("one")).expect("a run");
    let events = events.events().read_all().expect("events");
    let evaluated = events
        .iter()
        .find(|event| event.data.contains_key("rewards_accuracies"));
    assert!(
        evaluated.is_some(),
        "an evaluation tells how many pairs are right"
    );

    tune(&folder, "grpo", "three", "").ok();
    assert!(number(&folder, "three", 1, "kl").abs() < 1e-5);
    assert_eq!(number(&folder, "three", 1, "clip_fraction"), 0.0);
    assert!(number(&folder, "three", 1, "reward") > 0.0);
    assert!(number(&folder, "three", 3, "kl") > 0.0);
    // Without a reference there is no divergence to tell.
    tune(&folder, "grpo", "free", "objective.beta=0").ok();
    assert!(!folder.metrics("free")[&3].contains_key("kl"));
}

#[test]
fn a_resumed_run_asks_the_starting_policy_again_where_the_cache_is_gone_and_no_other() {
    let folder = folder();
    tune(&folder, "dpo", "run", "").ok();
    folder.copy_run("run", "again");
    std::fs::remove_dir_all(folder.path("cache/reference")).expect("it was there");
    folder.bellows("resume runs/again --from 1").ok();
    folder.assert_equal_runs("run", "again", 3);
    // While the numbers are there, nobody needs the policy.
    folder.copy_run("run", "later");
    std::fs::rename(folder.path("runs/base"), folder.path("runs/hidden")).expect("it moves");
    folder.bellows("resume runs/later --from 1").ok();
    folder.assert_equal_runs("run", "later", 3);
    folder.copy_run("run", "lost");
    std::fs::remove_dir_all(folder.path("cache/reference")).expect("it was there");
    folder
        .bellows("resume runs/lost --from 1")
        .refused(&["reference policy", "train.init_from"]);
    // Another model in its place is not taken for it.
    folder.train("base", &["train.steps=2", "run.seed=9"]).ok();
    folder
        .bellows("resume runs/lost --from 1")
        .refused(&["reference policy", "other weights"]);
}

#[test]
fn a_model_to_start_from_brings_its_architecture_and_tokenizer() {
    let folder = folder();
    tune(&folder, "sft", "run", "train.steps=1").ok();
    let config = folder.text("runs/run/config.toml");
    for line in [
        "init_from = \"runs/base/checkpoints/00000002\"",
        "path = \"runs/base/checkpoints/00000002\"",
        "hidden_size = 16",
        "form = \"supervised\"",
        "packing = \"whole\"",
    ] {
        assert!(config.contains(line), "no {line} in {config}");
    }
    tune(&folder, "sft", "other", "model.hidden_size=32").refused(&[
        "--set model.hidden_size=32",
        "train.init_from",
        "16",
    ]);
    tune(&folder, "sft", "none", "train.init_from=runs/nobody")
        .refused(&["train.init_from", "runs/nobody"]);
}

#[test]
fn settings_that_an_objective_cannot_have_are_told_with_what_it_needs() {
    let folder = folder();
    tune(&folder, "dpo", "run", "train.batch_size=3").refused(&["train.batch_size", "even"]);
    tune(&folder, "dpo", "run", "data.packing=respect").refused(&["data.packing", "off"]);
    tune(&folder, "grpo", "run", "data.source.form=preference")
        .refused(&["data.source.form", "groups"]);
    tune(&folder, "grpo", "run", "objective.epsilon=1.5").refused(&["objective.epsilon"]);
    tune(&folder, "dpo", "run", "objective.epsilon=0.2").refused(&["epsilon", "kind = \"dpo\""]);
    tune(&folder, "ppo", "run", "").refused(&["objective.kind", "grpo"]);
    let config = folder.text("tune.toml").replace("init_from", "#init_from");
    folder.write("tune.toml", config);
    tune(&folder, "dpo", "run", "").refused(&["objective.kind", "train.init_from"]);
}

#[test]
fn rows_that_are_no_group_are_told_by_their_line_and_the_rest_trains() {
    let folder = folder();
    let mut text = folder.text("grpo.jsonl");
    text = text.replacen("\"rewards\":[1,0.5,1]", "\"rewards\":[1,0.5]", 1);
    folder.write("grpo.jsonl", text);
    let done = tune(&folder, "grpo", "run", "").ok();
    assert!(
        done.stderr
            .contains("grpo.jsonl:2: column \"rewards\" has 2 values for 3"),
        "{}",
        done.stderr
    );
    folder.write(
        "dpo.jsonl",
        "{\"prompt\": \"a\", \"chosen\": \"b\"}\n{\"prompt\": 1}\n",
    );
    tune(&folder, "dpo", "none", "").refused(&[
        "dpo.jsonl:1",
        "no column \"rejected\"",
        "dpo.jsonl:2",
    ]);
}

#[test]
fn log_probabilities_of_a_column_are_the_old_policys() {
    let folder = folder();
    // Completions of the same single word with rewards 1 and 0: advantages a and -a, a = 0.5 / (√0.5 + 1e-4).
    let groups = |old: Option<f64>| {
        let rows: Vec<String> = (0..20)
            .map(|i| {
                let mut row = json!({
                    "prompt": format!("q{i}:"), "completions": ["a", "a"], "rewards": [1, 0],
                });
                if let Some(old) = old {
                    row["old_logprobs"] = json!([[old], [old]]);
                }
                row.to_string()
            })
            .collect();
        rows.join("\n")
    };
    let loss = |name: &str, old: Option<f64>| {
        folder.write("grpo.jsonl", groups(old));
        tune(&folder, "grpo", name, "router.balance=none train.steps=1").ok();
        ["loss", "clip_fraction"].map(|what| number(&folder, name, 1, what))
    };
    // By the starting policy all ratios are 1: the advantages cancel.
    let [own, clipped] = loss("own", None);
    assert!(own.abs() < 1e-5 && clipped == 0.0, "{own} {clipped}");
    // An old policy that would hardly have said it: the ratio r = p · e⁹ is far above 1.2, and clipped
    // where the reward is good. The step's loss is -a · (1.2 - r) / 2.
    let [unlikely, clipped] = loss("unlikely", Some(-9.0));
    assert_eq!(clipped, 0.5);
    let advantage = 0.5 / (0.5f64.sqrt() + 1e-4);
    let ratio = 1.2 + 2.0 * unlikely / advantage;
    // One that was sure of it: r = p · e^0.01 is below 0.8, and clipped where the reward is bad.
    let [sure, clipped] = loss("sure", Some(-0.01));
    assert_eq!(clipped, 0.5);
    let small = 0.8 - 2.0 * sure / advantage;
    // Both ratios are of one policy.
    let quotient = ratio / small / (9.0f64 - 0.01).exp();
    assert!((quotient - 1.0).abs() < 0.02, "{ratio} {small}");
}
