use super::View;

/// Steps of the view that can be taken back.
#[derive(Default)]
pub struct History {
    past: Vec<View>,
    future: Vec<View>,
    last: Option<View>,
    /// When the newest step began, seconds.
    since: f64,
}

/// As many steps are kept.
const MOST: usize = 100;
/// Changes within this many seconds are one step.
const TOGETHER: f64 = 0.6;

impl History {
    /// Takes note of the view at the end of a frame; `settled` says that no button is held and nothing plays.
    pub fn note(&mut self, view: &View, now: f64, settled: bool) {
        let Some(last) = &self.last else {
            self.last = Some(view.clone());
            return;
        };
        if !settled || last == view {
            return;
        }
        if now - self.since > TOGETHER || self.past.is_empty() {
            self.past.push(last.clone());
            if self.past.len() > MOST {
                self.past.remove(0);
            }
        }
        self.future.clear();
        self.since = now;
        self.last = Some(view.clone());
    }

    /// Takes the newest step back.
    pub fn undo(&mut self, view: &mut View) -> bool {
        Self::walk(&mut self.past, &mut self.future, view, &mut self.last)
    }

    /// Takes the newest undo back.
    pub fn redo(&mut self, view: &mut View) -> bool {
        Self::walk(&mut self.future, &mut self.past, view, &mut self.last)
    }

    /// Whether there is a step to take back.
    pub fn can_undo(&self) -> bool {
        !self.past.is_empty()
    }

    /// Whether there is an undo to take back.
    pub fn can_redo(&self) -> bool {
        !self.future.is_empty()
    }

    fn walk(
        from: &mut Vec<View>,
        to: &mut Vec<View>,
        view: &mut View,
        last: &mut Option<View>,
    ) -> bool {
        let Some(target) = from.pop() else {
            return false;
        };
        to.push(std::mem::replace(view, target));
        *last = Some(view.clone());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Layouts;

    fn at(step: u64) -> View {
        View {
            step,
            ..View::new(Layouts::default())
        }
    }

    #[test]
    fn undo_goes_back_and_redo_forth_until_something_else_is_done() {
        let mut history = History::default();
        let mut view = at(1);
        history.note(&view, 0.0, true);
        view.step = 2;
        history.note(&view, 1.0, true);
        view.step = 3;
        history.note(&view, 5.0, true);
        assert!(history.undo(&mut view) && view.step == 2);
        assert!(history.undo(&mut view) && view.step == 1);
        assert!(!history.undo(&mut view));
        assert!(history.redo(&mut view) && view.step == 2);
        view.step = 9;
        history.note(&view, 9.0, true);
        assert!(!history.can_redo());
        assert!(history.undo(&mut view) && view.step == 2);
    }

    #[test]
    fn a_drag_is_one_step_and_so_are_quick_changes() {
        let mut history = History::default();
        let mut view = at(1);
        history.note(&view, 0.0, true);
        for step in 2..50 {
            view.step = step;
            history.note(&view, 1.0 + step as f64 * 0.01, false);
        }
        history.note(&view, 2.0, true);
        for step in 50..60 {
            view.step = step;
            history.note(&view, 2.0 + 0.05 * (step - 49) as f64, true);
        }
        assert!(history.undo(&mut view) && view.step == 1);
        assert!(!history.can_undo());
    }
}
