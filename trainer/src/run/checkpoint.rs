//! Checkpoints: a snapshot is taken between two steps, a thread writes it while training goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use bellows_data::{DatasetId, LoaderState, Tokenizer};
use bellows_engine::config::huggingface;
use bellows_engine::model::Decoder;
use bellows_engine::optim::{AdamW, LossScale};
use bellows_engine::weights::{
    NamedTensor, Naming, SafetensorsSource, TensorSource, correction_bias_name, parameters,
    snapshot_tensors,
};
use bellows_record::{Event, EventKind, PendingCheckpoint, RunWriter};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::ReferenceId;
use crate::config::CheckpointSection;
use crate::control::Steering;
use crate::error::Error;
use crate::models::map_file;
use crate::models::{Texts, best_checkpoint, checkpoint_state, write_model, write_tensors};

/// What a run needs besides weights and moments to go on exactly. `state.json` of a checkpoint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// Steps done.
    pub step: u64,
    /// Updates of the optimizer done: steps less those skipped.
    pub updates: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Seconds trained.
    pub seconds: f64,
    /// Steps skipped in a row just before.
    pub skipped_in_a_row: u64,
    /// Validation loss measured at this very step.
    pub validation_loss: Option<f64>,
    /// The scale of the next loss; where the run scales it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<LossScale>,
    /// Position in the data.
    pub loader: LoaderState,
    /// The data.
    pub dataset: DatasetId,
    /// What the objective compares the model with, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<ReferenceId>,
    /// What was changed from outside.
    #[serde(default)]
    pub steering: Steering,
}

/// Handles of everything to be written. Tensors are never changed in place while a handle to them
/// exists, so taking a snapshot copies nothing.
struct Snapshot {
    state: State,
    parameters: Vec<(String, Vec<usize>, Tensor<1>)>,
    biases: Vec<NamedTensor>,
    moments: Vec<(String, Tensor<1>, Tensor<1>)>,
    config: serde_json::Value,
    model: bellows_engine::config::ModelConfig,
    tokenizer: Arc<Tokenizer>,
}

/// Writes and keeps the checkpoints of a run.
pub struct Checkpoints {
    record: Arc<RunWriter>,
    tokenizer: Arc<Tokenizer>,
    policy: CheckpointSection,
    writing: Option<JoinHandle<Result<PathBuf, Error>>>,
}

impl Checkpoints {
    /// For the run that `record` writes.
    pub fn new(
        record: Arc<RunWriter>,
        tokenizer: Arc<Tokenizer>,
        policy: CheckpointSection,
    ) -> Self {
        Self {
            record,
            tokenizer,
            policy,
            writing: None,
        }
    }

    /// Takes a snapshot and writes it in the background. Waits for the one before it.
    ///
    /// # Errors
    /// What went wrong with the checkpoint *before*; this one is begun all the same.
    pub fn save(&mut self, model: &Decoder, optimizer: &AdamW, state: State) -> Result<(), Error> {
        let before = self.wait();
        let snapshot = self.snapshot(model, optimizer, state);
        let (record, policy) = (self.record.clone(), self.policy.clone());
        let write = move || {
            let step = snapshot.state.step;
            let seconds = snapshot.state.seconds;
            // Rows of steps up to the checkpoint must survive whatever the checkpoint survives.
            record.flush()?;
            let pending = record.begin_checkpoint(step)?;
            write(snapshot, &pending)?;
            let path = pending.commit()?;
            let event = Event::new(step, EventKind::Checkpoint, "written").elapsed(seconds);
            record.event(event)?;
            retain(&record, &policy)?;
            Ok(path)
        };
        let thread = std::thread::Builder::new().name("checkpoint".into());
        self.writing = Some(
            thread
                .spawn(write)
                .map_err(|error| Error::failed("cannot start a thread").because(error))?,
        );
        before
    }

    /// Waits until nothing is being written.
    ///
    /// # Errors
    /// If the last checkpoint could not be written. Earlier ones are untouched.
    pub fn wait(&mut self) -> Result<(), Error> {
        match self.writing.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result.map(|_| ()).map_err(|error| {
                // A full disk is for the user to mend: exit code 2.
                Error::input("a checkpoint could not be written").because(error).help(
                    "the last complete checkpoint is kept: free some space, then `bellows resume` goes on from it",
                )
            }),
            Some(Err(_)) => Err(Error::failed("the thread that writes checkpoints ended by a panic")),
        }
    }

    fn snapshot(&self, model: &Decoder, optimizer: &AdamW, state: State) -> Snapshot {
        let (bos, eos) = (self.tokenizer.bos_id(), Some(self.tokenizer.eos_id()));
        // A model that no public architecture can express still resumes and generates.
        let config = huggingface::to_json(model.config(), bos, eos)
            .unwrap_or_else(|_| huggingface::own_json(model.config(), bos, eos));
        let biases = model.mixtures().flat_map(|(layer, mixture)| {
            let named = move |(router, values): (usize, &Vec<f32>)| NamedTensor {
                name: correction_bias_name(model.config(), layer, router),
                shape: vec![values.len()],
                values: values.clone(),
            };
            mixture.correction_bias.iter().enumerate().map(named)
        });
        Snapshot {
            state,
            parameters: parameters(model),
            biases: biases.collect(),
            moments: optimizer
                .state()
                .map(|(name, moments)| {
                    (
                        name.to_owned(),
                        moments.first.clone(),
                        moments.second.clone(),
                    )
                })
                .collect(),
            config,
            model: model.config().clone(),
            tokenizer: self.tokenizer.clone(),
        }
    }
}

fn host(tensor: Tensor<1>) -> Vec<f32> {
    let data = tensor.into_data().convert::<f32>();
    data.try_into_vec::<f32>().expect("converted to f32")
}

fn write(snapshot: Snapshot, pending: &PendingCheckpoint) -> Result<(), Error> {
    let folder = pending.path();
    let mut weights = snapshot.biases;
    for (name, shape, tensor) in snapshot.parameters {
        let values = host(tensor);
        weights.extend(snapshot_tensors(
            &snapshot.model,
            Naming::Checkpoint,
            &name,
            &shape,
            &values,
        ));
    }
    let texts = Texts {
        config: &snapshot.config,
        tokenizer: Some(&snapshot.tokenizer),
    };
    write_model(folder, &weights, &texts, u64::MAX)?;
    drop(weights);
    let moments: Vec<NamedTensor> = snapshot
        .moments
        .into_iter()
        .flat_map(|(name, first, second)| {
            [("first", first), ("second", second)].map(|(moment, tensor)| {
                let values = host(tensor);
                NamedTensor {
                    name: format!("{moment}.{name}"),
                    shape: vec![values.len()],
                    values,
                }
            })
        })
        .collect();
    write_tensors(&moments, &folder.join("optimizer.safetensors"))?;
    let file = folder.join("state.json");
    let state = serde_json::to_string_pretty(&snapshot.state)
        .map_err(|error| Error::failed("cannot describe the run's state").because(error))?;
    std::fs::write(&file, state)
        .map_err(|error| Error::failed(format!("cannot write {}", file.display())).because(error))
}

/// Removes the checkpoints that the policy does not keep.
fn retain(record: &RunWriter, policy: &CheckpointSection) -> Result<(), Error> {
    let checkpoints = bellows_record::list_checkpoints(record.path())?;
    let best = policy
        .keep_best
        .then(|| best_checkpoint(&checkpoints))
        .flatten()
        .map(|(step, _)| step);
    let newest = checkpoints.len().saturating_sub(policy.keep_last.max(1));
    for (step, _) in &checkpoints[..newest] {
        let round = policy.keep_every > 0 && step % policy.keep_every == 0;
        if Some(*step) != best && !round {
            record.remove_checkpoint(*step)?;
        }
    }
    Ok(())
}

/// Loads the optimizer of a checkpoint. `model` is the model loaded from it.
///
/// # Errors
/// If a file is missing, damaged, or belongs to another model.
pub fn load_optimizer(
    checkpoint: &Path,
    mut optimizer: AdamW,
    model: &Decoder,
    device: &Device,
) -> Result<(AdamW, State), Error> {
    let state = checkpoint_state(checkpoint)?;
    let file = checkpoint.join("optimizer.safetensors");
    let map = map_file(&file)?;
    let damaged = |error: bellows_engine::weights::WeightError| {
        Error::input(error.to_string()).help("resume from another checkpoint with --from STEP")
    };
    let source =
        SafetensorsSource::new(&[(file.display().to_string(), map.as_ref())]).map_err(damaged)?;
    let mut moments = Vec::new();
    for (name, shape, _) in parameters(model) {
        let count: usize = shape.iter().product();
        let (first, second) = (format!("first.{name}"), format!("second.{name}"));
        // Before the first update there are none.
        if state.updates == 0 && !source.contains(&first) {
            continue;
        }
        let read = |name: &str| {
            source
                .read(name, &[count])
                .map(|values| TensorData::new(values, [count]))
                .map_err(damaged)
        };
        moments.push((name, read(&first)?, read(&second)?));
    }
    optimizer.restore(state.updates, moments.into_iter(), device);
    Ok((optimizer, state))
}
