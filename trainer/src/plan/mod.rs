//! The memory plan of a run: what `bellows plan` tells, what `train` chooses, and what is checked
//! before each step.
//!
//! The engine predicts ([`bellows_engine::plan`]); here are the run's configuration, the device and
//! its limit, and words.

mod document;
mod guard;
mod limit;
mod measure;
mod refusal;
mod shapes;
mod words;

pub use guard::{Guard, Verdict};
pub use measure::{Measured, made_up_batch, measure};
pub use refusal::{Attempt, attempt};
pub use shapes::{Sample, Sizes, samples};
pub use words::{advice, owners, phases, phases_measured, table, verdict, ways};

use bellows_data::{Packing, Tokenizer};
use bellows_engine::kernels::Compute;
use bellows_engine::model::Numerics;
use bellows_engine::plan::{
    Chunks, Load, Plan, Question, Target, choose, largest, largest_parameter,
};
use bellows_engine::stream::{KeepAttention, Memory};

use crate::config::RunConfig;
use crate::device::OpenDevice;
use crate::error::Error;
use crate::ui::bytes;
use limit::Limit;

/// Everything that a plan depends on.
#[derive(Clone, Debug)]
pub struct Planner {
    config: RunConfig,
    target: Target,
    numerics: Numerics,
    /// Name of the device.
    device: String,
    limit: Limit,
}

impl Planner {
    /// Plans runs of `config` on `opened`, which multiplies in `compute`. The model's vocabulary
    /// must be known.
    pub fn new(config: &RunConfig, opened: &OpenDevice, compute: Compute) -> Self {
        let numerics = numerics(config, compute);
        Self {
            target: Target::of(&opened.device, numerics),
            numerics,
            device: opened.name().to_owned(),
            limit: Limit::of(config, opened),
            config: config.clone(),
        }
    }

    /// Plans runs of `config` on a GPU that is not here, of which only the memory is known.
    pub fn absent(config: &RunConfig, compute: Compute) -> Self {
        Self {
            target: Target::gpu(compute),
            numerics: numerics(config, compute),
            device: "a GPU that is not here".into(),
            limit: Limit::given(config),
            config: config.clone(),
        }
    }

    /// Whether one buffer of the device takes each parameter that cannot be divided: CubeCL makes none
    /// that is larger than what a kernel can be given. The experts of a layer are held in several.
    ///
    /// # Errors
    /// If it does not take the largest.
    pub fn check_buffers(&self) -> Result<(), Error> {
        let largest = self.target.largest_buffer;
        let parameter = largest_parameter(&self.config.model, largest);
        let Some(most) = largest.filter(|&most| most < parameter.bytes()) else {
            return Ok(());
        };
        let error = Error::input(format!(
            "the model's largest parameter does not fit the device: {}, {:?} in f32, takes {}, and \
             one buffer of {} holds {} at most",
            parameter.what,
            parameter.shape,
            bytes(parameter.bytes()),
            self.device,
            bytes(most),
        ));
        Err(error.help(format!(
            "lower {}, or take another device: `bellows devices` tells the largest buffer of each, \
             and the CPU has no such limit",
            parameter.keys
        )))
    }

    /// The device, its precision and its limit, in words.
    pub fn describe(&self) -> String {
        let limit = match self.limit.bytes {
            Some(limit) => format!("{} ({})", bytes(limit), self.limit.source),
            None => "its memory unknown".into(),
        };
        let precision = format!("{:?}", self.numerics.compute).to_lowercase();
        format!("{}, {precision}, {limit}", self.device)
    }

    /// Bytes that the run may use, where they are known.
    pub fn limit(&self) -> Option<u64> {
        self.limit.bytes
    }

    /// The question whose answer is the plan, with `beside` bytes in use for other things.
    pub fn question(&self, beside: u64) -> Question<'_> {
        let train = &self.config.train;
        Question {
            model: &self.config.model,
            load: Load {
                batch: train.batch_size,
                time: train.sequence_length,
                micro_batches: train.accumulation,
                documents: self.config.data.packing == Packing::Respect,
                training: true,
                head_twice: self.config.objective.has_reference(),
            },
            target: self.target,
            memory: train.memory,
            chunk: match self.config.stream.chunk {
                0 => Chunks::Auto,
                chunk => Chunks::Of(chunk),
            },
            keep: self.config.stream.keep,
            attention: self.config.stream.attention,
            limit: self.limit.bytes,
            beside,
        }
    }

    /// Plans with `beside` bytes in use for other things.
    pub fn plan(&self, beside: u64) -> Answer<'_> {
        let question = self.question(beside);
        Answer {
            planner: self,
            plan: choose(&question),
            question,
        }
    }

    /// Plans as the run was planned before in all that its configuration leaves open, where that
    /// fits; else anew.
    pub fn plan_again(&self, beside: u64, before: Option<Before>) -> Answer<'_> {
        let fresh = self.question(beside);
        if let Some(before) = before
            && [Memory::Auto, before.memory].contains(&fresh.memory)
        {
            let plan = choose(&Question {
                memory: before.memory,
                chunk: match (fresh.chunk, before.chunk) {
                    (Chunks::Auto, Some(chunk)) => Chunks::Of(chunk),
                    (asked, _) => asked,
                },
                attention: match fresh.attention {
                    KeepAttention::Auto => before.attention,
                    asked => asked,
                },
                ..fresh
            });
            if plan.chosen().is_some() {
                return Answer {
                    planner: self,
                    plan,
                    question: fresh,
                };
            }
        }
        self.plan(beside)
    }
}

/// How a model of `config` computes that multiplies in `compute`.
fn numerics(config: &RunConfig, compute: Compute) -> Numerics {
    Numerics {
        kernels: config.model.kernels,
        compute,
        recompute_experts: config.train.recompute_experts,
        ..Numerics::default()
    }
}

/// How a run kept activations before: going on the same way makes the same numbers, to the last bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// Its mode.
    pub memory: Memory,
    /// Tokens of a chunk, where it streamed.
    pub chunk: Option<usize>,
    /// Whether it kept the results of attention.
    pub attention: KeepAttention,
}

impl Before {
    /// As `plan` tells, a run's `plan.json`.
    pub fn of(plan: &serde_json::Value) -> Option<Self> {
        let chunk = plan.get("chunk").and_then(serde_json::Value::as_u64);
        let keeps = plan
            .get("keeps_attention")
            .and_then(serde_json::Value::as_bool);
        Some(Self {
            memory: serde_json::from_value(plan.get("mode")?.clone()).ok()?,
            chunk: chunk.map(|chunk| chunk as usize),
            attention: match keeps {
                Some(true) => KeepAttention::Keep,
                // Plans of before there was the choice do not say.
                Some(false) | None => KeepAttention::Recompute,
            },
        })
    }
}

/// A plan, with what was asked.
#[derive(Clone, Debug)]
pub struct Answer<'a> {
    planner: &'a Planner,
    question: Question<'a>,
    /// The plan.
    pub plan: Plan,
}

impl Answer<'_> {
    /// Longest sequence and largest batch by mode.
    fn largest(&self) -> Vec<(bellows_engine::plan::Mode, Option<usize>, Option<usize>)> {
        largest(&self.question)
    }

    /// A step in each way to keep activations that fits, for [`measure`]; all of them where no limit is
    /// known.
    pub fn samples(&self) -> Vec<Sample> {
        let chosen = self.plan.chosen().map(|candidate| candidate.mode);
        let candidates = self.plan.candidates.iter();
        let fitting = candidates.filter(|candidate| candidate.fits != Some(false));
        fitting
            .map(|candidate| Sample {
                name: match chosen == Some(candidate.mode) {
                    true => format!("{}, what the plan chooses", candidate.mode.as_str()),
                    false => candidate.mode.as_str().to_owned(),
                },
                model: self.question.model.clone(),
                load: self.question.load,
                numerics: self.planner.numerics,
                way: candidate.prediction.way,
                objective: self.planner.config.objective,
                router: self.planner.config.router.clone(),
            })
            .collect()
    }

    /// The error of a run that does not fit.
    pub fn refusal(&self) -> Error {
        let advice = words::advice(self);
        let error = Error::input(format!(
            "the run {}",
            words::verdict(self).trim_end_matches('.')
        ));
        match advice.is_empty() {
            true => error,
            false => error.help(advice.join("\n")),
        }
    }
}

/// Gives `config` a vocabulary where it takes the tokenizer's, without reading the corpus: that of
/// the tokenizer's file, or as many tokens as are to be learned.
///
/// # Errors
/// If the tokenizer cannot be read.
pub fn know_vocabulary(config: &mut RunConfig) -> Result<(), Error> {
    if config.model.vocab_size == 0 {
        config.model.vocab_size = match &config.data.tokenizer.path {
            Some(path) => Tokenizer::load(path)?.vocab_size(),
            None => config.data.tokenizer.vocab_size,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceChoice;

    #[test]
    fn only_what_no_buffer_holds_is_refused_with_both_sizes_before_anything_is_made() {
        let mut config = RunConfig::default();
        config.model.vocab_size = 512;
        config.model.hidden_size = 1024;
        config.model.n_routed_experts = 64;
        config.model.moe_intermediate_size = 4096;
        let opened = DeviceChoice::Cpu.open().expect("the CPU is always there");
        let mut planner = Planner::new(&config, &opened, Compute::F32);
        assert!(planner.check_buffers().is_ok(), "the CPU has no limit");
        // One expert of a layer's 64.
        let needed = 4 * 2 * 4096 * 1024;
        planner.target.largest_buffer = Some(needed);
        assert!(planner.check_buffers().is_ok());
        planner.target.largest_buffer = Some(needed - 1);
        let error = planner.check_buffers().expect_err("one byte too small");
        let message = error.to_string();
        assert!(message.contains("[1, 8192, 1024]"), "{message}");
        assert!(message.contains(&bytes(needed)), "{message}");
        let help = error.help_text().unwrap_or_default();
        assert!(help.contains("model.moe_intermediate_size"), "{help}");
    }

    #[test]
    fn rows_of_choices_that_no_buffer_holds_are_streamed_or_refused_in_words() {
        let mut config = RunConfig::default();
        config.model.vocab_size = 512;
        config.model.n_routed_experts = 8;
        config.model.moe_intermediate_size = 32;
        config.train.batch_size = 1;
        config.train.sequence_length = 4096;
        let opened = DeviceChoice::Cpu.open().expect("the CPU is always there");
        let mut planner = Planner::new(&config, &opened, Compute::F32);
        planner.target = Target::gpu(Compute::F32);
        let model = &config.model;
        let row = 4 * model.num_experts_per_tok + 4 * model.n_shared_experts;
        let widest = (2 * model.moe_intermediate_size).max(model.hidden_size);
        let rows = |tokens: usize| Some((tokens * row * widest) as u64);
        for (tokens, mode) in [(4096, Some("plain")), (4095, Some("stream")), (64, None)] {
            planner.target.largest_buffer = rows(tokens);
            let answer = planner.plan(0);
            let found = answer
                .plan
                .chosen()
                .map(|candidate| candidate.mode.as_str());
            assert_eq!(found, mode, "a buffer of the rows of {tokens} tokens");
            if found.is_none() {
                let message = answer.refusal().to_string();
                assert!(message.contains("largest buffer"), "{message}");
            }
        }
    }
}
