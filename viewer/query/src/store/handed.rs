use bellows_record::{StreamReader, StreamRow, Update};

/// Which steps of a stream a history was given. The newest one is held back until a look finds nothing more of it: a
/// step may be written in parts, and a history takes a step once.
#[derive(Default)]
pub(super) struct Handed {
    last: Option<u64>,
    pub(super) held: Option<u64>,
}

impl Handed {
    /// The steps to add after a poll; `None` where the history has to begin anew, [`again`](Self::again).
    pub(super) fn take<R: StreamRow>(
        &mut self,
        update: &Update<u64>,
        stream: &StreamReader<R>,
    ) -> Option<Vec<u64>> {
        let first = update
            .keep_below
            .into_iter()
            .chain(update.rows.first().copied())
            .min();
        if first.is_some_and(|first| self.reaches(first)) {
            return None;
        }
        if update.is_empty() {
            let steps = self.held.take();
            self.last = steps.or(self.last);
            return Some(steps.into_iter().collect());
        }
        // What was held and was not taken back comes before what is new.
        let mut steps: Vec<u64> = self
            .held
            .into_iter()
            .chain(update.rows.iter().copied())
            .collect();
        steps.retain(|&step| stream.row_count(step) > 0);
        steps.dedup();
        self.held = steps.pop();
        self.last = steps.last().copied().or(self.last);
        Some(steps)
    }

    /// Whether the history was given `step` or a later one.
    pub(super) fn reaches(&self, step: u64) -> bool {
        self.last.is_some_and(|last| step <= last)
    }

    /// All steps but the newest, for a history that begins anew.
    pub(super) fn again<R: StreamRow>(&mut self, stream: &StreamReader<R>) -> Vec<u64> {
        let mut steps: Vec<u64> = stream.steps().collect();
        self.held = steps.pop();
        self.last = steps.last().copied();
        steps
    }
}
