//! `bellows plan`.

use bellows_engine::kernels::Compute;
use bellows_engine::kernels::memory::Kind;
use serde_json::json;

use crate::cli::PlanArgs;
use crate::config::RunConfig;
use crate::device::{DeviceChoice, OpenDevice, Precision};
use crate::error::Error;
use crate::plan::{self, Planner, Sample, Sizes, know_vocabulary, measure, samples};
use crate::ui::{Table, Ui, bytes, count};

/// Tells the memory that a step of a configuration needs, and what fits.
///
/// # Errors
/// If the configuration or the device is not usable. That it does not fit is an answer, no error.
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

/// `--measure`: a step of each of `samples`, predicted and measured.
fn measured(
    samples: &[Sample],
    opened: &OpenDevice,
    args: &PlanArgs,
    ui: &Ui,
) -> Result<(), Error> {
    let precision = |sample: &Sample| format!("{:?}", sample.numerics.compute).to_lowercase();
    if !args.json {
        ui.status("Device", opened.name());
        ui.status(
            "Precision",
            samples.first().map_or_else(String::new, precision),
        );
    }
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
    let mut lines = Vec::new();
    let mut owners = Vec::new();
    for sample in samples {
        let spinner = ui.spinner(sample.name.clone());
        let found = measure(sample, &opened.device)?;
        drop(spinner);
        let tokens = format!("{} × {}", sample.load.batch, sample.load.time);
        let (by_kind, unexplained) = found.by_kind();
        let share = unexplained as f64 / found.peak().max(1) as f64;
        let predicted = found.predicted.peak();
        if args.json {
            let kinds = |bytes: &[u64]| -> serde_json::Value {
                let kinds = Kind::ALL.iter().zip(bytes);
                kinds.map(|(kind, bytes)| (kind.as_str(), *bytes)).collect()
            };
            lines.push(json!({
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
            }));
            continue;
        }
        table.row([
            sample.name.clone(),
            tokens,
            bytes(predicted.total()),
            bytes(found.peak()),
            format!("{:+.1} %", 100.0 * found.error()),
            bytes(found.reserved()),
            format!("{:.1} %", 100.0 * share),
        ]);
        if args.owners {
            owners.push((&sample.name, found));
        }
    }
    if args.json {
        ui.json(&lines);
        return Ok(());
    }
    ui.table(&table);
    for (name, found) in owners {
        ui.print("");
        ui.print(name);
        ui.table(&plan::phases_measured(&found));
        ui.table(&plan::owners(&found));
    }
    Ok(())
}
