//! `bellows eval`.

use bellows_data::Dataset;
use bellows_engine::step;
use bellows_record::RunReader;
use burn::module::Module;
use serde_json::json;

use crate::cli::EvalArgs;
use crate::config::RunConfig;
use crate::error::Error;
use crate::models::{ModelFolder, checkpoint_state, resolve};
use crate::run::{Stop, data_progress, loader_config, micro_batch};
use crate::ui::{Ui, count};

/// Measures the validation loss of a model.
///
/// # Errors
/// If the folder holds no usable model, or there is no validation data (exit code 2).
pub fn run(args: EvalArgs, ui: &Ui) -> Result<(), Error> {
    let path = resolve(&args.model, args.checkpoint)?;
    let folder = ModelFolder::open(&path)?;
    let tokenizer = folder.tokenizer()?;
    let progress = data_progress(&Stop::default(), ui);
    let (config, dataset) = match &args.data {
        Some(file) => {
            let mut config = RunConfig::load(file, &args.set)?.config;
            // The model's own tokenizer decides, whatever the configuration would learn.
            config.data.tokenizer.path = Some(path.clone());
            let dataset = Dataset::prepare(&config.data, &progress)?;
            (config, dataset)
        }
        None => {
            let reader = RunReader::open(&args.model)
                .map_err(|error| Error::from(error).help("give the data with --data CONFIG"))?;
            let file = args.model.join("config.toml").display().to_string();
            let config = RunConfig::parse(&reader.config()?, &file, &[])?.config;
            let dataset =
                Dataset::reopen(&config.data, &checkpoint_state(&path)?.dataset, &progress)?;
            (config, dataset)
        }
    };
    drop(progress);
    if !dataset.has_validation() {
        return Err(Error::input("the data has no validation split")
            .help("set data.validation.fraction or data.validation.paths"));
    }
    let batches = match args.batches.unwrap_or(config.evaluate.batches) {
        0 => None,
        batches => Some(batches),
    };
    let validation = dataset.validation(&loader_config(&config), batches)?;
    let opened = args.device.open()?;
    let compute = args.precision.of_flag(&opened)?.compute;
    let model = folder.load_in(&opened.device, compute)?.valid();
    let (mut sum, mut labels) = (0.0, 0);
    {
        let spinner = ui.spinner("validating");
        let total = validation.len();
        for (done, batch) in validation.batches().enumerate() {
            spinner.message(format!("validating: batch {} of {total}", done + 1));
            let (loss, count) = step::evaluate(&model, &micro_batch(&batch), &opened.device);
            sum += loss;
            labels += count;
        }
    }
    let loss = sum / labels.max(1) as f64;
    let entropy = validation.unigram_entropy();
    if args.json {
        ui.json(&json!({
            "model": path,
            "device": opened.label,
            "validation_loss": loss,
            "perplexity": loss.exp(),
            "labels": labels,
            "unigram_entropy": entropy,
            "vocabulary": tokenizer.vocab_size(),
        }));
    } else {
        ui.print(format!(
            "validation loss   {loss:.4} nat/token over {} tokens",
            count(labels as u64)
        ));
        ui.print(format!("perplexity        {:.2}", loss.exp()));
        ui.print(format!(
            "unigram entropy   {entropy:.4} nat/token of the same tokens"
        ));
    }
    Ok(())
}
