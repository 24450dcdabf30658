use std::collections::BTreeSet;

use crossterm::event::{KeyCode, KeyEvent};

use super::{ChartState, TextLine};
use crate::keys::{Action, Context};
use crate::store::{Focus, RunFollower};

/// Recorded steps that routing may be summed over.
pub const WINDOWS: [usize; 5] = [1, 5, 20, 50, 200];

/// A part of a run's screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tab {
    /// Curves.
    #[default]
    Charts,
    /// Experts.
    Routing,
    /// Bytes.
    Memory,
    /// What happened.
    Events,
    /// Settings.
    Config,
    /// Texts.
    Samples,
}

impl Tab {
    /// All, in order.
    pub const ALL: [Self; 6] = [
        Self::Charts,
        Self::Routing,
        Self::Memory,
        Self::Events,
        Self::Config,
        Self::Samples,
    ];

    /// Its title.
    pub fn title(self) -> &'static str {
        match self {
            Self::Charts => "charts",
            Self::Routing => "routing",
            Self::Memory => "memory",
            Self::Events => "events",
            Self::Config => "config",
            Self::Samples => "samples",
        }
    }

    /// Where its keys are.
    pub fn context(self) -> Context {
        match self {
            Self::Charts => Context::Charts,
            Self::Routing => Context::Routing,
            Self::Memory => Context::Memory,
            Self::Events => Context::Events,
            Self::Config => Context::Config,
            Self::Samples => Context::Samples,
        }
    }

    fn index(self) -> usize {
        Self::ALL.iter().position(|tab| *tab == self).unwrap_or(0)
    }
}

/// One run.
#[derive(Debug)]
pub struct RunScreen {
    /// What is known of it.
    pub follower: RunFollower,
    /// The part shown.
    pub tab: Tab,
    /// How curves are looked at; the cursor is that of routing and memory too.
    pub charts: ChartState,
    /// Place in [`WINDOWS`].
    pub window: usize,
    /// The selected line of each part that has lines.
    pub lines: [usize; 6],
    /// Lines of the part shown, as of the last drawing.
    pub line_count: usize,
    /// Branches of the ledger that are open.
    pub open: BTreeSet<String>,
    /// The branch on the selected line, as of the last drawing.
    pub branch: Option<String>,
    /// Which of the step's moments the ledger shows; `None`: the fullest.
    pub moment: Option<usize>,
    /// Moments of the step shown, as of the last drawing.
    pub moments: usize,
    /// What is typed into the configuration's filter.
    pub filter: TextLine,
    /// Whether it is being typed.
    pub filtering: bool,
}

impl RunScreen {
    /// Of the run that `follower` follows.
    pub fn new(follower: RunFollower) -> Self {
        Self {
            follower,
            tab: Tab::default(),
            charts: ChartState::default(),
            window: 2,
            lines: [0; 6],
            line_count: 0,
            open: BTreeSet::new(),
            branch: None,
            moment: None,
            moments: 0,
            filter: TextLine::default(),
            filtering: false,
        }
    }

    /// The selected line of the part shown.
    pub fn line(&self) -> usize {
        self.lines[self.tab.index()]
    }

    /// Selects a line of the part shown.
    pub fn select(&mut self, line: usize) {
        self.lines[self.tab.index()] = line.min(self.line_count.saturating_sub(1));
    }

    /// Goes a level back within the run; `false` where there is none.
    pub fn back(&mut self) -> bool {
        if self.tab == Tab::Charts && self.charts.alone {
            self.charts.alone = false;
            return true;
        }
        if self.tab == Tab::Config && !self.filter.as_str().is_empty() {
            self.filter = TextLine::default();
            return true;
        }
        false
    }

    /// Takes a key into the filter; `false` where it is none of its own.
    pub fn filter_key(&mut self, key: &KeyEvent) -> bool {
        match key.code {
            KeyCode::Esc => {
                self.filter = TextLine::default();
                self.filtering = false;
            }
            KeyCode::Enter => self.filtering = false,
            KeyCode::Up | KeyCode::Down => return false,
            _ => {
                self.lines[Tab::Config.index()] = 0;
                return self.filter.key(key);
            }
        }
        true
    }

    /// Does what a key stands for.
    pub fn act(&mut self, action: Action, page: usize) {
        let count = Tab::ALL.len();
        match action {
            Action::NextTab => self.tab = Tab::ALL[(self.tab.index() + 1) % count],
            Action::PreviousTab => self.tab = Tab::ALL[(self.tab.index() + count - 1) % count],
            Action::Tab(index) => self.tab = Tab::ALL[usize::from(index) % count],
            Action::WindowLess => self.window = self.window.saturating_sub(1),
            Action::WindowMore => self.window = (self.window + 1).min(WINDOWS.len() - 1),
            Action::Moment => {
                self.moment = match self.moment {
                    None => Some(0),
                    Some(moment) if moment + 1 < self.moments => Some(moment + 1),
                    Some(_) => None,
                };
            }
            Action::Filter => self.filtering = true,
            Action::Enter if self.tab == Tab::Memory => {
                if let Some(branch) = &self.branch
                    && !self.open.remove(branch)
                {
                    self.open.insert(branch.clone());
                }
            }
            action if self.tab == Tab::Charts => {
                self.charts.act(action);
            }
            Action::Up => self.select(self.line().saturating_sub(1)),
            Action::Down => self.select(self.line() + 1),
            Action::PageUp => self.select(self.line().saturating_sub(page)),
            Action::PageDown => self.select(self.line() + page),
            Action::First => self.select(0),
            Action::Last => self.select(usize::MAX),
            action => {
                self.charts.act(action);
            }
        }
        self.follower.focus(self.focus());
    }

    /// What the store is to read closely.
    pub fn focus(&self) -> Focus {
        Focus {
            step: self.charts.cursor,
            window: WINDOWS[self.window.min(WINDOWS.len() - 1)],
        }
    }
}
