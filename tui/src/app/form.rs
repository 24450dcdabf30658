use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crossterm::event::KeyEvent;

use super::{Confirm, Effect, Launch, Overlay, TextLine};
use crate::keys::Action;

/// What a field of the form is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// The configuration file.
    Config,
    /// A setting, by its key.
    Setting(&'static str),
    /// Further settings, `key=value` apart by spaces.
    More,
}

/// A field of the form.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// What it is.
    pub kind: FieldKind,
    /// Its name.
    pub label: &'static str,
    /// What may be typed.
    pub hint: &'static str,
    /// What is typed; empty: as the configuration says.
    pub text: TextLine,
    /// What can be chosen with a key.
    pub choices: Vec<String>,
}

/// What a plan says of the settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Verdict {
    /// This Bellows makes no plans, or none was asked for.
    #[default]
    None,
    /// Its words.
    Said(Vec<String>),
}

/// The form of a new run.
#[derive(Clone, Debug)]
pub struct Form {
    /// Its fields.
    pub fields: Vec<Field>,
    /// The field that is typed into.
    pub selected: usize,
    /// What the configuration says, by setting.
    pub resolved: BTreeMap<String, String>,
    /// What is wrong with the settings.
    pub trouble: Option<String>,
    /// What a plan says.
    pub verdict: Verdict,
    /// Whether an answer is awaited.
    pub checking: bool,
    /// Whether the run is to be started when the settings turn out to be good.
    starting: bool,
    root: PathBuf,
}

const SETTINGS: [(&str, &str, &str); 8] = [
    ("run.name", "name", "letters, digits, - _ ."),
    ("run.device", "device", "auto, cpu, gpu or gpu:N"),
    ("train.steps", "steps", "optimizer steps"),
    (
        "train.batch_size",
        "batch size",
        "sequences of a micro-batch",
    ),
    (
        "train.accumulation",
        "accumulation",
        "micro-batches of a step",
    ),
    ("train.sequence_length", "sequence length", "tokens"),
    ("optimizer.learning_rate", "learning rate", "at its peak"),
    ("run.seed", "seed", "of weights, batches and samples"),
];

impl Form {
    /// A form that offers the configurations in `examples`, for a run under `root`; and what has to
    /// be asked for it.
    pub fn new(examples: &Path, root: &Path) -> (Self, Vec<Effect>) {
        let mut choices: Vec<String> = std::fs::read_dir(examples)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "toml")
            })
            .map(|path| path.display().to_string())
            .collect();
        choices.sort();
        let mut fields = vec![Field {
            kind: FieldKind::Config,
            label: "configuration",
            hint: "a TOML file; → the next one of examples",
            text: TextLine::new(choices.first().cloned().unwrap_or_default()),
            choices,
        }];
        fields.extend(SETTINGS.map(|(key, label, hint)| Field {
            kind: FieldKind::Setting(key),
            label,
            hint,
            text: TextLine::default(),
            choices: match key {
                "run.device" => ["auto", "cpu", "gpu"].map(str::to_owned).to_vec(),
                _ => Vec::new(),
            },
        }));
        fields.push(Field {
            kind: FieldKind::More,
            label: "more settings",
            hint: "section.key=value, apart by spaces",
            text: TextLine::default(),
            choices: Vec::new(),
        });
        let mut form = Self {
            fields,
            selected: 0,
            resolved: BTreeMap::new(),
            trouble: None,
            verdict: Verdict::None,
            checking: false,
            starting: false,
            root: root.to_owned(),
        };
        let effects = form.resolve();
        (form, effects)
    }

    /// Whether the selected field has choices to go through.
    pub fn chooses(&self) -> bool {
        !self.fields[self.selected].choices.is_empty()
    }

    /// Chooses a field.
    pub fn select(&mut self, index: usize) {
        self.selected = index.min(self.fields.len() - 1);
    }

    /// Takes a key into the selected field; `false` where it is no text.
    pub fn key(&mut self, key: &KeyEvent) -> bool {
        let taken = self.fields[self.selected].text.key(key);
        if taken {
            self.trouble = None;
            self.verdict = Verdict::None;
        }
        taken
    }

    /// Does what a key stands for; returns what has to be asked.
    pub fn act(&mut self, action: Action) -> Vec<Effect> {
        let count = self.fields.len();
        match action {
            Action::NextField => self.selected = (self.selected + 1) % count,
            Action::PreviousField => self.selected = (self.selected + count - 1) % count,
            Action::Choose => {
                let field = &mut self.fields[self.selected];
                let at = field
                    .choices
                    .iter()
                    .position(|choice| choice == field.text.as_str());
                let next = at.map_or(0, |at| (at + 1) % field.choices.len().max(1));
                if let Some(choice) = field.choices.get(next) {
                    field.text = TextLine::new(choice.clone());
                }
            }
            _ => return Vec::new(),
        }
        self.resolve()
    }

    /// Checks the settings, and starts the run if they are good. What has to be asked, or what is
    /// missing.
    pub fn check(&mut self) -> (Vec<Effect>, Option<String>) {
        if self.fields[0].text.as_str().trim().is_empty() {
            return (
                Vec::new(),
                Some("name a configuration file first".to_owned()),
            );
        }
        self.starting = true;
        (self.resolve(), None)
    }

    fn resolve(&mut self) -> Vec<Effect> {
        if self.fields[0].text.as_str().trim().is_empty() {
            return Vec::new();
        }
        self.checking = true;
        let settings = self.settings();
        let with = |command: &str, json: bool| {
            let mut arguments: Vec<OsString> = vec![command.into()];
            arguments.extend(settings.clone());
            if json {
                arguments.push("--json".into());
            }
            arguments
        };
        vec![
            Effect::Resolve(with("config", true)),
            Effect::Plan(with("plan", false)),
        ]
    }

    /// The configuration and what is changed in it, as arguments.
    fn settings(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        for field in &self.fields {
            let text = field.text.as_str().trim();
            if text.is_empty() {
                continue;
            }
            match field.kind {
                FieldKind::Config => arguments.push(text.into()),
                FieldKind::Setting(key) => {
                    arguments.push("--set".into());
                    arguments.push(format!("{key}={text}").into());
                }
                FieldKind::More => {
                    for word in text.split_whitespace() {
                        arguments.push("--set".into());
                        arguments.push(word.into());
                    }
                }
            }
        }
        arguments
    }

    /// The settings were resolved. Returns the question to ask, if the run is to be started.
    pub fn resolved(
        &mut self,
        answer: Result<BTreeMap<String, String>, String>,
    ) -> Option<Overlay> {
        self.checking = false;
        let starting = std::mem::take(&mut self.starting);
        match answer {
            Err(trouble) => {
                self.trouble = Some(trouble);
                None
            }
            Ok(resolved) => {
                self.trouble = None;
                self.resolved = resolved;
                starting.then(|| Overlay::Confirm(self.launch()))
            }
        }
    }

    fn launch(&self) -> Confirm {
        let says = |key: &str| self.resolved.get(key).cloned().unwrap_or_default();
        let config = self.fields[0].text.as_str().trim();
        let name = match says("run.name") {
            name if name.is_empty() => "run".to_owned(),
            name => name,
        };
        let mut arguments: Vec<OsString> = vec!["train".into()];
        arguments.extend(self.settings());
        arguments.extend(["--directory".into(), self.root.clone().into()]);
        Launch {
            title: format!("Start {name}?"),
            consequence: vec![
                format!("{config}: {} steps on {}.", says("train.steps"), says("run.device")),
                format!(
                    "It is written to {}, in a process of its own: it goes on when the dashboard is closed.",
                    self.root.join(&name).display()
                ),
            ],
            arguments,
            folder: self.root.clone(),
        }
        .confirm()
    }
}
