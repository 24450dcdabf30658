//! `bellows plan`.

use bellows_engine::kernels::Compute;
use bellows_engine::kernels::memory::Kind;
use serde_json::{Value, json};

use crate::cli::PlanArgs;
use crate::config::RunConfig;
use crate::device::{DeviceChoice, OpenDevice, Precision};
use crate::error::Error;
use crate::plan::{
    self, Attempt, Measured, Planner, Sample, Sizes, attempt, know_vocabulary, measure, samples,
};
use crate::ui::{Table, Ui, bytes, count};

/// Tells the memory that a step of a configuration needs, and what fits.
///
/// # Errors
/// If the configuration or the device is not usable. That it does not fit is an answer and no error,
/// but where a step is to be measured.
pub fn run(args: PlanArgs, ui: &Ui) -> Result<(), Error> {
    let Some(path) = &args.config else {
        let opened = args.device.unwrap_or_default().open()?;
        let sizes = match args.sizes.as_deref() {
            Some("large") => Sizes::Large,
            _ => Sizes::Small,
        };
        let compute = Precision::Auto.resolve(&opened)?.compute;
        return measured(&samples(sizes, compute), &opened, &args, ui);
    };
    let loaded = RunConfig::load(path, &args.overrides())?;
    for warning in &loaded.warnings {
        ui.warn(warning);
    }
    let mut config = loaded.config;
    know_vocabulary(&mut config)?;
    if args.measure {
        let opened = config.run.device.open()?;
        let compute = config.train.precision.resolve(&opened)?.compute;
        let planner = Planner::new(&config, &opened, compute);
        planner.check_buffers()?;
        let answer = planner.plan(0);
        let samples = answer.samples();
        if samples.is_empty() {
            return Err(answer.refusal());
        }
        return measured(&samples, &opened, &args, ui);
    }
    let planner = planner(&config, ui)?;
    planner.check_buffers()?;
    let answer = planner.plan(0);
    if args.json {
        ui.json(&answer.document(true));
        return Ok(());
    }
    let parameters = config.model.parameter_counts();
    ui.status(
        "Model",
        format!("{} parameters", count(parameters.total as u64)),
    );
    ui.status("Device", planner.describe());
    ui.status(
        "Step",
        format!(
            "{} × {} tokens{}",
            config.train.batch_size,
            config.train.sequence_length,
            match config.train.accumulation {
                1 => String::new(),
                more => format!(", {more} times"),
            }
        ),
    );
    ui.table(&plan::table(&answer));
    ui.print("");
    ui.table(&plan::phases(&answer));
    ui.print("");
    ui.print(plan::verdict(&answer));
    for line in plan::advice(&answer) {
        ui.note(line);
    }
    Ok(())
}

/// The planner of `config` on its device; where that is not here and a limit is given, of a GPU
/// with so much memory.
fn planner(config: &RunConfig, ui: &Ui) -> Result<Planner, Error> {
    let spinner = ui.spinner("opening the device");
    let opened = config.run.device.look_at();
    drop(spinner);
    match opened {
        Ok(opened) => {
            let precision = config.train.precision.resolve(&opened)?;
            Ok(Planner::new(config, &opened, precision.compute))
        }
        Err(error) => match (config.run.device, config.train.memory_limit) {
            (DeviceChoice::Gpu(_), Some(_)) => {
                ui.note(format!("{error}: planned for another GPU with that memory"));
                let compute = match config.train.precision {
                    Precision::F32 => Compute::F32,
                    Precision::F16 => Compute::F16,
                    Precision::Auto | Precision::Bf16 => Compute::Bf16,
                };
                Ok(Planner::absent(config, compute))
            }
            _ => Err(error),
        },
    }
}

/// `--measure`: a step of each of `samples`, predicted and measured. One that fails ends it, after
/// those before it were told.
fn measured(
    samples: &[Sample],
    opened: &OpenDevice,
    args: &PlanArgs,
    ui: &Ui,
) -> Result<(), Error> {
    if !args.json {
        ui.status("Device", opened.name());
        ui.status(
            "Precision",
            samples.first().map_or_else(String::new, precision),
        );
    }
    let mut all = Vec::new();
    let mut failed = Ok(());
    for sample in samples {
        let spinner = ui.spinner(sample.name.clone());
        let found = match attempt(|| measure(sample, &opened.device)) {
            Attempt::Done(found) => found,
            Attempt::Refused(what) => Err(Error::failed(format!("{}: {what}", sample.name))
                .help("tell the plan with --memory what it may take, or make the step smaller")),
        };
        drop(spinner);
        match found {
            Ok(found) => all.push((sample, found)),
            Err(error) => {
                // A device that failed once says nothing about what comes after.
                failed = Err(error);
                break;
            }
        }
    }
    if args.json {
        let lines: Vec<_> = all
            .iter()
            .map(|(sample, found)| document(sample, found, opened))
            .collect();
        ui.json(&lines);
        return failed;
    }
    ui.table(&compared(&all));
    if args.owners {
        for (sample, found) in &all {
            ui.print("");
            ui.print(&sample.name);
            ui.table(&plan::phases_measured(found));
            ui.table(&plan::owners(found));
        }
    }
    failed
}

fn precision(sample: &Sample) -> String {
    format!("{:?}", sample.numerics.compute).to_lowercase()
}

/// A row of each step that was taken.
fn compared(all: &[(&Sample, Measured)]) -> Table {
    let mut table = Table::new([
        "configuration",
        "tokens",
        "predicted",
        "measured",
        "error",
        "reserved",
        "unexplained",
    ])
    .right(&[1, 2, 3, 4, 5, 6]);
    for (sample, found) in all {
        let (_, unexplained) = found.by_kind();
        let share = unexplained as f64 / found.peak().max(1) as f64;
        table.row([
            sample.name.clone(),
            format!("{} × {}", sample.load.batch, sample.load.time),
            bytes(found.predicted.peak().total()),
            bytes(found.peak()),
            format!("{:+.1} %", 100.0 * found.error()),
            bytes(found.reserved()),
            format!("{:.1} %", 100.0 * share),
        ]);
    }
    table
}

/// A step for scripts.
fn document(sample: &Sample, found: &Measured, opened: &OpenDevice) -> Value {
    let kinds = |bytes: &[u64]| -> Value {
        let kinds = Kind::ALL.iter().zip(bytes);
        kinds.map(|(kind, bytes)| (kind.as_str(), *bytes)).collect()
    };
    let (by_kind, unexplained) = found.by_kind();
    let predicted = found.predicted.peak();
    json!({
        "configuration": sample.name,
        "device": opened.name(),
        "precision": precision(sample),
        "batch_size": sample.load.batch,
        "sequence_length": sample.load.time,
        "predicted_bytes": predicted.total(),
        "predicted_phase": predicted.phase.as_str(),
        "predicted_by_kind": kinds(&predicted.bytes),
        "measured_bytes": found.peak(),
        "measured_phase": found.fullest().map(|moment| moment.phase),
        "measured_by_kind": kinds(&by_kind),
        "unexplained_bytes": unexplained,
        "reserved_bytes": found.reserved(),
        "error": found.error(),
    })
}
