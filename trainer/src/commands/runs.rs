//! `bellows runs`: what was trained, and how far.

use bellows_record::{RunSummary, list_runs};
use serde::Serialize;

use crate::cli::RunsArgs;
use crate::error::Error;
use crate::ui::{Table, Ui, duration, rate};

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    path: String,
    run_id: &'a str,
    state: String,
    step: u64,
    total_steps: u64,
    loss: Option<f64>,
    validation_loss: Option<f64>,
    tokens_per_second: Option<f64>,
    created: String,
    heartbeat: String,
    device: &'a str,
    model_type: &'a str,
}

/// Lists the runs of a folder, the newest last.
///
/// # Errors
/// The folder cannot be read.
pub fn run(args: RunsArgs, ui: &Ui) -> Result<(), Error> {
    let found = if args.directory.exists() {
        let mut list = list_runs(&args.directory)?;
        list.runs
            .sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
        for (path, error) in &list.unreadable {
            ui.warn(format_args!("left out {}: {error}", path.display()));
        }
        list.runs
    } else {
        Vec::new()
    };
    if args.json {
        let rows: Vec<Row<'_>> = found.iter().map(row).collect();
        ui.json(&rows);
        return Ok(());
    }
    if found.is_empty() {
        ui.print(format_args!(
            "there are no runs in {}; `bellows train CONFIG` starts one",
            args.directory.display()
        ));
        return Ok(());
    }
    let now = bellows_record::now();
    let mut table = Table::new([
        "run",
        "state",
        "step",
        "loss",
        "validation",
        "speed",
        "model",
        "device",
        "last sign",
    ])
    .right(&[2, 3, 4, 5]);
    for run in &found {
        let loss = |loss: Option<f64>| loss.map_or_else(|| "–".into(), |loss| format!("{loss:.3}"));
        let age = (now - run.heartbeat).unsigned_abs();
        table.row([
            run.name.clone(),
            run.liveness.to_string(),
            format!("{}/{}", run.step, run.total_steps),
            loss(run.loss),
            loss(run.validation_loss),
            run.tokens_per_second
                .map_or_else(|| "–".into(), |speed| rate(speed, "tokens")),
            run.model_type.clone(),
            run.device.clone(),
            format!("{} ago", duration(age)),
        ]);
    }
    ui.table(&table);
    Ok(())
}

fn row(run: &RunSummary) -> Row<'_> {
    use time::format_description::well_known::Rfc3339;
    let date = |date: time::OffsetDateTime| date.format(&Rfc3339).unwrap_or_default();
    Row {
        name: &run.name,
        path: run.path.display().to_string(),
        run_id: &run.run_id,
        state: run.liveness.to_string(),
        step: run.step,
        total_steps: run.total_steps,
        loss: run.loss,
        validation_loss: run.validation_loss,
        tokens_per_second: run.tokens_per_second,
        created: date(run.created),
        heartbeat: date(run.heartbeat),
        device: &run.device,
        model_type: &run.model_type,
    }
}
