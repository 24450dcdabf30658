//! Frequencies of the rotary embedding, and the cosines and sines of a batch's positions.

use bellows_kernels::rope::Rotation;
use burn::tensor::{Device, Tensor, TensorData};

use crate::config::{RopeConfig, RopeScaling};

/// Frequencies of a head of `width` features, and the factor on cosines and sines.
///
/// Returns `width / 2` angular frequencies in radians a position. Sources: arXiv 2104.09864,
/// Llama 3.1's model card, YaRN (2309.00071) with DeepSeek's `mscale`.
pub fn frequencies(config: &RopeConfig, width: usize) -> (Vec<f32>, f64) {
    let plain = (0..width / 2).map(|i| config.theta.powf(-(2.0 * i as f64) / width as f64));
    match &config.scaling {
        RopeScaling::Default => (plain.map(|f| f as f32).collect(), 1.0),
        RopeScaling::Linear { factor } => (plain.map(|f| (f / factor) as f32).collect(), 1.0),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let original = *original_max_position_embeddings as f64;
            let scaled = plain.map(|frequency| {
                let wavelength = std::f64::consts::TAU / frequency;
                let smooth = ((original / wavelength - low_freq_factor)
                    / (high_freq_factor - low_freq_factor))
                    .clamp(0.0, 1.0);
                ((1.0 - smooth) * frequency / factor + smooth * frequency) as f32
            });
            (scaled.collect(), 1.0)
        }
        RopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            beta_fast,
            beta_slow,
            attention_factor,
            mscale,
            mscale_all_dim,
            truncate,
        } => {
            let original = *original_max_position_embeddings as f64;
            // The dimension at which `rotations` turns fit in the original context.
            let dimension = |rotations: f64| {
                width as f64 * (original / (rotations * std::f64::consts::TAU)).ln()
                    / (2.0 * config.theta.ln())
            };
            let (mut low, mut high) = (dimension(*beta_fast), dimension(*beta_slow));
            if *truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            low = low.max(0.0);
            high = high.min(width as f64 - 1.0);
            if low == high {
                high += 0.001;
            }
            let scaled = plain.enumerate().map(|(i, frequency)| {
                let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                (frequency / factor * ramp + frequency * (1.0 - ramp)) as f32
            });
            let attention_factor = match (attention_factor, mscale, mscale_all_dim) {
                (Some(given), _, _) => *given,
                (None, Some(top), Some(all)) if *top != 0.0 && *all != 0.0 => {
                    yarn_mscale(*factor, *top) / yarn_mscale(*factor, *all)
                }
                _ => yarn_mscale(*factor, 1.0),
            };
            (scaled.collect(), attention_factor)
        }
    }
}

/// YaRN's temperature for a stretching by `factor`.
fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * mscale * factor.ln() + 1.0
    }
}

/// The factor that DeepSeek's YaRN puts on the softmax scale of MLA.
pub fn mla_softmax_factor(config: &RopeConfig) -> f64 {
    match config.scaling {
        RopeScaling::Yarn {
            factor,
            mscale_all_dim: Some(all),
            ..
        } if all != 0.0 => yarn_mscale(factor, all).powi(2),
        _ => 1.0,
    }
}

/// Cosines and sines for `positions`, `rows` sequences of equal length.
pub fn rotation(
    config: &RopeConfig,
    width: usize,
    positions: &[i32],
    rows: usize,
    device: &Device,
) -> Rotation {
    let (frequencies, factor) = frequencies(config, width);
    let time = positions.len() / rows.max(1);
    let shape = [rows, 1, time, frequencies.len()];
    let (mut cos, mut sin) = (Vec::new(), Vec::new());
    cos.reserve_exact(positions.len() * frequencies.len());
    sin.reserve_exact(positions.len() * frequencies.len());
    for &position in positions {
        for &frequency in &frequencies {
            // The reference multiplies in f32; the same rounding keeps logits equal far out.
            let angle = position as f32 * frequency;
            cos.push((angle.cos() as f64 * factor) as f32);
            sin.push((angle.sin() as f64 * factor) as f32);
        }
    }
    Rotation {
        cos: Tensor::from_data(TensorData::new(cos, shape), device),
        sin: Tensor::from_data(TensorData::new(sin, shape), device),
        interleaved: config.interleaved,
    }
}
