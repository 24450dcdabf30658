//! Memory over the course of a step: what is taken and given back, in order.

use bellows_kernels::memory::Kind;

/// Bytes by kind, in the order of [`Kind::ALL`].
pub type ByKind = [u64; Kind::ALL.len()];

/// What a step is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The forward pass.
    Forward,
    /// The backward pass, the head's among it.
    Backward,
    /// The optimizer's update.
    Optimizer,
}

impl Phase {
    /// Its name, which is that of the moments of a run's ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Optimizer => "optimizer",
        }
    }
}

/// The fullest moment of a phase, in one layer or outside of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fullest {
    /// The phase.
    pub phase: Phase,
    /// The layer, from 0.
    pub layer: Option<usize>,
    /// Bytes of each kind then.
    pub bytes: ByKind,
}

impl Fullest {
    /// All kinds together.
    pub fn total(&self) -> u64 {
        self.bytes.iter().sum()
    }
}

/// Bytes that were taken, to be given back to the tape.
#[derive(Debug)]
#[must_use = "what was taken has to be given back, or kept"]
pub struct Span {
    kind: Kind,
    bytes: u64,
}

impl Span {
    /// Some of the bytes by themselves, all of them where there are fewer.
    pub fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self {
            kind: self.kind,
            bytes,
        }
    }

    /// Adds bytes of the same kind.
    pub fn join(&mut self, more: Self) {
        debug_assert_eq!(self.kind, more.kind, "a span is of one kind");
        self.bytes += more.bytes;
    }
}

/// Takes and gives back, and remembers the fullest moment of each phase and layer.
#[derive(Debug)]
pub struct Tape {
    now: ByKind,
    total: u64,
    at: usize,
    seen: Vec<Fullest>,
    largest_buffer: u64,
}

/// What was taken over the course of a step.
#[derive(Debug)]
pub struct Taken {
    /// The fullest moments, in the order in which phases and layers were entered first.
    pub fullest: Vec<Fullest>,
    /// Bytes of the largest [buffer](Tape::buffer).
    pub largest_buffer: u64,
}

impl Tape {
    /// Nothing taken, before a forward pass.
    pub fn new() -> Self {
        Self {
            now: ByKind::default(),
            total: 0,
            at: 0,
            seen: vec![Fullest {
                phase: Phase::Forward,
                layer: None,
                bytes: ByKind::default(),
            }],
            largest_buffer: 0,
        }
    }

    /// What follows belongs to `phase` and `layer`.
    pub fn enter(&mut self, phase: Phase, layer: Option<usize>) {
        let known = |seen: &Fullest| seen.phase == phase && seen.layer == layer;
        self.at = self.seen.iter().position(known).unwrap_or_else(|| {
            self.seen.push(Fullest {
                phase,
                layer,
                bytes: ByKind::default(),
            });
            self.seen.len() - 1
        });
        self.look(0);
    }

    /// Takes `bytes` that lie in one buffer and grow with the tokens.
    pub fn buffer(&mut self, kind: Kind, bytes: u64) -> Span {
        self.largest_buffer = self.largest_buffer.max(bytes);
        self.take(kind, bytes)
    }

    /// Takes `bytes`.
    pub fn take(&mut self, kind: Kind, bytes: u64) -> Span {
        self.now[kind as usize] += bytes;
        self.total += bytes;
        self.look(0);
        Span { kind, bytes }
    }

    /// Gives back.
    pub fn give(&mut self, span: Span) {
        self.now[span.kind as usize] -= span.bytes;
        self.total -= span.bytes;
    }

    /// Gives back all of them.
    pub fn give_all(&mut self, spans: impl IntoIterator<Item = Span>) {
        for span in spans {
            self.give(span);
        }
    }

    /// Needs `bytes` of workspace for a moment.
    pub fn over(&mut self, bytes: u64) {
        self.look(bytes);
    }

    /// The same bytes for another purpose.
    pub fn become_kind(&mut self, span: Span, kind: Kind) -> Span {
        self.now[span.kind as usize] -= span.bytes;
        self.now[kind as usize] += span.bytes;
        self.look(0);
        Span {
            kind,
            bytes: span.bytes,
        }
    }

    fn look(&mut self, over: u64) {
        let fullest = &mut self.seen[self.at];
        if self.total + over > fullest.total() {
            fullest.bytes = self.now;
            fullest.bytes[Kind::Workspace as usize] += over;
        }
    }

    /// All that was taken.
    pub fn taken(self) -> Taken {
        Taken {
            fullest: self.seen,
            largest_buffer: self.largest_buffer,
        }
    }

    /// Bytes taken now.
    pub fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_of_workspace_counts_and_leaves_nothing() {
        let mut tape = Tape::new();
        let weights = tape.take(Kind::Weights, 10);
        tape.over(5);
        tape.enter(Phase::Backward, Some(3));
        let more = tape.take(Kind::Activations, 2);
        let more = tape.become_kind(more, Kind::Workspace);
        tape.give(more);
        tape.give(weights);
        assert_eq!(tape.total(), 0);
        let fullest = tape.taken().fullest;
        let totals: Vec<u64> = fullest.iter().map(Fullest::total).collect();
        assert_eq!(totals, [15, 12]);
        assert_eq!(fullest[1].layer, Some(3));
    }
}
