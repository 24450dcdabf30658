/// What a poll found.
///
/// ```
/// use bellows_record::Update;
///
/// let mut history = vec![(1, 'a'), (2, 'b'), (3, 'c')];
/// // The run was resumed from step 1.
/// let update = Update { keep_below: Some(2), rows: vec![(2, 'B')], more: false };
/// update.apply(&mut history, |row| row.0);
/// assert_eq!(history, [(1, 'a'), (2, 'B')]);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Update<T> {
    /// First drop the rows you hold whose step is this or a later one: a resume replaced them.
    /// `Some(0)` means all: the file was replaced or cut.
    pub keep_below: Option<u64>,
    /// Then add these.
    pub rows: Vec<T>,
    /// There is more to read already: poll again without waiting.
    pub more: bool,
}

impl<T> Default for Update<T> {
    fn default() -> Self {
        Self {
            keep_below: None,
            rows: Vec::new(),
            more: false,
        }
    }
}

impl<T> Update<T> {
    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.keep_below.is_none() && self.rows.is_empty()
    }

    /// Brings a list of rows up to date; `step` tells a row's step.
    pub fn apply(self, rows: &mut Vec<T>, step: impl Fn(&T) -> u64) {
        if let Some(limit) = self.keep_below {
            rows.retain(|row| step(row) < limit);
        }
        rows.extend(self.rows);
    }

    pub(super) fn rewind(&mut self, step: u64) {
        self.keep_below = Some(self.keep_below.map_or(step, |limit| limit.min(step)));
    }
}
