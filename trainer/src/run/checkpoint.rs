//! Checkpoints: a snapshot is taken between two steps, a thread writes it while training goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use bellows_data::{DatasetId, LoaderState, Tokenizer};
use bellows_engine::config::huggingface;
use bellows_engine::kernels::adamw::Moments;
use bellows_engine::model::Decoder;
use bellows_engine::optim::{AdamW, LossScale};
use bellows_engine::weights::{
    NamedTensor, Naming, SafetensorsSource, TensorSource, WeightError, Whole, correction_bias_name,
    snapshot_tensors, stack_name, wholes,
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
    parameters: Vec<Whole>,
    biases: Vec<NamedTensor>,
    /// By the names of wholes, of every block.
    moments: Vec<(String, Vec<Moments<1>>)>,
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

    /// Whether a snapshot may still be held to be written.
    pub fn is_writing(&self) -> bool {
        let thread = self.writing.as_ref();
        thread.is_some_and(|thread| !thread.is_finished())
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
            parameters: wholes(model),
            biases: biases.collect(),
            moments: moments(optimizer),
            config,
            model: model.config().clone(),
            tokenizer: self.tokenizer.clone(),
        }
    }
}

/// Moments by the names of wholes: how many blocks a layer's experts lie in is the device's affair,
/// and a checkpoint resumes on any.
fn moments(optimizer: &AdamW) -> Vec<(String, Vec<Moments<1>>)> {
    let mut wholes: Vec<(String, Vec<Moments<1>>)> = Vec::new();
    for (name, moments) in optimizer.state() {
        let stack = stack_name(name);
        match wholes.last_mut().filter(|(name, _)| name == stack) {
            Some((_, blocks)) => blocks.push(moments.clone()),
            None => wholes.push((stack.to_owned(), vec![moments.clone()])),
        }
    }
    wholes
}

/// [`moments`] as a checkpoint holds them.
fn moment_tensors(moments: Vec<(String, Vec<Moments<1>>)>) -> Vec<NamedTensor> {
    let both = |(name, blocks): (String, Vec<Moments<1>>)| {
        let blocks = blocks.into_iter();
        let (first, second): (Vec<_>, Vec<_>) = blocks
            .map(|Moments { first, second }| (first, second))
            .unzip();
        [("first", first), ("second", second)].map(|(moment, blocks)| {
            let values: Vec<f32> = blocks.into_iter().flat_map(host).collect();
            NamedTensor {
                name: format!("{moment}.{name}"),
                shape: vec![values.len()],
                values,
            }
        })
    };
    moments.into_iter().flat_map(both).collect()
}

/// The moments of every parameter of `model` out of `source`, in the model's own blocks; `updates`
/// were done.
fn read_moments(
    source: &dyn TensorSource,
    model: &Decoder,
    updates: u64,
) -> Result<Vec<(String, TensorData, TensorData)>, WeightError> {
    let mut moments = Vec::new();
    for whole in wholes(model) {
        let count = whole.lengths().sum();
        let names = ["first", "second"].map(|moment| format!("{moment}.{}", whole.name));
        // Before the first update there are none.
        if updates == 0 && !source.contains(&names[0]) {
            continue;
        }
        let mut first = source.read(&names[0], &[count])?;
        let mut second = source.read(&names[1], &[count])?;
        for (length, (name, _)) in whole.lengths().zip(&whole.blocks) {
            let block = |rest: &mut Vec<f32>| {
                let behind = rest.split_off(length);
                TensorData::new(std::mem::replace(rest, behind), [length])
            };
            moments.push((name.clone(), block(&mut first), block(&mut second)));
        }
    }
    Ok(moments)
}

fn host(tensor: Tensor<1>) -> Vec<f32> {
    let data = tensor.into_data().convert::<f32>();
    data.try_into_vec::<f32>().expect("converted to f32")
}

fn write(snapshot: Snapshot, pending: &PendingCheckpoint) -> Result<(), Error> {
    let folder = pending.path();
    let mut weights = snapshot.biases;
    for Whole {
        name,
        shape,
        blocks,
    } in snapshot.parameters
    {
        let values: Vec<f32> = blocks
            .into_iter()
            .flat_map(|(_, value)| host(value))
            .collect();
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
    let moments = moment_tensors(snapshot.moments);
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
    let damaged = |error: WeightError| {
        Error::input(error.to_string()).help("resume from another checkpoint with --from STEP")
    };
    let source =
        SafetensorsSource::new(&[(file.display().to_string(), map.as_ref())]).map_err(damaged)?;
    let moments = read_moments(&source, model, state.updates).map_err(damaged)?;
    optimizer.restore(state.updates, moments.into_iter(), device);
    Ok((optimizer, state))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bellows_engine::config::ModelConfig;
    use bellows_engine::model::Init;
    use bellows_engine::optim::{AdamWConfig, Gradients};
    use bellows_engine::weights::{export, import};

    use super::*;

    fn config() -> ModelConfig {
        ModelConfig {
            vocab_size: 8,
            hidden_size: 8,
            num_hidden_layers: 1,
            intermediate_size: 8,
            num_attention_heads: 2,
            num_key_value_heads: 2,
            n_routed_experts: 5,
            num_experts_per_tok: 2,
            moe_intermediate_size: 4,
            ..ModelConfig::default()
        }
    }

    /// A model whose blocks hold `experts` experts at most.
    fn model(init: Init, experts: u64) -> Decoder {
        Decoder::new(
            &mut init.with_largest_buffer(experts * 4 * 2 * 4 * 8),
            &config(),
        )
    }

    /// One update with gradients that are the weights.
    fn updated(model: Decoder, optimizer: &mut AdamW) -> Decoder {
        let blocks = wholes(&model).into_iter().flat_map(|whole| whole.blocks);
        let gradients = Gradients {
            by_name: blocks.collect(),
            ..Gradients::default()
        };
        optimizer.update(model, gradients, 0.1).0
    }

    #[test]
    fn a_checkpoint_resumes_with_other_blocks_than_it_was_written_with() {
        let device = Device::flex();
        let tracked = device.clone().autodiff();
        let unclipped = AdamWConfig {
            max_grad_norm: None,
            ..AdamWConfig::default()
        };
        for (written, resumed) in [(2, 5), (5, 2), (1, 3)] {
            let mut optimizer = AdamW::new(&unclipped);
            let start = model(Init::random(&tracked, 3, 0.5), written);
            let trained = updated(start, &mut optimizer);
            let tensors = moment_tensors(moments(&optimizer));
            let weights = export(&trained);
            let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
            assert!(names.contains(&"second.layers.0.mlp.experts.down_proj"));
            assert!(
                names.iter().all(|name| !name.contains("_proj.0")),
                "{names:?}"
            );

            let empty = model(Init::empty(&tracked), resumed);
            let loaded = import(empty, &Held::of(&weights)).expect("the same model");
            let blocks =
                |model: &Decoder| wholes(model).iter().map(|whole| whole.blocks.len()).max();
            assert_ne!(blocks(&loaded), blocks(&trained));
            let state = read_moments(&Held::of(&tensors), &loaded, 1).expect("the same model");
            let mut other = AdamW::new(&unclipped);
            other.restore(1, state.into_iter(), &device);
            let went_on = export(&updated(trained, &mut optimizer));
            assert_eq!(export(&updated(loaded, &mut other)), went_on);
            assert_ne!(went_on, weights);
            assert_eq!(
                moment_tensors(moments(&other)),
                moment_tensors(moments(&optimizer))
            );
        }
    }

    /// Tensors in memory.
    struct Held(BTreeMap<String, NamedTensor>);

    impl Held {
        fn of(tensors: &[NamedTensor]) -> Self {
            let named = tensors.iter().cloned();
            Self(named.map(|tensor| (tensor.name.clone(), tensor)).collect())
        }
    }

    impl TensorSource for Held {
        fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError> {
            let missing = || WeightError::Missing {
                name: name.to_owned(),
                place: self.place(),
            };
            let found = self.0.get(name).filter(|found| found.shape == shape);
            found.map(|found| found.values.clone()).ok_or_else(missing)
        }

        fn contains(&self, name: &str) -> bool {
            self.0.contains_key(name)
        }

        fn names(&self) -> Vec<String> {
            self.0.keys().cloned().collect()
        }

        fn place(&self) -> String {
            "memory".into()
        }
    }
}
