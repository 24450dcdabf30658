//! The division of a batch into chunks.

use std::ops::Range;

use crate::model::Part;

/// Chunks of a batch. In order they are the batch's tokens row by row, so each is a run of rows of
/// the residual stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Chunks that share keys, in order: those of one sequence, or one of several sequences.
    groups: Vec<Vec<Part>>,
    time: usize,
}

impl Parts {
    /// Divides `batch` sequences of `time` tokens into chunks of at most `chunk` tokens. A chunk
    /// that could hold more than one sequence holds whole ones only.
    pub fn new(batch: usize, time: usize, chunk: Option<usize>) -> Self {
        let chunk = chunk.unwrap_or(usize::MAX).max(1);
        let starts = |end: usize, step: usize| {
            (0..end)
                .step_by(step.min(end).max(1))
                .map(move |start| start..(start + step.min(end)).min(end))
        };
        let rows_at_once = (chunk / time.max(1)).max(1);
        let groups = starts(batch, rows_at_once)
            .map(|rows| {
                starts(time, chunk)
                    .map(|tokens| Part {
                        rows: rows.clone(),
                        tokens,
                    })
                    .collect()
            })
            .collect();
        Self { groups, time }
    }

    /// All chunks.
    pub fn iter(&self) -> impl Iterator<Item = &Part> {
        self.groups.iter().flatten()
    }

    /// Chunks that share keys, and the number of the first.
    pub fn groups(&self) -> impl DoubleEndedIterator<Item = (usize, &[Part])> {
        let mut first = 0;
        let groups: Vec<_> = self
            .groups
            .iter()
            .map(|group| {
                let at = first;
                first += group.len();
                (at, group.as_slice())
            })
            .collect();
        groups.into_iter()
    }

    /// The rows of the residual stream that each chunk is.
    pub fn ranges(&self) -> impl Iterator<Item = Range<usize>> {
        self.iter().map(|part| {
            let start = part.rows.start * self.time + part.tokens.start;
            start..start + part.len()
        })
    }

    /// Tokens of the batch.
    pub fn tokens(&self) -> usize {
        self.iter().map(Part::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(batch: usize, time: usize, chunk: Option<usize>) -> Vec<(Range<usize>, Range<usize>)> {
        let parts = Parts::new(batch, time, chunk);
        let mut end = 0;
        for rows in parts.ranges() {
            assert_eq!(rows.start, end, "chunks leave no gap");
            end = rows.end;
        }
        assert_eq!(end, batch * time);
        assert_eq!(parts.tokens(), batch * time);
        parts
            .iter()
            .map(|part| (part.rows.clone(), part.tokens.clone()))
            .collect()
    }

    #[test]
    fn a_chunk_that_divides_nothing_leaves_a_shorter_last_one() {
        let expected = [0..5, 5..10, 10..12].map(|tokens| (0..1, tokens));
        assert_eq!(sizes(1, 12, Some(5)), expected);
    }

    #[test]
    fn a_chunk_never_mixes_the_ends_of_sequences() {
        let expected = [(0..1, 0..5), (0..1, 5..8), (1..2, 0..5), (1..2, 5..8)];
        assert_eq!(sizes(2, 8, Some(5)), expected);
    }

    #[test]
    fn short_sequences_share_a_chunk_whole() {
        assert_eq!(
            sizes(5, 4, Some(9)),
            [(0..2, 0..4), (2..4, 0..4), (4..5, 0..4)]
        );
    }

    #[test]
    fn without_a_chunk_the_batch_is_one() {
        assert_eq!(sizes(3, 7, None), [(0..3, 0..7)]);
        assert_eq!(sizes(3, 7, Some(100)), [(0..3, 0..7)]);
    }

    #[test]
    fn a_chunk_of_one_token_is_one_token() {
        assert_eq!(sizes(2, 3, Some(1)).len(), 6);
    }
}
