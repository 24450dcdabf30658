//! What a run looks at between steps: the validation loss, and text that the model writes.

use bellows_data::Split;
use bellows_engine::generate::Sampling;
use bellows_engine::objective::{Mean, Measures, Objective};
use bellows_engine::policy;
use bellows_record::{Event, EventKind, Sample};
use burn::module::Module;
use serde_json::json;

use super::{Loop, held};
use crate::error::Error;
use crate::run::continue_text;

impl Loop<'_> {
    /// Measures the objective on the validation data, where there is any.
    pub(super) fn evaluate(&mut self) -> Result<(), Error> {
        let Some(validation) = &self.validation else {
            return Ok(());
        };
        let model = held(&self.model).valid();
        let (mut sum, mut labels) = (0.0, 0);
        let mut better_pairs = None;
        for batch in validation.batches() {
            let found = policy::evaluate(
                &model,
                &self.micro_batch(Split::Validation, &batch),
                &self.config.objective,
                &self.device,
                self.guard.way(),
            );
            sum += found.objective;
            labels += found.units;
            if let Measures::Pairs { accuracy, .. } = found.measures {
                *better_pairs.get_or_insert(0.0) += accuracy;
            }
        }
        let loss = sum / labels.max(1) as f64;
        self.state.validation_loss = Some(loss);
        self.last_validation = Some(loss);
        // What the mean is over: pairs have no labels of their own.
        let units = match self.config.objective {
            Objective::Dpo { .. } => "pairs",
            Objective::Grpo {
                mean: Mean::Sequence,
                ..
            } => "completions",
            _ => "labels",
        };
        let mut event = Event::new(self.state.step, EventKind::Evaluated, "")
            .elapsed(self.seconds())
            .with("validation_loss", loss)
            .with(units, labels as u64);
        if let Some(better) = better_pairs {
            event = event.with("rewards_accuracies", better / labels.max(1) as f64);
        }
        self.recorder.writer().event(event)?;
        let better = loss.is_finite() && self.best_validation.is_none_or(|best| loss < best);
        if better {
            self.best_validation = Some(loss);
        }
        let every = self.config.checkpoint.every;
        let soon = every > 0 && self.state.step.is_multiple_of(every);
        if better && self.config.checkpoint.keep_best && every > 0 && !soon {
            self.save();
        }
        Ok(())
    }

    /// Lets the model go on from each of the prompts; returns prompts and continuations.
    pub(super) fn sample(&mut self) -> Result<Vec<(String, String)>, Error> {
        let settings = &self.config.sample;
        let sampling = Sampling {
            max_tokens: settings.max_tokens,
            temperature: settings.temperature,
            top_k: (settings.top_k > 0).then_some(settings.top_k),
            top_p: (settings.top_p < 1.0).then_some(settings.top_p),
            // Another draw at each step, the same one after a resume.
            seed: self.config.run.seed ^ self.state.step.rotate_left(32),
        };
        let model = held(&self.model).valid();
        let mut texts = Vec::new();
        for prompt in &settings.prompts {
            let text = continue_text(&model, &self.tokenizer, prompt, &sampling, &self.device)?;
            let mut sample = Sample {
                step: self.state.step,
                prompt: prompt.clone(),
                text: text.clone(),
                ..Sample::default()
            };
            for (key, value) in [
                ("temperature", json!(settings.temperature)),
                ("top_k", json!(settings.top_k)),
                ("top_p", json!(settings.top_p)),
                ("seed", json!(sampling.seed)),
            ] {
                sample.settings.insert(key.to_owned(), value);
            }
            self.recorder.writer().sample(sample)?;
            texts.push((prompt.clone(), text));
        }
        Ok(texts)
    }
}
