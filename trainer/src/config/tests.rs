use serde::Deserialize;

use super::decode::DecodeError;
use super::tree::{Node, Value};
use super::*;

fn parse(text: &str) -> Result<Loaded, Problems> {
    RunConfig::parse(text, "run.toml", &[])
}

fn with(text: &str, settings: &[&str]) -> Result<Loaded, Problems> {
    let settings: Vec<Override> = settings
        .iter()
        .map(|setting| Override::parse(setting).expect("section.key=value"))
        .collect();
    RunConfig::parse(text, "run.toml", &settings)
}

fn lines(result: Result<Loaded, Problems>) -> Vec<String> {
    let problems = result.expect_err("the configuration has a fault");
    problems
        .list
        .iter()
        .map(|problem| problem.line("run.toml"))
        .collect()
}

#[test]
fn an_empty_file_is_the_default() {
    let loaded = parse("").expect("every setting has a default");
    assert_eq!(loaded.config, RunConfig::default());
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

#[test]
fn the_documented_file_is_exactly_the_default() {
    let loaded = parse(DEFAULT_DOCUMENT).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(loaded.config, RunConfig::default());
}

#[test]
fn every_setting_that_serde_knows_is_documented_with_a_comment() {
    let documented = documented_keys();
    let lines: Vec<&str> = DEFAULT_DOCUMENT.lines().collect();
    for key in &documented {
        assert!(
            lines[key.line - 2].starts_with("# "),
            "line {} explains nothing: {:?}",
            key.line,
            lines[key.line - 2]
        );
    }
    for (section, keys) in known_keys() {
        for key in keys {
            assert!(
                documented
                    .iter()
                    .any(|known| known.section == section && known.key == key),
                "[{section}] {key} is not in default.toml"
            );
        }
    }
}

#[test]
fn every_setting_of_the_resolved_default_has_a_line_of_its_own() {
    fn walk(node: &Node, section: &str, found: &mut Vec<(String, String)>) {
        for entry in node.entries().unwrap_or_default() {
            match entry.node.value {
                Value::Table(_) if section.is_empty() => walk(&entry.node, &entry.key, found),
                Value::Table(_) => walk(&entry.node, &format!("{section}.{}", entry.key), found),
                _ => found.push((section.to_owned(), entry.key.clone())),
            }
        }
    }
    let resolved = RunConfig::default()
        .to_toml()
        .expect("the default is plain");
    let mut found = Vec::new();
    walk(
        &Node::parse_file(&resolved).expect("it is TOML"),
        "",
        &mut found,
    );
    let documented = documented_keys();
    for (section, key) in found {
        let line = documented
            .iter()
            .find(|known| known.section == section && known.key == key)
            .unwrap_or_else(|| panic!("[{section}] {key} is missing"));
        assert!(!line.commented, "[{section}] {key} has a default");
    }
}

#[test]
fn every_commented_setting_of_the_documented_file_can_be_switched_on() {
    let kinds = |section: &str| -> Vec<&str> {
        match section {
            "schedule" => vec!["wsd"],
            "objective" => vec!["dpo", "grpo"],
            "data.source" => vec!["rust-sources", "text", "jsonl", "parquet"],
            "model.rope.scaling" => vec!["linear", "llama3", "yarn"],
            _ => vec![""],
        }
    };
    let lines: Vec<&str> = DEFAULT_DOCUMENT.lines().collect();
    for key in documented_keys().iter().filter(|key| key.commented) {
        let setting = lines[key.line - 1].trim_start_matches('#');
        let accepted = kinds(&key.section).into_iter().any(|kind| {
            let tag = TAGGED
                .iter()
                .find(|(section, _)| section.join(".") == key.section)
                .map_or_else(String::new, |(_, tag)| format!("{tag} = {kind:?}\n"));
            let text = format!("[{}]\n{tag}{setting}\n", key.section);
            match parse(&text) {
                Ok(_) => true,
                // Another setting that goes with it may be missing; it must not be this one.
                Err(problems) => !problems.list.iter().any(|problem| {
                    let unknown = problem.message.contains("unknown key");
                    unknown
                        || problem
                            .message
                            .starts_with(&format!("{}.{}", key.section, key.key))
                }),
            }
        });
        assert!(accepted, "[{}] {setting}", key.section);
    }
}

/// The keys of every section, as serde names them when it meets one that it does not know.
fn known_keys() -> Vec<(String, Vec<&'static str>)> {
    let known = |text: &str| {
        let root = Node::parse_file(text).expect("it is TOML");
        RunConfig::deserialize(&root)
            .expect_err("the key is unknown")
            .known_keys()
            .unwrap_or_else(|| panic!("no key is unknown in {text}"))
            .to_vec()
    };
    let mut sections = Vec::new();
    let mut plain = vec!["run", "model", "train", "loss_scale", "optimizer", "router"];
    plain.extend(["evaluate", "sample", "checkpoint", "record"]);
    plain.extend(["data.tokenizer", "data.validation"]);
    for section in plain {
        sections.push((section.to_owned(), known(&format!("[{section}]\nx-y = 1"))));
    }
    // Their sections are among their keys.
    for (section, inner) in [
        ("data", vec!["source", "tokenizer", "validation"]),
        ("model", vec!["rope"]),
        ("model.rope", vec!["scaling"]),
    ] {
        let keys = known(&format!("[{section}]\nx-y = 1"));
        let plain = keys
            .into_iter()
            .filter(|key| !inner.contains(key))
            .collect();
        sections.retain(|(name, _)| name != section);
        sections.push((section.to_owned(), plain));
    }
    for (section, tag, kinds) in [
        ("objective", "kind", vec!["pretrain", "sft", "dpo", "grpo"]),
        (
            "schedule",
            "kind",
            vec!["constant", "cosine", "linear", "wsd"],
        ),
        (
            "data.source",
            "kind",
            vec!["rust-sources", "text", "jsonl", "parquet"],
        ),
        (
            "model.rope.scaling",
            "rope_type",
            vec!["linear", "llama3", "yarn"],
        ),
    ] {
        for kind in kinds {
            let keys = known(&format!("[{section}]\n{tag} = {kind:?}\nx-y = 1"));
            sections.push((section.to_owned(), keys));
        }
    }
    sections
}

#[test]
fn the_resolved_form_reads_back_equal() {
    let text = r#"
        [run]
        name = "a.b-c_1"
        seed = 9223372036854775807
        device = "gpu:3"
        [model]
        model_type = "deepseek_v3"
        attention = "mla"
        q_lora_rank = 24
        kv_lora_rank = 16
        qk_nope_head_dim = 8
        qk_rope_head_dim = 4
        v_head_dim = 8
        layer_types = ["full_attention", "sliding_attention", "full_attention", "full_attention"]
        sliding_window = 64
        capacity_factor = 1.5
        score_correction_bias = true
        [model.rope.scaling]
        rope_type = "yarn"
        factor = 40
        original_max_position_embeddings = 4096
        mscale = 0.707
        [data.source]
        kind = "parquet"
        paths = ["a.parquet"]
        template = "Q: {{ q }}\nA: "
        completion = "{{ a }}"
        train_on = "completion"
        [train]
        max_minutes = 0.1
        [optimizer]
        learning_rate = 3e-4
        no_decay = []
        max_grad_norm = 0
        [schedule]
        kind = "wsd"
        decay_steps = 10
        [router]
        balance = "global-running"
        bias_update_speed = 1e-3
    "#;
    let config = parse(text)
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config;
    assert_eq!(config.optimizer.max_grad_norm, None);
    let resolved = config.to_toml().expect("it passed the checks");
    let again = parse(&resolved).unwrap_or_else(|problems| panic!("{problems}\n{resolved}"));
    assert_eq!(again.config, config);
    assert!(resolved.contains("max_grad_norm = 0.0"), "{resolved}");
    assert!(resolved.contains("truncate = true"), "{resolved}");
    // Whoever reads the file without this module's help gets the same.
    assert_eq!(toml::from_str::<RunConfig>(&resolved), Ok(config));
}

#[test]
fn an_unknown_key_names_its_section_place_and_nearest_key() {
    assert_eq!(
        lines(parse("[optimizer]\nbeta1 = 0.8\n  lerning_rate = 1e-3\n")),
        [
            "run.toml:3:3: unknown key \"lerning_rate\" in [optimizer]; did you mean \"learning_rate\"?"
        ]
    );
    assert_eq!(
        lines(parse("[optimiser]\nbeta1 = 0.8\n")),
        ["run.toml:1:2: unknown section [optimiser]; did you mean [optimizer]?"]
    );
    let line = &lines(parse("[schedule]\nkind = \"linear\"\ndecay_steps = 3\n"))[0];
    assert!(
        line.starts_with("run.toml:3:1: unknown key \"decay_steps\" in [schedule] with kind = \"linear\"; known are"),
        "{line}"
    );
}

#[test]
fn a_key_of_another_section_or_another_program_is_shown_its_place() {
    for (text, meant) in [
        (
            "[train]\nlearning_rate = 1\n",
            "\"learning_rate\" in [optimizer]",
        ),
        ("[train]\nlr = 1\n", "\"learning_rate\" in [optimizer]"),
        (
            "[model]\nnum_local_experts = 8\n",
            "\"n_routed_experts\" in [model]",
        ),
        ("[model]\nrope_theta = 1e6\n", "\"theta\" in [model.rope]"),
        ("steps = 10\n", "\"steps\" in [train]"),
    ] {
        let line = &lines(parse(text))[0];
        assert!(line.contains(&format!("did you mean {meant}?")), "{line}");
    }
}

#[test]
fn all_faults_are_told_at_once() {
    let text = "[train]\nsteps = \"many\"\nbatch_sise = 2\n[optimizer]\nbeta1 = true\nno_decay = [\"norms\"]\n[run]\ndevice = \"cuda\"\n";
    let mut found = lines(parse(text));
    found.sort();
    assert_eq!(found.len(), 5, "{found:#?}");
    assert_eq!(
        found[0],
        "run.toml:2:9: train.steps is the text \"many\": it must be a whole number, 0 or more"
    );
    assert!(found[1].contains("did you mean \"batch_size\""));
    assert_eq!(
        found[2],
        "run.toml:5:9: optimizer.beta1 is true: it must be a number"
    );
    assert!(
        found[3].starts_with("run.toml:6:12: optimizer.no_decay is \"norms\""),
        "{}",
        found[3]
    );
    assert!(found[3].ends_with("did you mean \"norm\"?"), "{}", found[3]);
    assert!(
        found[4].starts_with("run.toml:8:10: run.device"),
        "{}",
        found[4]
    );
}

#[test]
fn a_fault_inside_a_section_with_a_kind_is_placed_at_its_key() {
    assert_eq!(
        lines(parse(
            "[schedule]\nkind = \"cosine\"\nwarmup_steps = \"ten\"\n"
        )),
        [
            "run.toml:3:16: schedule.warmup_steps is the text \"ten\": it must be a whole number, 0 or more"
        ]
    );
    let line = &lines(parse("[schedule]\nwarmup_steps = 3\nkind = \"cosin\"\n"))[0];
    assert!(
        line.starts_with("run.toml:3:8: schedule.kind is \"cosin\": it must be one of"),
        "{line}"
    );
    assert!(line.ends_with("did you mean \"cosine\"?"), "{line}");
    assert_eq!(
        lines(parse("[schedule]\nkind = \"wsd\"\n")),
        ["run.toml:1:2: [schedule] (kind = \"wsd\") needs the key \"decay_steps\""]
    );
    let line = &lines(parse(
        "[data.source]\nkind = \"parquet\"\npaths = \"a.parquet\"\n",
    ))[0];
    assert!(
        line.starts_with("run.toml:3:9: data.source.paths is the text"),
        "{line}"
    );
}

#[test]
fn a_section_with_a_kind_keeps_the_documented_defaults_of_what_it_leaves_out() {
    let config = parse("[schedule]\nwarmup_steps = 7\n[train]\nsteps = 50\n")
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config;
    assert_eq!(
        config.schedule,
        Schedule::Cosine {
            warmup_steps: 7,
            min_ratio: 0.1
        }
    );
}

#[test]
fn syntax_faults_tell_their_line() {
    let found = lines(parse("[train]\nsteps = 10\nbatch_size =\n"));
    assert!(found[0].starts_with("run.toml:3:"), "{found:?}");
    assert!(found[0].contains("not valid TOML"), "{found:?}");
    let found = lines(parse("[train]\nsteps = 1\nsteps = 2\n"));
    assert!(found[0].starts_with("run.toml:3:1"), "{found:?}");
}

#[test]
fn values_out_of_range_are_told_all_at_once_with_their_places() {
    let text = "[train]\nsteps = 0\nbatch_size = 0\n[optimizer]\nlearning_rate = nan\nbeta2 = 1.0\n[sample]\ntop_p = 0\n";
    assert_eq!(
        lines(parse(text)),
        [
            "run.toml:2:9: train.steps is 0: it must be 1 or more",
            "run.toml:3:14: train.batch_size is 0: it must be 1 or more",
            "run.toml:5:17: optimizer.learning_rate is NaN: it must be a finite number above 0",
            "run.toml:6:9: optimizer.beta2 is 1.0: it must be from 0 to under 1",
            "run.toml:8:9: sample.top_p is 0.0: it must be above 0, to 1",
        ]
    );
}

#[test]
fn a_model_that_cannot_be_built_is_refused_at_its_key() {
    let moe =
        "[model]\nn_routed_experts = 4\nmoe_intermediate_size = 32\nnum_experts_per_tok = 5\n";
    let line = &lines(parse(moe))[0];
    assert!(
        line.starts_with("run.toml:4:23: model.num_experts_per_tok is 5"),
        "{line}"
    );
    let heads = "[model]\nhidden_size = 100\nnum_attention_heads = 3\n";
    let line = &lines(parse(heads))[0];
    assert!(
        line.starts_with("run.toml:3:23: model.num_attention_heads is 3"),
        "{line}"
    );
    let vocabulary = "[model]\nvocab_size = 1000\n";
    let line = &lines(parse(vocabulary))[0];
    assert!(
        line.contains("the tokenizer will have 4096 tokens"),
        "{line}"
    );
}

#[test]
fn faults_of_the_data_section_have_places_too() {
    let line = &lines(parse("[data.validation]\nfraction = 0.9\n"))[0];
    assert!(
        line.starts_with("run.toml:2:12: data.validation.fraction"),
        "{line}"
    );
}

#[test]
fn names_that_would_leave_the_folder_of_runs_are_refused() {
    for name in ["../x", "a/b", "", ".hidden", "-x", "a b", "é"] {
        let found = lines(with("", &[&format!("run.name={name:?}")]));
        assert!(found[0].contains("run.name"), "{found:?}");
    }
}

#[test]
fn a_run_without_a_name_takes_its_files() {
    let folder = tempfile::tempdir().expect("a folder");
    for (file, name) in [
        ("rust-code.toml", "rust-code"),
        ("-a b.é.toml", "a-b.-"),
        ("é.toml", "run"),
    ] {
        let path = folder.path().join(file);
        std::fs::write(&path, "").expect("a file");
        let loaded = RunConfig::load(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(loaded.config.run.name.as_deref(), Some(name));
        let given = [Override::text("--name", "run.name", "mine")];
        let loaded = RunConfig::load(&path, &given).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(loaded.config.run.name.as_deref(), Some("mine"));
    }
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    let loaded = parse("[train]\nsequence_length = 4096\nsteps = 50\n").expect("it can be trained");
    assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);
    assert!(
        loaded
            .warnings
            .iter()
            .any(|warning| warning.starts_with("run.toml:2:19: train.sequence_length"))
    );
    assert!(
        loaded
            .warnings
            .iter()
            .any(|warning| warning.contains("never reaches its peak"))
    );
}

#[test]
fn settings_of_the_command_line_win_and_are_named_in_their_faults() {
    let config = with(
        "[train]\nsteps = 5\n",
        &[
            "train.steps=500",
            "run.directory=out/put",
            "optimizer.learning_rate=3e-4",
            "data.source.kind=text",
            "data.source.paths=corpus/*.txt",
            "optimizer.no_decay=[\"norm\"]",
            "sample.prompts=fn ",
        ],
    )
    .unwrap_or_else(|problems| panic!("{problems}"))
    .config;
    assert_eq!(config.train.steps, 500);
    assert_eq!(config.run.directory, Path::new("out/put"));
    assert_eq!(config.optimizer.learning_rate, 3e-4);
    assert_eq!(config.optimizer.no_decay.len(), 1);
    assert_eq!(config.sample.prompts, ["fn"]);
    assert_eq!(
        lines(with("", &["train.stepz=3"])),
        ["--set train.stepz=3: unknown key \"stepz\" in [train]; did you mean \"steps\"?"]
    );
    assert_eq!(
        lines(with("[train]\nsteps = 5\n", &["train.steps=ten"])),
        [
            "--set train.steps=ten: train.steps is the text \"ten\": it must be a whole number, 0 or more"
        ]
    );
    assert_eq!(
        lines(with("", &["train.steps=0"])),
        ["--set train.steps=0: train.steps is 0: it must be 1 or more"]
    );
    let found = lines(with("[train]\nsteps = 5\n", &["train.steps.x=1"]));
    assert!(
        found[0].ends_with("train.steps is a setting, not a section"),
        "{found:?}"
    );
    let found = lines(with("", &["optimizer.no_decay=[norm]"]));
    assert!(found[0].contains("not valid TOML"), "{found:?}");
}

#[test]
fn a_single_value_suits_a_list_and_a_number_suits_a_text() {
    let settings = [
        "data.source.kind=jsonl",
        "data.source.paths=b.jsonl",
        "run.name=2024",
    ];
    let config = with("", &settings).expect("these are settings").config;
    assert_eq!(config.run.name.as_deref(), Some("2024"));
    let bellows_data::SourceConfig::Jsonl(records) = config.data.source else {
        panic!("the kind was given");
    };
    assert_eq!(records.paths, ["b.jsonl"]);
}

#[test]
fn a_place_counts_characters_and_lines_of_any_ending() {
    let found = lines(parse("[train]\r\nsteps = 1 # é\r\n\"é\" = 2\r\n"));
    assert!(found[0].starts_with("run.toml:3:1:"), "{found:?}");
    let found = lines(parse("train = { \"ééé\" = 1, stepz = 2 }\n"));
    assert!(
        found.iter().any(|line| line.starts_with("run.toml:1:22:")),
        "{found:?}"
    );
}

#[test]
fn the_error_type_tells_faults_apart() {
    let decode = |text: &str| -> DecodeError {
        RunConfig::deserialize(&Node::parse_file(text).expect("it is TOML")).expect_err("a fault")
    };
    assert_eq!(decode("[train]\nx = 1"), decode("[train]\nx = 2"));
    assert_ne!(decode("[train]\nx = 1"), decode("[train]\ny = 1"));
}

#[test]
fn the_examples_load_without_a_warning() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("the examples are there") {
        let path = entry.expect("it can be listed").path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let text = std::fs::read_to_string(&path).expect("it can be read");
            let name = path.display().to_string();
            // Not `load`: some start from the run of another example.
            let loaded = RunConfig::parse(&text, &name, &[]);
            let loaded = loaded.unwrap_or_else(|error| panic!("{error}"));
            assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
            seen += 1;
        }
    }
    assert!(seen > 0);
}
