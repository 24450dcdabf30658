//! What the dashboard is showing, and what keys change in it.
//!
//! [`App`] holds no terminal and does nothing outside itself: [`App::key`] changes it, and what has
//! to happen outside (a command to a run, a program to start) is left in [`App::take_effects`] for
//! the main loop. So every screen can be tested without a terminal, and every key too.

mod charts;
mod compare;
mod form;
mod home;
mod overlay;
mod run;
mod steer;
mod text;

pub use charts::{ChartState, SMOOTHING, Window};
pub use compare::{CompareScreen, MAX_COMPARED};
pub use form::{Field, FieldKind, Form, Plan, Question, Verdict};
pub use home::{HomeScreen, Sort};
pub use overlay::{Confirm, Deed, HelpScreen, Overlay, Prompt, PromptKind};
pub use run::{RunScreen, Tab, WINDOWS};
pub use steer::{Effect, Launch};
pub use text::TextLine;

use std::path::PathBuf;

use bellows_record::time::{OffsetDateTime, UtcOffset};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::keys::{self, Action, Context};
use crate::store::{HomeFollower, Notify, RunFollower};
use crate::theme::{Glyphs, Theme};

/// What the dashboard was started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory that holds the runs.
    pub root: PathBuf,
    /// Folder that configurations are offered from.
    pub examples: PathBuf,
    /// Hide whatever changes a run.
    pub read_only: bool,
    /// Colours.
    pub theme: Theme,
    /// Symbols.
    pub glyphs: Glyphs,
    /// Offset of local times.
    pub offset: UtcOffset,
}

/// The screen underneath whatever lies over it.
#[derive(Debug)]
pub enum Screen {
    /// The list of runs.
    Home,
    /// One run.
    Run(Box<RunScreen>),
    /// Several runs.
    Compare(Box<CompareScreen>),
    /// A new run.
    Form(Box<Form>),
}

/// A word to the person, until it is old.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// What is said.
    pub text: String,
    /// Whether something went wrong.
    pub bad: bool,
    /// When it was said.
    pub at: OffsetDateTime,
}

/// Seconds for which good news stay; trouble stays until the next key.
const NEWS: i64 = 8;

/// The dashboard.
pub struct App {
    /// What it was started with.
    pub options: Options,
    /// The time that ages are counted to.
    pub now: OffsetDateTime,
    /// The list of runs.
    pub home: HomeScreen,
    /// What is shown.
    pub screen: Screen,
    /// What lies over it.
    pub overlay: Option<Overlay>,
    /// The last word.
    pub message: Option<Message>,
    /// Commands that were sent and not answered yet.
    pub pending: usize,
    /// Where the mouse can click, as of the last drawing.
    pub targets: Vec<(ratatui::layout::Rect, Target)>,
    /// Lines of the screen's list that fit, as of the last drawing.
    pub page: usize,
    /// Whether the dashboard was opened for one run, so that leaving it leaves the dashboard.
    single: bool,
    notify: Notify,
    effects: Vec<Effect>,
    ended: bool,
}

/// What a click means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// As the key.
    Act(Action),
    /// Chooses a line of the list.
    Row(usize),
    /// Chooses a chart.
    Chart(usize),
    /// Chooses a field of the form.
    Field(usize),
}

impl App {
    /// A dashboard of the runs under `options.root`, as `home` follows them.
    pub fn new(options: Options, home: HomeFollower, now: OffsetDateTime, notify: Notify) -> Self {
        Self {
            options,
            now,
            home: HomeScreen::new(home),
            screen: Screen::Home,
            overlay: None,
            message: None,
            pending: 0,
            targets: Vec::new(),
            page: 10,
            single: false,
            notify,
            effects: Vec::new(),
            ended: false,
        }
    }

    /// Begins with one run. Leaving it leaves the dashboard.
    pub fn open_alone(&mut self, follower: RunFollower) {
        self.single = true;
        self.screen = Screen::Run(Box::new(RunScreen::new(follower)));
    }

    /// Shows a run.
    pub fn open(&mut self, follower: RunFollower) {
        self.screen = Screen::Run(Box::new(RunScreen::new(follower)));
    }

    /// Whether the dashboard is to be left.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// What has to happen outside, since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Where keys are read now.
    pub fn context(&self) -> Context {
        match &self.overlay {
            Some(Overlay::Help(_)) => return Context::Help,
            Some(Overlay::Confirm(_)) => return Context::Confirm,
            Some(Overlay::Prompt(_)) => return Context::Prompt,
            None => {}
        }
        self.screen_context()
    }

    /// The context of the screen underneath.
    pub fn screen_context(&self) -> Context {
        match &self.screen {
            Screen::Home => Context::Home,
            Screen::Run(run) => run.tab.context(),
            Screen::Compare(_) => Context::Compare,
            Screen::Form(_) => Context::Form,
        }
    }

    /// Says something.
    pub fn say(&mut self, text: impl Into<String>) {
        self.message = Some(Message {
            text: text.into(),
            bad: false,
            at: self.now,
        });
    }

    /// Tells of trouble.
    pub fn complain(&mut self, text: impl Into<String>) {
        self.message = Some(Message {
            text: text.into(),
            bad: true,
            at: self.now,
        });
    }

    /// The time goes on.
    pub fn tick(&mut self, now: OffsetDateTime) {
        self.now = now;
        let old = |message: &Message| !message.bad && (now - message.at).whole_seconds() >= NEWS;
        if self.message.as_ref().is_some_and(old) {
            self.message = None;
        }
    }

    /// A key was pressed.
    pub fn key(&mut self, key: KeyEvent) {
        if self.message.as_ref().is_some_and(|message| message.bad) {
            self.message = None;
        }
        let context = self.context();
        let found = keys::action(context, &key, self.options.read_only);
        // Where text is typed, only keys that are no text act.
        if self.types_text() && self.typed(&key, found) {
            return;
        }
        if let Some(action) = found {
            self.act(action);
        }
    }

    /// Text was pasted.
    pub fn paste(&mut self, text: &str) {
        if self.types_text() {
            for character in text.chars().filter(|c| !c.is_control()) {
                self.typed(
                    &KeyEvent::new(KeyCode::Char(character), KeyModifiers::NONE),
                    None,
                );
            }
        }
    }

    /// A place was clicked.
    pub fn click(&mut self, column: u16, row: u16) {
        let place = ratatui::layout::Position::new(column, row);
        // What was drawn last lies on top.
        let hit = self
            .targets
            .iter()
            .rev()
            .find(|(area, _)| area.contains(place));
        match hit.map(|(_, target)| *target) {
            Some(Target::Act(action)) => self.act(action),
            Some(Target::Row(index)) => match &mut self.screen {
                Screen::Home if self.home.selected() == index => self.act(Action::Enter),
                Screen::Home => self.home.select(index),
                Screen::Run(run) => run.select(index),
                _ => {}
            },
            Some(Target::Chart(index)) => {
                if let Some(charts) = self.charts() {
                    charts.selected = index;
                }
            }
            Some(Target::Field(index)) => {
                if let Screen::Form(form) = &mut self.screen {
                    form.select(index);
                }
            }
            None => {}
        }
    }

    fn types_text(&self) -> bool {
        match &self.overlay {
            Some(Overlay::Prompt(_)) => true,
            Some(_) => false,
            None => match &self.screen {
                Screen::Home => self.home.filtering,
                Screen::Run(run) => run.filtering,
                Screen::Form(_) => true,
                Screen::Compare(_) => false,
            },
        }
    }

    /// Takes a key as text. `false`: it is none.
    fn typed(&mut self, key: &KeyEvent, found: Option<Action>) -> bool {
        if let Some(Overlay::Prompt(prompt)) = &mut self.overlay {
            return found.is_none() && prompt.text.key(key);
        }
        match &mut self.screen {
            Screen::Form(form) => {
                found.is_none_or(|action| action == Action::Choose && !form.chooses())
                    && form.key(key)
            }
            Screen::Home => self.home.filter_key(key),
            Screen::Run(run) => run.filter_key(key),
            Screen::Compare(_) => false,
        }
    }

    /// Does what a key stands for.
    pub fn act(&mut self, action: Action) {
        if action == Action::Quit {
            self.ended = true;
            return;
        }
        if self.overlay.is_some() {
            self.act_in_overlay(action);
            return;
        }
        if action == Action::Help {
            self.overlay = Some(Overlay::Help(HelpScreen::of(self.screen_context())));
            return;
        }
        if self.steer(action) {
            return;
        }
        match &mut self.screen {
            Screen::Home => self.act_at_home(action),
            Screen::Run(run) => {
                if action == Action::Back && !run.back() {
                    self.leave();
                } else {
                    run.act(action, self.page);
                }
            }
            Screen::Compare(compare) => {
                if action == Action::Back {
                    self.leave();
                } else {
                    compare.act(action, self.page);
                }
            }
            Screen::Form(form) => match action {
                Action::Back => self.leave(),
                Action::Start => {
                    let (effects, complaint) = form.check();
                    self.effects.extend(effects);
                    if let Some(complaint) = complaint {
                        self.complain(complaint);
                    }
                }
                action => {
                    self.effects.extend(form.act(action));
                }
            },
        }
    }

    /// A program was started: its run will appear in the list. A dashboard of one run has none, and
    /// stays with that run.
    pub fn started(&mut self, what: String) {
        if !self.single {
            self.screen = Screen::Home;
        }
        self.say(what);
    }

    fn leave(&mut self) {
        if self.single {
            self.ended = true;
        } else {
            self.screen = Screen::Home;
        }
    }

    fn act_at_home(&mut self, action: Action) {
        match action {
            Action::Back => self.ended = true,
            Action::Enter => {
                if let Some(path) = self.home.path() {
                    let follower = RunFollower::start(path, self.notify.clone());
                    self.open(follower);
                }
            }
            Action::Compare => {
                let paths = self.home.to_compare();
                if paths.len() < 2 {
                    self.complain("there is only one run: nothing to compare it with");
                    return;
                }
                let followers = paths
                    .into_iter()
                    .map(|path| RunFollower::start(path, self.notify.clone()))
                    .collect();
                self.screen = Screen::Compare(Box::new(CompareScreen::new(followers)));
            }
            Action::NewRun => {
                let (form, effects) = Form::new(&self.options.examples, &self.options.root);
                self.screen = Screen::Form(Box::new(form));
                self.effects.extend(effects);
            }
            action => self.home.act(action, self.page),
        }
    }

    fn charts(&mut self) -> Option<&mut ChartState> {
        match &mut self.screen {
            Screen::Run(run) => Some(&mut run.charts),
            Screen::Compare(compare) => Some(&mut compare.charts),
            _ => None,
        }
    }
}
