//! Passes whose feature changes all of Burn, so that they need a build of their own, in a folder beside the ordinary
//! one: in one folder everything would be built anew at each turn, and cargo would take a crate that is not [`mended`] for
//! the one that is, since what it calls fresh does not depend on who compiled it. Only device-dependent tests run.
//!
//! `cargo xtask test --spirv`: the kernels' tests, compiled to SPIR-V, on SwiftShader or the driver named in
//! `VK_DRIVER_FILES`, with CubeCL [`mended`] for it. Models are left to real devices.
//!
//! `cargo xtask test --fusion`: kernels and models under Burn's fusion, on the wgpu device of the ordinary pass.

use std::path::PathBuf;
use std::process::Command;

use super::report::Report;
use super::run::Device;
use super::{Options, mended, select, settled};
use crate::cargo::{self, Workspace};
use crate::error::Error;
use crate::{ui, vulkan};

/// A build of its own, and what of it is run.
struct Apart {
    feature: &'static str,
    folder: &'static str,
    packages: &'static [&'static str],
    device: Device,
    /// Whether CubeCL is to be [`mended`].
    mended: bool,
    /// Why there is no device, if there is none.
    missing: Option<String>,
}

/// SPIR-V on SwiftShader, or on the driver that the loader's own variable names.
pub fn spirv(options: &Options) -> Result<Report, Error> {
    let device = if std::env::var_os("VK_DRIVER_FILES").is_some() {
        Device::Gpu
    } else {
        match vulkan::ensure_swiftshader() {
            Ok(manifest) => Device::Driver(manifest),
            Err(reason) => return Ok(Report::of_a_failure(reason)),
        }
    };
    run(
        options,
        &Apart {
            feature: "bellows-kernels/vulkan",
            folder: "spirv",
            packages: &["bellows-kernels"],
            device,
            mended: true,
            missing: None,
        },
    )
}

/// Burn's fusion on a wgpu device.
pub fn fusion(options: &Options) -> Result<Report, Error> {
    let missing = vulkan::ensure().err();
    if let Some(reason) = &missing {
        ui::warning(format!("the tests will not run on a wgpu device: {reason}"));
    }
    run(
        options,
        &Apart {
            feature: "bellows/fusion",
            folder: "fusion",
            packages: &select::DEVICE_PACKAGES,
            device: Device::Gpu,
            mended: false,
            missing,
        },
    )
}

fn run(options: &Options, apart: &Apart) -> Result<Report, Error> {
    let mut report = Report::default();
    let workspace = Workspace::load()?;
    let mut command = cargo::command(["test", "--release", "--no-fail-fast"]);
    command.args(apart.packages.iter().flat_map(|name| ["--package", name]));
    command.args(["--features", apart.feature, "--no-run"]);
    command.args(["--message-format", "json-render-diagnostics"]);
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace.root.join("target"), PathBuf::from)
        .join(apart.folder);
    command.env("CARGO_TARGET_DIR", &target);
    if apart.mended {
        mended::build(&mut command, &target.join("mended"))?;
    }
    let Some(programs) = super::built(&workspace, &mut command, "packages", &mut report)? else {
        return Ok(report);
    };
    let selection = select::Selection::new(&options.filter);
    let device = apart.device;
    for program in &programs {
        let row = super::on_gpu(program, &selection, device, apart.missing.as_ref());
        report.extend(settled(device, program, row));
    }
    Ok(report)
}

/// The loader's variables that name `manifest` as the only driver.
pub fn only_driver(command: &mut Command, manifest: &str) {
    command
        .env("VK_DRIVER_FILES", manifest)
        .env("VK_ICD_FILENAMES", manifest);
}
