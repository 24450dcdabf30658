//! Which way fits, and how much more would.

use super::{Load, Prediction, Target, predict};
use crate::config::ModelConfig;
use crate::step::Backpropagation;
use crate::stream::{Keep, KeepAttention, Memory, Settings};

/// Smaller chunks than this save little and cost much.
const LEAST_CHUNK: usize = 128;

/// No longer sequence and no larger batch is looked for, in tokens of a micro-batch: what fits up to
/// here is said to fit in this much or more.
pub const MOST_TOKENS: usize = 1 << 24;

/// Operations that a chunk has to give a card in one layer. A chunk is about a hundred launches a
/// layer, and the host takes some 25 µs for each; in the meantime a card does 2 · 10¹⁴ operations a
/// second. With less, the card waits for the host: 8,192 tokens of a model of 28 layers and width
/// 1024 took 1.04 s in chunks of 1,024 tokens, and 0.57 s in one.
const AMPLE_OPERATIONS: f64 = 5e11;

/// The chunk for a sequence where none is asked for: as many tokens as keep the device busy, since
/// more would take memory and save no time.
///
/// On a GPU that is 5 · 10¹¹ operations in one layer, forward, again, and backward, within 1,024 and
/// 8,192 tokens, and no more than half the sequence, so that streaming is not gradient checkpointing,
/// unless half is less than 1,024: a product of fewer rows leaves workgroups idle at any width.
///
/// On the CPU nothing is launched, and a chunk that stays near the processor is as fast as any: a
/// thirty-second part of the sequence, within 256 and 1,024 tokens.
pub fn ample_chunk(model: &ModelConfig, load: &Load, target: Target) -> usize {
    if !target.gpu {
        return (load.time / 32).next_multiple_of(128).clamp(256, 1024);
    }
    let head = model.vocab_size * model.hidden_size;
    let layers = model.parameter_counts().computed.saturating_sub(head) as f64;
    let per_token = 8.0 * layers / model.num_hidden_layers.max(1) as f64;
    let ample = (AMPLE_OPERATIONS / per_token.max(1.0)) as usize;
    let half = load.time.div_ceil(2).next_multiple_of(128).max(1024);
    ample.next_multiple_of(512).clamp(1024, 8192).min(half)
}

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
    /// Whether the results of attention are kept too.
    pub attention: KeepAttention,
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
    /// Whether that is within the limit, and no buffer larger than the device's; `None` where no limit
    /// is known.
    pub fits: Option<bool>,
}

impl Candidate {
    /// Whether the results of attention are kept beside the layers' inputs.
    pub fn keeps_attention(&self) -> bool {
        match self.prediction.way {
            Backpropagation::Streamed(settings) => settings.keep_attention,
            Backpropagation::Plain => false,
        }
    }

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
        if self.oversized(prediction).is_some() {
            return Some(false);
        }
        let needed = prediction.needed() + self.beside;
        self.limit.map(|limit| needed <= limit)
    }

    /// The device's largest buffer, where the rows of a mixture's choices need a larger one.
    pub fn oversized(&self, prediction: &Prediction) -> Option<u64> {
        let most = self.target.largest_buffer.filter(|_| self.target.cube)?;
        (prediction.largest_rows > most).then_some(most)
    }

    fn predicted(&self, load: &Load, way: Backpropagation) -> Prediction {
        predict(self.model, load, self.target, way)
    }

    fn streamed(&self, chunk: Option<usize>) -> Backpropagation {
        Backpropagation::Streamed(Settings {
            chunk,
            keep: self.keep,
            keep_attention: self.attention == KeepAttention::Keep,
        })
    }

    /// What `mode` needs for `load`. If it may choose, results of attention are kept where that is
    /// known to fit, and streaming is in the largest chunk that fits.
    fn candidate(&self, mode: Mode, load: &Load) -> Candidate {
        if mode != Mode::Plain && self.attention == KeepAttention::Auto {
            let with = |attention| Question { attention, ..*self }.candidate(mode, load);
            let (keeping, again) = (with(KeepAttention::Keep), with(KeepAttention::Recompute));
            // Not at the price of smaller chunks.
            return match keeping.fits == Some(true) && keeping.chunk() >= again.chunk() {
                true => keeping,
                false => again,
            };
        }
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
                let mut chunk = ample_chunk(self.model, load, self.target);
                let mut least = of(self.streamed(Some(chunk)));
                while least.fits == Some(false) && chunk > LEAST_CHUNK {
                    chunk /= 2;
                    let smaller = of(self.streamed(Some(chunk)));
                    let sizes = |candidate: &Candidate| {
                        let Prediction { largest_rows, .. } = candidate.prediction;
                        (candidate.prediction.needed(), largest_rows)
                    };
                    let (less, rows) = sizes(&smaller);
                    if less < sizes(&least).0 || rows < sizes(&least).1 {
                        least = smaller;
                    }
                }
                least
            }
        }
    }

    /// Whether the run may take `mode`.
    pub fn may_take(&self, mode: Mode) -> bool {
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
        if self.target.gpu && self.keep != Keep::Host {
            let elsewhere = Question {
                keep: Keep::Host,
                attention: KeepAttention::Recompute,
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

#[cfg(test)]
mod tests {
    use bellows_kernels::Compute;

    use super::*;

    fn chunk(hidden: usize, time: usize, target: Target) -> usize {
        let model = ModelConfig {
            vocab_size: 151_936,
            hidden_size: hidden,
            intermediate_size: 3 * hidden,
            num_hidden_layers: 28,
            num_attention_heads: 16,
            num_key_value_heads: 8,
            head_dim: hidden / 8,
            ..ModelConfig::default()
        };
        let load = Load {
            batch: 1,
            time,
            micro_batches: 1,
            documents: false,
            training: true,
            head_twice: false,
        };
        ample_chunk(&model, &load, target)
    }

    #[test]
    fn a_chunk_is_never_too_small_for_a_card_nor_as_long_as_a_long_sequence() {
        let gpu = Target::gpu(Compute::Bf16);
        for (hidden, time, wanted) in [
            (1024, 8192, 4096),
            (1024, 65_536, 4096),
            // Wide layers fill a card with fewer tokens, narrow ones never do.
            (4096, 65_536, 1024),
            (256, 65_536, 8192),
            (1024, 4096, 2048),
            (1024, 600, 1024),
        ] {
            assert_eq!(chunk(hidden, time, gpu), wanted, "{hidden}, {time}");
        }
    }

    #[test]
    fn a_chunk_on_the_cpu_is_a_small_part_of_a_long_sequence() {
        for (time, wanted) in [(1, 256), (8192, 256), (20_000, 640), (65_536, 1024)] {
            assert_eq!(chunk(1024, time, Target::cpu()), wanted, "{time}");
        }
    }
}
