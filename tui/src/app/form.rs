use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

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

/// What the memory plan says of the settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Verdict {
    /// The answer is on its way.
    #[default]
    Awaited,
    /// There is none, and why.
    None(String),
    /// The plan's.
    Said(Plan),
}

/// A memory plan, as far as the form tells it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Whether the run fits on the device; `None` where the device does not say what it holds.
    pub fits: Option<bool>,
    /// The verdict, then what it rests on and what could be done, a line each.
    pub lines: Vec<String>,
}

/// Asks `bellows` about the form's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Which state of the form is asked about; the answer carries it too.
    pub edition: u64,
    /// The configuration and what is changed in it.
    pub settings: Vec<OsString>,
}

/// A number that no state of any form had before.
fn next_edition() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// The form of a new run.
///
/// Answers come whenever they come: each is taken for the state of the form that it was asked
/// about, and an answer about an earlier state tells nothing any more. So what is confirmed and
/// started is what stands in the form.
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
    /// What the memory plan says.
    pub verdict: Verdict,
    /// Whether an answer is awaited.
    pub checking: bool,
    /// Whether the run is to be started when the settings turn out to be good.
    starting: bool,
    /// Changes with everything that is typed.
    edition: u64,
    /// The edition that was asked about last.
    asked: u64,
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
            verdict: Verdict::default(),
            checking: false,
            starting: false,
            edition: next_edition(),
            asked: 0,
            root: root.to_owned(),
        };
        let effects = form.ask();
        (form, effects)
    }

    /// Whether the selected field has choices to go through.
    pub fn chooses(&self) -> bool {
        !self.fields[self.selected].choices.is_empty()
    }

    /// Whether no configuration is named yet.
    pub fn is_empty(&self) -> bool {
        self.fields[0].text.as_str().trim().is_empty()
    }

    /// Chooses a field.
    pub fn select(&mut self, index: usize) {
        self.selected = index.min(self.fields.len() - 1);
    }

    /// Takes a key into the selected field; `false` where it is no text.
    pub fn key(&mut self, key: &KeyEvent) -> bool {
        let text = &mut self.fields[self.selected].text;
        let before = text.as_str().to_owned();
        let taken = text.key(key);
        if text.as_str() != before {
            self.edited();
        }
        taken
    }

    /// Something else stands in the form now: what was said of it before is void, and so is the
    /// wish to start it.
    fn edited(&mut self) {
        self.edition = next_edition();
        self.trouble = None;
        self.verdict = Verdict::default();
        self.checking = false;
        self.starting = false;
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
                    self.edited();
                }
            }
            _ => return Vec::new(),
        }
        self.ask()
    }

    /// Checks the settings, and starts the run if they are good. What has to be asked, or what is
    /// missing.
    pub fn check(&mut self) -> (Vec<Effect>, Option<String>) {
        if self.is_empty() {
            return (
                Vec::new(),
                Some("name a configuration file first".to_owned()),
            );
        }
        // The file may have changed since it was asked about.
        self.edited();
        self.starting = true;
        (self.ask(), None)
    }

    /// Asks about what stands in the form, unless that was asked already.
    fn ask(&mut self) -> Vec<Effect> {
        if self.asked == self.edition || self.is_empty() {
            return Vec::new();
        }
        self.asked = self.edition;
        self.checking = true;
        vec![Effect::Ask(Question {
            edition: self.edition,
            settings: self.settings(),
        })]
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

    /// The settings of an edition were resolved. Returns the question to ask, if the run is to be
    /// started.
    pub fn resolved(
        &mut self,
        edition: u64,
        answer: Result<BTreeMap<String, String>, String>,
    ) -> Option<Overlay> {
        if edition != self.edition {
            return None;
        }
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

    /// The plan of an edition is there.
    pub fn planned(&mut self, edition: u64, verdict: Verdict) {
        if edition == self.edition {
            self.verdict = verdict;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crossterm::event::{KeyCode, KeyModifiers};

    fn write(form: &mut Form, text: &str) {
        for character in text.chars() {
            form.key(&KeyEvent::new(KeyCode::Char(character), KeyModifiers::NONE));
        }
    }

    fn asked(effects: Vec<Effect>) -> Question {
        match &effects[..] {
            [Effect::Ask(question)] => question.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// A form with a configuration and 30 steps typed in, and the question asked about the file.
    fn filled() -> (Form, Question) {
        let (mut form, effects) = Form::new(Path::new("no/such/folder"), Path::new("runs"));
        assert!(effects.is_empty(), "there is nothing to ask about yet");
        write(&mut form, "run.toml");
        let file = asked(form.act(Action::NextField));
        form.select(3);
        write(&mut form, "30");
        (form, file)
    }

    fn steps(steps: &str) -> BTreeMap<String, String> {
        [
            ("train.steps", steps),
            ("run.name", "run"),
            ("run.device", "cpu"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    #[test]
    fn a_late_answer_about_the_file_confirms_nothing_that_was_typed_since() {
        let (mut form, file) = filled();
        let mine = asked(form.check().0);
        // The file's own steps, told after Enter.
        assert!(form.resolved(file.edition, Ok(steps("12"))).is_none());
        assert!(form.checking && form.resolved.is_empty());
        form.planned(file.edition, Verdict::None("too late".to_owned()));
        assert_eq!(form.verdict, Verdict::Awaited);
        let Some(Overlay::Confirm(question)) = form.resolved(mine.edition, Ok(steps("30"))) else {
            panic!("the run is to be started");
        };
        assert_eq!(question.consequence[0], "run.toml: 30 steps on cpu.");
        let super::super::Deed::Launch(launch) = question.deed else {
            panic!("a program is started");
        };
        assert!(launch.arguments.contains(&"train.steps=30".into()));
    }

    #[test]
    fn whoever_types_on_after_enter_is_not_taken_at_an_earlier_word() {
        let (mut form, _) = filled();
        let question = asked(form.check().0);
        write(&mut form, "0");
        assert!(form.resolved(question.edition, Ok(steps("30"))).is_none());
        // Nothing is started by the next answer either: Enter was about 30 steps.
        let next = asked(form.act(Action::NextField));
        assert!(form.resolved(next.edition, Ok(steps("300"))).is_none());
        assert_eq!(form.resolved["train.steps"], "300");
    }

    #[test]
    fn what_was_asked_already_is_not_asked_again_but_by_enter() {
        let (mut form, _) = filled();
        let first = asked(form.act(Action::NextField));
        assert!(form.act(Action::NextField).is_empty());
        assert_ne!(asked(form.check().0).edition, first.edition);
    }
}
