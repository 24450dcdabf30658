//! What an objective and a starting model decide for settings that the file leaves out. It is
//! written into the tree before it is decoded, so that the resolved form says all of it.

use std::path::Path;

use bellows_engine::config::ModelConfig;

use super::problem::{Location, Problem};
use super::tree::{Entry, Node, Value};
use crate::cli::CheckpointChoice;
use crate::error::Error;
use crate::models::{ModelFolder, resolve};

/// Gives the objective's data the form and packing that it trains on, where the file names none.
pub fn settle_objective(root: &mut Node) {
    let text = |root: &Node, path: &[&str]| match root.get(path).map(|node| &node.value) {
        Some(Value::String(text)) => Some(text.clone()),
        _ => None,
    };
    let kind = text(root, &["objective", "kind"]);
    let (form, packing) = match kind.as_deref() {
        Some("sft") => ("supervised", "whole"),
        Some("dpo") => ("preference", "off"),
        Some("grpo") => ("groups", "off"),
        _ => return,
    };
    root.set_default(&["data", "packing"], Value::String(packing.into()));
    let records = ["jsonl", "parquet"];
    let source = text(root, &["data", "source", "kind"]);
    if !source.is_some_and(|source| records.contains(&source.as_str())) {
        return;
    }
    let forms = ["text_column", "messages_column", "template", "form"];
    let named = forms
        .iter()
        .any(|key| root.get(&["data", "source", key]).is_some());
    if !named {
        let form = Value::String(form.into());
        root.set_default(&["data", "source", "form"], form);
    }
    if form == "supervised" {
        let completion = Value::String("completion".into());
        root.set_default(&["data", "source", "train_on"], completion);
    }
}

/// Where `train.init_from` names a model, takes its architecture and tokenizer.
pub fn adopt_model(root: &mut Node) -> Result<(), Vec<Problem>> {
    let key = ["train", "init_from"];
    let Some(Value::String(path)) = root.get(&key).map(|node| &node.value) else {
        return Ok(());
    };
    let at = root.locate(&key);
    let (folder, model) = open(Path::new(path)).map_err(|error| {
        let mut message = format!("train.init_from: {error}");
        for cause in error.causes() {
            message += &format!(": {cause}");
        }
        if let Some(help) = error.help_text() {
            message += &format!("; {help}");
        }
        vec![Problem::new(at.clone(), message)]
    })?;
    let name = |path: &Path| Value::String(path.display().to_string());
    if let Some(node) = root.get_mut(&key) {
        node.value = name(&folder);
    }
    if folder.join("tokenizer.json").exists() {
        root.set_default(&["data", "tokenizer", "path"], name(&folder));
    }
    let table = toml::Table::try_from(&model).map_err(|error| {
        vec![Problem::new(
            at,
            format!("train.init_from: the model cannot be written as TOML: {error}"),
        )]
    })?;
    let mut own = Node::of_defaults(table);
    if let Some(given) = root.remove(&["model"]) {
        let mut problems = Vec::new();
        compare(&given.node, &own, "model", &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        // What computes a model is no part of it.
        if let (Some(kernels), Some(entries)) = (given.node.entry("kernels"), own.entries_mut()) {
            entries.retain(|entry| entry.key != "kernels");
            entries.push(kernels.clone());
        }
    }
    if let Some(entries) = root.entries_mut() {
        entries.push(Entry {
            key: "model".into(),
            at: Location::Default,
            node: own,
        });
    }
    Ok(())
}

fn open(path: &Path) -> Result<(std::path::PathBuf, ModelConfig), Error> {
    let folder = resolve(path, CheckpointChoice::Last)?;
    let model = ModelFolder::open(&folder)?.config;
    Ok((folder, model))
}

/// Everything that was given must be what the model is.
fn compare(given: &Node, own: &Node, path: &str, problems: &mut Vec<Problem>) {
    for entry in given.entries().unwrap_or_default() {
        let path = format!("{path}.{}", entry.key);
        let found = own.entry(&entry.key).map(|entry| &entry.node);
        if path == "model.kernels" || path == "model.vocab_size" && is_zero(&entry.node) {
            continue;
        }
        match found {
            Some(found) if found.entries().is_some() => {
                compare(&entry.node, found, &path, problems);
            }
            Some(found) if same(&entry.node.value, &found.value) => {}
            found => {
                let is = found.map_or("absent".to_owned(), |found| found.value.describe());
                problems.push(Problem::new(
                    entry.node.at.clone(),
                    format!(
                        "{path} is {}, but in the model of train.init_from it is {is}: leave [model] out to take that model as it is",
                        entry.node.value.describe()
                    ),
                ));
            }
        }
    }
}

/// The vocabulary is to follow the tokenizer.
fn is_zero(node: &Node) -> bool {
    matches!(node.value, Value::Integer(0))
}

fn same(one: &Value, other: &Value) -> bool {
    let number = |value: &Value| match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Float(number) => Some(*number),
        _ => None,
    };
    match (one, other) {
        (Value::String(one), Value::String(other)) => one == other,
        (Value::Boolean(one), Value::Boolean(other)) => one == other,
        (Value::List(one), Value::List(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(a, b)| same(&a.value, &b.value))
        }
        _ => number(one).is_some() && number(one) == number(other),
    }
}
