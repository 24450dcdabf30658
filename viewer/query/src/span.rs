use std::fmt;

/// Steps from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// The first step.
    pub first: u64,
    /// The last step.
    pub last: u64,
}

impl Span {
    /// Every step there is.
    pub const ALL: Self = Self {
        first: 0,
        last: u64::MAX,
    };

    /// The time cursor at `step`: the record of that step, or the last one before it.
    pub fn at(step: u64) -> Self {
        Self {
            first: step,
            last: step,
        }
    }

    /// Both steps and all between them, in either order.
    pub fn between(one: u64, other: u64) -> Self {
        Self {
            first: one.min(other),
            last: one.max(other),
        }
    }

    /// Whether it stands for one moment rather than for a range.
    pub fn is_cursor(self) -> bool {
        self.first == self.last
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.last) {
            (first, last) if first == last => write!(f, "step {first}"),
            (0, u64::MAX) => f.write_str("all steps"),
            (first, u64::MAX) => write!(f, "steps from {first}"),
            (first, last) => write!(f, "steps {first} to {last}"),
        }
    }
}

/// A router: the decision of one iteration of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouterId {
    /// Decoder layer, from 0.
    pub layer: u32,
    /// Chain-of-Experts iteration, from 0.
    pub iteration: u32,
}

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layer {} iteration {}", self.layer, self.iteration)
    }
}

/// Which records stand behind an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sampled {
    /// First recorded step.
    pub first: u64,
    /// Last recorded step.
    pub last: u64,
    /// Recorded steps in the range.
    pub records: usize,
    /// How many of them were read: evenly spaced ones where this is less than `records`.
    pub read: usize,
}

impl Sampled {
    /// One record.
    pub fn one(step: u64) -> Self {
        Self {
            first: step,
            last: step,
            records: 1,
            read: 1,
        }
    }
}

impl fmt::Display for Sampled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return write!(f, "step {}", self.first);
        }
        write!(f, "steps {} to {}", self.first, self.last)?;
        if self.read < self.records {
            write!(f, " ({} of {} records)", self.read, self.records)
        } else {
            write!(f, " ({} records)", self.records)
        }
    }
}
