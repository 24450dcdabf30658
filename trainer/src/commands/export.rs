//! `bellows export`.

use bellows_engine::config::huggingface;
use bellows_engine::weights::export;
use serde_json::{Value, json};

use super::import::empty_folder;
use crate::cli::ExportArgs;
use crate::device::DeviceChoice;
use crate::error::Error;
use crate::models::{ModelFolder, Texts, resolve, write_model};
use crate::ui::{Ui, bytes};

/// Writes a folder that transformers opens.
///
/// # Errors
/// If the checkpoint is not usable, the architecture cannot express the model, or the output folder
/// is not empty (exit code 2); if it cannot be written.
pub fn run(args: ExportArgs, ui: &Ui) -> Result<(), Error> {
    let folder = ModelFolder::open(&resolve(&args.run, args.checkpoint)?)?;
    let token = |name: &str| {
        folder
            .json
            .get(name)
            .and_then(Value::as_u64)
            .map(|id| id as u32)
    };
    let config = huggingface::to_json(&folder.config, token("bos_token_id"), token("eos_token_id"))
        .map_err(|error| {
            Error::input(error.to_string())
                .help("choose another model.model_type for the next run; `bellows generate` reads the checkpoint as it is")
        })?;
    empty_folder(&args.output)?;
    // Any device will do to carry weights from file to file.
    let opened = DeviceChoice::Cpu.open()?;
    let model = folder.load(&opened.device)?;
    let tensors = export(&model);
    let tokenizer = folder.tokenizer()?;
    let texts = Texts {
        config: &config,
        tokenizer: Some(&tokenizer),
    };
    let files = write_model(&args.output, &tensors, &texts, args.max_shard_size.0)?;
    let size: usize = tensors.iter().map(|tensor| tensor.values.len() * 4).sum();
    if args.json {
        ui.json(&json!({
            "checkpoint": folder.path(),
            "output": args.output,
            "model_type": folder.config.model_type.as_str(),
            "files": files,
            "bytes": size,
        }));
    } else {
        ui.status(
            "Exported",
            format!(
                "{} as {} to {} ({})",
                folder.path().display(),
                folder.config.model_type.as_str(),
                args.output.display(),
                bytes(size as u64)
            ),
        );
    }
    Ok(())
}
