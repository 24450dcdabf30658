//! Writing model folders.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use bellows_data::Tokenizer;
use bellows_engine::weights::NamedTensor;
use safetensors::tensor::{Dtype, View};
use serde_json::{Value, json};

use crate::error::Error;

/// The texts beside the weights.
pub struct Texts<'a> {
    /// `config.json`.
    pub config: &'a Value,
    /// Tokenizer to save, if there is one.
    pub tokenizer: Option<&'a Tokenizer>,
}

struct Bytes<'a>(&'a NamedTensor);

impl View for Bytes<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.0
            .values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect::<Vec<u8>>()
            .into()
    }

    fn data_len(&self) -> usize {
        self.0.values.len() * 4
    }
}

/// Writes `tensors` as one safetensors file.
///
/// # Errors
/// If the file cannot be written in full.
pub fn write_tensors(tensors: &[NamedTensor], file: &Path) -> Result<(), Error> {
    let views = tensors
        .iter()
        .map(|tensor| (tensor.name.as_str(), Bytes(tensor)));
    // transformers refuses files that don't say which framework's layout they have.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::tensor::serialize_to_file(views, Some(metadata), file)
        .map_err(|error| Error::failed(format!("cannot write {}", file.display())).because(error))
}

fn write_json(file: &Path, value: &Value) -> Result<(), Error> {
    std::fs::write(file, format!("{value:#}\n"))
        .map_err(|error| Error::failed(format!("cannot write {}", file.display())).because(error))
}

/// Writes a whole model folder; weights above `max_shard_size` bytes are split, with an index.
/// Returns the names of the weight files.
///
/// # Errors
/// If a file cannot be written.
pub fn write_model(
    folder: &Path,
    tensors: &[NamedTensor],
    texts: &Texts,
    max_shard_size: u64,
) -> Result<Vec<String>, Error> {
    write_json(&folder.join("config.json"), texts.config)?;
    let token = |name: &str| texts.config.get(name).cloned().unwrap_or(Value::Null);
    write_json(
        &folder.join("generation_config.json"),
        &json!({
            "bos_token_id": token("bos_token_id"),
            "eos_token_id": token("eos_token_id"),
            "pad_token_id": token("pad_token_id"),
            "do_sample": true,
            "temperature": 0.8,
            "top_k": 50,
        }),
    )?;
    if let Some(tokenizer) = texts.tokenizer {
        tokenizer.save(folder)?;
    }
    let shards = split(tensors, max_shard_size);
    if shards.len() == 1 {
        write_tensors(tensors, &folder.join("model.safetensors"))?;
        return Ok(vec!["model.safetensors".into()]);
    }
    let mut names = Vec::new();
    let mut map = BTreeMap::new();
    for (index, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", index + 1, shards.len());
        write_tensors(shard, &folder.join(&name))?;
        map.extend(
            shard
                .iter()
                .map(|tensor| (tensor.name.clone(), name.clone())),
        );
        names.push(name);
    }
    let total: usize = tensors.iter().map(|tensor| tensor.values.len() * 4).sum();
    write_json(
        &folder.join("model.safetensors.index.json"),
        &json!({ "metadata": { "total_size": total }, "weight_map": map }),
    )?;
    Ok(names)
}

/// Runs of tensors that together stay within `limit` bytes; a larger tensor gets its own file.
fn split(tensors: &[NamedTensor], limit: u64) -> Vec<&[NamedTensor]> {
    let mut shards = Vec::new();
    let (mut start, mut size) = (0, 0u64);
    for (index, tensor) in tensors.iter().enumerate() {
        let bytes = tensor.values.len() as u64 * 4;
        if index > start && size + bytes > limit {
            shards.push(&tensors[start..index]);
            (start, size) = (index, 0);
        }
        size += bytes;
    }
    shards.push(&tensors[start..]);
    shards
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(sizes: &[usize]) -> Vec<NamedTensor> {
        sizes
            .iter()
            .enumerate()
            .map(|(index, &size)| NamedTensor {
                name: format!("t{index}"),
                shape: vec![size],
                values: vec![0.0; size],
            })
            .collect()
    }

    #[test]
    fn shards_stay_within_the_limit_and_lose_nothing() {
        let tensors = tensors(&[2, 2, 9, 1, 1]);
        let lengths: Vec<usize> = split(&tensors, 16)
            .iter()
            .map(|shard| shard.len())
            .collect();
        assert_eq!(lengths, [2, 1, 2]);
    }
}
