//! What preferences and rewards are compared with: the log-probabilities of all completions under
//! the policy that training started from.
//!
//! They are computed once, by a pass over the whole data set before the first step, and kept as
//! `reference/<key>.safetensors` in the cache folder. The key covers the weights, the tokens and
//! what decides the numbers, so that runs that start alike share them; a checkpoint holds the key,
//! and a resumed run goes on with the very same numbers.

use std::ops::Range;
use std::path::{Path, PathBuf};

use bellows_data::{Batch, Dataset, IGNORE_INDEX, Span, Split};
use bellows_engine::model::Decoder;
use bellows_engine::objective::{Objective, Targets, advantages};
use bellows_engine::policy::log_probabilities;
use bellows_engine::step::Backpropagation;
use bellows_engine::weights::{NamedTensor, SafetensorsSource, TensorSource};
use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Stop, loader_config, micro_batch};
use crate::config::RunConfig;
use crate::error::Error;
use crate::models::{ModelFolder, map_file, write_tensors};
use crate::ui::{Ui, count};

/// Raised whenever the same policy and data would be kept otherwise.
const VERSION: u32 = 2;

const SPLITS: [(Split, &str); 2] = [(Split::Train, "train"), (Split::Validation, "validation")];

/// Names what a run compares with: what a checkpoint must hold to find it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceId {
    /// Hash of the starting policy.
    pub policy: String,
    /// Name of the file in the cache folder; empty where the data brings everything itself.
    pub cache: String,
}

/// The starting policy's opinion of every completion, and what else the data says of it.
pub struct Reference {
    id: ReferenceId,
    objective: Objective,
    sides: [Side; 2],
}

/// Of one side of the data, documents in order.
#[derive(Default)]
struct Side {
    /// Where each document's labels begin, and the end.
    starts: Vec<usize>,
    /// Log-probability of each label under the reference; empty where nothing asks for it.
    reference: Vec<f32>,
    /// Log-probability of each label under the policy that wrote the completion.
    old: Vec<f32>,
    /// Of each document.
    rewards: Vec<f32>,
    advantages: Vec<f32>,
}

/// Where the numbers come from.
pub struct Origin<'a> {
    /// The run's configuration, resolved.
    pub config: &'a RunConfig,
    /// The data.
    pub dataset: &'a Dataset,
    /// The autodiff device.
    pub device: &'a Device,
    /// What decides the numbers beside weights and data: device and type of multiplication.
    pub numerics: String,
    /// How the run goes through its sequences.
    pub way: Backpropagation,
}

impl Reference {
    /// Of the policy `start`, which the run's `train.init_from` holds; `None` where the objective
    /// compares with nothing.
    ///
    /// # Errors
    /// If the data has no usable pair or group, the pass is stopped, or the cache cannot be written.
    pub fn new(
        origin: &Origin<'_>,
        start: &Decoder,
        stop: &Stop,
        ui: &Ui,
    ) -> Result<Option<Self>, Error> {
        let Some(folder) = starting_folder(origin.config)? else {
            return Ok(None);
        };
        let policy = fingerprint(&folder)?;
        let this = Self::with(origin, policy, |_| Ok(start.clone()), stop, ui)?;
        Ok(Some(this))
    }

    /// For a resumed run: what its checkpoint names, from the cache, or of the very same starting
    /// policy again.
    ///
    /// # Errors
    /// If neither is there any more.
    pub fn reopen(
        origin: &Origin<'_>,
        id: Option<&ReferenceId>,
        load: impl FnOnce(&ModelFolder) -> Result<Decoder, Error>,
        stop: &Stop,
        ui: &Ui,
    ) -> Result<Option<Self>, Error> {
        let objective = origin.config.objective;
        if !objective.has_reference() {
            return Ok(None);
        }
        let id = id.ok_or_else(|| {
            Error::input(format!(
                "the checkpoint is not of a run with objective.kind = {:?}",
                objective.as_str()
            ))
            .help("undo the change of [objective] in config.toml, or train a new run")
        })?;
        let mut sides = sides(origin)?;
        if id.cache.is_empty() || read(&cache_file(origin, &id.cache), &mut sides) {
            let mut this = Self {
                id: id.clone(),
                objective,
                sides,
            };
            this.complete(origin)?;
            return Ok(Some(this));
        }
        let gone = |what: String| {
            Error::input(format!(
                "the reference policy of this run cannot be had again: its log-probabilities are no longer in the cache, and {what}"
            ))
            .help("restore the folder of train.init_from, or train a new run")
        };
        let folder = starting_folder(origin.config)
            .map_err(|error| gone(format!("train.init_from is not there: {error}")))?
            .ok_or_else(|| gone("config.toml names no train.init_from".into()))?;
        let policy = fingerprint(&folder)?;
        if policy != id.policy {
            let folder = folder.path().display();
            return Err(gone(format!("{folder} holds other weights now")));
        }
        Self::with(origin, policy, load, stop, ui).map(Some)
    }

    fn with(
        origin: &Origin<'_>,
        policy: String,
        load: impl FnOnce(&ModelFolder) -> Result<Decoder, Error>,
        stop: &Stop,
        ui: &Ui,
    ) -> Result<Self, Error> {
        let objective = origin.config.objective;
        let mut this = Self {
            id: ReferenceId {
                policy,
                cache: String::new(),
            },
            objective,
            sides: sides(origin)?,
        };
        if objective.has_reference() && this.needs_pass() {
            this.id.cache = key(origin, &this.id.policy);
            let file = cache_file(origin, &this.id.cache);
            if read(&file, &mut this.sides) {
                ui.status(
                    "Reference",
                    "log-probabilities of the starting policy (cached)",
                );
            } else {
                let folder = starting_folder(origin.config)?;
                let folder = folder.ok_or_else(|| Error::failed("no policy to start from"))?;
                let start = load(&folder)?.valid();
                this.compute(origin, &start, stop, ui)?;
                write(&file, &this.sides)?;
            }
        }
        this.complete(origin)?;
        this.describe(origin, ui);
        Ok(this)
    }

    /// Names the reference for [`Reference::reopen`].
    pub fn id(&self) -> &ReferenceId {
        &self.id
    }

    /// Whether anything is compared with the starting policy.
    fn needs_pass(&self) -> bool {
        match self.objective {
            Objective::Grpo { beta: 0.0, .. } => self
                .sides
                .iter()
                .any(|side| side.old.iter().any(|log| log.is_nan())),
            objective => objective.has_reference(),
        }
    }

    /// The starting policy's log-probabilities of every label.
    fn compute(
        &mut self,
        origin: &Origin<'_>,
        start: &Decoder,
        stop: &Stop,
        ui: &Ui,
    ) -> Result<(), Error> {
        let spinner = ui.spinner("asking the starting policy");
        let config = origin.config;
        for (split, side) in Split::ALL.into_iter().zip(&mut self.sides) {
            if origin.dataset.tokens(split) == 0 {
                continue;
            }
            let pass = origin.dataset.pass(split, &loader_config(config))?;
            let total = pass.len();
            for (done, batch) in pass.batches().enumerate() {
                if stop.requested() {
                    return Err(Error::interrupted());
                }
                spinner.message(format!(
                    "asking the starting policy: batch {} of {total} of the {split} data",
                    done + 1
                ));
                let logs =
                    log_probabilities(start, &micro_batch(&batch), origin.device, origin.way);
                for span in &batch.spans {
                    // Rows are documents in order.
                    side.reference
                        .extend(labels(&batch, span).map(|at| logs[at]));
                }
            }
        }
        drop(spinner);
        let values: usize = self.sides.iter().map(|side| side.reference.len()).sum();
        ui.status(
            "Reference",
            format!(
                "log-probabilities of {} tokens under the starting policy",
                count(values as u64)
            ),
        );
        Ok(())
    }

    /// Fills in what is derived: old log-probabilities that nobody gave, and advantages.
    fn complete(&mut self, origin: &Origin<'_>) -> Result<(), Error> {
        for (split, side) in Split::ALL.into_iter().zip(&mut self.sides) {
            for (at, old) in side.old.iter_mut().enumerate() {
                if old.is_nan() {
                    *old = *side
                        .reference
                        .get(at)
                        .ok_or_else(|| Error::failed("a completion has no log-probability"))?;
                }
            }
            if side.rewards.is_empty() {
                continue;
            }
            for group in origin.dataset.groups(split) {
                let group = group.start as usize..group.end as usize;
                side.advantages.extend(advantages(&side.rewards[group]));
            }
        }
        Ok(())
    }

    fn describe(&self, origin: &Origin<'_>, ui: &Ui) {
        let length = origin.config.train.sequence_length;
        let train = &self.sides[0];
        let documents = train.starts.len() - 1;
        let cut = (0..documents as u64)
            .filter(|&document| origin.dataset.document_len(Split::Train, document) > length as u64)
            .count();
        if cut > 0 {
            ui.warn(format!(
                "{} of {} completions are longer with their prompts than train.sequence_length ({length} tokens) and are cut",
                count(cut as u64),
                count(documents as u64)
            ));
        }
        let constant = origin
            .dataset
            .groups(Split::Train)
            .into_iter()
            .filter(|group| {
                let group = group.start as usize..group.end as usize;
                train
                    .advantages
                    .get(group)
                    .is_some_and(|own| own.iter().all(|&a| a == 0.0))
            });
        let (constant, groups) = (constant.count(), origin.dataset.groups(Split::Train).len());
        if constant > 0 {
            ui.note(format!(
                "in {} of {} groups all rewards are the same: they teach nothing",
                count(constant as u64),
                count(groups as u64)
            ));
        }
    }

    /// What the objective knows of the rows of `batch`.
    pub fn targets(&self, split: Split, batch: &Batch) -> Targets {
        let side = &self.sides[usize::from(split == Split::Validation)];
        let rows = batch.batch_size;
        if let Objective::Dpo { .. } = self.objective {
            let mut reference = vec![0.0; rows];
            for span in &batch.spans {
                let own = &side.reference[side.labels(span.document)];
                reference[span.row] = own.iter().map(|&log| f64::from(log)).sum::<f64>() as f32;
            }
            return Targets::Pairs { reference };
        }
        let spread = |values: &[f32]| {
            let mut spread = vec![0.0; batch.labels.len()];
            if !values.is_empty() {
                for span in &batch.spans {
                    let own = &values[side.labels(span.document)];
                    for (at, value) in labels(batch, span).zip(own) {
                        spread[at] = *value;
                    }
                }
            }
            spread
        };
        let mut advantages = vec![0.0; rows];
        for span in &batch.spans {
            advantages[span.row] = side.advantages[span.document as usize];
        }
        Targets::Groups {
            advantages,
            old: spread(&side.old),
            reference: match side.reference.is_empty() {
                true => Vec::new(),
                false => spread(&side.reference),
            },
        }
    }

    /// Mean reward and advantage of the rows of `batches`, where they have rewards.
    pub fn rewards(&self, split: Split, batches: &[Batch]) -> Option<(f64, f64)> {
        let side = &self.sides[usize::from(split == Split::Validation)];
        if side.rewards.is_empty() {
            return None;
        }
        let spans = batches.iter().flat_map(|batch| &batch.spans);
        let (mut count, mut reward, mut advantage) = (0, 0.0, 0.0);
        for span in spans {
            count += 1;
            reward += f64::from(side.rewards[span.document as usize]);
            advantage += f64::from(side.advantages[span.document as usize]);
        }
        let count = f64::from(count.max(1));
        Some((reward / count, advantage / count))
    }
}

impl Side {
    fn labels(&self, document: u64) -> Range<usize> {
        let document = document as usize;
        self.starts[document]..self.starts[document + 1]
    }
}

/// Positions of a document's labels in a batch.
fn labels<'a>(batch: &'a Batch, span: &Span) -> impl Iterator<Item = usize> + use<'a> {
    let start = span.row * batch.sequence_length + span.column;
    (start..start + span.length).filter(move |&at| batch.labels[at] != IGNORE_INDEX)
}

/// What the data itself says of its completions.
fn sides(origin: &Origin<'_>) -> Result<[Side; 2], Error> {
    let (dataset, length) = (origin.dataset, origin.config.train.sequence_length);
    let dpo = matches!(origin.config.objective, Objective::Dpo { .. });
    let mut sides = [Side::default(), Side::default()];
    for (split, side) in Split::ALL.into_iter().zip(&mut sides) {
        side.starts.push(0);
        let groups = dataset.groups(split);
        if dpo && groups.iter().any(|group| group.end - group.start != 2) {
            return Err(Error::failed("a row of preferences is not a pair"));
        }
        let mut end = 0;
        for document in 0..dataset.documents(split) {
            let count = dataset.label_count(split, document, length);
            end += count;
            side.starts.push(end);
            if dpo {
                continue;
            }
            side.rewards
                .push(dataset.reward(split, document).unwrap_or_default());
            match dataset.old_log_probabilities(split, document, length) {
                Some(old) => side.old.extend(old),
                None => side.old.extend(std::iter::repeat_n(f32::NAN, count)),
            }
        }
    }
    if sides[0].starts.last() == Some(&0) {
        return Err(Error::input(format!(
            "no completion has a token to train on within train.sequence_length ({length} tokens)"
        ))
        .help("raise train.sequence_length above the length of the prompts"));
    }
    Ok(sides)
}

/// The model folder that training started from, where the objective compares with it.
fn starting_folder(config: &RunConfig) -> Result<Option<ModelFolder>, Error> {
    match &config.train.init_from {
        Some(path) if config.objective.has_reference() => ModelFolder::open(path).map(Some),
        _ => Ok(None),
    }
}

/// Hash of a model folder's architecture and weights.
fn fingerprint(folder: &ModelFolder) -> Result<String, Error> {
    let mut hash = Sha256::new();
    hash.update(folder.json.to_string());
    for (_, map) in folder.mapped()? {
        hash.update((map.len() as u64).to_le_bytes());
        hash.update(&map[..]);
    }
    Ok(hex(&hash.finalize()[..16]))
}

fn key(origin: &Origin<'_>, policy: &str) -> String {
    let text = format!(
        "{VERSION} {policy} {} {} {}",
        origin.dataset.id().fingerprint,
        origin.config.train.sequence_length,
        origin.numerics
    );
    hex(&Sha256::digest(text)[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn cache_file(origin: &Origin<'_>, key: &str) -> PathBuf {
    let folder = origin.dataset.cache_dir().join("reference");
    folder.join(format!("{key}.safetensors"))
}

/// Reads a file of the cache; false where it is missing, damaged or of other data.
fn read(file: &Path, sides: &mut [Side; 2]) -> bool {
    if !file.exists() {
        return false;
    }
    let Ok(map) = map_file(file) else {
        return false;
    };
    let Ok(source) = SafetensorsSource::new(&[(file.display().to_string(), map.as_ref())]) else {
        return false;
    };
    SPLITS.iter().zip(sides).all(|((_, name), side)| {
        let labels = side.starts.last().copied().unwrap_or_default();
        if labels == 0 {
            return true;
        }
        let read = source.read(name, &[labels]);
        side.reference = read.unwrap_or_default();
        side.reference.len() == labels
    })
}

/// Writes a file of the cache, whole or not at all.
fn write(file: &Path, sides: &[Side; 2]) -> Result<(), Error> {
    let tensors: Vec<NamedTensor> = SPLITS
        .iter()
        .zip(sides)
        .filter(|(_, side)| !side.reference.is_empty())
        .map(|((_, name), side)| NamedTensor {
            name: (*name).to_owned(),
            shape: vec![side.reference.len()],
            values: side.reference.clone(),
        })
        .collect();
    let failed = |error: std::io::Error| {
        Error::input(format!("cannot write {}", file.display()))
            .because(error)
            .help("free some space, or name another folder with data.cache")
    };
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let aside = file.with_extension(format!("{}.tmp", std::process::id()));
    write_tensors(&tensors, &aside)?;
    std::fs::File::open(&aside)
        .and_then(|written| written.sync_all())
        .and_then(|()| std::fs::rename(&aside, file))
        .map_err(|error| {
            let _ = std::fs::remove_file(&aside);
            failed(error)
        })
}
