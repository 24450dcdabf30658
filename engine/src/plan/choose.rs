//! Which way fits, and how much more would.

use super::{Load, Prediction, Target, predict};
use crate::config::ModelConfig;
use crate::step::Backpropagation;
use crate::stream::{Keep, Memory, Settings, auto_chunk};

/// Smaller chunks than this save little and cost much.
const LEAST_CHUNK: usize = 128;

/// No longer sequence is looked for, in tokens of a micro-batch.
const MOST_TOKENS: usize = 1 << 21;

/// A way to keep activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// All of them.
    Plain,
    /// The layers' inputs, each layer again as a whole.
    Checkpoint,
    /// The layers' inputs, each layer again in chunks.
    Stream,
}

impl Mode {
    /// Every mode, the fastest first.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Checkpoint, Self::Stream];

    /// Its name in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Checkpoint => "checkpoint",
            Self::Stream => "stream",
        }
    }
}

/// Tokens of a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Chunks {
    /// By the length of the sequence, smaller where that does not fit.
    #[default]
    Auto,
    /// So many.
    Of(usize),
}

/// What is to be planned.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The architecture.
    pub model: &'a ModelConfig,
    /// A step's tokens.
    pub load: Load,
    /// Where it runs.
    pub target: Target,
    /// The mode asked for; [`Memory::Auto`]: the fastest that fits.
    pub memory: Memory,
    /// Tokens of a chunk.
    pub chunk: Chunks,
    /// How the layers' inputs are kept.
    pub keep: Keep,
    /// Bytes that may be used; `None`: unknown.
    pub limit: Option<u64>,
    /// Bytes of them that are in use for other things.
    pub beside: u64,
}

/// A mode, and what it needs.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The mode.
    pub mode: Mode,
    /// What a step needs.
    pub prediction: Prediction,
    /// Whether that is within the limit; `None` where none is known.
    pub fits: Option<bool>,
}

impl Candidate {
    /// Tokens of a chunk, where there are any.
    pub fn chunk(&self) -> Option<usize> {
        match self.prediction.way {
            Backpropagation::Streamed(Settings { chunk, .. }) => chunk,
            Backpropagation::Plain => None,
        }
    }
}

/// The nearest setting that fits, where none does as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nearest {
    /// Another mode.
    Mode(Mode),
    /// Streamed, with the layers' inputs in host memory.
    HostMemory,
    /// A smaller micro-batch, in this mode.
    Batch(usize, Mode),
    /// A shorter sequence, in this mode.
    Time(usize, Mode),
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Plan {
    /// All modes, in the order of [`Mode::ALL`].
    pub candidates: Vec<Candidate>,
    /// Which of them the run takes; `None`: nothing fits that it may take.
    pub chosen: Option<usize>,
    /// Where nothing fits.
    pub nearest: Option<Nearest>,
}

impl Plan {
    /// The mode that the run takes.
    pub fn chosen(&self) -> Option<&Candidate> {
        self.chosen.map(|index| &self.candidates[index])
    }
}

impl Question<'_> {
    fn fits(&self, prediction: &Prediction) -> Option<bool> {
        let needed = prediction.needed() + self.beside;
        self.limit.map(|limit| needed <= limit)
    }

    fn predicted(&self, load: &Load, way: Backpropagation) -> Prediction {
        predict(self.model, load, self.target, way)
    }

    fn streamed(&self, chunk: Option<usize>) -> Backpropagation {
        Backpropagation::Streamed(Settings {
            chunk,
            keep: self.keep,
        })
    }

    /// What `mode` needs for `load`; streaming in the largest chunk that fits, if it may choose.
    fn candidate(&self, mode: Mode, load: &Load) -> Candidate {
        let of = |way| {
            let prediction = self.predicted(load, way);
            let fits = self.fits(&prediction);
            Candidate {
                mode,
                prediction,
                fits,
            }
        };
        match (mode, self.chunk) {
            (Mode::Plain, _) => of(Backpropagation::Plain),
            (Mode::Checkpoint, _) => of(self.streamed(None)),
            (Mode::Stream, Chunks::Of(chunk)) => of(self.streamed(Some(chunk))),
            (Mode::Stream, Chunks::Auto) => {
                let mut chunk = auto_chunk(load.time);
                let mut least = of(self.streamed(Some(chunk)));
                while least.fits == Some(false) && chunk > LEAST_CHUNK {
                    chunk /= 2;
                    let smaller = of(self.streamed(Some(chunk)));
                    if smaller.prediction.needed() < least.prediction.needed() {
                        least = smaller;
                    }
                }
                least
            }
        }
    }

    fn may_take(&self, mode: Mode) -> bool {
        match self.memory {
            Memory::Auto => true,
            Memory::Plain => mode == Mode::Plain,
            Memory::Checkpoint => mode == Mode::Checkpoint,
            Memory::Stream => mode == Mode::Stream,
        }
    }

    /// The largest number within `1..=most`, in steps of `step`, whose load fits in `mode`.
    fn most(
        &self,
        mode: Mode,
        most: usize,
        step: usize,
        load: impl Fn(usize) -> Load,
    ) -> Option<usize> {
        self.limit?;
        let fits = |number: usize| self.candidate(mode, &load(number)).fits == Some(true);
        if !fits(step) {
            return None;
        }
        let (mut low, mut high) = (1, 2);
        while high * step <= most && fits(high * step) {
            low = high;
            high *= 2;
        }
        let mut high = high.min(most / step + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match fits(middle * step) {
                true => low = middle,
                false => high = middle,
            }
        }
        Some(low * step)
    }

    /// The longest sequence that fits in `mode`, with the batch as it is.
    pub fn longest(&self, mode: Mode) -> Option<usize> {
        let load = self.load;
        let most = MOST_TOKENS / load.batch.max(1);
        let step = match load.time {
            0..256 => 1,
            256..4096 => 32,
            _ => 128,
        };
        self.most(mode, most, step, |time| Load { time, ..load })
    }

    /// The largest batch that fits in `mode`, with the sequences as they are.
    pub fn widest(&self, mode: Mode) -> Option<usize> {
        let load = self.load;
        let most = (MOST_TOKENS / load.time.max(1)).max(1);
        self.most(mode, most, 1, |batch| Load { batch, ..load })
    }

    /// The nearest setting that fits: first another mode, then inputs in host memory, then a
    /// smaller batch, then shorter sequences.
    fn nearest(&self, candidates: &[Candidate]) -> Option<Nearest> {
        if let Some(other) = candidates.iter().find(|other| other.fits == Some(true)) {
            return Some(Nearest::Mode(other.mode));
        }
        if self.keep != Keep::Host {
            let elsewhere = Question {
                keep: Keep::Host,
                chunk: Chunks::Auto,
                ..*self
            };
            if elsewhere.candidate(Mode::Stream, &self.load).fits == Some(true) {
                return Some(Nearest::HostMemory);
            }
        }
        // What is smaller may stream as finely as it needs to.
        let free = Question {
            chunk: Chunks::Auto,
            ..*self
        };
        let modes = Mode::ALL.into_iter().filter(|&mode| self.may_take(mode));
        let best = |of: &dyn Fn(Mode) -> Option<usize>| {
            let sizes = modes.clone().filter_map(|mode| Some((of(mode)?, mode)));
            sizes.max_by_key(|(size, _)| *size)
        };
        if let Some((batch, mode)) = best(&|mode| free.widest(mode)) {
            return Some(Nearest::Batch(batch, mode));
        }
        let one = Question {
            load: Load {
                batch: 1,
                ..self.load
            },
            ..free
        };
        best(&|mode| one.longest(mode)).map(|(time, mode)| Nearest::Time(time, mode))
    }
}

/// Plans.
pub fn choose(question: &Question<'_>) -> Plan {
    let candidates: Vec<Candidate> = Mode::ALL
        .into_iter()
        .map(|mode| question.candidate(mode, &question.load))
        .collect();
    let allowed =
        |candidate: &Candidate| question.may_take(candidate.mode) && candidate.fits != Some(false);
    let chosen = candidates.iter().position(allowed);
    let nearest = match chosen {
        Some(_) => None,
        None => question.nearest(&candidates),
    };
    Plan {
        candidates,
        chosen,
        nearest,
    }
}

/// Longest sequence and largest batch by mode, in the order of [`Mode::ALL`].
pub fn largest(question: &Question<'_>) -> Vec<(Mode, Option<usize>, Option<usize>)> {
    Mode::ALL
        .into_iter()
        .map(|mode| (mode, question.longest(mode), question.widest(mode)))
        .collect()
}
