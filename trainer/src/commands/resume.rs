//! `bellows resume`.

use std::path::Path;

use bellows_record::{Event, EventKind, RunReader, RunWriter, list_checkpoints};

use super::train::{announce, listen, tell};
use crate::cli::{ResumeArgs, memory_limit};
use crate::config::{Override, RunConfig};
use crate::error::Error;
use crate::models::{checkpoint_state, resolve};
use crate::plan::Before;
use crate::run::{Session, Stop, train};
use crate::ui::Ui;

/// Goes on with a run from one of its checkpoints.
///
/// # Errors
/// If the folder is no run, is in use, or has no usable checkpoint (exit code 2), or training fails.
pub fn run(args: ResumeArgs, ui: &Ui) -> Result<(), Error> {
    let reader = RunReader::open(&args.run)?;
    let mut overrides = Vec::new();
    if let Some(steps) = args.steps {
        overrides.push(Override::option("--steps", "train.steps", steps));
    }
    if let Some(device) = args.device {
        overrides.push(Override::text("--device", "run.device", device.to_string()));
    }
    overrides.extend(args.memory.map(memory_limit));
    if let Some(name) = &args.branch {
        overrides.push(Override::text("--branch", "run.name", name));
    }
    let file = args.run.join("config.toml").display().to_string();
    let loaded = RunConfig::parse(&reader.config()?, &file, &overrides)?;
    for warning in &loaded.warnings {
        ui.warn(warning);
    }
    let checkpoint = resolve(&args.run, args.from)?;
    let step = checkpoint_state(&checkpoint)?.step;
    if step >= loaded.config.train.steps {
        return Err(Error::input(format!(
            "{} is at step {step} of {}: nothing is left to train",
            args.run.display(),
            loaded.config.train.steps
        ))
        .help("give a larger number of steps with --steps N"));
    }
    let stop = listen(ui)?;
    if args.branch.is_some() {
        return branch(&args, loaded.config, &checkpoint, &stop, ui);
    }
    ui.status(
        "Resuming",
        format!("{} from step {step}", args.run.display()),
    );
    let before = planned_before(&reader);
    let session = Session::resume(loaded.config, &checkpoint, before, &stop, ui)?;
    let writer = RunWriter::resume(&args.run, session.info(), step + 1)?;
    go_back(&writer, step, ui)?;
    writer.plan(&session.plan)?;
    if !overrides.is_empty() {
        writer.config(&session.config.to_toml()?)?;
    }
    announce(&session, ui);
    let outcome = train(session, writer, &stop, ui, args.json)?;
    tell(&outcome, &args.run, args.json, ui);
    Ok(())
}

/// Goes on from `checkpoint` in a new run beside the old one. The checkpoint is copied first, so
/// that the new run can be resumed whatever happens to the old one.
fn branch(
    args: &ResumeArgs,
    config: RunConfig,
    checkpoint: &Path,
    stop: &Stop,
    ui: &Ui,
) -> Result<(), Error> {
    let step = checkpoint_state(checkpoint)?.step;
    let root = args.run.canonicalize().ok();
    let root = root
        .as_deref()
        .and_then(Path::parent)
        .unwrap_or(Path::new("."));
    let origin = format!("{} at step {step}", args.run.display());
    ui.status("Branching", format!("off {origin}"));
    let before = planned_before(&RunReader::open(&args.run)?);
    let session = Session::resume(config, checkpoint, before, stop, ui)?;
    let name = session.config.run.name.as_deref().unwrap_or("run");
    let toml = session.config.to_toml()?;
    let writer = RunWriter::create(root, name, session.info(), &toml)?;
    writer.plan(&session.plan)?;
    copy_checkpoint(&writer, checkpoint, step)?;
    let reason = format!("a branch of {origin}");
    writer.event(Event::new(step, EventKind::Started, reason))?;
    announce(&session, ui);
    let path = writer.path().to_owned();
    let outcome = train(session, writer, stop, ui, args.json)
        .inspect_err(|_| ui.note(format!("the run is in {}", path.display())))?;
    tell(&outcome, &path, args.json, ui);
    Ok(())
}

/// How the run kept activations so far.
fn planned_before(reader: &RunReader) -> Option<Before> {
    Before::of(&reader.plan().ok().flatten()?)
}

fn copy_checkpoint(writer: &RunWriter, from: &Path, step: u64) -> Result<(), Error> {
    let pending = writer.begin_checkpoint(step)?;
    let copy = || -> std::io::Result<()> {
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                std::fs::copy(entry.path(), pending.path().join(entry.file_name()))?;
            }
        }
        Ok(())
    };
    copy().map_err(|error| {
        Error::input(format!(
            "cannot copy the checkpoint {}: {error}",
            from.display()
        ))
    })?;
    pending.commit()?;
    Ok(())
}

/// Removes the checkpoints of steps after `step`: they belong to steps that are about to be replaced,
/// yet retention and the next resume would take them for the newest.
fn go_back(writer: &RunWriter, step: u64, ui: &Ui) -> Result<(), Error> {
    for (later, _) in list_checkpoints(writer.path())? {
        if later > step {
            writer.remove_checkpoint(later)?;
            ui.note(format!("removed the checkpoint of step {later}"));
        }
    }
    Ok(())
}
