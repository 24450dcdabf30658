//! What to do about Vulkan, decided from plain facts.

use super::distro::Family;

/// Which driver there has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Any that runs WGSL; one of the system's own will do.
    Any,
    /// SwiftShader.
    SwiftShader,
}

/// What is known of the machine.
pub struct Facts {
    /// The driver that is asked for.
    pub wanted: Wanted,
    /// The operating system as `std::env::consts::OS` names it.
    pub system: &'static str,
    /// The text of /etc/os-release, empty where there is none.
    pub os_release: String,
    /// Whether the Vulkan loader library was found.
    pub loader: bool,
    /// Whether the driver's manifest was found, and its library.
    pub driver: bool,
    /// The environment variable that replaces the loader's search for drivers, where one is set.
    pub override_variable: Option<&'static str>,
    /// Whether apt-get is there.
    pub has_apt: bool,
    /// Whether packages may be installed.
    pub privilege: Privilege,
}

/// How packages may be installed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// We are root.
    Root,
    /// sudo asks for no password.
    Sudo,
    /// Not without asking a person.
    None,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// A driver is there, or the system brings one.
    Nothing,
    /// Run these commands, in order.
    Install(Vec<Vec<String>>),
    /// Tell the person why there is no driver and what to do.
    Explain(String),
}

/// The decision.
pub fn decide(facts: &Facts) -> Plan {
    // Metal and DX12 are part of their systems.
    let brought = facts.wanted == Wanted::Any && matches!(facts.system, "macos" | "windows");
    if brought || (facts.loader && facts.driver) {
        return Plan::Nothing;
    }
    if let (false, Some(variable)) = (facts.driver, facts.override_variable) {
        // The variable replaces the whole search: no package would be seen.
        return Plan::Explain(format!(
            "{variable} is set and names no usable Vulkan driver manifest: correct it, or unset it"
        ));
    }
    let family = Family::of(&facts.os_release);
    if family == Family::Debian && facts.has_apt && facts.privilege != Privilege::None {
        return Plan::Install(commands(facts.privilege, facts.wanted.on_debian()));
    }
    let driver = match facts.wanted {
        Wanted::Any => "no Vulkan driver",
        Wanted::SwiftShader => "no SwiftShader",
    };
    let missing = match (facts.loader, facts.driver) {
        (false, false) => format!("no Vulkan loader (libvulkan.so.1) and {driver}"),
        (false, true) => "no Vulkan loader (libvulkan.so.1)".to_owned(),
        _ => driver.to_owned(),
    };
    Plan::Explain(format!(
        "{missing} on this machine: {}",
        family.instruction(facts.wanted)
    ))
}

fn commands(privilege: Privilege, packages: [&str; 2]) -> Vec<Vec<String>> {
    let sudo: &[&str] = if privilege == Privilege::Sudo {
        &["sudo", "-n"]
    } else {
        &[]
    };
    let apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"];
    let update: &[&str] = &["update"];
    let install: &[&str] = &["install", "--yes", "--no-install-recommends"];
    let words = |tail: &[&str]| -> Vec<String> {
        sudo.iter()
            .chain(&apt)
            .chain(tail)
            .map(|word| (*word).to_owned())
            .collect()
    };
    vec![words(update), words(&[install, &packages].concat())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare(os_release: &str, privilege: Privilege) -> Facts {
        Facts {
            wanted: Wanted::Any,
            system: "linux",
            os_release: os_release.to_owned(),
            loader: false,
            driver: false,
            override_variable: None,
            has_apt: true,
            privilege,
        }
    }

    fn shown(plan: Plan) -> Vec<String> {
        match plan {
            Plan::Install(commands) => commands.iter().map(|command| command.join(" ")).collect(),
            other => panic!("not an installation: {other:?}"),
        }
    }

    #[test]
    fn root_on_debian_installs_without_sudo() {
        assert_eq!(
            shown(decide(&bare("ID=debian\n", Privilege::Root))),
            [
                "env DEBIAN_FRONTEND=noninteractive apt-get update",
                "env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends mesa-vulkan-drivers libvulkan1",
            ]
        );
    }

    #[test]
    fn sudo_without_a_password_is_used_and_never_asks() {
        let commands = shown(decide(&bare(
            "ID=ubuntu\nID_LIKE=debian\n",
            Privilege::Sudo,
        )));
        assert!(
            commands
                .iter()
                .all(|command| command.starts_with("sudo -n env ")),
            "{commands:?}"
        );
    }

    #[test]
    fn nothing_is_installed_without_leave_or_on_another_distribution() {
        let without_leave = decide(&bare("ID=debian\n", Privilege::None));
        assert!(
            matches!(&without_leave, Plan::Explain(text) if text.contains("sudo apt-get install")),
            "{without_leave:?}"
        );
        let fedora = decide(&bare("ID=fedora\n", Privilege::Root));
        assert!(
            matches!(&fedora, Plan::Explain(text) if text.contains("dnf install")),
            "{fedora:?}"
        );
        let no_apt = Facts {
            has_apt: false,
            ..bare("ID=debian\n", Privilege::Root)
        };
        assert!(matches!(decide(&no_apt), Plan::Explain(_)));
    }

    #[test]
    fn a_driver_without_the_loader_still_counts_as_missing() {
        let facts = Facts {
            driver: true,
            ..bare("ID=arch\n", Privilege::Root)
        };
        let plan = decide(&facts);
        assert!(
            matches!(&plan, Plan::Explain(text) if text.starts_with("no Vulkan loader (libvulkan.so.1) on")),
            "{plan:?}"
        );
        assert_eq!(
            decide(&Facts {
                loader: true,
                ..facts
            }),
            Plan::Nothing
        );
    }

    #[test]
    fn a_wrong_override_is_named_before_packages_that_it_would_hide() {
        let facts = Facts {
            override_variable: Some("VK_DRIVER_FILES"),
            ..bare("ID=debian\n", Privilege::Root)
        };
        assert!(
            matches!(decide(&facts), Plan::Explain(text) if text.starts_with("VK_DRIVER_FILES"))
        );
    }

    #[test]
    fn swiftshader_comes_with_a_browser_and_with_no_system() {
        let facts = |os_release, system| Facts {
            wanted: Wanted::SwiftShader,
            system,
            ..bare(os_release, Privilege::Root)
        };
        let commands = shown(decide(&facts("ID=debian\n", "linux")));
        assert!(
            commands[1].ends_with("chromium-common libvulkan1"),
            "{commands:?}"
        );
        for (os_release, system) in [("ID=fedora\n", "linux"), ("", "macos")] {
            let plan = decide(&facts(os_release, system));
            assert!(
                matches!(&plan, Plan::Explain(text) if text.contains("no SwiftShader") && text.contains("Chromium")),
                "{plan:?}"
            );
        }
    }

    #[test]
    fn metal_and_dx12_need_nothing() {
        for system in ["macos", "windows"] {
            assert_eq!(
                decide(&Facts {
                    system,
                    ..bare("", Privilege::None)
                }),
                Plan::Nothing
            );
        }
    }
}
