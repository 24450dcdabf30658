//! Comparison of the engine with a reference implementation's numbers.
//!
//! A folder holds `config.json`, `model.safetensors` (start weights) and `golden.safetensors`: inputs,
//! logits, losses, every gradient, and the weights after two AdamW steps. `trainer/tests/fixtures`
//! has such folders and describes them.

mod compare;
mod report;

pub use report::{Check, Computed, KINDS, Report};

use std::path::Path;

use bellows_engine::config::{ModelType, huggingface};
use bellows_engine::kernels::calls;
use bellows_engine::model::{Decoder, Input, Sequences};
use bellows_engine::objective::RouterObjective;
use bellows_engine::observer::NoObserver;
use bellows_engine::optim::{AdamW, AdamWConfig};
use bellows_engine::step::{
    Backpropagation, IGNORE, MicroBatch, Settings, StepResult, run, run_with,
};
use bellows_engine::stream;
use bellows_engine::weights::SafetensorsSource;
use burn::module::Module;
use burn::tensor::Device;

use crate::error::Error;
use crate::models::{ModelFolder, map_file};
use compare::Golden;

/// The optimizer of the golden files.
fn reference_optimizer() -> AdamWConfig {
    AdamWConfig {
        learning_rate: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.01,
        no_decay: Vec::new(),
        max_grad_norm: Some(1.0),
    }
}

/// Computes everything that `folder`'s golden file holds, on `device`, and compares.
///
/// # Errors
/// If the folder cannot be read. Numbers that differ are not an error: the report says so.
///
/// With `stream` the first step is also made in chunks of so many tokens, and every gradient has to
/// be the unstreamed one.
pub fn verify(folder: &Path, device: &Device, stream: Option<usize>) -> Result<Report, Error> {
    let device = device.clone().autodiff();
    // What ran before is not this folder's.
    calls::take();
    let source = ModelFolder::open(folder)?;
    let objective = huggingface::reference_objective(&source.json, &source.config)
        .map_err(|error| Error::input(format!("{}: {error}", folder.display())))?;
    let model = source.load(&device)?;

    let file = folder.join("golden.safetensors");
    let map = map_file(&file)?;
    let wrong = |error: bellows_engine::weights::WeightError| Error::input(error.to_string());
    let tensors =
        SafetensorsSource::new(&[(file.display().to_string(), map.as_ref())]).map_err(wrong)?;
    let mut golden = Golden::new(&tensors);
    let batch = batch(&golden, &file)?;

    let input = Input::new(model.config(), &batch.sequences, 0, &device);
    let plain = model.valid();
    let forward = plain.forward(&input, None);
    let logits = compare::host(plain.logits(forward.hidden));
    golden.logits(&logits).map_err(wrong)?;
    let vocabulary = source.config.vocab_size;
    for at in forward.routings.iter().filter(|at| at.iteration == 0) {
        let logits = compare::host(at.routing.logits.clone());
        golden.router_logits(at.layer, &logits).map_err(wrong)?;
    }

    let first = step(&model, &batch, &objective, &device);
    let loss = reported_loss(&first, source.config.model_type);
    golden.scalar("loss", loss, 1e-4).map_err(wrong)?;
    if objective.pool_layers {
        // The reference's frequencies sum to k over the experts, the engine's to 1.
        let aux = first.losses.balance * source.config.num_experts_per_tok as f64;
        golden.scalar("aux_loss", aux, 1e-4).map_err(wrong)?;
    }
    golden.gradients(&model, &first.gradients).map_err(wrong)?;
    for (chunk, keep_attention) in stream
        .into_iter()
        .flat_map(|chunk| [(chunk, false), (chunk, true)])
    {
        let settings = Settings {
            backpropagation: Backpropagation::Streamed(stream::Settings {
                chunk: Some(chunk),
                keep: stream::Keep::F32,
                keep_attention,
            }),
            ..Settings::default()
        };
        let batches = std::slice::from_ref(&batch);
        let streamed = run_with(
            &model,
            batches,
            &objective,
            &device,
            &mut NoObserver,
            &settings,
        );
        golden.streamed(&first, &streamed);
    }

    let start = model.clone();
    let mut optimizer = AdamW::new(&reference_optimizer());
    let rate = reference_optimizer().learning_rate;
    let (model, _) = optimizer.update(model, first.gradients, rate);
    let second = step(&model, &batch, &objective, &device);
    let (model, _) = optimizer.update(model, second.gradients, rate);
    golden.weights_after(&start, &model).map_err(wrong)?;
    let last = step(&model, &batch, &objective, &device);
    let loss = reported_loss(&last, source.config.model_type);
    golden.scalar("loss_after_2", loss, 1e-3).map_err(wrong)?;

    let computed = calls::take().iter().map(Computed::new).collect();
    Ok(golden.finish(folder, logits.len() / vocabulary, computed))
}

fn step(
    model: &Decoder,
    batch: &MicroBatch,
    objective: &RouterObjective,
    device: &Device,
) -> StepResult {
    let batches = std::slice::from_ref(batch);
    run(model, batches, objective, device, &mut NoObserver)
}

/// The golden `loss`: with the auxiliary loss, except for the Chain-of-Experts model, which adds it
/// to the gradient alone.
fn reported_loss(result: &StepResult, kind: ModelType) -> f64 {
    match kind {
        ModelType::CoeDeepseekV2 => result.losses.cross_entropy,
        _ => result.losses.total,
    }
}

fn batch(golden: &Golden, file: &Path) -> Result<MicroBatch, Error> {
    let bad = |problem: &str| Error::input(format!("{}: input_ids {problem}", file.display()));
    let shape = golden.shape("input_ids").ok_or_else(|| bad("is missing"))?;
    let [rows, time] = shape[..] else {
        return Err(bad("is not [batch, time]"));
    };
    let ids = golden
        .ids("input_ids")
        .map_err(|error| Error::input(error.to_string()))?;
    let labels = (0..rows * time)
        .map(|at| {
            if at % time + 1 < time {
                ids[at + 1]
            } else {
                IGNORE
            }
        })
        .collect();
    Ok(MicroBatch {
        sequences: Sequences::plain(rows, time, ids),
        labels,
        ..MicroBatch::default()
    })
}
