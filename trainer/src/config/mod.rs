//! A run's configuration: a TOML file and settings of the command line, checked and resolved.

mod clipping;
mod decode;
mod document;
mod overrides;
mod problem;
mod sections;
mod start;
mod suggest;
#[cfg(test)]
mod tests;
mod tree;
mod validate;

pub use document::{DEFAULT_DOCUMENT, DocumentedKey, keys as documented_keys};
pub use overrides::Override;
pub use problem::{Location, Problem, Problems};
pub use sections::{
    CheckpointSection, EvaluateSection, RecordSection, RunSection, SampleSection, StreamSection,
    TrainSection,
};

use std::path::Path;

use bellows_data::DataConfig;
use bellows_engine::config::ModelConfig;
use bellows_engine::objective::{Objective, RouterObjective};
use bellows_engine::optim::{AdamWConfig, LossScaleConfig, Schedule};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use tree::{Entry, Node, Value};

/// Sections whose keys depend on one of them.
const TAGGED: [(&[&str], &str); 4] = [
    (&["objective"], "kind"),
    (&["schedule"], "kind"),
    (&["data", "source"], "kind"),
    (&["model", "rope", "scaling"], "rope_type"),
];

/// Everything that decides a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Name, place, seed and device.
    pub run: RunSection,
    /// What is minimised beside the router losses.
    pub objective: Objective,
    /// The architecture.
    pub model: ModelConfig,
    /// Corpus, tokenizer and batches.
    pub data: DataConfig,
    /// Steps and batch size.
    pub train: TrainSection,
    /// Streamed backpropagation and checkpointing.
    pub stream: StreamSection,
    /// Scaling of the loss in f16.
    pub loss_scale: LossScaleConfig,
    /// AdamW and clipping.
    #[serde(with = "clipping")]
    pub optimizer: AdamWConfig,
    /// The learning rate over the steps.
    pub schedule: Schedule,
    /// Losses and updates that balance experts.
    pub router: RouterObjective,
    /// Validation.
    pub evaluate: EvaluateSection,
    /// Text sampled during the run.
    pub sample: SampleSection,
    /// Checkpoints.
    pub checkpoint: CheckpointSection,
    /// What is recorded, and how often.
    pub record: RecordSection,
}

/// A configuration that passed every check.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: RunConfig,
    /// What works but is probably not meant; each names its place.
    pub warnings: Vec<String>,
}

impl RunConfig {
    /// Reads a file, applies settings of the command line, and checks the result. A run without a
    /// name takes the file's.
    ///
    /// # Errors
    /// The file cannot be read, or [`Problems`]: all that could be found, each with its place.
    pub fn load(path: &Path, overrides: &[Override]) -> Result<Loaded, Error> {
        let bytes = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
        let name = path.display().to_string();
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let line = 1 + error.as_bytes()[..valid]
                .iter()
                .filter(|&&byte| byte == b'\n')
                .count();
            Error::input(format!(
                "{name}:{line}: the configuration is not UTF-8 text"
            ))
            .help("save the file as UTF-8")
        })?;
        let mut loaded = Self::parse_after(&text, &name, overrides, start::adopt_model)?;
        let run = &mut loaded.config.run;
        run.name = run.name.take().or_else(|| Some(run_name(path)));
        Ok(loaded)
    }

    /// As [`RunConfig::load`], from text; `source_name` stands for the file in messages, and a
    /// model that `train.init_from` names is not looked at.
    ///
    /// # Errors
    /// [`Problems`]: all that could be found, each with its place.
    pub fn parse(
        text: &str,
        source_name: &str,
        overrides: &[Override],
    ) -> Result<Loaded, Problems> {
        Self::parse_after(text, source_name, overrides, |_| Ok(()))
    }

    /// `complete` may change what was written before it is decoded.
    fn parse_after(
        text: &str,
        source_name: &str,
        overrides: &[Override],
        complete: impl FnOnce(&mut Node) -> Result<(), Vec<Problem>>,
    ) -> Result<Loaded, Problems> {
        let problems = |list| Problems {
            source_name: source_name.to_owned(),
            list,
        };
        let mut root = Node::parse_file(text).map_err(problems)?;
        let misplaced: Vec<Problem> = overrides
            .iter()
            .filter_map(|setting| setting.apply(&mut root).err())
            .collect();
        if !misplaced.is_empty() {
            return Err(problems(misplaced));
        }
        complete(&mut root).map_err(problems)?;
        complete_tagged(&mut root, &default_tree());
        start::settle_objective(&mut root);
        let config = decode::decode(root.clone()).map_err(problems)?;
        let findings = validate::check(&config);
        let place = |finding: validate::Finding| {
            let path: Vec<&str> = finding.key.split('.').collect();
            Problem::new(root.locate(&path), finding.message)
        };
        let errors: Vec<Problem> = findings.errors.into_iter().map(place).collect();
        if !errors.is_empty() {
            return Err(problems(errors));
        }
        Ok(Loaded {
            config,
            warnings: findings
                .warnings
                .into_iter()
                .map(|finding| place(finding).line(source_name))
                .collect(),
        })
    }

    /// The resolved form: every default written out. Reading it back gives an equal configuration.
    ///
    /// # Errors
    /// A value that TOML cannot hold; no configuration that passed its checks has one.
    pub fn to_toml(&self) -> Result<String, Error> {
        toml::to_string(self)
            .map_err(|error| Error::failed("cannot write the configuration as TOML").because(error))
    }
}

/// A name for a run of this file: what cannot be part of one becomes "-".
fn run_name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name: String = stem
        .chars()
        .map(|c| if validate::fits_name(c) { c } else { '-' })
        .take(validate::LONGEST_NAME)
        .collect();
    match name.trim_start_matches(['.', '-']) {
        "" => "run".into(),
        name => name.to_owned(),
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    use std::io::ErrorKind;
    let name = path.display();
    match error.kind() {
        ErrorKind::NotFound => Error::input(format!("there is no configuration file {name}"))
            .help("give the path of a TOML file; `bellows config > my.toml` writes one with every setting"),
        ErrorKind::IsADirectory => Error::input(format!("{name} is a folder, not a configuration file"))
            .help("give the path of a TOML file"),
        _ => Error::input(format!("cannot read the configuration {name}: {error}")),
    }
}

/// The defaults as a tree. Serializing them cannot fail, which a test holds.
fn default_tree() -> Node {
    Node::of_defaults(toml::Table::try_from(RunConfig::default()).unwrap_or_default())
}

/// Gives a section whose keys depend on its `kind` the default kind where it names none, and the
/// default's keys where it names the same kind, so that there as everywhere a key left out has the
/// documented default.
fn complete_tagged(root: &mut Node, defaults: &Node) {
    for (section, tag) in TAGGED {
        let (Some(given), Some(default)) = (root.get_mut(section), defaults.get(section)) else {
            continue;
        };
        let kind = |node: &Node| match node.entry(tag).map(|entry| &entry.node.value) {
            Some(Value::String(kind)) => Some(kind.clone()),
            _ => None,
        };
        if given.entry(tag).is_some() && kind(given) != kind(default) {
            continue;
        }
        let missing: Vec<Entry> = default
            .entries()
            .unwrap_or_default()
            .iter()
            .filter(|entry| given.entry(&entry.key).is_none())
            .cloned()
            .collect();
        if let Some(entries) = given.entries_mut() {
            entries.extend(missing);
        }
    }
}
