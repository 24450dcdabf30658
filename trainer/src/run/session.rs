//! What a run needs before its first step: device, data, model, optimizer.

use std::path::Path;
use std::sync::Arc;

use bellows_data::{Dataset, Loader, LoaderConfig, Split, ValidationSet};
use bellows_engine::kernels::Kernels;
use bellows_engine::kernels::memory::in_use;
use bellows_engine::model::{Decoder, Init, Numerics};
use bellows_engine::optim::AdamW;

use bellows_record::{ModelSummary, RunInfo};
use burn::tensor::Device;

use super::checkpoint::load_optimizer;
use super::reference::{Origin, Reference};
use super::{State, Stop};
use crate::config::{RunConfig, TrainSection};
use crate::device::{OpenDevice, Resolved};
use crate::error::Error;
use crate::models::{ModelFolder, checkpoint_state};
use crate::plan::{Before, Guard, Planner, verdict};
use crate::ui::{Ui, bytes, count};

/// Everything opened.
pub struct Session {
    /// The resolved configuration.
    pub config: RunConfig,
    /// The device, and what is known of it.
    pub opened: OpenDevice,
    /// The same with autodiff.
    pub device: Device,
    /// The type in which matrices are multiplied, and why.
    pub precision: Resolved,
    /// The data.
    pub dataset: Dataset,
    /// Its batches, from the next one on.
    pub loader: Loader,
    /// The batches of an evaluation, where data is held out.
    pub validation: Option<ValidationSet>,
    /// The model, on the autodiff device.
    pub model: Decoder,
    /// Its optimizer.
    pub optimizer: AdamW,
    /// What the objective compares the model with, where it does.
    pub reference: Option<Reference>,
    /// Where a resumed run goes on.
    pub state: Option<State>,
    /// Watches the memory of its steps, and knows how they backpropagate.
    pub guard: Guard,
    /// Bytes in use on the device for other things than the run.
    pub beside: u64,
    /// The memory plan as `plan.json` holds it.
    pub plan: serde_json::Value,
    /// The same in a sentence.
    pub memory: String,
}

/// A plan that fits.
struct Planned {
    guard: Guard,
    beside: u64,
    plan: serde_json::Value,
    memory: String,
}

/// Plans the memory of a run before its model is made.
fn plan(
    config: &RunConfig,
    opened: &OpenDevice,
    precision: &Resolved,
    before: Option<Before>,
) -> Result<Planned, Error> {
    let beside = in_use(&opened.device).map_or(0, |reading| reading.in_use);
    let planner = Planner::new(config, opened, precision.compute);
    planner.check_buffers()?;
    let answer = planner.plan_again(beside, before);
    let Some(chosen) = answer.plan.chosen() else {
        return Err(answer.refusal());
    };
    Ok(Planned {
        guard: Guard::new(planner.clone(), chosen.prediction.clone()),
        beside,
        plan: answer.document(true),
        memory: verdict(&answer),
    })
}

impl Session {
    /// A new run of `config`.
    ///
    /// # Errors
    /// Whatever is wrong with the data or the device, or the tokenizer does not fit the model.
    pub fn start(mut config: RunConfig, stop: &Stop, ui: &Ui) -> Result<Self, Error> {
        let opened = open_device(&config, ui)?;
        let precision = config.train.precision.resolve(&opened)?;
        let dataset = Dataset::prepare(&config.data, &data_progress(stop, ui))?;
        fit_vocabulary(&mut config, &dataset)?;
        describe_data(&dataset, ui);
        let planned = plan(&config, &opened, &precision, None)?;
        let loader = dataset.loader(&loader_config(&config))?;
        let validation = validation(&config, &dataset)?;
        let device = opened.device.clone().autodiff();
        let model = match &config.train.init_from {
            Some(folder) => starting_model(
                &config,
                folder,
                &device,
                numerics(&precision, &config.train),
                ui,
            )?,
            None => {
                let range = config.model.initializer_range;
                let mut init = Init::random(&device, config.run.seed, range)
                    .with_numerics(numerics(&precision, &config.train));
                Decoder::new(&mut init, &config.model)
            }
        };
        let reference = Reference::new(
            &Origin {
                config: &config,
                dataset: &dataset,
                device: &device,
                numerics: described(&opened, &precision),
                way: planned.guard.way(),
            },
            &model,
            stop,
            ui,
        )?;
        let optimizer = AdamW::new(&config.optimizer);
        Ok(Self {
            config,
            opened,
            device,
            precision,
            dataset,
            loader,
            validation,
            model,
            optimizer,
            reference,
            state: None,
            guard: planned.guard,
            beside: planned.beside,
            plan: planned.plan,
            memory: planned.memory,
        })
    }

    /// Goes on from `checkpoint` with the run's `config`; `before`: how its plan had it keep activations so
    /// far.
    ///
    /// # Errors
    /// If the checkpoint is damaged or of another configuration, or the data changed.
    pub fn resume(
        mut config: RunConfig,
        checkpoint: &Path,
        before: Option<Before>,
        stop: &Stop,
        ui: &Ui,
    ) -> Result<Self, Error> {
        let mut folder = ModelFolder::open(checkpoint)?;
        // A checkpoint says what a model is, not what computes it.
        folder.config.kernels = config.model.kernels;
        let state = checkpoint_state(checkpoint)?;
        let opened = open_device(&config, ui)?;
        let precision = config.train.precision.resolve(&opened)?;
        let dataset = Dataset::reopen(&config.data, &state.dataset, &data_progress(stop, ui))?;
        fit_vocabulary(&mut config, &dataset)?;
        if folder.config != config.model {
            return Err(Error::input(format!(
                "{} belongs to another model than the run's config.toml describes",
                checkpoint.display()
            ))
            .help("undo the change of [model] in config.toml, or train a new run"));
        }
        let planned = plan(&config, &opened, &precision, before)?;
        let loader = dataset.resume_loader(&loader_config(&config), &state.loader)?;
        let validation = validation(&config, &dataset)?;
        let device = opened.device.clone().autodiff();
        let model = folder.load_with(&device, numerics(&precision, &config.train))?;
        let reference = Reference::reopen(
            &Origin {
                config: &config,
                dataset: &dataset,
                device: &device,
                numerics: described(&opened, &precision),
                way: planned.guard.way(),
            },
            state.reference.as_ref(),
            |start| start.load_with(&device, numerics(&precision, &config.train)),
            stop,
            ui,
        )?;
        let optimizer = AdamW::new(&config.optimizer);
        let (optimizer, state) = load_optimizer(checkpoint, optimizer, &model, &device)?;
        Ok(Self {
            config,
            opened,
            device,
            precision,
            dataset,
            loader,
            validation,
            model,
            optimizer,
            reference,
            state: Some(state),
            guard: planned.guard,
            beside: planned.beside,
            plan: planned.plan,
            memory: planned.memory,
        })
    }

    /// What the manifest says of the run.
    pub fn info(&self) -> RunInfo {
        let model = &self.config.model;
        let parameters = model.parameter_counts();
        RunInfo {
            program_version: env!("CARGO_PKG_VERSION").into(),
            device: self.opened.record("f32", self.precision.name()),
            model: ModelSummary {
                model_type: model.model_type.as_str().into(),
                parameters: parameters.total as u64,
                active_parameters: parameters.active as u64,
                layers: model.num_hidden_layers as u32,
                moe_layers: model.moe_layers() as u32,
                iterations: model.inner_iter as u32,
                experts: model.n_routed_experts as u32,
                shared_experts: model.n_shared_experts as u32,
                experts_per_token: model.num_experts_per_tok as u32,
                hidden_size: model.hidden_size as u32,
                vocabulary_size: model.vocab_size as u32,
                sequence_length: self.config.train.sequence_length as u32,
                // A multiply-add is two operations; backward takes twice what forward does.
                flops_per_token: Some(
                    6.0 * (parameters.computed as f64
                        + model.attention_products(self.config.train.sequence_length)),
                ),
            },
            total_steps: self.config.train.steps,
        }
    }
}

/// The model in `folder`, whose architecture the configuration has taken over.
fn starting_model(
    config: &RunConfig,
    folder: &Path,
    device: &Device,
    numerics: Numerics,
    ui: &Ui,
) -> Result<Decoder, Error> {
    let mut start = ModelFolder::open(folder)?;
    start.config.kernels = config.model.kernels;
    if start.config != config.model {
        return Err(Error::input(format!(
            "{} holds another model than [model] describes",
            folder.display()
        ))
        .help("leave [model] out to take the model of train.init_from as it is"));
    }
    let model = {
        let _spinner = ui.spinner("reading the weights");
        start.load_with(device, numerics)?
    };
    ui.status("Start", format!("weights of {}", folder.display()));
    Ok(model)
}

/// What decides the numbers of a pass beside weights and tokens.
fn described(opened: &OpenDevice, precision: &Resolved) -> String {
    format!("{} {}", opened.name(), precision.name())
}

/// How the model of a run computes.
fn numerics(precision: &Resolved, train: &TrainSection) -> Numerics {
    Numerics {
        kernels: Kernels::default(),
        compute: precision.compute,
        recompute_experts: train.recompute_experts,
        ..Numerics::default()
    }
}

/// Progress of preparing data, ended by a stop.
pub fn data_progress(stop: &Stop, ui: &Ui) -> impl bellows_data::Progress + use<> {
    let stop = stop.clone();
    ui.data(move || stop.requested())
}

/// How `config` makes batches.
pub fn loader_config(config: &RunConfig) -> LoaderConfig {
    LoaderConfig {
        sequence_length: config.train.sequence_length,
        batch_size: config.train.batch_size,
        seed: config.run.seed,
        packing: config.data.packing,
        shuffle: config.data.shuffle,
    }
}

fn validation(config: &RunConfig, dataset: &Dataset) -> Result<Option<ValidationSet>, Error> {
    if !dataset.has_validation() {
        return Ok(None);
    }
    let batches = (config.evaluate.batches > 0).then_some(config.evaluate.batches);
    Ok(Some(dataset.validation(&loader_config(config), batches)?))
}

fn open_device(config: &RunConfig, ui: &Ui) -> Result<OpenDevice, Error> {
    let _spinner = ui.spinner("opening the device");
    config.run.device.open()
}

/// Writes the tokenizer's size into the configuration: `model.vocab_size = 0` takes it, another
/// must hold it.
fn fit_vocabulary(config: &mut RunConfig, dataset: &Dataset) -> Result<(), Error> {
    let tokens = dataset.tokenizer().vocab_size();
    if config.data.tokenizer.path.is_none() {
        // A small corpus may hold fewer tokens than were asked for: written into the run's own file,
        // the number asked for would contradict the model's.
        config.data.tokenizer.vocab_size = tokens;
    }
    if config.model.vocab_size == 0 {
        config.model.vocab_size = tokens;
    }
    if tokens > config.model.vocab_size {
        return Err(Error::input(format!(
            "the tokenizer has {tokens} tokens, model.vocab_size is only {}",
            config.model.vocab_size
        ))
        .help(
            "set model.vocab_size = 0 to take the tokenizer's size, or use a smaller tokenizer",
        ));
    }
    Ok(())
}

fn describe_data(dataset: &Dataset, ui: &Ui) {
    let report = dataset.report();
    ui.status(
        "Data",
        format!(
            "{} in {} documents: {} tokens to train on, {} to validate{}",
            bytes(report.train.bytes + report.validation.bytes),
            count(report.train.documents + report.validation.documents),
            count(dataset.tokens(Split::Train)),
            count(dataset.tokens(Split::Validation)),
            if dataset.from_cache() {
                " (cached)"
            } else {
                ""
            }
        ),
    );
    if report.replaced_sequences > 0 {
        ui.warn(format!(
            "{} invalid UTF-8 sequences in {} documents were replaced by \u{fffd}",
            count(report.replaced_sequences),
            count(report.documents_with_replacements)
        ));
    }
    let tokenizer: &Arc<_> = dataset.tokenizer();
    ui.status(
        "Tokenizer",
        format!("{} tokens", count(tokenizer.vocab_size() as u64)),
    );
}
