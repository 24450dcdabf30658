//! What goes to standard output and standard error, and answers to questions and chats.

use serde_json::Value;

use crate::common::{Folder, finish};

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_quiet_run_tells_nothing_but_its_result() {
    let folder = Folder::new();
    let loud = folder.train("loud", &[]).ok();
    assert!(loud.stderr.contains("Finished"), "{}", loud.stderr);
    let mut command = folder.train_command("quiet", &[]);
    let quiet = finish(command.arg("--quiet")).ok();
    assert_eq!(quiet.stderr, "");
    // Results are the same but for the run's name.
    let result = loud.stdout.replace("runs/loud", "runs/quiet");
    assert_eq!(quiet.stdout, result);
    for line in [
        "training loss",
        "validation loss",
        "unigram entropy",
        "runs/quiet",
    ] {
        assert!(quiet.stdout.contains(line), "{}", quiet.stdout);
    }
    let quiet = folder
        .bellows("export runs/quiet --output out --quiet")
        .ok();
    assert_eq!((quiet.stdout, quiet.stderr), (String::new(), String::new()));
    // Errors are told all the same.
    folder
        .bellows("resume runs/quiet --quiet")
        .refused(&["nothing is left to train"]);
}

#[test]
fn a_script_reads_a_run_as_json_lines() {
    let folder = Folder::new();
    let mut command = folder.train_command("run", &[]);
    let done = finish(command.arg("--json")).ok();
    let lines: Vec<Value> = done
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let (last, steps) = lines.split_last().expect("lines");
    assert!(!steps.is_empty() && steps.iter().all(|line| line["event"] == "step"));
    assert_eq!(last["event"], "finished");
    assert_eq!((&last["step"], &last["steps"]), (&12.into(), &12.into()));
    assert_eq!(last["run"], "runs/run");
    let metrics = folder.metrics("run");
    for (key, column) in [("loss", "loss"), ("validation_loss", "validation_loss")] {
        let recorded: f64 = metrics[&12][column].parse().expect("a number");
        assert_eq!(last[key], recorded);
    }
    assert_eq!(last["samples"][0]["prompt"], "the ");
    let resumed = folder.bellows("resume runs/run --steps 13 --json").ok();
    let last = resumed.stdout.lines().last().expect("lines");
    let last: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(last["step"], 13);
}

#[test]
fn runs_are_listed_for_people_and_for_scripts() {
    let folder = Folder::new();
    folder.train("first", &["train.steps=2"]).ok();
    folder.train("second", &["train.steps=3"]).ok();
    let listed = folder.bellows("runs --json").ok().json();
    let names: Vec<&Value> = listed
        .as_array()
        .expect("a list")
        .iter()
        .map(|run| &run["name"])
        .collect();
    assert_eq!(names, ["first", "second"]);
    assert_eq!(listed[1]["state"], "finished");
    assert_eq!(listed[1]["step"], 3);
    assert_eq!(listed[1]["model_type"], "coe_deepseekv2");
    let loss: f64 = folder.metrics("second")[&3]["loss"]
        .parse()
        .expect("a number");
    assert_eq!(listed[1]["loss"], loss);
    let table = folder.bellows("runs").ok().stdout;
    assert!(table.contains("second") && table.contains("3/3"), "{table}");
    // One damaged run does not hide the others.
    folder.write("runs/first/manifest.json", "{");
    let done = folder.bellows("runs --json").ok();
    assert_eq!(done.json().as_array().map(Vec::len), Some(1));
    assert!(done.stderr.contains("first"), "{}", done.stderr);
}

#[test]
fn colours_are_left_out_where_no_color_asks_for_it() {
    let folder = Folder::new();
    let coloured = |command: &mut std::process::Command| {
        let done = finish(command);
        done.stdout.contains('\u{1b}') || done.stderr.contains('\u{1b}')
    };
    // A terminal is feigned, as continuous integration does.
    let mut command = folder.command("train absent.toml");
    assert!(coloured(
        command.env("CLICOLOR_FORCE", "1").env_remove("NO_COLOR")
    ));
    let mut command = folder.command("train absent.toml");
    assert!(!coloured(command.env("NO_COLOR", "1")));
}

#[test]
fn a_verification_is_told_for_people_and_for_scripts() {
    let folder = Folder::new();
    let good = fixture("hf/llama");
    let done = folder.bellows(&format!("verify {good}")).ok();
    assert!(done.stdout.contains("equal"), "{}", done.stdout);
    let told = folder.bellows(&format!("verify --json {good}")).ok().json();
    assert_eq!(told["device"], "cpu");
    assert_eq!(told["folders"][0]["passed"], true);
    let checks = told["folders"][0]["report"]["checks"].as_array();
    assert!(checks.is_some_and(|checks| checks.len() > 10));

    // Who computed is told, and on a CPU that is never kernels.
    assert!(
        done.stdout.contains("attention by plain operations"),
        "{}",
        done.stdout
    );
    let computed = &told["folders"][0]["report"]["computed"];
    let computed = computed.as_array().expect("a list");
    assert!(
        computed
            .iter()
            .all(|family| family["fell_back"] == true || family["family"] == "linear")
    );
    folder
        .bellows(&format!("verify --require-kernels {good}"))
        .told(
            1,
            &["plain operations stood in for the kernels of", "attention"],
        );

    // Other weights than those of the golden numbers: a difference is a failure, no bad input.
    folder.bellows(&format!("import {good} --output off")).ok();
    std::fs::copy(
        format!("{good}/golden.safetensors"),
        folder.path("off/golden.safetensors"),
    )
    .expect("a copy");
    let mut weights = folder.read("off/model.safetensors");
    let end = weights.len();
    weights[end - 4..].copy_from_slice(&1f32.to_le_bytes());
    folder.write("off/model.safetensors", weights);
    let done = folder
        .bellows(&format!("verify --json {good} off"))
        .told(1, &["1 of 2 folders differ"]);
    assert_eq!(done.json()["folders"][0]["passed"], true);
    assert_eq!(done.json()["folders"][1]["passed"], false);
    // A golden file that was cut is bad input.
    let golden = folder.read("off/golden.safetensors");
    folder.write("off/golden.safetensors", &golden[..golden.len() / 2]);
    folder
        .bellows("verify off")
        .refused(&["golden.safetensors"]);
}

#[test]
fn questions_train_on_their_answers_alone() {
    let folder = Folder::new();
    let mut lines = String::new();
    for number in 0..60 {
        let answer = (number * 7) % 10;
        lines += &format!(
            "{{\"question\": \"how many cats sat on mat {number}?\", \"answer\": \"{answer} cats\"}}\n"
        );
    }
    lines += "{\"question\": \"half a line\n";
    folder.write("qa/train.jsonl", lines);
    let settings = [
        "data.source.kind='jsonl'",
        "data.source.paths=['qa/*.jsonl']",
        "data.source.template='Question: {{ question }} Answer: '",
        "data.source.completion='{{ answer }}'",
        "train.accumulation=2",
        "train.steps=60",
        "optimizer.learning_rate=0.01",
        "evaluate.every=20",
    ];
    let mut all = settings.to_vec();
    all.push("data.source.train_on='completion'");
    let done = folder.train("answers", &all).ok();
    // The half line is told, and left out.
    assert!(done.stderr.contains("train.jsonl"), "{}", done.stderr);
    folder.train("everything", &settings).ok();
    let labels = |run: &str| {
        let command = format!("eval runs/{run} --json --batches 0 --device cpu");
        folder.bellows(&command).ok().json()["labels"]
            .as_u64()
            .expect("a number")
    };
    let (answers, everything) = (labels("answers"), labels("everything"));
    assert!(
        answers > 0 && answers * 3 < everything,
        "{answers} of {everything}"
    );
    let metrics = folder.metrics("answers");
    let loss = |step| -> f64 { metrics[&step]["loss"].parse().expect("a number") };
    assert!(loss(60) < loss(1) - 1.0, "{} to {}", loss(1), loss(60));
    // Masks and document borders come back from a checkpoint as they were.
    folder.copy_run("answers", "again");
    folder.bellows("resume runs/again --from 54").ok();
    folder.assert_equal_runs("answers", "again", 60);
}
