//! Opening model folders.

use std::fs::File;
use std::path::{Path, PathBuf};

use bellows_data::Tokenizer;
use bellows_engine::config::{ModelConfig, huggingface};
use bellows_engine::kernels::Compute;
use bellows_engine::model::{Decoder, Init, Numerics};
use bellows_engine::weights::{SafetensorsSource, WeightError, import};
use burn::tensor::Device;
use memmap2::Mmap;
use serde_json::Value;

use crate::cli::CheckpointChoice;
use crate::error::Error;
use crate::run::State;

/// A folder with a model.
pub struct ModelFolder {
    path: PathBuf,
    /// `config.json` as it is.
    pub json: Value,
    /// What it describes.
    pub config: ModelConfig,
}

impl ModelFolder {
    /// Reads `config.json` of `path`.
    ///
    /// # Errors
    /// If it is missing, malformed, or describes something the engine does not know.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = path.join("config.json");
        let text = std::fs::read_to_string(&file).map_err(|error| {
            Error::input(format!("cannot read {}", file.display()))
                .because(error)
                .help("a model folder holds config.json, *.safetensors and tokenizer.json")
        })?;
        let json: Value = serde_json::from_str(&text).map_err(|error| {
            Error::input(format!("{} is not valid JSON", file.display())).because(error)
        })?;
        let config = huggingface::from_json(&json)
            .map_err(|error| Error::input(format!("{}: {error}", file.display())))?;
        Ok(Self {
            path: path.to_owned(),
            json,
            config,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tokenizer beside the weights.
    ///
    /// # Errors
    /// If it is missing or malformed, or has more tokens than the model.
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        let tokenizer = Tokenizer::load(&self.path)?;
        if tokenizer.vocab_size() > self.config.vocab_size {
            return Err(Error::input(format!(
                "the tokenizer in {} has {} tokens, the model's vocabulary only {}",
                self.path.display(),
                tokenizer.vocab_size(),
                self.config.vocab_size
            ))
            .help("put the tokenizer beside the weights that it was trained with"));
        }
        Ok(tokenizer)
    }

    /// Builds the model on `device`, computing in f32 with the device's kernels, and loads its
    /// weights.
    ///
    /// # Errors
    /// If a weight file is missing, truncated, tampered with or does not fit `config.json`.
    pub fn load(&self, device: &Device) -> Result<Decoder, Error> {
        self.load_with(device, Numerics::default())
    }

    /// As [`ModelFolder::load`], with matrices that are held and multiplied in `compute`: to be read, not
    /// to be trained.
    ///
    /// # Errors
    /// The same.
    pub fn load_in(&self, device: &Device, compute: Compute) -> Result<Decoder, Error> {
        let numerics = Numerics {
            compute,
            weights: compute,
            ..Numerics::default()
        };
        self.load_with(device, numerics)
    }

    /// As [`ModelFolder::load`], computing as `numerics` says.
    ///
    /// # Errors
    /// The same.
    pub fn load_with(&self, device: &Device, numerics: Numerics) -> Result<Decoder, Error> {
        let files = self.mapped()?;
        let views: Vec<(String, &[u8])> = files
            .iter()
            .map(|(name, map)| (name.clone(), map.as_ref()))
            .collect();
        let source = SafetensorsSource::new(&views).map_err(weight_error)?;
        let mut init = Init::empty(device).with_numerics(numerics);
        let empty = Decoder::new(&mut init, &self.config);
        import(empty, &source).map_err(weight_error)
    }

    /// Maps every weight file into memory.
    ///
    /// # Errors
    /// If there is none, or one cannot be read.
    pub fn mapped(&self) -> Result<Vec<(String, Mmap)>, Error> {
        self.weight_files()?
            .into_iter()
            .map(|file| Ok((file.display().to_string(), map(&file)?)))
            .collect()
    }

    fn weight_files(&self) -> Result<Vec<PathBuf>, Error> {
        let single = self.path.join("model.safetensors");
        if single.exists() {
            return Ok(vec![single]);
        }
        let index = self.path.join("model.safetensors.index.json");
        let text = std::fs::read_to_string(&index).map_err(|error| {
            Error::input(format!("no weights in {}", self.path.display()))
                .because(error)
                .help("expected model.safetensors, or model.safetensors.index.json and its files")
        })?;
        let malformed = || {
            Error::input(format!(
                "{} has no \"weight_map\" from tensors to files",
                index.display()
            ))
        };
        let json: Value =
            serde_json::from_str(&text).map_err(|error| malformed().because(error))?;
        let map = json
            .get("weight_map")
            .and_then(Value::as_object)
            .ok_or_else(malformed)?;
        let mut names: Vec<&str> = map.values().filter_map(Value::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
            .into_iter()
            .map(|name| {
                // A tampered index must not reach outside the folder.
                if Path::new(name).components().count() == 1 && !name.starts_with("..") {
                    Ok(self.path.join(name))
                } else {
                    Err(Error::input(format!(
                        "{} names a file outside its folder: {name}",
                        index.display()
                    )))
                }
            })
            .collect()
    }
}

fn weight_error(error: WeightError) -> Error {
    Error::input(error.to_string()).help(
        "the file is damaged or belongs to another model; get it again, or use another checkpoint",
    )
}

/// Maps `file` into memory.
///
/// # Errors
/// If it cannot be opened.
pub(crate) fn map(file: &Path) -> Result<Mmap, Error> {
    let opened = File::open(file)
        .map_err(|error| Error::input(format!("cannot read {}", file.display())).because(error))?;
    // SAFETY: the map is read while a model is loaded; a file that another program truncates in
    // these moments ends this program with a bus error, as it does every reader of mapped weights.
    unsafe { Mmap::map(&opened) }
        .map_err(|error| Error::failed(format!("cannot map {}", file.display())).because(error))
}

/// The model folder that `path` means: itself, or the chosen checkpoint of a run.
///
/// # Errors
/// If there is neither, or the run has no such checkpoint.
pub fn resolve(path: &Path, choice: CheckpointChoice) -> Result<PathBuf, Error> {
    if !path.exists() {
        return Err(Error::input(format!("{} does not exist", path.display()))
            .help("`bellows runs` lists runs"));
    }
    if !bellows_record::is_run(path) {
        let list = bellows_record::list_runs(path);
        if let Some(run) = list.ok().and_then(|list| list.runs.into_iter().next()) {
            return Err(
                Error::input(format!("{} holds runs, it is none", path.display()))
                    .help(format!("name one of them, such as {}", run.path.display())),
            );
        }
        return Ok(path.to_owned());
    }
    let checkpoints = bellows_record::list_checkpoints(path)?;
    let steps = || {
        let steps: Vec<String> = checkpoints
            .iter()
            .map(|(step, _)| step.to_string())
            .collect();
        steps.join(", ")
    };
    let found = match choice {
        CheckpointChoice::Last => checkpoints.last().map(|(_, path)| path.clone()),
        CheckpointChoice::Best => best_checkpoint(&checkpoints).map(|(_, path)| path),
        CheckpointChoice::Step(step) => checkpoints
            .iter()
            .find(|(at, _)| *at == step)
            .map(|(_, path)| path.clone()),
    };
    found.ok_or_else(|| {
        let (message, help) = match (checkpoints.is_empty(), choice) {
            (true, _) => ("no checkpoint yet".into(), "train further".into()),
            (false, CheckpointChoice::Best) => (
                "no checkpoint with a validation loss".into(),
                format!("choose one of the steps {}", steps()),
            ),
            (false, choice) => (
                format!("no checkpoint \"{choice}\""),
                format!("there are {}", steps()),
            ),
        };
        Error::input(format!("{} has {message}", path.display())).help(help)
    })
}

/// `state.json` of a checkpoint.
///
/// # Errors
/// If it is missing or malformed.
pub fn checkpoint_state(checkpoint: &Path) -> Result<State, Error> {
    let file = checkpoint.join("state.json");
    let text = std::fs::read_to_string(&file)
        .map_err(|error| Error::input(format!("cannot read {}", file.display())).because(error))?;
    serde_json::from_str(&text)
        .map_err(|error| Error::input(format!("{} is damaged", file.display())).because(error))
}

/// The checkpoint with the lowest validation loss among those measured when they were written.
pub fn best_checkpoint(checkpoints: &[(u64, PathBuf)]) -> Option<(u64, PathBuf)> {
    checkpoints
        .iter()
        .filter_map(|(step, path)| {
            let loss = checkpoint_state(path).ok()?.validation_loss?;
            Some((loss, *step, path))
        })
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, step, path)| (step, path.clone()))
}
