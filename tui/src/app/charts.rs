use crate::keys::Action;

/// Weights of the smoothing, from none to strong.
pub const SMOOTHING: [f64; 5] = [0.0, 0.6, 0.9, 0.97, 0.99];

/// The steps a chart shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Window {
    /// All of them, also those to come.
    #[default]
    All,
    /// From one to another, both included.
    Steps(u64, u64),
}

/// How charts are looked at: the same for all of a screen, so that they stay side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct ChartState {
    /// The chart that enlarging means.
    pub selected: usize,
    /// Show it alone.
    pub alone: bool,
    /// Logarithmic values.
    pub log: bool,
    /// Place in [`SMOOTHING`].
    pub smoothing: usize,
    /// The steps shown.
    pub window: Window,
    /// The cursor's step.
    pub cursor: Option<u64>,
    /// First and last step there are, as of the last drawing.
    pub extent: (u64, u64),
    /// Charts that fit beside each other, as of the last drawing.
    pub columns: usize,
    /// Columns of a chart's plot, as of the last drawing.
    pub plot: u16,
    /// Charts there are, as of the last drawing.
    pub count: usize,
}

impl Default for ChartState {
    fn default() -> Self {
        Self {
            selected: 0,
            alone: false,
            log: false,
            smoothing: 2,
            window: Window::All,
            cursor: None,
            extent: (0, 1),
            columns: 2,
            plot: 60,
            count: 1,
        }
    }
}

/// The fewest steps a window shows.
const NARROWEST: u64 = 8;

impl ChartState {
    /// First and last step shown.
    pub fn steps(&self) -> (u64, u64) {
        match self.window {
            Window::All => self.extent,
            Window::Steps(from, to) => (from, to.max(from + 1)),
        }
    }

    /// The weight of the smoothing.
    pub fn weight(&self) -> f64 {
        SMOOTHING[self.smoothing % SMOOTHING.len()]
    }

    /// Does what a key stands for. `false`: it is not about curves.
    pub fn act(&mut self, action: Action) -> bool {
        let (from, to) = self.steps();
        let width = (to - from).max(1);
        let per_column = (width / u64::from(self.plot.max(1)) / 2).max(1);
        match action {
            Action::CursorLeft => {
                let cursor = self.cursor.unwrap_or(to.min(self.extent.1));
                self.cursor = Some(cursor.saturating_sub(per_column).max(self.extent.0));
                self.follow_cursor();
            }
            Action::CursorRight => {
                let cursor = self.cursor.unwrap_or(to.min(self.extent.1));
                self.cursor = Some((cursor + per_column).min(self.extent.1));
                self.follow_cursor();
            }
            Action::CursorOff => self.cursor = None,
            Action::ZoomIn => self.zoom(0.5),
            Action::ZoomOut => self.zoom(2.0),
            Action::PanLeft => self.pan(-(width as i64 / 4).max(1)),
            Action::PanRight => self.pan((width as i64 / 4).max(1)),
            Action::Fit => self.window = Window::All,
            Action::Log => self.log = !self.log,
            Action::Smooth => self.smoothing = (self.smoothing + 1) % SMOOTHING.len(),
            Action::Enter => self.alone = !self.alone,
            Action::Up => self.selected = self.selected.saturating_sub(1),
            Action::Down => self.choose(self.selected.saturating_add(1)),
            Action::PageUp => self.selected = self.selected.saturating_sub(2 * self.columns.max(1)),
            Action::PageDown => self.choose(self.selected + 2 * self.columns.max(1)),
            Action::First => self.selected = 0,
            Action::Last => self.choose(usize::MAX),
            _ => return false,
        }
        true
    }

    fn choose(&mut self, index: usize) {
        self.selected = index.min(self.count.saturating_sub(1));
    }

    fn zoom(&mut self, factor: f64) {
        let (from, to) = self.steps();
        let width = (to - from).max(1);
        let wanted = ((width as f64 * factor) as u64).max(NARROWEST);
        if wanted >= self.extent.1.saturating_sub(self.extent.0) {
            self.window = Window::All;
            return;
        }
        let middle = self
            .cursor
            .unwrap_or(if factor < 1.0 { to } else { from + width / 2 });
        let middle = middle.clamp(from, to);
        // The cursor stays where it is on the screen.
        let share = (middle - from) as f64 / width as f64;
        let start = middle.saturating_sub((wanted as f64 * share) as u64);
        self.set(start, wanted);
    }

    fn pan(&mut self, by: i64) {
        let (from, to) = self.steps();
        if self.window != Window::All {
            self.set(from.saturating_add_signed(by), to - from);
        }
    }

    fn set(&mut self, start: u64, width: u64) {
        let latest = self.extent.1.saturating_sub(width);
        let start = start.clamp(self.extent.0.min(latest), latest.max(self.extent.0));
        self.window = Window::Steps(start, start + width);
    }

    fn follow_cursor(&mut self) {
        let (Some(cursor), Window::Steps(from, to)) = (self.cursor, self.window) else {
            return;
        };
        if cursor < from {
            self.set(cursor, to - from);
        } else if cursor > to {
            self.set(cursor - (to - from), to - from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> ChartState {
        ChartState {
            extent: (1, 1001),
            plot: 50,
            ..ChartState::default()
        }
    }

    #[test]
    fn zooming_keeps_the_cursor_in_sight_and_ends_at_everything() {
        let mut charts = state();
        charts.cursor = Some(200);
        for _ in 0..20 {
            charts.act(Action::ZoomIn);
            let (from, to) = charts.steps();
            assert!((from..=to).contains(&200), "{from} to {to}");
            assert!(from >= 1 && to <= 1001 && to - from >= NARROWEST);
        }
        for _ in 0..20 {
            charts.act(Action::ZoomOut);
        }
        assert_eq!(charts.window, Window::All);
    }

    #[test]
    fn nothing_leads_beyond_the_first_and_the_last_step() {
        let mut charts = state();
        charts.act(Action::ZoomIn);
        for action in [Action::PanRight, Action::CursorRight] {
            for _ in 0..300 {
                charts.act(action);
            }
        }
        assert_eq!((charts.steps().1, charts.cursor), (1001, Some(1001)));
        for action in [Action::PanLeft, Action::CursorLeft] {
            for _ in 0..300 {
                charts.act(action);
            }
        }
        assert_eq!((charts.steps().0, charts.cursor), (1, Some(1)));
    }

    #[test]
    fn a_run_of_one_step_can_be_looked_at() {
        let mut charts = ChartState {
            extent: (1, 1),
            ..ChartState::default()
        };
        for action in [
            Action::ZoomIn,
            Action::PanLeft,
            Action::CursorLeft,
            Action::CursorRight,
            Action::ZoomOut,
        ] {
            charts.act(action);
        }
        assert_eq!(charts.cursor, Some(1));
    }
}
