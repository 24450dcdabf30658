//! Ranges of single values, and rules that tie sections together.

use bellows_data::{DataConfig, DataError, Packing, RecordForm, SourceConfig};
use bellows_engine::config::{ConfigError, ModelConfig, RopeScaling};
use bellows_engine::objective::Objective;
use bellows_engine::optim::{MIN_SCALE, Schedule};

use super::RunConfig;

/// Its inverse, by which gradients are multiplied, is far from where f32 loses digits.
const LARGEST_SCALE: f64 = 1e30;

/// Something about the value of one key.
pub struct Finding {
    /// `section.key`.
    pub key: String,
    /// What it is and what it must be.
    pub message: String,
}

/// All that was found.
#[derive(Default)]
pub struct Findings {
    pub errors: Vec<Finding>,
    pub warnings: Vec<Finding>,
}

impl Findings {
    fn require(&mut self, holds: bool, key: &str, value: impl std::fmt::Debug, rule: &str) {
        if !holds {
            self.error(key, format!("{key} is {value:?}: it must be {rule}"));
        }
    }

    fn error(&mut self, key: &str, message: impl Into<String>) {
        self.errors.push(Finding {
            key: key.to_owned(),
            message: message.into(),
        });
    }

    fn warn(&mut self, holds: bool, key: &str, message: impl FnOnce() -> String) {
        if !holds {
            self.warnings.push(Finding {
                key: key.to_owned(),
                message: message(),
            });
        }
    }

    fn at_least(&mut self, key: &str, value: u64, least: u64) {
        self.require(value >= least, key, value, &format!("{least} or more"));
    }

    fn not_negative(&mut self, key: &str, value: f64) {
        let holds = value.is_finite() && value >= 0.0;
        self.require(holds, key, value, "a finite number, 0 or more");
    }

    fn positive(&mut self, key: &str, value: f64) {
        let holds = value.is_finite() && value > 0.0;
        self.require(holds, key, value, "a finite number above 0");
    }

    fn share(&mut self, key: &str, value: f64) {
        self.require((0.0..=1.0).contains(&value), key, value, "from 0 to 1");
    }
}

/// Longest name of a run, in characters.
pub const LONGEST_NAME: usize = 100;

/// Whether a run's name may hold this character: every file system and shell takes it as it is.
pub fn fits_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// Checks everything that can be known without opening a file or a device.
pub fn check(config: &RunConfig) -> Findings {
    let mut findings = Findings::default();
    run(config, &mut findings);
    model(&config.model, &mut findings);
    data(&config.data, &mut findings);
    objective(config, &mut findings);
    train(config, &mut findings);
    optimizer(config, &mut findings);
    schedule(config, &mut findings);
    router(config, &mut findings);
    rest(config, &mut findings);
    across(config, &mut findings);
    findings
}

fn run(config: &RunConfig, findings: &mut Findings) {
    let run = &config.run;
    if let Some(name) = &run.name {
        let fits = !name.is_empty()
            && name.len() <= LONGEST_NAME
            && name.chars().all(fits_name)
            && !name.starts_with(['.', '-']);
        findings.require(
            fits,
            "run.name",
            name,
            "1 to 100 letters, digits, \"-\", \"_\" and \".\", beginning with a letter, a digit or \"_\"",
        );
    }
    findings.require(
        !run.directory.as_os_str().is_empty(),
        "run.directory",
        &run.directory,
        "the path of a folder",
    );
    // TOML's and JSON readers' whole numbers end there.
    let largest = i64::MAX as u64;
    let rule = format!("at most {largest}");
    findings.require(run.seed <= largest, "run.seed", run.seed, &rule);
    findings.require(
        config.data.seed <= largest,
        "data.seed",
        config.data.seed,
        &rule,
    );
}

fn model(model: &ModelConfig, findings: &mut Findings) {
    match model.validate() {
        Ok(()) => {}
        Err(error @ ConfigError::Invalid { field, .. }) => {
            findings.error(&format!("model.{field}"), error.to_string());
        }
        Err(error) => findings.error("model", error.to_string()),
    }
    let key = |name: &str| format!("model.rope.scaling.{name}");
    match model.rope.scaling {
        RopeScaling::Default => {}
        RopeScaling::Linear { factor } => findings.positive(&key("factor"), factor),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings: original,
        } => {
            findings.positive(&key("factor"), factor);
            findings.positive(&key("low_freq_factor"), low_freq_factor);
            findings.require(
                high_freq_factor.is_finite() && high_freq_factor > low_freq_factor,
                &key("high_freq_factor"),
                high_freq_factor,
                "above low_freq_factor",
            );
            findings.at_least(&key("original_max_position_embeddings"), original as u64, 1);
        }
        RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: original,
            beta_fast,
            beta_slow,
            ..
        } => {
            findings.positive(&key("factor"), factor);
            findings.at_least(&key("original_max_position_embeddings"), original as u64, 1);
            findings.positive(&key("beta_slow"), beta_slow);
            findings.require(
                beta_fast.is_finite() && beta_fast > beta_slow,
                &key("beta_fast"),
                beta_fast,
                "above beta_slow",
            );
        }
    }
}

fn data(data: &DataConfig, findings: &mut Findings) {
    match data.validate() {
        Ok(()) => {}
        Err(DataError::Config { key, message }) => {
            findings.error(&key, format!("{key}: {message}"));
        }
        Err(error) => findings.error("data", error.to_string()),
    }
}

fn objective(config: &RunConfig, findings: &mut Findings) {
    let (kind, wanted) = (config.objective.as_str(), config.data.packing);
    match config.objective {
        Objective::Pretrain {} | Objective::Sft {} => {}
        Objective::Dpo { beta } => {
            findings.positive("objective.beta", beta);
            let size = config.train.batch_size;
            findings.require(
                size.is_multiple_of(2),
                "train.batch_size",
                size,
                "even with objective.kind = \"dpo\": a pair is two sequences of one micro-batch",
            );
        }
        Objective::Grpo { beta, epsilon, .. } => {
            findings.not_negative("objective.beta", beta);
            let holds = epsilon > 0.0 && epsilon < 1.0;
            findings.require(holds, "objective.epsilon", epsilon, "above 0 and under 1");
        }
    }
    let form = match &config.data.source {
        SourceConfig::Jsonl(records) | SourceConfig::Parquet(records) => Some(records.form),
        _ => None,
    };
    let needed = match config.objective {
        Objective::Pretrain {} => None,
        Objective::Sft {} => Some(RecordForm::Supervised),
        Objective::Dpo { .. } => Some(RecordForm::Preference),
        Objective::Grpo { .. } => Some(RecordForm::Groups),
    };
    let alternatives = [RecordForm::Preference, RecordForm::Groups];
    match (form, needed) {
        (None, Some(_)) => findings.error(
            "data.source.kind",
            format!("objective.kind = {kind:?} needs rows with columns: set data.source.kind to \"jsonl\" or \"parquet\""),
        ),
        (Some(found), Some(needed)) if found != Some(needed) && config.objective.has_reference() => {
            findings.error(
                "data.source.form",
                format!("objective.kind = {kind:?} needs data.source.form = {:?}, and no column or template of its own", needed.as_str()),
            );
        }
        (Some(Some(found)), _) if !config.objective.has_reference() && alternatives.contains(&found) => {
            let of = if found == RecordForm::Groups { "grpo" } else { "dpo" };
            findings.error(
                "data.source.form",
                format!("data.source.form = {:?} is for objective.kind = {of:?}, not {kind:?}", found.as_str()),
            );
        }
        _ => {}
    }
    if config.objective.has_reference() {
        if wanted != Packing::Off {
            findings.error(
                "data.packing",
                format!("data.packing is {:?}: with objective.kind = {kind:?} it must be \"off\", a completion a sequence", wanted.as_str()),
            );
        }
        if config.train.init_from.is_none() {
            findings.error(
                "objective.kind",
                format!("objective.kind = {kind:?} needs a policy to start from: set train.init_from to a model folder or a run"),
            );
        }
    }
}

fn train(config: &RunConfig, findings: &mut Findings) {
    let train = &config.train;
    findings.at_least("train.steps", train.steps, 1);
    findings.at_least("train.batch_size", train.batch_size as u64, 1);
    findings.at_least("train.sequence_length", train.sequence_length as u64, 2);
    findings.at_least("train.accumulation", train.accumulation as u64, 1);
    findings.at_least("train.skip_limit", train.skip_limit, 1);
    if let Some(minutes) = train.max_minutes {
        findings.positive("train.max_minutes", minutes);
    }
    let scale = config.loss_scale.initial;
    findings.require(
        (MIN_SCALE..=LARGEST_SCALE).contains(&scale),
        "loss_scale.initial",
        scale,
        "from 1 to 1e30",
    );
    let interval = config.loss_scale.growth_interval;
    findings.at_least("loss_scale.growth_interval", interval, 1);
}

fn optimizer(config: &RunConfig, findings: &mut Findings) {
    let optimizer = &config.optimizer;
    let rate = optimizer.learning_rate;
    findings.positive("optimizer.learning_rate", rate);
    for (key, beta) in [
        ("optimizer.beta1", optimizer.beta1),
        ("optimizer.beta2", optimizer.beta2),
    ] {
        findings.require((0.0..1.0).contains(&beta), key, beta, "from 0 to under 1");
    }
    findings.positive("optimizer.eps", optimizer.eps);
    findings.not_negative("optimizer.weight_decay", optimizer.weight_decay);
    if let Some(norm) = optimizer.max_grad_norm {
        findings.not_negative("optimizer.max_grad_norm", norm);
    }
    findings.warn(rate <= 0.1, "optimizer.learning_rate", || {
        format!("optimizer.learning_rate is {rate}: AdamW hardly ever learns above 0.1")
    });
    findings.warn(
        rate * optimizer.weight_decay < 1.0,
        "optimizer.weight_decay",
        || {
            "optimizer.weight_decay times the learning rate reaches 1: each step erases the weights"
                .into()
        },
    );
}

fn schedule(config: &RunConfig, findings: &mut Findings) {
    let steps = config.train.steps;
    let warmup = match config.schedule {
        Schedule::Constant { warmup_steps } => warmup_steps,
        Schedule::Cosine {
            warmup_steps,
            min_ratio,
        }
        | Schedule::Linear {
            warmup_steps,
            min_ratio,
        } => {
            findings.share("schedule.min_ratio", min_ratio);
            warmup_steps
        }
        Schedule::Wsd {
            warmup_steps,
            decay_steps,
            min_ratio,
        } => {
            findings.share("schedule.min_ratio", min_ratio);
            findings.at_least("schedule.decay_steps", decay_steps, 1);
            let together = warmup_steps.saturating_add(decay_steps);
            findings.warn(together <= steps, "schedule.decay_steps", || {
                format!(
                    "warm-up and decay take {together} of {steps} steps: the decay begins earlier than its length says"
                )
            });
            warmup_steps
        }
    };
    findings.warn(warmup < steps, "schedule.warmup_steps", || {
        format!(
            "schedule.warmup_steps is {warmup} of {steps} steps: the learning rate never reaches its peak"
        )
    });
}

fn router(config: &RunConfig, findings: &mut Findings) {
    let router = &config.router;
    findings.not_negative("router.balance_coefficient", router.balance_coefficient);
    findings.not_negative("router.z_loss_coefficient", router.z_loss_coefficient);
    findings.not_negative("router.bias_update_speed", router.bias_update_speed);
    if router.bias_update_speed > 0.0 && !config.model.score_correction_bias {
        findings.error(
            "router.bias_update_speed",
            format!(
                "router.bias_update_speed is {}: loss-free balancing needs model.score_correction_bias = true",
                router.bias_update_speed
            ),
        );
    }
}

fn rest(config: &RunConfig, findings: &mut Findings) {
    let sample = &config.sample;
    findings.at_least("sample.max_tokens", sample.max_tokens as u64, 1);
    findings.not_negative("sample.temperature", sample.temperature);
    let top_p = sample.top_p;
    findings.require(
        top_p > 0.0 && top_p <= 1.0,
        "sample.top_p",
        top_p,
        "above 0, to 1",
    );
    let keep = config.checkpoint.keep_last as u64;
    findings.at_least("checkpoint.keep_last", keep, 1);
    findings.at_least("record.metrics_every", config.record.metrics_every, 1);
    if config.record.traces_every > 0 {
        let tokens = config.record.probe_tokens as u64;
        findings.at_least("record.probe_tokens", tokens, 1);
    }
}

fn across(config: &RunConfig, findings: &mut Findings) {
    let (model, data) = (&config.model, &config.data);
    let (length, longest) = (config.train.sequence_length, model.max_position_embeddings);
    findings.warn(length <= longest, "train.sequence_length", || {
        format!(
            "train.sequence_length is {length}: longer than model.max_position_embeddings ({longest})"
        )
    });
    let learned = data
        .tokenizer
        .path
        .is_none()
        .then_some(data.tokenizer.vocab_size);
    if let Some(tokens) = learned
        && model.vocab_size > 0
        && tokens > model.vocab_size
    {
        findings.error(
            "model.vocab_size",
            format!(
                "model.vocab_size is {}: the tokenizer will have {tokens} tokens (data.tokenizer.vocab_size); \
                 lower that, or set model.vocab_size to 0 to follow it",
                model.vocab_size
            ),
        );
    }
    let held_out = data.validation.fraction > 0.0 || !data.validation.paths.is_empty();
    findings.warn(
        held_out || !config.checkpoint.keep_best,
        "checkpoint.keep_best",
        || "checkpoint.keep_best has no effect: nothing is held out for validation".into(),
    );
}
