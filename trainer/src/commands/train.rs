//! `bellows train`.

use std::path::Path;

use bellows_record::RunWriter;
use serde_json::json;

use crate::cli::TrainArgs;
use crate::config::RunConfig;
use crate::device::AdapterKind;
use crate::error::Error;
use crate::run::{Outcome, Session, Stop, train};
use crate::ui::{Ui, count, duration, rate};

/// Trains as a configuration says.
///
/// # Errors
/// If the configuration, the data or the device is not usable (exit code 2), or training fails.
pub fn run(args: TrainArgs, ui: &Ui) -> Result<(), Error> {
    let loaded = RunConfig::load(&args.config, &args.overrides())?;
    for warning in &loaded.warnings {
        ui.warn(warning);
    }
    let stop = listen(ui)?;
    let session = Session::start(loaded.config, &stop, ui)?;
    // A configuration without a name has that of its file.
    let run = &session.config.run;
    let writer = RunWriter::create(
        &run.directory,
        run.name.as_deref().unwrap_or("run"),
        session.info(),
        &session.config.to_toml()?,
    )?;
    writer.plan(&session.plan)?;
    announce(&session, ui);
    let path = writer.path().to_owned();
    let outcome = train(session, writer, &stop, ui, args.json)
        .inspect_err(|_| ui.note(format!("the run is in {}", path.display())))?;
    tell(&outcome, &path, args.json, ui);
    Ok(())
}

/// Ctrl-C, told once.
pub(super) fn listen(ui: &Ui) -> Result<Stop, Error> {
    let ui = ui.clone();
    Stop::listen(move || {
        ui.note("stopping after this step; Ctrl-C again stops at once, without a checkpoint");
    })
}

/// What is about to be trained, and where.
pub(super) fn announce(session: &Session, ui: &Ui) {
    let model = &session.config.model;
    let parameters = model.parameter_counts();
    let mut what = format!("{} parameters", count(parameters.total as u64));
    if model.moe_layers() > 0 {
        what += &format!(
            ", {} active: {} of {} experts",
            count(parameters.active as u64),
            model.num_experts_per_tok,
            model.n_routed_experts
        );
        if model.inner_iter > 1 {
            what += &format!(", {} iterations", model.inner_iter);
        }
    }
    ui.status("Model", what);
    ui.status("Device", session.opened.name());
    ui.status("Precision", session.precision.to_string());
    let adapter = session.opened.adapter.as_ref();
    if adapter.is_some_and(|adapter| adapter.kind == AdapterKind::Software) {
        ui.warn("this driver computes on the processor, many times slower than --device cpu does");
    }
    ui.status("Memory", &session.memory);
    let train = &session.config.train;
    ui.status(
        "Training",
        format!(
            "{} steps of {} tokens",
            count(train.steps),
            count(train.tokens_per_step())
        ),
    );
}

/// How it ended.
pub(super) fn tell(outcome: &Outcome, path: &Path, json: bool, ui: &Ui) {
    if json {
        let samples: Vec<_> = outcome
            .samples
            .iter()
            .map(|(prompt, text)| json!({ "prompt": prompt, "text": text }))
            .collect();
        ui.json_line(&json!({
            "event": if outcome.stopped.is_some() { "stopped" } else { "finished" },
            "reason": outcome.stopped,
            "step": outcome.step,
            "steps": outcome.steps,
            "tokens": outcome.tokens,
            "seconds": outcome.seconds,
            "loss": outcome.loss,
            "validation_loss": outcome.validation_loss,
            "unigram_entropy": outcome.unigram_entropy,
            "samples": samples,
            "run": path,
        }));
        return;
    }
    for (prompt, text) in &outcome.samples {
        ui.print("");
        ui.print(format!("{prompt}{text}"));
    }
    ui.print("");
    let pace = outcome.tokens as f64 / outcome.seconds.max(1e-9);
    let trained = format!(
        "{} of {} steps, {} tokens in {} ({})",
        count(outcome.step),
        count(outcome.steps),
        count(outcome.tokens),
        duration(std::time::Duration::from_secs_f64(outcome.seconds)),
        rate(pace, "tokens"),
    );
    match &outcome.stopped {
        None => ui.status("Finished", trained),
        Some(why) => ui.status("Stopped", format!("{why} after {trained}")),
    }
    let unit = if outcome.per_token { " nat/token" } else { "" };
    // There is none before a step was applied.
    if !outcome.loss.is_nan() {
        ui.print(format!("training loss     {:.4}{unit}", outcome.loss));
    }
    if let Some(loss) = outcome.validation_loss {
        ui.print(format!("validation loss   {loss:.4}{unit}"));
        if let Some(entropy) = outcome.unigram_entropy {
            let gap = entropy - loss;
            let side = if gap < 0.0 { "above" } else { "below" };
            ui.print(format!(
                "unigram entropy   {entropy:.4} nat/token of the same tokens: the model is {:.4} {side}",
                gap.abs()
            ));
        }
    }
    ui.print(format!("run               {}", path.display()));
    if outcome.stopped.is_some() {
        ui.note(format!("`bellows resume {}` goes on", path.display()));
    }
}
