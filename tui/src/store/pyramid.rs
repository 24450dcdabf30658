//! A metric's history in bounded memory: buckets of minimum, maximum and mean, at every scale.

use std::ops::RangeInclusive;

/// Buckets of a metric at the finest scale; one more halves the resolution of the whole history.
const FINEST: usize = 1 << 15;

/// Some neighbouring values of a metric, as much as a chart needs of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Step of the first value.
    pub first: u64,
    /// Step of the last value.
    pub last: u64,
    /// The smallest finite value; infinite where there is none.
    pub min: f32,
    /// The largest finite value; minus infinity where there is none.
    pub max: f32,
    /// Mean of the finite values.
    pub mean: f32,
    /// Finite values.
    pub count: u32,
    /// Values that were not finite.
    pub bad: u32,
}

impl Bucket {
    /// One value.
    pub fn of(step: u64, value: f64) -> Self {
        let narrow = value as f32;
        if narrow.is_finite() {
            Self {
                first: step,
                last: step,
                min: narrow,
                max: narrow,
                mean: narrow,
                count: 1,
                bad: 0,
            }
        } else {
            Self {
                first: step,
                last: step,
                min: f32::INFINITY,
                max: f32::NEG_INFINITY,
                mean: 0.0,
                count: 0,
                bad: 1,
            }
        }
    }

    /// Both together; `later` follows `self`.
    pub fn joined(self, later: Self) -> Self {
        let count = self.count + later.count;
        let weight = if count == 0 {
            0.0
        } else {
            f64::from(later.count) / f64::from(count)
        };
        let mean = f64::from(self.mean) * (1.0 - weight) + f64::from(later.mean) * weight;
        Self {
            first: self.first,
            last: later.last,
            min: self.min.min(later.min),
            max: self.max.max(later.max),
            mean: mean as f32,
            count,
            bad: self.bad + later.bad,
        }
    }
}

/// The history of one metric.
///
/// Level 0 holds buckets of `2^k` values each, level `n + 1` joins pairs of level `n`. When level
/// 0 is full it is dropped and level 1 takes its place: memory is bounded whatever the run's
/// length, and because buckets keep minimum and maximum, no spike is ever lost.
#[derive(Clone, Debug)]
pub struct Pyramid {
    /// Buckets that level 0 may hold.
    finest: usize,
    levels: Vec<Vec<Bucket>>,
    /// Values of a level 0 bucket: `2^shift`.
    shift: u32,
    /// Newest values, not yet in a bucket: what a resume may take back.
    tail: Vec<Bucket>,
    /// Values waiting to fill a bucket of level 0.
    open: Option<(Bucket, u32)>,
}

impl Default for Pyramid {
    fn default() -> Self {
        Self::with_resolution(FINEST)
    }
}

impl Pyramid {
    /// Keeps at most `buckets` (a power of two, 8 or more) at the finest scale.
    pub fn with_resolution(buckets: usize) -> Self {
        Self {
            finest: buckets.next_power_of_two().max(8),
            levels: Vec::new(),
            shift: 0,
            tail: Vec::new(),
            open: None,
        }
    }

    /// The newest values that stay single, so that a short resume or a corrected row takes
    /// nothing else away.
    fn tail_length(&self) -> usize {
        (self.finest / 4).min(512)
    }

    /// Adds the value of a step later than all before.
    pub fn push(&mut self, step: u64, value: f64) {
        self.tail.push(Bucket::of(step, value));
        let keep = self.tail_length();
        if self.tail.len() >= 2 * keep {
            let rest = self.tail.split_off(keep);
            for bucket in std::mem::replace(&mut self.tail, rest) {
                self.fold(bucket);
            }
        }
    }

    fn fold(&mut self, value: Bucket) {
        let (bucket, members) = match self.open.take() {
            Some((open, members)) => (open.joined(value), members + 1),
            None => (value, 1),
        };
        if members < 1 << self.shift {
            self.open = Some((bucket, members));
            return;
        }
        if self.levels.is_empty() {
            self.levels.push(Vec::new());
        }
        self.levels[0].push(bucket);
        let mut level = 0;
        while self.levels[level].len().is_multiple_of(2) {
            let [.., left, right] = self.levels[level][..] else {
                break;
            };
            if self.levels.len() == level + 1 {
                self.levels.push(Vec::new());
            }
            level += 1;
            self.levels[level].push(left.joined(right));
        }
        if self.levels[0].len() >= self.finest {
            self.levels.remove(0);
            self.shift += 1;
        }
    }

    /// Forgets the values of `step` and later. `false` where buckets hold both earlier and later
    /// values: then nothing is changed, and the history has to be read again.
    #[must_use]
    pub fn keep_below(&mut self, step: u64) -> bool {
        if let Some(first) = self.tail.first()
            && first.first < step
        {
            self.tail.retain(|bucket| bucket.first < step);
            return true;
        }
        if step <= self.first_step().unwrap_or(u64::MAX) {
            *self = Self::with_resolution(self.finest);
            return true;
        }
        let newest = self
            .open
            .map(|(open, _)| open)
            .or_else(|| self.levels.first()?.last().copied());
        match newest {
            Some(newest) if newest.last < step => {
                self.tail.clear();
                true
            }
            Some(_) => false,
            None => true,
        }
    }

    /// The first step with a value.
    pub fn first_step(&self) -> Option<u64> {
        self.finest().next().map(|bucket| bucket.first)
    }

    /// The last step with a value.
    pub fn last_step(&self) -> Option<u64> {
        self.last().map(|bucket| bucket.last)
    }

    /// The newest value or bucket.
    pub fn last(&self) -> Option<Bucket> {
        self.tail
            .last()
            .copied()
            .or(self.open.map(|(open, _)| open))
            .or_else(|| self.levels.first()?.last().copied())
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.last().is_none()
    }

    fn finest(&self) -> impl Iterator<Item = Bucket> + '_ {
        self.at_level(0)
    }

    /// Everything, with the old part at `level`.
    fn at_level(&self, level: usize) -> impl Iterator<Item = Bucket> + '_ {
        // What a level has not joined yet is told by the finer ones.
        let joined = self.levels.get(level).map_or(&[][..], Vec::as_slice);
        let rest = (0..level.min(self.levels.len())).rev().filter_map(|finer| {
            let list = &self.levels[finer];
            (!list.len().is_multiple_of(2)).then(|| list[list.len() - 1])
        });
        joined
            .iter()
            .copied()
            .chain(rest)
            .chain(self.open.map(|(open, _)| open))
            .chain(self.tail.iter().copied())
    }

    /// The history within `steps` in at most about `2 · columns` buckets (more where single values
    /// are fewer), in order of steps. The one before and the one after are included, so that lines
    /// reach the edges.
    pub fn view(&self, steps: RangeInclusive<u64>, columns: usize) -> Vec<Bucket> {
        let (start, end) = (*steps.start(), *steps.end());
        let inside = self.levels.first().map_or(0, |list| {
            let from = list.partition_point(|bucket| bucket.last < start);
            let to = list.partition_point(|bucket| bucket.first <= end);
            to.saturating_sub(from)
        });
        let ratio = inside / columns.max(1);
        let level = (ratio.max(1).ilog2() as usize).min(self.levels.len().saturating_sub(1));
        let mut view: Vec<Bucket> = Vec::new();
        for bucket in self.at_level(level) {
            if bucket.last < start {
                view.clear();
            }
            let beyond = bucket.first > end;
            view.push(bucket);
            if beyond {
                break;
            }
        }
        view
    }

    /// The bucket that holds `step`, or the last one before it.
    pub fn at(&self, step: u64) -> Option<Bucket> {
        let in_tail = self.tail.partition_point(|bucket| bucket.first <= step);
        if in_tail > 0 {
            return Some(self.tail[in_tail - 1]);
        }
        if let Some((open, _)) = self.open
            && open.first <= step
        {
            return Some(open);
        }
        let list = self.levels.first()?;
        let found = list.partition_point(|bucket| bucket.first <= step);
        (found > 0).then(|| list[found - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(values: u64) -> Pyramid {
        let mut pyramid = Pyramid::default();
        for step in 1..=values {
            let value = if step == 123_456 { 99.0 } else { 1.0 };
            pyramid.push(step, value);
        }
        pyramid
    }

    #[test]
    fn a_spike_of_one_step_survives_a_million() {
        let pyramid = long(1_000_000);
        let view = pyramid.view(1..=1_000_000, 100);
        assert!(view.len() < 2_000, "{} buckets", view.len());
        let peak = view.iter().map(|bucket| bucket.max).fold(0.0, f32::max);
        assert_eq!(peak, 99.0);
        assert!(view.windows(2).all(|pair| pair[0].last < pair[1].first));
        assert_eq!(view[0].first, 1);
        assert_eq!(view.last().map(|bucket| bucket.last), Some(1_000_000));
        let values: u32 = view.iter().map(|bucket| bucket.count).sum();
        assert_eq!(values, 1_000_000);
    }

    #[test]
    fn memory_does_not_grow_with_the_run() {
        let pyramid = long(1_000_000);
        let held: usize = pyramid.levels.iter().map(Vec::len).sum();
        assert!(held < 2 * FINEST);
    }

    #[test]
    fn a_short_resume_takes_back_single_steps_and_a_long_one_asks_to_read_again() {
        let mut pyramid = long(200_000);
        assert!(pyramid.keep_below(199_900));
        assert_eq!(pyramid.last_step(), Some(199_899));
        assert!(!pyramid.keep_below(1_001));
        assert_eq!(pyramid.last_step(), Some(199_899));
        assert!(pyramid.keep_below(0));
        assert!(pyramid.is_empty());
    }

    #[test]
    fn what_is_not_finite_is_counted_and_never_drawn() {
        let mut pyramid = Pyramid::default();
        pyramid.push(1, 2.0);
        pyramid.push(2, f64::NAN);
        pyramid.push(3, 4.0);
        let all = pyramid
            .view(1..=3, 10)
            .into_iter()
            .reduce(Bucket::joined)
            .unwrap();
        assert_eq!((all.min, all.max, all.mean), (2.0, 4.0, 3.0));
        assert_eq!((all.count, all.bad), (2, 1));
    }

    #[test]
    fn a_window_reaches_over_both_its_edges() {
        let mut pyramid = Pyramid::default();
        for step in 1..=10 {
            pyramid.push(step * 10, step as f64);
        }
        let steps: Vec<u64> = pyramid.view(35..=55, 10).iter().map(|b| b.first).collect();
        assert_eq!(steps, [30, 40, 50, 60]);
        assert_eq!(pyramid.at(35).map(|bucket| bucket.first), Some(30));
        assert_eq!(pyramid.at(5), None);
    }
}
