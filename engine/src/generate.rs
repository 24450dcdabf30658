//! Text generation: one token at a time, keys and values cached.

use bellows_kernels::host;
use burn::tensor::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::model::{Cache, Decoder, Input, Sequences};

/// How the next token is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Most tokens to add.
    pub max_tokens: usize,
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f64,
    /// Only the likeliest `top_k` tokens; `None`: all.
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that together have this probability; `None`: all.
    pub top_p: Option<f64>,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            max_tokens: 64,
            temperature: 0.8,
            top_k: Some(40),
            top_p: None,
            seed: 0,
        }
    }
}

/// Continues `prompt` (at least one token) until `stop`, `max_tokens`, or the model's longest
/// sequence. Calls `emit` with each new token; `false` from it ends generation. `model` must come
/// from [`Module::valid`](burn::module::Module::valid).
pub fn generate(
    model: &Decoder,
    prompt: &[u32],
    stop: Option<u32>,
    sampling: &Sampling,
    device: &Device,
    mut emit: impl FnMut(u32) -> bool,
) {
    let config = model.config();
    let mut rng = ChaCha8Rng::seed_from_u64(sampling.seed);
    let mut cache = Cache::new(config.num_hidden_layers);
    let limit = config.max_position_embeddings;
    // The end of a prompt longer than the model's context is what a continuation depends on.
    let keep = prompt.len().min(limit.saturating_sub(1).max(1));
    let mut next: Vec<i32> = prompt[prompt.len() - keep..]
        .iter()
        .map(|&id| id as i32)
        .collect();
    for _ in 0..sampling.max_tokens {
        if next.is_empty() || cache.length + next.len() > limit {
            return;
        }
        let sequences = Sequences::plain(1, next.len(), next);
        let input = Input::new(config, &sequences, cache.length, device);
        let hidden = model.forward(&input, Some(&mut cache)).hidden;
        let [rows, width] = hidden.dims();
        let last: Tensor<2> = hidden.narrow(0, rows - 1, 1).reshape([1, width]);
        let logits = host::floats(model.logits(last));
        let token = draw(&logits, sampling, &mut rng);
        if Some(token) == stop || !emit(token) {
            return;
        }
        next = vec![token as i32];
    }
}

/// Draws a token from `logits`.
fn draw(logits: &[f32], sampling: &Sampling, rng: &mut impl Rng) -> u32 {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    // Ties by index: the same text on every run.
    order.sort_by(|&a, &b| {
        logits[b as usize]
            .total_cmp(&logits[a as usize])
            .then(a.cmp(&b))
    });
    if sampling.temperature <= 0.0 {
        return order[0];
    }
    let best = f64::from(logits[order[0] as usize]);
    order.truncate(sampling.top_k.unwrap_or(usize::MAX).max(1));
    let weights: Vec<f64> = order
        .iter()
        .map(|&id| ((f64::from(logits[id as usize]) - best) / sampling.temperature).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    let wanted = sampling.top_p.unwrap_or(1.0).clamp(0.0, 1.0) * total;
    let mut kept = 0;
    let mut mass = 0.0;
    while kept < weights.len() && (kept == 0 || mass < wanted) {
        mass += weights[kept];
        kept += 1;
    }
    let mut point = rng.random::<f64>() * mass;
    for (&id, weight) in order[..kept].iter().zip(&weights) {
        point -= weight;
        if point <= 0.0 {
            return id;
        }
    }
    order[kept - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(sampling: &Sampling) -> Vec<u32> {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let logits = [1.0, 3.0, 2.0, -5.0];
        (0..200)
            .map(|_| draw(&logits, sampling, &mut rng))
            .collect()
    }

    #[test]
    fn temperature_zero_takes_the_likeliest() {
        let sampling = Sampling {
            temperature: 0.0,
            ..Sampling::default()
        };
        assert!(draws(&sampling).iter().all(|&id| id == 1));
    }

    #[test]
    fn top_k_and_top_p_leave_out_the_tail() {
        let two = Sampling {
            temperature: 1.0,
            top_k: Some(2),
            ..Sampling::default()
        };
        let seen = draws(&two);
        assert!(seen.contains(&1) && seen.contains(&2) && !seen.contains(&0));
        let nucleus = Sampling {
            temperature: 1.0,
            top_k: None,
            top_p: Some(0.5),
            ..Sampling::default()
        };
        assert!(draws(&nucleus).iter().all(|&id| id == 1));
    }
}
