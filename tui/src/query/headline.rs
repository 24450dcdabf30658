//! The numbers a person looks at first.

use crate::query::progress::seconds_left;
use crate::store::RunData;

/// The present of a run, as far as the record tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Headline {
    /// Optimizer steps taken, and of the whole run.
    pub step: (u64, u64),
    /// Tokens trained on.
    pub tokens: u64,
    /// The last loss.
    pub loss: Option<f64>,
    /// The last validation loss and its step.
    pub validation: Option<(u64, f64)>,
    /// The last gradient norm.
    pub grad_norm: Option<f64>,
    /// The last learning rate.
    pub learning_rate: Option<f64>,
    /// The pace of recent steps.
    pub tokens_per_second: Option<f64>,
    /// Arithmetic of the model over the device's measured peak, 0 to 1.
    pub utilisation: Option<f64>,
    /// Memory now, at its peak, and the device's limit, in bytes.
    pub memory: (Option<u64>, Option<u64>, Option<u64>),
    /// Seconds to the end, at the present pace.
    pub seconds_left: Option<f64>,
    /// Seconds trained.
    pub seconds: f64,
    /// Device's name.
    pub device: String,
}

impl Headline {
    /// Of a run.
    pub fn of(run: &RunData) -> Self {
        let present = run.present();
        let last = present.last();
        let finite = |value: f64| value.is_finite().then_some(value);
        let info = run.manifest.as_ref().map(|manifest| &manifest.info);
        let progress = run.manifest.as_ref().map(|manifest| &manifest.progress);
        let pace = last.and_then(|row| finite(row.tokens_per_second));
        let flops = info.and_then(|info| info.model.flops_per_token);
        let peak = info.and_then(|info| info.device.peak_flops);
        let utilisation = match (pace, flops, peak) {
            (Some(pace), Some(flops), Some(peak)) if peak > 0.0 => Some(pace * flops / peak),
            _ => None,
        };
        Self {
            step: (run.step(), run.total_steps()),
            tokens: last.map_or_else(|| progress.map_or(0, |p| p.tokens), |row| row.tokens),
            loss: last.and_then(|row| finite(row.loss)),
            validation: present.validation().or_else(|| run.metrics.validation()),
            grad_norm: last.and_then(|row| row.grad_norm).and_then(finite),
            learning_rate: last.and_then(|row| finite(row.learning_rate)),
            tokens_per_second: pace,
            utilisation,
            memory: (
                last.and_then(|row| row.memory_bytes),
                last.and_then(|row| row.peak_memory_bytes),
                run.memory_limit(),
            ),
            seconds_left: run
                .is_live()
                .then(|| seconds_left(present.recent().iter(), run.total_steps()))
                .flatten(),
            seconds: last.map_or_else(|| progress.map_or(0.0, |p| p.seconds), |row| row.time),
            device: info.map_or_else(String::new, |info| info.device.name.clone()),
        }
    }
}
