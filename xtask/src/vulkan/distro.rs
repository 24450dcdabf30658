//! Which packages bring a Vulkan loader and a software driver, by family of distributions.

use super::plan::Wanted;

impl Wanted {
    /// Debian's packages: the driver's and the loader.
    pub fn on_debian(self) -> [&'static str; 2] {
        let driver = match self {
            // Mesa's drivers, the software one among them.
            Self::Any => "mesa-vulkan-drivers",
            Self::SwiftShader => "chromium-common",
        };
        [driver, "libvulkan1"]
    }
}

/// Distributions that share a package manager and package names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Debian, Ubuntu and what derives from them.
    Debian,
    /// Fedora, RHEL and its rebuilds.
    Fedora,
    /// Arch and what derives from it.
    Arch,
    /// openSUSE and SLE.
    OpenSuse,
    /// Alpine and postmarketOS.
    Alpine,
    /// NixOS.
    NixOs,
    /// Anything else.
    Unknown,
}

impl Family {
    /// The family that an os-release file names: its `ID`, or else the first known word of `ID_LIKE`.
    pub fn of(os_release: &str) -> Self {
        let field = |name: &str| {
            os_release
                .lines()
                .filter_map(|line| line.trim().split_once('='))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.trim_matches(['"', '\'']).to_ascii_lowercase())
                .unwrap_or_default()
        };
        let (id, like) = (field("ID"), field("ID_LIKE"));
        std::iter::once(id.as_str())
            .chain(like.split_whitespace())
            .map(Self::of_id)
            .find(|family| *family != Self::Unknown)
            .unwrap_or(Self::Unknown)
    }

    fn of_id(id: &str) -> Self {
        match id {
            "debian" | "ubuntu" => Self::Debian,
            "fedora" | "rhel" | "centos" => Self::Fedora,
            "arch" | "archlinux" => Self::Arch,
            "alpine" => Self::Alpine,
            "nixos" => Self::NixOs,
            "suse" | "sles" => Self::OpenSuse,
            _ if id.starts_with("opensuse") => Self::OpenSuse,
            _ => Self::Unknown,
        }
    }

    /// What a person types to get the driver.
    pub fn instruction(self, wanted: Wanted) -> String {
        match self {
            Self::Debian => format!(
                "run `sudo apt-get update && sudo apt-get install {}`",
                wanted.on_debian().join(" ")
            ),
            _ if wanted == Wanted::SwiftShader => {
                "install the Vulkan loader (libvulkan.so.1), and Chromium or Chrome, which bring it; VK_DRIVER_FILES \
                 names the manifest of another driver, or of a browser that is elsewhere"
                    .to_owned()
            }
            Self::Fedora => "run `sudo dnf install mesa-vulkan-drivers vulkan-loader`".to_owned(),
            Self::Arch => "run `sudo pacman -S vulkan-swrast vulkan-icd-loader`".to_owned(),
            Self::OpenSuse => "run `sudo zypper install libvulkan_lvp libvulkan1`".to_owned(),
            Self::Alpine => "run `apk add mesa-vulkan-swrast vulkan-loader` as root".to_owned(),
            Self::NixOs => "set `hardware.graphics.enable = true;` in configuration.nix, rebuild, and put the package \
                            vulkan-loader's lib folder on LD_LIBRARY_PATH"
                .to_owned(),
            Self::Unknown => "install your distribution's Vulkan loader (libvulkan.so.1) and Mesa's Vulkan drivers; \
                              lavapipe is the one that needs no GPU"
                .to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_is_known_by_its_own_id() {
        for (id, family) in [
            ("debian", Family::Debian),
            ("ubuntu", Family::Debian),
            ("fedora", Family::Fedora),
            ("arch", Family::Arch),
            ("opensuse-tumbleweed", Family::OpenSuse),
            ("alpine", Family::Alpine),
            ("nixos", Family::NixOs),
            ("plan9", Family::Unknown),
        ] {
            assert_eq!(Family::of(&format!("NAME=x\nID={id}\n")), family, "{id}");
        }
    }

    #[test]
    fn derived_distributions_follow_id_like() {
        assert_eq!(
            Family::of("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"),
            Family::Debian
        );
        assert_eq!(
            Family::of("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n"),
            Family::Fedora
        );
        assert_eq!(Family::of("ID='manjaro'\nID_LIKE='arch'\n"), Family::Arch);
    }

    #[test]
    fn version_id_is_not_taken_for_id() {
        assert_eq!(Family::of("VERSION_ID=debian\nID=void\n"), Family::Unknown);
        assert_eq!(Family::of(""), Family::Unknown);
    }

    #[test]
    fn each_instruction_names_its_own_package() {
        for (family, package) in [
            (Family::Debian, "mesa-vulkan-drivers libvulkan1"),
            (Family::Fedora, "vulkan-loader"),
            (Family::Arch, "vulkan-swrast"),
            (Family::OpenSuse, "libvulkan_lvp"),
            (Family::Alpine, "mesa-vulkan-swrast"),
            (Family::NixOs, "hardware.graphics.enable"),
            (Family::Unknown, "lavapipe"),
        ] {
            let text = family.instruction(Wanted::Any);
            assert!(text.contains(package), "{family:?}: {text}");
        }
    }
}
