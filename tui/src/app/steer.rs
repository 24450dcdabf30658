use std::ffi::OsString;
use std::path::{Path, PathBuf};

use bellows_record::control::{Acknowledgement, ClientError, Command};
use bellows_record::{Liveness, list_checkpoints};

use super::{App, Confirm, Deed, Overlay, Prompt, PromptKind, Question, Screen, TextLine};
use crate::format;
use crate::keys::Action;

/// Something that has to happen outside of the dashboard.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send a command to the run in this directory.
    Command(PathBuf, Command),
    /// Start a program that outlives the dashboard.
    Launch(Launch),
    /// Resolve the form's settings (`bellows config`), and ask for their memory plan (`bellows
    /// plan`).
    Ask(Question),
}

/// A `bellows` command that becomes a process of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// What is done, as in "Start a new run".
    pub title: String,
    /// What will happen.
    pub consequence: Vec<String>,
    /// Arguments of `bellows`.
    pub arguments: Vec<OsString>,
    /// Where what it says goes: a file in this folder.
    pub folder: PathBuf,
}

impl Launch {
    /// `bellows resume`, `from` a checkpoint's step, "best" or "last".
    ///
    /// # Errors
    ///
    /// What is wrong with `from`.
    pub fn resume(run: &Path, from: &str) -> Result<Self, String> {
        check_checkpoint(from)?;
        let mut consequence = vec![format!(
            "{} goes on in a process of its own.",
            run.display()
        )];
        if from != "last" {
            consequence.push(format!(
                "Checkpoints and rows after {from} are given up: checkpoints are removed, rows replaced."
            ));
        }
        Ok(Self {
            title: format!("Resume from {from}?"),
            consequence,
            arguments: vec!["resume".into(), run.into(), "--from".into(), from.into()],
            folder: run.to_owned(),
        })
    }

    /// `bellows resume --branch`: `text` is a checkpoint and the new run's name.
    ///
    /// # Errors
    ///
    /// What is wrong with `text`.
    pub fn branch(run: &Path, text: &str) -> Result<Self, String> {
        let (from, name) = text
            .split_once(char::is_whitespace)
            .map(|(from, name)| (from, name.trim()))
            .filter(|(_, name)| !name.is_empty() && !name.contains(['/', '\\']))
            .ok_or("give a checkpoint and a name, as in: last second-try")?;
        check_checkpoint(from)?;
        Ok(Self {
            title: format!("Branch {name} from {from}?"),
            consequence: vec![
                format!(
                    "{name} starts beside {} from its checkpoint {from}.",
                    run.display()
                ),
                "The run itself stays as it is.".to_owned(),
            ],
            arguments: vec![
                "resume".into(),
                run.into(),
                "--from".into(),
                from.into(),
                "--branch".into(),
                name.into(),
            ],
            folder: run.to_owned(),
        })
    }

    /// The question before it.
    pub fn confirm(self) -> Confirm {
        Confirm {
            question: self.title.clone(),
            consequence: self.consequence.clone(),
            deed: Deed::Launch(self),
        }
    }
}

/// Whether an action is a command to a live run.
fn commands(action: Action) -> bool {
    matches!(
        action,
        Action::Pause
            | Action::Checkpoint
            | Action::Evaluate
            | Action::Stop
            | Action::LearningRate
            | Action::Accumulation
            | Action::Intervals
            | Action::Sample
    )
}

fn check_checkpoint(from: &str) -> Result<(), String> {
    if from == "last" || from == "best" || from.parse::<u64>().is_ok() {
        Ok(())
    } else {
        Err(format!(
            "{from:?} is no checkpoint: give a step, best or last"
        ))
    }
}

/// The checkpoints of a run, the newest first, and before them the names that stand for the last
/// and the best. Validation losses are those that the checkpoints' own states tell.
fn checkpoint_choices(run: &Path) -> Vec<(String, String)> {
    // Where the folder cannot be read there is nothing to choose, and `bellows resume` says why.
    let checkpoints = list_checkpoints(run).unwrap_or_default();
    let losses: Vec<(u64, Option<f64>)> = checkpoints
        .iter()
        .rev()
        .map(|(step, path)| (*step, validation_of(path)))
        .collect();
    let words = |step: u64, loss: Option<f64>| {
        let loss = loss.map(|loss| format!(", validation {}", format::number(loss)));
        format!("step {}{}", format::whole(step), loss.unwrap_or_default())
    };
    let mut choices = Vec::new();
    if let Some(&(step, loss)) = losses.first() {
        choices.push(("last".to_owned(), words(step, loss)));
    }
    let best = losses
        .iter()
        .filter(|(_, loss)| loss.is_some_and(f64::is_finite))
        .min_by(|a, b| a.1.unwrap_or(f64::NAN).total_cmp(&b.1.unwrap_or(f64::NAN)));
    if let Some(&(step, loss)) = best {
        choices.push(("best".to_owned(), words(step, loss)));
    }
    choices.extend(
        losses
            .into_iter()
            .map(|(step, loss)| (step.to_string(), words(step, loss))),
    );
    choices
}

fn validation_of(checkpoint: &Path) -> Option<f64> {
    let state = std::fs::read(checkpoint.join("state.json")).ok()?;
    serde_json::from_slice::<serde_json::Value>(&state)
        .ok()?
        .get("validation_loss")?
        .as_f64()
}

impl App {
    /// The run that steering means, and what it is doing.
    fn steered(&self) -> Option<(PathBuf, Option<Liveness>)> {
        match &self.screen {
            Screen::Home => {
                let row = self.home.row()?;
                Some((row.summary.path, Some(row.summary.liveness)))
            }
            Screen::Run(run) => {
                let data = run.follower.data.read();
                Some((data.path.clone(), data.liveness))
            }
            _ => None,
        }
    }

    /// Whether an action could do something now: a run that ended takes no commands, one that
    /// lives is not resumed.
    pub fn is_possible(&self, action: Action) -> bool {
        let steered = self.steered();
        let live = steered
            .as_ref()
            .and_then(|(_, liveness)| *liveness)
            .map(Liveness::is_live);
        match action {
            Action::Resume => live == Some(false),
            Action::Branch => steered.is_some(),
            action if commands(action) => live == Some(true),
            _ => true,
        }
    }

    /// Does what steers a run. `false`: the action does not.
    pub(super) fn steer(&mut self, action: Action) -> bool {
        let live = commands(action);
        if !live && !matches!(action, Action::Resume | Action::Branch) {
            return false;
        }
        let Some((run, liveness)) = self.steered() else {
            return true;
        };
        let is_live = liveness.is_some_and(Liveness::is_live);
        let state = liveness.map_or("not readable".to_owned(), |liveness| liveness.to_string());
        if live && !is_live {
            self.complain(format!("the run is {state}: there is nobody to tell"));
            return true;
        }
        match action {
            Action::Pause if liveness == Some(Liveness::Paused) => self.send(run, Command::Resume),
            Action::Pause => self.send(run, Command::Pause),
            Action::Checkpoint => self.send(run, Command::Checkpoint),
            Action::Evaluate => self.send(run, Command::Evaluate),
            Action::Stop => {
                self.overlay = Some(Overlay::Confirm(Confirm {
                    question: "Stop the run?".to_owned(),
                    consequence: vec![
                        format!("{} writes a checkpoint and its process ends.", run.display()),
                        "R goes on from there later.".to_owned(),
                    ],
                    deed: Deed::Command(run, Command::Stop),
                }));
            }
            Action::LearningRate => self.ask(
                run,
                PromptKind::LearningRate,
                "Scale the learning rate",
                "a factor on the schedule's rate: 0.5 halves it, 1 is the schedule's own",
                "",
            ),
            Action::Accumulation => self.ask(
                run,
                PromptKind::Accumulation,
                "Micro-batches of a step",
                "a whole number, 1 or more: a step then has so many times the batch",
                "",
            ),
            Action::Intervals => self.ask(
                run,
                PromptKind::Intervals,
                "Steps between records",
                "metrics, routing, transitions, memory, traces; as in: metrics=1 routing=50 (0: never)",
                "",
            ),
            Action::Sample => self.ask(
                run,
                PromptKind::Sample,
                "Text to continue",
                "\\n is a line end; what the model adds appears under samples",
                "",
            ),
            Action::Resume if is_live => self.complain(format!("the run is {state}; P pauses and goes on")),
            Action::Resume | Action::Branch => self.ask_for_checkpoint(run, action),
            _ => {}
        }
        true
    }

    fn ask_for_checkpoint(&mut self, run: PathBuf, action: Action) {
        let choices = checkpoint_choices(&run);
        if choices.is_empty() {
            self.complain("the run has no checkpoint to go on from");
            return;
        }
        if action == Action::Resume {
            self.ask(
                run,
                PromptKind::Resume,
                "Go on from which checkpoint?",
                "one of these, or any step that has one; a step before the last gives up what came after it",
                "last",
            );
        } else {
            let name = run.file_name().unwrap_or_default().to_string_lossy();
            let suggestion = format!("last {name}-branch");
            self.ask(
                run,
                PromptKind::Branch,
                "Another run, from which checkpoint, under which name?",
                "a checkpoint, then the new run's name",
                &suggestion,
            );
        }
        if let Some(Overlay::Prompt(prompt)) = &mut self.overlay {
            prompt.choices = choices;
        }
    }

    fn ask(&mut self, run: PathBuf, kind: PromptKind, title: &str, hint: &str, text: &str) {
        self.overlay = Some(Overlay::Prompt(Prompt {
            title: title.to_owned(),
            hint: hint.to_owned(),
            text: TextLine::new(text),
            choices: Vec::new(),
            complaint: None,
            kind,
            run,
        }));
    }

    /// A run answered.
    pub fn answered(&mut self, command: &Command, answer: Result<Acknowledgement, ClientError>) {
        self.pending = self.pending.saturating_sub(1);
        match answer {
            Ok(done) => {
                let what = if done.message.is_empty() {
                    command.name().to_owned()
                } else {
                    done.message
                };
                let text = done
                    .text
                    .map(|text| format!(": {}", format::clip(&text.replace('\n', " "), 60)));
                self.say(format!(
                    "step {}: {what}{}",
                    done.step,
                    text.unwrap_or_default()
                ));
            }
            Err(error) => self.complain(error.to_string()),
        }
    }
}
