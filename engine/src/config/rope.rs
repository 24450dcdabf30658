//! Rotary position embedding: what a configuration says of it.

use serde::{Deserialize, Serialize};

/// Rotary position embedding (arXiv 2104.09864).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// Rotate neighbouring pairs (2i, 2i+1) instead of halves (i, i + d/2).
    pub interleaved: bool,
    /// Stretching of positions for contexts longer than trained.
    pub scaling: RopeScaling,
}

impl Default for RopeConfig {
    fn default() -> Self {
        Self {
            theta: 10_000.0,
            interleaved: false,
            scaling: RopeScaling::Default,
        }
    }
}

/// Scaling of rotary frequencies, in Hugging Face's terms.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "snake_case", deny_unknown_fields)]
pub enum RopeScaling {
    /// None.
    #[default]
    Default,
    /// All positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, smooth between.
    Llama3 {
        /// Divisor of long wavelengths.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths under `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context of the original training.
        original_max_position_embeddings: usize,
    },
    /// YaRN (arXiv 2309.00071).
    Yarn {
        /// Divisor of interpolated frequencies.
        factor: f64,
        /// Context of the original training.
        original_max_position_embeddings: usize,
        /// Rotations over the original context above which a frequency is kept.
        #[serde(default = "default_beta_fast")]
        beta_fast: f64,
        /// Rotations under which a frequency is divided by `factor`.
        #[serde(default = "default_beta_slow")]
        beta_slow: f64,
        /// Factor on cosines and sines, where given outright.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attention_factor: Option<f64>,
        /// DeepSeek's numerator of the factor on cosines and sines.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mscale: Option<f64>,
        /// DeepSeek's denominator, which also scales MLA's softmax.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mscale_all_dim: Option<f64>,
        /// Round the correction range to whole dimensions.
        #[serde(default = "default_truncate")]
        truncate: bool,
    },
}

fn default_beta_fast() -> f64 {
    32.0
}

fn default_beta_slow() -> f64 {
    1.0
}

fn default_truncate() -> bool {
    true
}
