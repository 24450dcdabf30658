//! Whether the wgpu pass has a driver to run on, and how it gets one: [`search`] looks where the Vulkan loader looks,
//! [`distro`] knows each distribution's packages, [`plan`] decides, and this page carries the decision out.

mod distro;
mod plan;
mod search;

use std::path::Path;
use std::process::{Command, Stdio};

use crate::cargo;
use crate::ui;
use plan::{Facts, Plan, Privilege, Wanted};
use search::Machine;

/// Where distributions' browsers, and those who unpack one, have SwiftShader's manifest.
const SWIFTSHADER: [&str; 5] = [
    "/usr/lib/chromium/vk_swiftshader_icd.json",
    "/usr/lib/chromium-browser/vk_swiftshader_icd.json",
    "/usr/lib64/chromium-browser/vk_swiftshader_icd.json",
    "/opt/google/chrome/vk_swiftshader_icd.json",
    "/usr/share/vulkan/icd.d/vk_swiftshader_icd.json",
];

/// Makes sure that a wgpu device can be found, installing software Vulkan where that is allowed. The error is the reason
/// why there is none, and what to do.
pub fn ensure() -> Result<(), String> {
    ensured(Wanted::Any)
}

/// As [`ensure`], SwiftShader; returns its manifest.
pub fn ensure_swiftshader() -> Result<&'static str, String> {
    ensured(Wanted::SwiftShader)?;
    swiftshader().ok_or_else(|| "no SwiftShader".to_owned())
}

fn swiftshader() -> Option<&'static str> {
    SWIFTSHADER
        .into_iter()
        .find(|path| Path::new(path).exists())
}

fn ensured(wanted: Wanted) -> Result<(), String> {
    match plan::decide(&facts(wanted)) {
        Plan::Nothing => Ok(()),
        Plan::Explain(reason) => Err(reason),
        Plan::Install(commands) => {
            for command in &commands {
                install(command)?;
            }
            match plan::decide(&facts(wanted)) {
                Plan::Nothing => Ok(()),
                Plan::Explain(reason) => Err(reason),
                Plan::Install(_) => Err(format!(
                    "`{}` succeeded, yet no Vulkan driver is to be found; `vulkaninfo --summary` (package vulkan-tools) says more",
                    commands
                        .last()
                        .map(|command| command.join(" "))
                        .unwrap_or_default()
                )),
            }
        }
    }
}

fn facts(wanted: Wanted) -> Facts {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let machine = Machine {
        root: Path::new("/"),
        variable: &variable,
    };
    let loader = machine.has_loader();
    let driver = match wanted {
        Wanted::Any => !machine.drivers().is_empty(),
        Wanted::SwiftShader => swiftshader().is_some(),
    };
    Facts {
        wanted,
        system: std::env::consts::OS,
        os_release: ["/etc/os-release", "/usr/lib/os-release"]
            .iter()
            .find_map(|path| std::fs::read_to_string(path).ok())
            .unwrap_or_default(),
        loader,
        driver,
        // SwiftShader's manifest is named to the loader, whatever the person's variable says.
        override_variable: machine
            .override_variable()
            .map(|(name, _)| name)
            .filter(|_| wanted == Wanted::Any),
        has_apt: Path::new("/usr/bin/apt-get").exists(),
        // Asking sudo leaves a line in the system's log: only where there is something to install.
        privilege: if loader && driver {
            Privilege::None
        } else {
            privilege()
        },
    }
}

fn privilege() -> Privilege {
    let quiet = |program: &str, arguments: &[&str]| {
        Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()
            .filter(|output| output.status.success())
    };
    if quiet("id", &["-u"]).is_some_and(|output| output.stdout.trim_ascii() == b"0") {
        Privilege::Root
    } else if quiet("sudo", &["-n", "true"]).is_some() {
        Privilege::Sudo
    } else {
        Privilege::None
    }
}

fn install(words: &[String]) -> Result<(), String> {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null());
    ui::step("Vulkan", &words.join(" "));
    let hint = "Install the package by hand";
    let status = cargo::status(&mut command, hint).map_err(|error| error.to_string())?;
    if status.success() {
        return Ok(());
    }
    Err(format!(
        "`{}` failed ({status}); its own messages are above. Run it by hand, then run the tests again",
        words.join(" ")
    ))
}
