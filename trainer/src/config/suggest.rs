//! What to say about a key or value that nobody knows.

use std::fmt::Write;

use super::TAGGED;
use super::document;
use super::tree::{Node, Value};

/// Names that other programs give to settings of this one.
const OTHER_NAMES: [(&str, &str); 21] = [
    ("model_name_or_path", "train.init_from"),
    ("dpo_beta", "objective.beta"),
    ("loss_type", "objective.kind"),
    ("epsilon_low", "objective.epsilon"),
    ("lr", "optimizer.learning_rate"),
    ("max_lr", "optimizer.learning_rate"),
    ("adam_beta1", "optimizer.beta1"),
    ("adam_beta2", "optimizer.beta2"),
    ("adam_epsilon", "optimizer.eps"),
    ("clip_grad", "optimizer.max_grad_norm"),
    ("grad_clip", "optimizer.max_grad_norm"),
    ("max_steps", "train.steps"),
    ("num_train_steps", "train.steps"),
    ("gradient_accumulation_steps", "train.accumulation"),
    ("per_device_train_batch_size", "train.batch_size"),
    ("max_seq_length", "train.sequence_length"),
    ("block_size", "train.sequence_length"),
    ("num_experts", "model.n_routed_experts"),
    ("num_local_experts", "model.n_routed_experts"),
    ("router_aux_loss_coef", "router.balance_coefficient"),
    ("rope_theta", "model.rope.theta"),
];

/// The message for `key`, unknown in the section at `section`, whose keys are `known`.
pub fn unknown_key(root: &Node, section: &[&str], key: &str, known: &[&str]) -> String {
    let mut message = String::new();
    if section.is_empty() {
        let _ = write!(message, "unknown section [{key}]");
    } else {
        let _ = write!(message, "unknown key {key:?} in [{}]", section.join("."));
        if let Some(kind) = kind_of(root, section) {
            let _ = write!(message, " with {kind}");
        }
    }
    let full = |name: &str| match section {
        [] => format!("[{name}]"),
        _ => format!("{name:?}"),
    };
    if let Some(near) = nearest(key, known) {
        let _ = write!(message, "; did you mean {}?", full(near));
    } else if let Some(place) = elsewhere(section, key) {
        let (section, key) = place.rsplit_once('.').unwrap_or(("", place.as_str()));
        let _ = write!(message, "; did you mean {key:?} in [{section}]?");
    } else if known.is_empty() {
        let _ = write!(message, ", which takes no other key");
    } else {
        let names: Vec<String> = known.iter().map(|name| full(name)).collect();
        let _ = write!(message, "; known are {}", names.join(", "));
    }
    message
}

/// The message for a value of the key `name` that is none of `known`.
pub fn unknown_value(name: &str, value: &str, known: &[&str]) -> String {
    let all: Vec<String> = known.iter().map(|name| format!("{name:?}")).collect();
    let mut message = format!("{name} is {value:?}: it must be one of {}", all.join(", "));
    if let Some(near) = nearest(value, known) {
        let _ = write!(message, "; did you mean {near:?}?");
    }
    message
}

/// The known name that `name` is most likely a slip for.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let lower = name.to_lowercase().replace('-', "_");
    known
        .iter()
        .map(|candidate| {
            let plain = candidate.replace('-', "_");
            (strsim::damerau_levenshtein(&lower, &plain), *candidate)
        })
        .filter(|(distance, candidate)| *distance <= candidate.len().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The `kind = "…"` that decides a section's keys.
fn kind_of(root: &Node, section: &[&str]) -> Option<String> {
    let (_, tag) = TAGGED.iter().find(|(path, _)| *path == section)?;
    match &root.get(section)?.entry(tag)?.node.value {
        Value::String(kind) => Some(format!("{tag} = {kind:?}")),
        _ => None,
    }
}

/// The full name of a setting that is called `key` in another section or in another program.
fn elsewhere(section: &[&str], key: &str) -> Option<String> {
    let here = section.join(".");
    let other = OTHER_NAMES.iter().find(|(name, _)| *name == key);
    let documented = || {
        document::keys()
            .into_iter()
            .find(|documented| documented.key == key && documented.section != here)
            .map(|documented| format!("{}.{}", documented.section, documented.key))
    };
    other
        .map(|(_, full)| (*full).to_owned())
        .or_else(documented)
}
