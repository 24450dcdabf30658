//! The program from outside: what bad input gets, and that nothing is left behind.

use std::path::Path;
use std::process::{Command, Output};

fn bellows(arguments: &[&str], folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bellows"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("RUST_BACKTRACE")
        .env_remove("CLICOLOR_FORCE")
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs `train` on a configuration and expects it to be refused before anything is written.
fn refused(config: &str, options: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("run.toml"), config).expect("a file");
    let mut arguments = vec!["train", "run.toml"];
    arguments.extend(options);
    let output = bellows(&arguments, folder.path());
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.starts_with("error: "), "{message}");
    assert!(!message.contains('\u{1b}'), "colours in a pipe: {message}");
    assert!(!message.contains("panicked"), "{message}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    assert!(!folder.path().join("runs").exists(), "a run was begun");
    message
}

#[test]
fn a_missing_configuration_is_told_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = bellows(&["train", "nothing.toml"], folder.path());
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(
        message.contains("there is no configuration file nothing.toml"),
        "{message}"
    );
    assert!(message.contains("bellows config"), "{message}");
    let output = bellows(&["train", "."], folder.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("is a folder"));
}

#[test]
fn a_malformed_configuration_is_refused_at_its_line() {
    let message = refused("[train]\nsteps = \n", &[]);
    assert!(message.contains("run.toml:2:"), "{message}");
}

#[test]
fn a_configuration_that_is_no_text_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(
        folder.path().join("run.toml"),
        b"[train]\nsteps = 1\n# \xff\n",
    )
    .expect("a file");
    let output = bellows(&["train", "run.toml"], folder.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("run.toml:3: the configuration is not UTF-8"));
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_one() {
    let message = refused("[train]\nstep = 3\n", &[]);
    assert!(
        message.contains("run.toml:2:1: unknown key \"step\" in [train]; did you mean \"steps\"?"),
        "{message}"
    );
    let message = refused("", &["--set", "train.step=3"]);
    assert!(
        message.contains("--set train.step=3: unknown key"),
        "{message}"
    );
}

#[test]
fn more_chosen_experts_than_experts_are_refused() {
    let message = refused(
        "[model]\nn_routed_experts = 4\nmoe_intermediate_size = 16\nnum_experts_per_tok = 5\n",
        &[],
    );
    assert!(
        message.contains("run.toml:4:23: model.num_experts_per_tok is 5"),
        "{message}"
    );
}

#[test]
fn heads_that_do_not_divide_are_refused() {
    let message = refused(
        "[model]\nhidden_size = 100\nnum_attention_heads = 3\nnum_key_value_heads = 3\n",
        &[],
    );
    assert!(
        message.contains("model.num_attention_heads is 3"),
        "{message}"
    );
}

#[test]
fn options_are_validated_like_settings() {
    let message = refused("", &["--steps", "0"]);
    assert!(message.contains("--steps 0: train.steps is 0"), "{message}");
    let message = refused("", &["--name", "../escape"]);
    assert!(message.contains("--name ../escape: run.name"), "{message}");
}

#[test]
fn a_device_that_is_no_device_is_refused_with_the_forms() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = bellows(&["train", "x.toml", "--device", "cuda"], folder.path());
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("gpu:N"));
}

#[test]
fn a_device_that_does_not_exist_is_refused_with_those_that_do() {
    let message = refused("", &["--device", "gpu:99"]);
    assert!(
        message.contains("there is no device gpu:99; this machine has cpu"),
        "{message}"
    );
}

#[test]
fn wrong_usage_is_exit_code_2_and_help_is_0() {
    let folder = tempfile::tempdir().expect("a folder");
    for (arguments, code) in [
        (vec!["fly"], 2),
        (vec!["train"], 2),
        (vec![], 2),
        (vec!["--help"], 0),
        (vec!["train", "--help"], 0),
        (vec!["--version"], 0),
    ] {
        let output = bellows(&arguments, folder.path());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    }
}

#[test]
fn the_default_file_is_a_configuration_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let default = bellows(&["config"], folder.path());
    assert!(default.status.success());
    assert_eq!(
        default.stdout,
        bellows(&["config", "--default"], folder.path()).stdout
    );
    std::fs::write(folder.path().join("all.toml"), &default.stdout).expect("a file");
    let resolved = bellows(&["config", "all.toml"], folder.path());
    assert!(resolved.status.success(), "{}", text(&resolved.stderr));
    std::fs::write(folder.path().join("resolved.toml"), &resolved.stdout).expect("a file");
    let again = bellows(&["config", "resolved.toml"], folder.path());
    assert_eq!(text(&again.stdout), text(&resolved.stdout));
    let set = bellows(
        &["config", "all.toml", "--set", "train.steps=77"],
        folder.path(),
    );
    assert!(text(&set.stdout).contains("steps = 77"));
}

#[test]
fn a_resolved_configuration_is_json_for_scripts() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = bellows(&["config", "--json", "--set", "run.seed=5"], folder.path());
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(value["run"]["seed"], 5);
    assert_eq!(value["optimizer"]["max_grad_norm"], 1.0);
}

#[test]
fn no_runs_say_which_command_starts_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = bellows(&["runs"], folder.path());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        text(&output.stdout).contains("bellows train"),
        "{}",
        text(&output.stdout)
    );
    let output = bellows(&["runs", "--json"], folder.path());
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert_eq!(value, serde_json::json!([]));
}

#[test]
fn every_shell_gets_completions_of_every_command() {
    let folder = tempfile::tempdir().expect("a folder");
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = bellows(&["completions", shell], folder.path());
        assert!(output.status.success());
        let script = text(&output.stdout);
        for command in ["train", "resume", "generate", "verify", "devices"] {
            assert!(script.contains(command), "{shell} lacks {command}");
        }
    }
}

#[test]
fn the_devices_of_this_machine_are_json_for_scripts() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = bellows(&["devices", "--json"], folder.path());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    assert!(value["cpu"]["cores"].as_u64() >= Some(1));
    assert!(value["cpu"]["memory_bytes"].as_u64() > Some(0));
    for (index, adapter) in value["adapters"]
        .as_array()
        .expect("a list")
        .iter()
        .enumerate()
    {
        assert_eq!(adapter["device"], format!("gpu:{index}"));
        // What is not usable says why.
        assert_ne!(adapter["details"].is_null(), adapter["unusable"].is_null());
    }
    assert!(bellows(&["devices"], folder.path()).status.success());
}

#[test]
fn colour_is_given_only_where_it_is_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = bellows(&["train", "x.toml", "--color", "always"], folder.path());
    assert!(text(&output.stderr).contains('\u{1b}'));
    let output = bellows(&["train", "x.toml"], folder.path());
    assert!(!text(&output.stderr).contains('\u{1b}'));
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = env!("CARGO_BIN_EXE_bellows");
    let status = Command::new("sh")
        .args([
            "-c",
            &format!(
                "'{program}' config | head -1 >/dev/null; '{program}' config >/dev/full; echo $?"
            ),
        ])
        .current_dir(folder.path())
        .output()
        .expect("a shell");
    let (out, errors) = (text(&status.stdout), text(&status.stderr));
    assert!(
        !errors.contains("panicked") && !errors.contains("bug"),
        "{errors}"
    );
    if Path::new("/dev/full").exists() {
        // Results that could not be written are a failure, though.
        assert_eq!(out.trim(), "1", "{errors}");
    }
}
