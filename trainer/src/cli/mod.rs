//! The command line: what can be typed, and which command runs.

mod args;
mod steer;
mod values;

pub use args::{
    BenchArgs, Cli, ColorArg, Command, CompletionsArgs, ConfigArgs, DevicesArgs, EvalArgs,
    ExportArgs, GenerateArgs, ImportArgs, PlanArgs, ResumeArgs, RunsArgs, TrainArgs, VerifyArgs,
    memory_limit,
};
pub use steer::{CtlArgs, CtlCommand, ExportMetricsArgs, StatusArgs, TuiArgs, ViewArgs};
pub use values::{ByteSize, CheckpointChoice};

use std::process::ExitCode;

use crate::commands;
use crate::error::Error;
use crate::ui::Ui;

/// Runs a command and tells how it ended.
pub fn run(cli: Cli) -> ExitCode {
    let ui = Ui::new(cli.quiet, cli.color.into());
    let result = dispatch(cli.command, &ui).and_then(|()| ui.finish());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui.error(&error);
            error.exit_code()
        }
    }
}

fn dispatch(command: Command, ui: &Ui) -> Result<(), Error> {
    match command {
        Command::Train(args) => commands::train::run(args, ui),
        Command::Plan(args) => commands::plan::run(args, ui),
        Command::Resume(args) => commands::resume::run(args, ui),
        Command::Generate(args) => commands::generate::run(args, ui),
        Command::Eval(args) => commands::eval::run(args, ui),
        Command::Import(args) => commands::import::run(args, ui),
        Command::Export(args) => commands::export::run(args, ui),
        Command::Verify(args) => commands::verify::run(args, ui),
        Command::Bench(args) => commands::bench::run(args, ui),
        Command::Devices(args) => commands::devices::run(args, ui),
        Command::Config(args) => commands::config::run(args, ui),
        Command::Runs(args) => commands::runs::run(args, ui),
        Command::Ctl(args) => commands::ctl::run(args, ui),
        Command::Status(args) => commands::status::run(args, ui),
        Command::ExportMetrics(args) => commands::export_metrics::run(args, ui),
        Command::Tui(args) => commands::tui::run(args, ui),
        Command::View(args) => commands::view::run(args, ui),
        Command::Completions(args) => commands::completions::run(args, ui),
    }
}
