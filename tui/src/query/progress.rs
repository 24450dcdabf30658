//! Pace and time to go.

use bellows_record::StepMetrics;

/// Seconds to the end of a run of `total` steps, by the clock of its newest rows: evaluations,
/// checkpoints and samples are in it, as they will be in what is to come.
pub fn seconds_left<'a>(
    rows: impl DoubleEndedIterator<Item = &'a StepMetrics> + Clone,
    total: u64,
) -> Option<f64> {
    let last = rows.clone().next_back()?;
    // A pause or a resume is no pace: rows of one process alone, without gaps far beyond a step.
    let first = rows
        .rev()
        .take_while(|row| row.segment == last.segment)
        .take(200)
        .last()?;
    let steps = last
        .step
        .checked_sub(first.step)
        .filter(|&steps| steps > 0)?;
    let pace = (last.time - first.time) / steps as f64;
    (pace.is_finite() && pace >= 0.0).then(|| pace * total.saturating_sub(last.step) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64, segment: u32, time: f64) -> StepMetrics {
        StepMetrics {
            step,
            segment,
            time,
            ..StepMetrics::default()
        }
    }

    #[test]
    fn the_time_before_a_resume_is_not_part_of_the_pace() {
        let rows = [row(1, 0, 0.0), row(2, 1, 1000.0), row(4, 1, 1004.0)];
        assert_eq!(seconds_left(rows.iter(), 10), Some(12.0));
        assert_eq!(seconds_left(rows[..2].iter(), 10), None);
        assert_eq!(seconds_left([].iter(), 10), None);
    }
}
