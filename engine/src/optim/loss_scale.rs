//! Dynamic loss scaling for f16 (arXiv 1710.03740).
//!
//! Gradients in f16 vanish below 6 · 10⁻⁸. The loss is multiplied by a scale before its backward
//! pass and the optimizer divides gradients by it. A gradient that overflows shows that the scale
//! is too high: the step is skipped and the scale halved. After a run of good steps it doubles.

use serde::{Deserialize, Serialize};

/// Factor on the scale after [`LossScaleConfig::growth_interval`] good steps.
pub const GROWTH_FACTOR: f64 = 2.0;

/// Factor on the scale after an overflow.
pub const BACKOFF_FACTOR: f64 = 0.5;

/// The scale never falls below: what still overflows then does so without any scaling.
pub const MIN_SCALE: f64 = 1.0;

/// The scale never grows beyond: 2²⁴, far more than gradients in f16 need.
pub const MAX_SCALE: f64 = 16_777_216.0;

/// Settings of the scaler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossScaleConfig {
    /// First scale.
    pub initial: f64,
    /// Good steps in a row after which the scale doubles.
    pub growth_interval: u64,
}

impl Default for LossScaleConfig {
    fn default() -> Self {
        Self {
            initial: 65_536.0,
            growth_interval: 2_000,
        }
    }
}

/// The scale, and how long it has been good.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// What the next loss is multiplied by.
    pub scale: f64,
    /// Steps applied since the scale last changed.
    pub good_steps: u64,
}

impl LossScale {
    /// The scale of a first step.
    pub fn new(config: &LossScaleConfig) -> Self {
        Self {
            scale: config.initial,
            good_steps: 0,
        }
    }

    /// Counts an applied step.
    pub fn applied(&mut self, config: &LossScaleConfig) {
        self.good_steps += 1;
        if self.good_steps >= config.growth_interval {
            // A first scale above the bound may stay.
            self.scale = (self.scale * GROWTH_FACTOR).min(MAX_SCALE.max(self.scale));
            self.good_steps = 0;
        }
    }

    /// Lowers the scale after a gradient overflowed. Returns whether it could: at the lowest
    /// scale an overflow has another cause.
    pub fn overflowed(&mut self) -> bool {
        let before = self.scale;
        self.scale = (self.scale * BACKOFF_FACTOR).max(MIN_SCALE);
        self.good_steps = 0;
        self.scale < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> LossScaleConfig {
        LossScaleConfig {
            initial: 8.0,
            growth_interval: 3,
        }
    }

    #[test]
    fn growth_waits_for_good_steps_in_a_row() {
        let (config, mut loss_scale) = (config(), LossScale::new(&config()));
        loss_scale.applied(&config);
        loss_scale.applied(&config);
        assert!(loss_scale.overflowed());
        assert_eq!(loss_scale.scale, 4.0);
        loss_scale.applied(&config);
        loss_scale.applied(&config);
        assert_eq!(loss_scale.scale, 4.0, "the overflow began a new count");
        loss_scale.applied(&config);
        assert_eq!(loss_scale.scale, 8.0);
        assert_eq!(loss_scale.good_steps, 0);
    }

    #[test]
    fn the_scale_stays_within_its_bounds_and_says_so() {
        let mut loss_scale = LossScale {
            scale: 2.0,
            good_steps: 0,
        };
        assert!(loss_scale.overflowed());
        assert!(!loss_scale.overflowed(), "it was at the lowest");
        assert_eq!(loss_scale.scale, MIN_SCALE);
        loss_scale.scale = MAX_SCALE;
        for _ in 0..3 {
            loss_scale.applied(&config());
        }
        assert_eq!(loss_scale.scale, MAX_SCALE);
    }

    #[test]
    fn the_defaults_are_those_of_the_field() {
        let config = LossScaleConfig::default();
        assert_eq!((config.initial, config.growth_interval), (65_536.0, 2_000));
    }
}
