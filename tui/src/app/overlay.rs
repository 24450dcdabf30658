use std::path::PathBuf;

use bellows_record::control::{Command, Intervals};

use super::{App, Effect, Launch, TextLine};
use crate::keys::{Action, Context};

/// What lies over a screen.
#[derive(Debug)]
pub enum Overlay {
    /// The keys.
    Help(HelpScreen),
    /// A question.
    Confirm(Confirm),
    /// A value is typed.
    Prompt(Prompt),
}

/// The keys of a screen.
#[derive(Clone, Debug, PartialEq)]
pub struct HelpScreen {
    /// Whose keys.
    pub context: Context,
    /// First line shown.
    pub scroll: usize,
}

impl HelpScreen {
    /// Of a context.
    pub fn of(context: Context) -> Self {
        Self { context, scroll: 0 }
    }
}

/// A question before something that cannot be taken back.
#[derive(Clone, Debug, PartialEq)]
pub struct Confirm {
    /// What is asked.
    pub question: String,
    /// What will happen.
    pub consequence: Vec<String>,
    /// What is done after a yes.
    pub deed: Deed,
}

/// Something to be done outside.
#[derive(Clone, Debug, PartialEq)]
pub enum Deed {
    /// A command to the run in this directory.
    Command(PathBuf, Command),
    /// A program.
    Launch(Launch),
}

/// A value is typed.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// What is asked for.
    pub title: String,
    /// What may be typed.
    pub hint: String,
    /// What is typed.
    pub text: TextLine,
    /// What can be chosen with a key instead, each with what is known of it. A choice takes the
    /// place of the first word.
    pub choices: Vec<(String, String)>,
    /// What is wrong with it.
    pub complaint: Option<String>,
    /// What it is for.
    pub kind: PromptKind,
    /// The run it is for.
    pub run: PathBuf,
}

/// What a typed value is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptKind {
    /// Scale of the learning rate.
    LearningRate,
    /// Micro-batches of a step.
    Accumulation,
    /// Intervals of the record.
    Intervals,
    /// Text to continue.
    Sample,
    /// Checkpoint to resume from.
    Resume,
    /// Checkpoint to branch from, and the new run's name.
    Branch,
}

impl Prompt {
    /// The choice that is typed.
    pub fn chosen(&self) -> Option<usize> {
        let first = self.text.as_str().split_whitespace().next()?;
        self.choices.iter().position(|(choice, _)| choice == first)
    }

    /// Takes the choice so many places on.
    fn choose(&mut self, by: isize) {
        let count = self.choices.len();
        if count == 0 {
            return;
        }
        let next = match self.chosen() {
            Some(at) => at.saturating_add_signed(by).min(count - 1),
            None => 0,
        };
        let rest = self.text.as_str().trim_start();
        let rest = rest.find(char::is_whitespace).map_or("", |at| &rest[at..]);
        self.text = TextLine::new(format!("{}{rest}", self.choices[next].0));
        self.complaint = None;
    }

    /// What the typed value asks for, or what is wrong with it.
    pub fn deed(&self) -> Result<Deed, String> {
        let text = self.text.as_str().trim();
        let command = match self.kind {
            PromptKind::LearningRate => Command::LearningRateScale {
                scale: text
                    .trim_start_matches(['x', '×'])
                    .parse()
                    .map_err(|_| format!("{text:?} is no number"))?,
            },
            PromptKind::Accumulation => Command::Accumulation {
                micro_batches: text
                    .parse()
                    .map_err(|_| format!("{text:?} is no whole number"))?,
            },
            PromptKind::Intervals => Command::Intervals(intervals(text)?),
            PromptKind::Sample => Command::Sample {
                // A line cannot hold the line ends that prompts for code need.
                prompt: self.text.as_str().replace("\\n", "\n"),
                max_tokens: None,
                temperature: None,
            },
            PromptKind::Resume => {
                return Ok(Deed::Launch(Launch::resume(&self.run, text)?));
            }
            PromptKind::Branch => {
                return Ok(Deed::Launch(Launch::branch(&self.run, text)?));
            }
        };
        command.check().map_err(|error| error.message)?;
        Ok(Deed::Command(self.run.clone(), command))
    }
}

/// `metrics=10 routing=50`
fn intervals(text: &str) -> Result<Intervals, String> {
    let mut intervals = Intervals::default();
    for word in text.split([' ', ',']).filter(|word| !word.is_empty()) {
        let (name, value) = word
            .split_once('=')
            .ok_or_else(|| format!("{word:?} is not of the form routing=50"))?;
        let value = value
            .parse()
            .map_err(|_| format!("{value:?} is no whole number"))?;
        let place = match name.trim_end_matches("_every") {
            "metrics" => &mut intervals.metrics_every,
            "routing" => &mut intervals.routing_every,
            "transitions" => &mut intervals.transitions_every,
            "memory" => &mut intervals.memory_every,
            "traces" => &mut intervals.traces_every,
            _ => {
                return Err(format!(
                    "{name:?} is none of metrics, routing, transitions, memory, traces"
                ));
            }
        };
        *place = Some(value);
    }
    Ok(intervals)
}

impl App {
    pub(super) fn act_in_overlay(&mut self, action: Action) {
        match &mut self.overlay {
            Some(Overlay::Help(help)) => match action {
                Action::Up => help.scroll = help.scroll.saturating_sub(1),
                Action::Down => help.scroll = help.scroll.saturating_add(1),
                Action::PageUp => help.scroll = help.scroll.saturating_sub(self.page),
                Action::PageDown => help.scroll = help.scroll.saturating_add(self.page),
                Action::First => help.scroll = 0,
                Action::Last => help.scroll = usize::MAX,
                _ => self.overlay = None,
            },
            Some(Overlay::Confirm(confirm)) => {
                let deed = confirm.deed.clone();
                self.overlay = None;
                if action == Action::Yes {
                    self.carry_out(deed);
                }
            }
            Some(Overlay::Prompt(prompt)) => match action {
                Action::Enter => match prompt.deed() {
                    // What removes checkpoints or takes a name is asked about once more.
                    Ok(Deed::Launch(launch)) => {
                        self.overlay = Some(Overlay::Confirm(launch.confirm()));
                    }
                    Ok(deed) => {
                        self.overlay = None;
                        self.carry_out(deed);
                    }
                    Err(complaint) => prompt.complaint = Some(complaint),
                },
                Action::Up => prompt.choose(-1),
                Action::Down => prompt.choose(1),
                _ => self.overlay = None,
            },
            None => {}
        }
    }

    fn carry_out(&mut self, deed: Deed) {
        match deed {
            Deed::Command(run, command) => self.send(run, command),
            Deed::Launch(launch) => self.effects.push(Effect::Launch(launch)),
        }
    }

    pub(super) fn send(&mut self, run: PathBuf, command: Command) {
        self.pending += 1;
        self.effects.push(Effect::Command(run, command));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_checkpoint_leaves_the_typed_name_as_it_is() {
        let choice = |name: &str| (name.to_owned(), String::new());
        let mut prompt = Prompt {
            title: String::new(),
            hint: String::new(),
            text: TextLine::new("last my-branch"),
            choices: vec![choice("last"), choice("best"), choice("400")],
            complaint: None,
            kind: PromptKind::Branch,
            run: PathBuf::from("runs/run"),
        };
        prompt.choose(1);
        prompt.choose(1);
        prompt.choose(1);
        assert_eq!(prompt.text.as_str(), "400 my-branch");
        prompt.text = TextLine::new("");
        prompt.choose(-1);
        assert_eq!(prompt.text.as_str(), "last");
    }

    #[test]
    fn intervals_are_read_and_nonsense_is_told() {
        let read = intervals("routing=50, metrics_every=2").unwrap();
        assert_eq!(
            (read.routing_every, read.metrics_every),
            (Some(50), Some(2))
        );
        assert_eq!(read.memory_every, None);
        for text in ["routing", "routing=x", "speed=3"] {
            assert!(intervals(text).is_err(), "{text}");
        }
    }
}
