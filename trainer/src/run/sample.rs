//! Text from a model.

use bellows_data::Tokenizer;
use bellows_engine::generate::{Sampling, generate};
use bellows_engine::model::Decoder;
use burn::tensor::Device;

use crate::error::Error;

/// The continuation of `prompt`, without the prompt. An empty prompt begins a document.
///
/// # Errors
/// If the tokenizer fails.
pub fn continue_text(
    model: &Decoder,
    tokenizer: &Tokenizer,
    prompt: &str,
    sampling: &Sampling,
    device: &Device,
) -> Result<String, Error> {
    let mut tokens = tokenizer.encode(prompt)?;
    if tokens.is_empty() {
        tokens.push(tokenizer.bos_id().unwrap_or(tokenizer.eos_id()));
    }
    let mut new = Vec::new();
    let stop = Some(tokenizer.eos_id());
    generate(model, &tokens, stop, sampling, device, |token| {
        new.push(token);
        true
    });
    Ok(tokenizer.decode(&new)?)
}
