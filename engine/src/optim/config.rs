//! Settings of the optimizer and its schedule.

use serde::{Deserialize, Serialize};

/// AdamW (arXiv 1711.05101) with clipping by the global norm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay: each step scales a weight by 1 − learning rate · decay.
    pub weight_decay: f64,
    /// Kinds of parameters that are not decayed.
    pub no_decay: Vec<ParameterKind>,
    /// Gradients are scaled down to this global L2 norm; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_grad_norm: Option<f64>,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            no_decay: vec![
                ParameterKind::Norm,
                ParameterKind::Bias,
                ParameterKind::Embedding,
            ],
            max_grad_norm: Some(1.0),
        }
    }
}

/// What a parameter is, for weight-decay groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ParameterKind {
    /// Weight of a normalisation.
    Norm,
    /// Bias of a projection.
    Bias,
    /// Token embedding (and the head where tied).
    Embedding,
    /// Output head.
    Head,
    /// Router of a mixture.
    Router,
    /// Every other matrix.
    Matrix,
}

/// Learning rate over the steps of a run, as a factor on the peak.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Schedule {
    /// Always the peak, after warm-up.
    Constant {
        /// Steps of linear warm-up from zero.
        #[serde(default)]
        warmup_steps: u64,
    },
    /// Warm-up, then half a cosine down to `min_ratio`.
    Cosine {
        /// Steps of linear warm-up from zero.
        #[serde(default)]
        warmup_steps: u64,
        /// Last factor.
        #[serde(default)]
        min_ratio: f64,
    },
    /// Warm-up, then a straight line down to `min_ratio`.
    Linear {
        /// Steps of linear warm-up from zero.
        #[serde(default)]
        warmup_steps: u64,
        /// Last factor.
        #[serde(default)]
        min_ratio: f64,
    },
    /// Warm-up, the peak, then a straight line down over the last `decay_steps`
    /// (warmup-stable-decay, arXiv 2404.06395).
    Wsd {
        /// Steps of linear warm-up from zero.
        #[serde(default)]
        warmup_steps: u64,
        /// Steps of the final decay.
        decay_steps: u64,
        /// Last factor.
        #[serde(default)]
        min_ratio: f64,
    },
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule::Cosine {
            warmup_steps: 100,
            min_ratio: 0.1,
        }
    }
}

impl Schedule {
    /// The factor on the peak learning rate at `step` (from 1) of `total` steps.
    pub fn factor(&self, step: u64, total: u64) -> f64 {
        let (warmup, min_ratio) = match *self {
            Schedule::Constant { warmup_steps } => (warmup_steps, 1.0),
            Schedule::Cosine {
                warmup_steps,
                min_ratio,
            }
            | Schedule::Linear {
                warmup_steps,
                min_ratio,
            }
            | Schedule::Wsd {
                warmup_steps,
                min_ratio,
                ..
            } => (warmup_steps, min_ratio),
        };
        if step < warmup {
            return step as f64 / warmup as f64;
        }
        let progress = |start: u64| {
            let span = total.saturating_sub(start).max(1) as f64;
            (step.saturating_sub(start) as f64 / span).clamp(0.0, 1.0)
        };
        match *self {
            Schedule::Constant { .. } => 1.0,
            Schedule::Cosine { .. } => {
                let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress(warmup)).cos());
                min_ratio + (1.0 - min_ratio) * cosine
            }
            Schedule::Linear { .. } => 1.0 - (1.0 - min_ratio) * progress(warmup),
            Schedule::Wsd { decay_steps, .. } => {
                let start = total.saturating_sub(decay_steps).max(warmup);
                1.0 - (1.0 - min_ratio) * progress(start)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(warmup_steps: u64) -> Schedule {
        Schedule::Cosine {
            warmup_steps,
            min_ratio: 0.1,
        }
    }

    fn linear(warmup_steps: u64) -> Schedule {
        Schedule::Linear {
            warmup_steps,
            min_ratio: 0.1,
        }
    }

    fn wsd(warmup_steps: u64, decay_steps: u64) -> Schedule {
        Schedule::Wsd {
            warmup_steps,
            decay_steps,
            min_ratio: 0.1,
        }
    }

    fn assert_factors(schedule: &Schedule, total: u64, wanted: &[(u64, f64)]) {
        for &(step, wanted) in wanted {
            let found = schedule.factor(step, total);
            assert!(
                (found - wanted).abs() < 1e-12,
                "{schedule:?} at {step}: {found}"
            );
        }
    }

    #[test]
    fn warm_up_is_never_zero_and_reaches_the_peak() {
        let constant = Schedule::Constant { warmup_steps: 10 };
        for schedule in [constant, cosine(10), linear(10), wsd(10, 20)] {
            assert_factors(&schedule, 110, &[(1, 0.1), (5, 0.5), (9, 0.9), (10, 1.0)]);
        }
    }

    #[test]
    fn decays_end_at_their_last_factor_and_stay_there() {
        assert_factors(&cosine(10), 110, &[(60, 0.55), (110, 0.1), (200, 0.1)]);
        assert_factors(&linear(10), 110, &[(60, 0.55), (110, 0.1), (200, 0.1)]);
        let stable = [(11, 1.0), (90, 1.0), (100, 0.55), (110, 0.1), (200, 0.1)];
        assert_factors(&wsd(10, 20), 110, &stable);
        let constant = Schedule::Constant { warmup_steps: 0 };
        assert_factors(&constant, 110, &[(1, 1.0), (110, 1.0), (200, 1.0)]);
    }

    #[test]
    fn factors_stay_in_range_where_warm_up_and_decay_do_not_fit() {
        for schedule in [
            cosine(50),
            linear(50),
            wsd(50, 50),
            wsd(0, 0),
            wsd(0, 500),
            cosine(10),
        ] {
            for total in [0, 1, 10, 50, 60] {
                for step in 0..70 {
                    let factor = schedule.factor(step, total);
                    assert!((0.0..=1.0).contains(&factor), "{schedule:?} {step}/{total}");
                }
            }
        }
        // Only ever downwards after the warm-up.
        for schedule in [cosine(5), linear(5), wsd(5, 10)] {
            for step in 5..70 {
                assert!(schedule.factor(step + 1, 60) <= schedule.factor(step, 60));
            }
        }
    }
}
