use super::ChartState;
use crate::keys::Action;
use crate::store::RunFollower;

/// Runs on one chart, at most.
pub const MAX_COMPARED: usize = 6;

/// Several runs side by side.
#[derive(Debug)]
pub struct CompareScreen {
    /// The runs.
    pub followers: Vec<RunFollower>,
    /// How the chart is looked at.
    pub charts: ChartState,
    /// Place of the compared metric among those that any run has.
    pub metric: usize,
    /// First difference shown.
    pub scroll: usize,
}

impl CompareScreen {
    /// Of these runs.
    pub fn new(followers: Vec<RunFollower>) -> Self {
        Self {
            followers,
            charts: ChartState::default(),
            metric: 0,
            scroll: 0,
        }
    }

    /// The metrics that any of the runs has.
    pub fn metrics(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for follower in &self.followers {
            for name in follower.data.read().metrics.names() {
                if !names.iter().any(|known| known == name) {
                    names.push(name.to_owned());
                }
            }
        }
        names
    }

    /// Does what a key stands for.
    pub fn act(&mut self, action: Action, page: usize) {
        match action {
            Action::Metric => self.metric = (self.metric + 1) % self.metrics().len().max(1),
            Action::Up => self.scroll = self.scroll.saturating_sub(1),
            Action::Down => self.scroll = self.scroll.saturating_add(1),
            Action::PageUp => self.scroll = self.scroll.saturating_sub(page),
            Action::PageDown => self.scroll = self.scroll.saturating_add(page),
            Action::First => self.scroll = 0,
            Action::Last => self.scroll = usize::MAX,
            action => {
                self.charts.act(action);
            }
        }
    }
}
