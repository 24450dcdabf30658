//! `cargo xtask test`: every test on the CPU backend, then the device-dependent ones again on a wgpu device.
//!
//! One release build makes all test programs. [`select`] chooses what each pass runs, [`run`](mod@run) starts the
//! programs, [`doc`] the documentation tests; [`stream`] shows their output as it comes while [`transcript`] reads it,
//! and [`report`] counts.

mod apart;
mod doc;
mod mended;
mod report;
mod run;
mod select;
mod stream;
mod transcript;

use std::process::Command;
use std::time::Instant;

use clap::Args;

pub use mended::as_compiler;
pub use report::Report;

use crate::cargo::{self, Build, TestProgram, Workspace};
use crate::error::Error;
use crate::{ui, vulkan};
use report::{Row, Skip};
use run::Device;
use select::Selection;

/// Options of `cargo xtask test`.
#[derive(Args, Default)]
pub struct Options {
    /// Leave out the wgpu device.
    #[arg(long, conflicts_with = "gpu_only")]
    cpu_only: bool,
    /// Run the device-dependent tests on the wgpu device and nothing else.
    #[arg(long)]
    gpu_only: bool,
    /// Build to SPIR-V and run the kernels' device-dependent tests on SwiftShader, nothing else.
    #[arg(long, conflicts_with_all = ["cpu_only", "gpu_only", "features"])]
    spirv: bool,
    /// Build with Burn's fusion and run the device-dependent tests on the wgpu device, nothing else.
    #[arg(long, conflicts_with_all = ["cpu_only", "gpu_only", "spirv", "features"])]
    fusion: bool,
    /// Features to build with, as cargo takes them (`vulkan`, `metal`).
    #[arg(long, value_name = "FEATURES")]
    features: Option<String>,
    /// Parts of test names to run, and flags for the test programs.
    #[arg(last = true, value_name = "FILTER")]
    filter: Vec<String>,
}

/// Builds and runs the tests. Failing tests are in the report; an error means that they could not be run at all.
pub fn run(options: &Options) -> Result<Report, Error> {
    if options.spirv {
        return apart::spirv(options);
    }
    if options.fusion {
        return apart::fusion(options);
    }
    let workspace = Workspace::load()?;
    // Before the build, which takes minutes: a person can act on it meanwhile.
    let device = if options.cpu_only {
        Ok(())
    } else {
        vulkan::ensure()
    };
    if let Err(reason) = &device {
        ui::warning(format!("the tests will not run on a wgpu device: {reason}"));
    }

    let mut report = Report::default();
    let mut build_command = test_command(
        options,
        &["--no-run", "--message-format", "json-render-diagnostics"],
    );
    let built = built(&workspace, &mut build_command, "workspace", &mut report)?;
    let Some(programs) = built else {
        return Ok(report);
    };

    let selection = Selection::new(&options.filter);
    if !options.gpu_only {
        for program in &programs {
            report.extend(settled(Device::Cpu, program, on_cpu(program, &selection)));
        }
        if workspace.has_doc_tests() {
            let mut command = test_command(options, &["--doc"]);
            command.arg("--").args(&options.filter);
            report.extend(doc::tests(command, &workspace));
        }
        viewer(&workspace, &selection, &mut report)?;
    }
    if !options.cpu_only {
        let missing = device.as_ref().err();
        for program in programs
            .iter()
            .filter(|program| select::may_depend_on_device(program))
        {
            let row = on_gpu(program, &selection, Device::Gpu, missing);
            report.extend(settled(Device::Gpu, program, row));
        }
    }
    Ok(report)
}

/// Builds and runs the tests of the viewer, whose workspace is its own.
fn viewer(root: &Workspace, selection: &Selection, report: &mut Report) -> Result<(), Error> {
    let workspace = root.viewer()?;
    let mut command = cargo::command(["test", "--release", "--no-fail-fast"]);
    command.args(workspace.options());
    command.args(["--no-run", "--message-format", "json-render-diagnostics"]);
    let programs = built(&workspace, &mut command, "viewer", report)?;
    for program in &programs.unwrap_or_default() {
        report.extend(settled(Device::Cpu, program, on_cpu(program, selection)));
    }
    Ok(())
}

/// Builds test programs with `command`. Where they do not compile, the report gets a failure under the name `what`.
fn built(
    workspace: &Workspace,
    command: &mut Command,
    what: &str,
    report: &mut Report,
) -> Result<Option<Vec<TestProgram>>, Error> {
    ui::step("build", &cargo::shown(command));
    let started = Instant::now();
    let Build { programs, status } = workspace.build_tests(command)?;
    if !status.success() {
        let failure =
            format!("the tests did not compile ({status}); the compiler's messages are above");
        report.add(Row::failure("build", what, failure, started.elapsed()));
        return Ok(None);
    }
    ui::say(format!("built in {}", ui::duration(started.elapsed())));
    Ok(Some(programs))
}

/// A program that could not be run has failed; the others still run, and keep their results.
fn settled(device: Device, program: &TestProgram, row: Result<Option<Row>, Error>) -> Option<Row> {
    row.unwrap_or_else(|error| {
        let row = Row::new(device.name(), program);
        Some(Row {
            failures: vec![error.to_string()],
            ..row
        })
    })
}

fn on_cpu(program: &TestProgram, selection: &Selection) -> Result<Option<Row>, Error> {
    let names = run::list(program, selection.everything())?;
    if names.is_empty() {
        return Ok(None);
    }
    run::tests(program, Device::Cpu, selection.everything(), &names).map(Some)
}

fn on_gpu(
    program: &TestProgram,
    selection: &Selection,
    device: Device,
    missing: Option<&String>,
) -> Result<Option<Row>, Error> {
    let names = selection.on_device(program, run::list(program, selection.everything())?);
    if names.is_empty() {
        return Ok(None);
    }
    let Some(reason) = missing else {
        return run::tests(program, device, &selection.exactly(&names), &names).map(Some);
    };
    let skip = |test| Skip {
        test,
        reason: reason.clone(),
    };
    let skips = names.into_iter().map(skip).collect();
    Ok(Some(Row {
        skips,
        ..Row::new(device.name(), program)
    }))
}

/// `cargo test` for the whole workspace in release: the profile of the program, so that both share one build of Burn.
fn test_command(options: &Options, arguments: &[&str]) -> Command {
    let mut command = cargo::command(["test", "--release", "--workspace", "--no-fail-fast"]);
    command.args(
        options
            .features
            .iter()
            .flat_map(|list| ["--features", list]),
    );
    command.args(arguments);
    command
}
