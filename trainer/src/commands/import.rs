//! `bellows import`.

use std::path::Path;

use bellows_engine::config::huggingface;
use bellows_engine::weights::export;
use serde_json::{Value, json};

use crate::cli::ImportArgs;
use crate::device::DeviceChoice;
use crate::error::Error;
use crate::models::{ModelFolder, Texts, write_model};
use crate::ui::{Ui, count};

/// Checks a Hugging Face folder and rewrites it as a folder of ours: f32 weights in one file.
///
/// # Errors
/// If the folder is not usable or the output folder is not empty (exit code 2).
pub fn run(args: ImportArgs, ui: &Ui) -> Result<(), Error> {
    let folder = ModelFolder::open(&args.folder)?;
    let tokenizer = if args.folder.join("tokenizer.json").exists() {
        Some(folder.tokenizer()?)
    } else {
        ui.warn(format!(
            "{} has no tokenizer.json: the imported model can be verified and exported, not prompted",
            args.folder.display()
        ));
        None
    };
    let opened = DeviceChoice::Cpu.open()?;
    let model = {
        let _spinner = ui.spinner("reading the weights");
        folder.load(&opened.device)?
    };
    empty_folder(&args.output)?;
    // eos may be a list in newer files; the first is what generation stops at.
    let token = |name: &str| {
        let value = folder.json.get(name)?;
        let first = value
            .as_array()
            .and_then(|list| list.first())
            .unwrap_or(value);
        first.as_u64().map(|id| id as u32)
    };
    let (bos, eos) = (token("bos_token_id"), token("eos_token_id"));
    let config = huggingface::to_json(&folder.config, bos, eos)
        .unwrap_or_else(|_| huggingface::own_json(&folder.config, bos, eos));
    let texts = Texts {
        config: &config,
        tokenizer: tokenizer.as_ref(),
    };
    write_model(&args.output, &export(&model), &texts, u64::MAX)?;
    let parameters = folder.config.parameter_counts();
    let model_type = folder.config.model_type.as_str();
    if args.json {
        ui.json(&json!({
            "folder": args.folder,
            "output": args.output,
            "model_type": model_type,
            "parameters": parameters.total,
            "active_parameters": parameters.active,
            "layers": folder.config.num_hidden_layers,
            "vocabulary": folder.config.vocab_size,
            "bos_token_id": bos.map_or(Value::Null, Value::from),
            "eos_token_id": eos.map_or(Value::Null, Value::from),
        }));
    } else {
        ui.status(
            "Imported",
            format!(
                "{model_type} with {} parameters to {}",
                count(parameters.total as u64),
                args.output.display()
            ),
        );
    }
    Ok(())
}

/// Makes `folder`, which must not exist or be empty.
///
/// # Errors
/// If it holds anything, or cannot be made.
pub(super) fn empty_folder(folder: &Path) -> Result<(), Error> {
    if folder
        .read_dir()
        .is_ok_and(|mut entries| entries.next().is_some())
    {
        return Err(Error::input(format!("{} is not empty", folder.display()))
            .help("name a folder that does not exist; nothing is overwritten"));
    }
    std::fs::create_dir_all(folder)
        .map_err(|error| Error::input(format!("cannot make {}", folder.display())).because(error))
}
