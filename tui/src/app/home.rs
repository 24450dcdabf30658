use std::collections::BTreeSet;
use std::path::PathBuf;

use crossterm::event::{KeyCode, KeyEvent};

use super::{MAX_COMPARED, TextLine};
use crate::keys::Action;
use crate::store::{HomeFollower, HomeRow};

/// What the list is sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Living runs first, then the newest.
    #[default]
    State,
    /// The newest first.
    Newest,
    /// By name.
    Name,
    /// The lowest validation loss first, else the lowest loss.
    Loss,
    /// The most done first.
    Progress,
}

impl Sort {
    const ALL: [Self; 5] = [
        Self::State,
        Self::Newest,
        Self::Name,
        Self::Loss,
        Self::Progress,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Newest => "newest",
            Self::Name => "name",
            Self::Loss => "loss",
            Self::Progress => "progress",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }
}

/// The list of runs.
#[derive(Debug)]
pub struct HomeScreen {
    /// What is in it.
    pub follower: HomeFollower,
    /// What is typed into the filter.
    pub filter: TextLine,
    /// Whether it is being typed.
    pub filtering: bool,
    /// The order.
    pub sort: Sort,
    /// Marked for comparison.
    pub marked: BTreeSet<PathBuf>,
    selected: Option<PathBuf>,
}

impl HomeScreen {
    /// The list that `follower` follows.
    pub fn new(follower: HomeFollower) -> Self {
        Self {
            follower,
            filter: TextLine::default(),
            filtering: false,
            sort: Sort::default(),
            marked: BTreeSet::new(),
            selected: None,
        }
    }

    /// The runs shown, in their order.
    pub fn rows(&self) -> Vec<HomeRow> {
        let wanted = self.filter.as_str().to_lowercase();
        let data = self.follower.data.read();
        let mut rows: Vec<HomeRow> = data
            .runs
            .iter()
            .filter(|row| {
                let run = &row.summary;
                let text = format!(
                    "{} {} {} {}",
                    run.name, run.liveness, run.device, run.model_type
                )
                .to_lowercase();
                wanted.split_whitespace().all(|word| text.contains(word))
            })
            .cloned()
            .collect();
        let best = |row: &HomeRow| {
            row.summary
                .validation_loss
                .or(row.summary.loss)
                .unwrap_or(f64::INFINITY)
        };
        let share = |row: &HomeRow| row.summary.step as f64 / row.summary.total_steps.max(1) as f64;
        // The store's order, the newest first, is kept among equals.
        match self.sort {
            Sort::Newest => {}
            Sort::State => rows.sort_by_key(|row| !row.summary.liveness.is_live()),
            Sort::Name => rows.sort_by(|a, b| a.summary.name.cmp(&b.summary.name)),
            Sort::Loss => rows.sort_by(|a, b| best(a).total_cmp(&best(b))),
            Sort::Progress => rows.sort_by(|a, b| share(b).total_cmp(&share(a))),
        }
        rows
    }

    /// The selected line: the same run, whatever the order becomes.
    pub fn selected(&self) -> usize {
        let rows = self.rows();
        self.selected
            .as_ref()
            .and_then(|path| rows.iter().position(|row| row.summary.path == *path))
            .unwrap_or(0)
    }

    /// Selects a line.
    pub fn select(&mut self, index: usize) {
        let rows = self.rows();
        let index = index.min(rows.len().saturating_sub(1));
        self.selected = rows.get(index).map(|row| row.summary.path.clone());
    }

    /// The selected run.
    pub fn path(&self) -> Option<PathBuf> {
        Some(self.rows().get(self.selected())?.summary.path.clone())
    }

    /// The selected run's line.
    pub fn row(&self) -> Option<HomeRow> {
        self.rows().get(self.selected()).cloned()
    }

    /// The marked runs; where fewer than two are, the selected one and the next.
    pub fn to_compare(&self) -> Vec<PathBuf> {
        let rows = self.rows();
        let marked: Vec<PathBuf> = rows
            .iter()
            .map(|row| row.summary.path.clone())
            .filter(|path| self.marked.contains(path))
            .take(MAX_COMPARED)
            .collect();
        if marked.len() >= 2 || rows.len() < 2 {
            return marked;
        }
        let at = self.selected();
        let other = if at + 1 < rows.len() { at + 1 } else { at - 1 };
        vec![
            rows[at].summary.path.clone(),
            rows[other].summary.path.clone(),
        ]
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
            _ => return self.filter.key(key),
        }
        true
    }

    /// Does what a key stands for.
    pub fn act(&mut self, action: Action, page: usize) {
        let at = self.selected();
        match action {
            Action::Up => self.select(at.saturating_sub(1)),
            Action::Down => self.select(at + 1),
            Action::PageUp => self.select(at.saturating_sub(page)),
            Action::PageDown => self.select(at + page),
            Action::First => self.select(0),
            Action::Last => self.select(usize::MAX),
            Action::Filter => self.filtering = true,
            Action::Sort => self.sort = self.sort.next(),
            Action::Mark => {
                if let Some(path) = self.path() {
                    if !self.marked.remove(&path) {
                        self.marked.insert(path);
                    }
                    self.select(at + 1);
                }
            }
            _ => {}
        }
    }
}
