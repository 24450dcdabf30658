//! `cargo xtask test --spirv`: the kernels' device-dependent tests, compiled to SPIR-V, on SwiftShader.
//!
//! Mesa's software driver crashes on CubeCL's SPIR-V, SwiftShader runs it, so the two together test both compilers
//! without a GPU. Burn's own matrix product gives zeros on SwiftShader: what needs it there is skipped and counted, and
//! models, which are made of it, are left to real devices.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::report::{Report, Row};
use super::run::Device;
use super::{Options, select, settled};
use crate::cargo::{self, Build, Workspace};
use crate::error::Error;
use crate::ui;

/// Where distributions' browsers, and those who unpack one, have SwiftShader's manifest.
const MANIFESTS: [&str; 5] = [
    "/usr/lib/chromium/vk_swiftshader_icd.json",
    "/usr/lib/chromium-browser/vk_swiftshader_icd.json",
    "/usr/lib64/chromium-browser/vk_swiftshader_icd.json",
    "/opt/google/chrome/vk_swiftshader_icd.json",
    "/usr/share/vulkan/icd.d/vk_swiftshader_icd.json",
];

/// The package with the kernels.
const PACKAGE: &str = "bellows-kernels";

/// Builds beside the ordinary build: the feature changes all of Burn, and one folder would be rebuilt at each turn.
const FOLDER: &str = "target/spirv";

pub fn run(options: &Options) -> Result<Report, Error> {
    let mut report = Report::default();
    let Some(manifest) = MANIFESTS.into_iter().find(|path| Path::new(path).exists()) else {
        let reason = "SwiftShader is not here: Debian's package `chromium` brings it (apt-get install chromium)";
        report.add(Row::failure(
            "spirv",
            "SwiftShader",
            reason.to_owned(),
            std::time::Duration::ZERO,
        ));
        return Ok(report);
    };
    let workspace = Workspace::load()?;
    let mut command = cargo::command(["test", "--release", "--workspace", "--no-fail-fast"]);
    command.args(["--features", "bellows/vulkan", "--no-run"]);
    command.args(["--message-format", "json-render-diagnostics"]);
    if std::env::var_os("CARGO_TARGET_DIR").is_none() {
        command.env("CARGO_TARGET_DIR", FOLDER);
    }
    ui::step("build", &cargo::shown(&command));
    let started = Instant::now();
    let Build { programs, status } = workspace.build_tests(&mut command)?;
    if !status.success() {
        let failure =
            format!("the tests did not compile ({status}); the compiler's messages are above");
        report.add(Row::failure(
            "build",
            "workspace",
            failure,
            started.elapsed(),
        ));
        return Ok(report);
    }
    ui::say(format!("built in {}", ui::duration(started.elapsed())));
    let selection = select::Selection::new(&options.filter);
    let device = Device::Driver(manifest);
    for program in programs.iter().filter(|program| program.package == PACKAGE) {
        let row = super::on_gpu(program, &selection, device, None);
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
