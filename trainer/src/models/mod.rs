//! Model folders: `config.json`, weights in safetensors, `tokenizer.json`.
//!
//! A checkpoint of a run and a folder of Hugging Face's have the same layout, so one reader and
//! one writer serve both.

mod read;
mod write;

pub(crate) use read::map as map_file;
pub use read::{ModelFolder, best_checkpoint, checkpoint_state, resolve};
pub use write::{Texts, write_model, write_tensors};
