//! `bellows resume`.

use bellows_record::{RunReader, RunWriter, list_checkpoints};

use super::train::{announce, listen, tell};
use crate::cli::ResumeArgs;
use crate::config::{Override, RunConfig};
use crate::error::Error;
use crate::models::{checkpoint_state, resolve};
use crate::run::{Session, train};
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
    ui.status(
        "Resuming",
        format!("{} from step {step}", args.run.display()),
    );
    let session = Session::resume(loaded.config, &checkpoint, &stop, ui)?;
    let writer = RunWriter::resume(&args.run, session.info(), step + 1)?;
    go_back(&writer, step, ui)?;
    if !overrides.is_empty() {
        writer.config(&session.config.to_toml()?)?;
    }
    announce(&session, ui);
    let outcome = train(session, writer, &stop, ui, args.json)?;
    tell(&outcome, &args.run, args.json, ui);
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
