//! `bellows status`: how far a run is.

use std::time::Duration;

use bellows_record::control::{Status, ask_status};
use bellows_record::{Liveness, RunReader, StepMetrics};
use serde::Serialize;

use crate::cli::StatusArgs;
use crate::error::Error;
use crate::ui::{Ui, bytes, count, duration, rate};

/// A run that is asked how it is steered has this long to say so.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Serialize)]
struct Document {
    name: String,
    path: String,
    run_id: String,
    state: String,
    step: u64,
    total_steps: u64,
    tokens: u64,
    seconds: f64,
    loss: Option<f64>,
    validation_loss: Option<f64>,
    tokens_per_second: Option<f64>,
    learning_rate: Option<f64>,
    memory_bytes: Option<u64>,
    peak_memory_bytes: Option<u64>,
    heartbeat: String,
    device: String,
    model_type: String,
    checkpoints: Vec<u64>,
    /// How a live run is steered; null where it could not be asked.
    control: Option<Status>,
}

/// Tells how far a run is, whether or not it lives.
///
/// # Errors
/// If the folder is no run, or cannot be read.
pub fn run(args: StatusArgs, ui: &Ui) -> Result<(), Error> {
    use time::format_description::well_known::Rfc3339;
    let reader = RunReader::open(&args.run)?;
    let mut liveness = reader.liveness();
    let manifest = reader.manifest();
    let last: Option<StepMetrics> = reader.last_metrics(1)?.pop();
    let finite = |value: f64| value.is_finite().then_some(value);
    // A run that is busy with a long step still answers: the socket has threads of its own. So does
    // one that cannot write its heartbeat any more.
    let mut control = None;
    if (liveness.is_live() || liveness == Liveness::Crashed)
        && let Some((now, status)) = ask_status(&args.run, PATIENCE)
    {
        liveness = now;
        control = Some(status);
    }
    let progress = &manifest.progress;
    let document = Document {
        name: manifest.name.clone(),
        path: args.run.display().to_string(),
        run_id: manifest.run_id.clone(),
        state: liveness.to_string(),
        step: last.as_ref().map_or(0, |row| row.step).max(progress.step),
        total_steps: manifest.info.total_steps,
        tokens: last
            .as_ref()
            .map_or(0, |row| row.tokens)
            .max(progress.tokens),
        seconds: last
            .as_ref()
            .map_or(0.0, |row| row.time)
            .max(progress.seconds),
        loss: last.as_ref().and_then(|row| finite(row.loss)),
        validation_loss: progress.validation_loss,
        tokens_per_second: last.as_ref().and_then(|row| finite(row.tokens_per_second)),
        learning_rate: last.as_ref().and_then(|row| finite(row.learning_rate)),
        memory_bytes: last.as_ref().and_then(|row| row.memory_bytes),
        peak_memory_bytes: last.as_ref().and_then(|row| row.peak_memory_bytes),
        heartbeat: manifest.heartbeat.format(&Rfc3339).unwrap_or_default(),
        device: manifest.info.device.name.clone(),
        model_type: manifest.info.model.model_type.clone(),
        checkpoints: reader
            .checkpoints()?
            .into_iter()
            .map(|(step, _)| step)
            .collect(),
        control,
    };
    if args.json {
        ui.json(&document);
    } else {
        tell(&document, ui);
    }
    Ok(())
}

fn tell(run: &Document, ui: &Ui) {
    let none = || "–".to_owned();
    let loss = |loss: Option<f64>| loss.map_or_else(none, |loss| format!("{loss:.4}"));
    let line = |name: &str, value: String| ui.print(format!("{name:<16}{value}"));
    line("run", format!("{} ({})", run.name, run.path));
    line("state", run.state.clone());
    line("step", format!("{} of {}", run.step, run.total_steps));
    line("tokens", count(run.tokens));
    line(
        "trained for",
        duration(Duration::from_secs_f64(run.seconds.max(0.0))),
    );
    line("loss", loss(run.loss));
    line("validation", loss(run.validation_loss));
    line(
        "speed",
        run.tokens_per_second
            .map_or_else(none, |speed| rate(speed, "tokens")),
    );
    line(
        "learning rate",
        run.learning_rate
            .map_or_else(none, |rate| format!("{rate:.3e}")),
    );
    if let Some(memory) = run.memory_bytes {
        let peak = run
            .peak_memory_bytes
            .map(|peak| format!(", at most {}", bytes(peak)));
        line("memory", bytes(memory) + &peak.unwrap_or_default());
    }
    line("device", run.device.clone());
    let steps: Vec<String> = run.checkpoints.iter().map(u64::to_string).collect();
    line(
        "checkpoints",
        if steps.is_empty() {
            none()
        } else {
            steps.join(", ")
        },
    );
    if let Some(control) = &run.control {
        tell_steering(control, ui);
    }
}

/// How a live run is steered.
pub(super) fn tell_steering(status: &Status, ui: &Ui) {
    let line = |name: &str, value: String| ui.print(format!("{name:<16}{value}"));
    if let Some(trouble) = &status.trouble {
        line("not recorded", trouble.clone());
    }
    line(
        "steering",
        format!("learning rate × {}", status.learning_rate_scale),
    );
    line("", format!("{} micro-batches a step", status.micro_batches));
    let intervals = &status.intervals;
    let every = |steps: Option<u64>| match steps {
        Some(0) | None => "never".to_owned(),
        Some(steps) => steps.to_string(),
    };
    line(
        "recorded every",
        format!(
            "metrics {}, routing {}, transitions {}, memory {}, traces {} steps",
            every(intervals.metrics_every),
            every(intervals.routing_every),
            every(intervals.transitions_every),
            every(intervals.memory_every),
            every(intervals.traces_every)
        ),
    );
}
