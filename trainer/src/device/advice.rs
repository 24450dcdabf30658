//! What is missing on this machine, and the command that installs it.

use std::path::Path;

use serde::Serialize;

use super::adapters::Adapter;

/// Something that is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// What is missing and why it matters.
    pub missing: String,
    /// What to run or do.
    pub command: String,
}

impl Advice {
    /// Both in one line.
    pub fn line(&self) -> String {
        format!("{}: {}", self.missing, self.command)
    }
}

/// What is missing, given the adapters that were found.
pub fn advice(adapters: &[Adapter]) -> Vec<Advice> {
    let mut advice = if cfg!(target_os = "linux") {
        linux(adapters, &System::read())
    } else {
        Vec::new()
    };
    let vulkan = |adapter: &Adapter| adapter.is_hardware() && adapter.backend == "vulkan";
    if !cfg!(feature = "vulkan") && adapters.iter().any(vulkan) {
        advice.push(Advice {
            missing: "bf16 and cooperative matrices need a build that compiles SPIR-V".into(),
            command: "cargo build --release --features vulkan".into(),
        });
    }
    let metal = |adapter: &Adapter| adapter.backend == "metal";
    if !cfg!(feature = "metal") && adapters.iter().any(metal) {
        advice.push(Advice {
            missing: "cooperative matrices need a build that compiles Metal's own language".into(),
            command: "cargo build --release --features metal".into(),
        });
    }
    advice
}

/// What decides the advice on Linux.
struct System {
    packages: Packages,
    cards: Vec<Card>,
    loader: bool,
    /// Major version of the loaded NVIDIA kernel driver.
    nvidia_driver: Option<String>,
    container: bool,
    /// A render node exists, and none of them opens.
    render_denied: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Packages {
    Apt,
    Dnf,
    Pacman,
    Zypper,
    Apk,
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Card {
    Nvidia,
    Amd,
    Intel,
}

impl Card {
    fn name(self) -> &'static str {
        match self {
            Card::Nvidia => "NVIDIA",
            Card::Amd => "AMD",
            Card::Intel => "Intel",
        }
    }

    fn vendor(self) -> u32 {
        match self {
            Card::Nvidia => 0x10de,
            Card::Amd => 0x1002,
            Card::Intel => 0x8086,
        }
    }
}

fn linux(adapters: &[Adapter], system: &System) -> Vec<Advice> {
    let mut advice = Vec::new();
    if !system.loader {
        advice.push(Advice {
            missing: "the Vulkan loader (libvulkan.so.1), without which no GPU is found".into(),
            command: install(
                system.packages,
                [
                    "libvulkan1",
                    "vulkan-loader",
                    "vulkan-icd-loader",
                    "libvulkan1",
                    "vulkan-loader",
                ],
            ),
        });
    }
    for &card in &system.cards {
        let found = adapters
            .iter()
            .any(|adapter| adapter.is_hardware() && adapter.vendor == card.vendor());
        if !found {
            advice.push(driver(card, system));
        }
    }
    if system.render_denied {
        advice.push(Advice {
            missing: "permission to open the GPU (/dev/dri/renderD*)".into(),
            command: "sudo usermod -aG render,video $USER, then log in again".into(),
        });
    }
    let vulkan = adapters.iter().any(|adapter| adapter.backend == "vulkan");
    if !vulkan && system.cards.is_empty() {
        advice.push(Advice {
            missing:
                "a GPU; training runs on the CPU. A software Vulkan driver, to try the GPU code"
                    .into(),
            command: install(system.packages, MESA),
        });
    }
    advice
}

/// Mesa's drivers by package manager: apt, dnf, pacman, zypper, apk.
const MESA: [&str; 5] = [
    "mesa-vulkan-drivers",
    "mesa-vulkan-drivers",
    "vulkan-swrast",
    "Mesa-vulkan-device-select libvulkan_lvp",
    "mesa-vulkan-swrast",
];

fn driver(card: Card, system: &System) -> Advice {
    let command = match card {
        Card::Nvidia => match &system.nvidia_driver {
            Some(_) if system.container => {
                "start the container with -e NVIDIA_DRIVER_CAPABILITIES=all (its graphics part holds Vulkan)".into()
            }
            Some(major) => install(
                system.packages,
                [
                    &format!("libnvidia-gl-{major}") as &str,
                    "xorg-x11-drv-nvidia-libs",
                    "nvidia-utils",
                    "nvidia-gl-G06",
                    "nvidia's driver from nvidia.com",
                ],
            ),
            None => install(
                system.packages,
                [
                    "nvidia-driver",
                    "akmod-nvidia",
                    "nvidia nvidia-utils",
                    "nvidia-driver-G06-kmp-default nvidia-gl-G06",
                    "nvidia's driver from nvidia.com",
                ],
            ),
        },
        Card::Amd => install(
            system.packages,
            [
                MESA[0],
                MESA[1],
                "vulkan-radeon",
                "libvulkan_radeon",
                "mesa-vulkan-ati",
            ],
        ),
        Card::Intel => install(
            system.packages,
            [
                MESA[0],
                MESA[1],
                "vulkan-intel",
                "libvulkan_intel",
                "mesa-vulkan-intel",
            ],
        ),
    };
    Advice {
        missing: format!("a Vulkan driver for the {} GPU", card.name()),
        command,
    }
}

/// `names` by package manager: apt, dnf, pacman, zypper, apk.
fn install(packages: Packages, names: [&str; 5]) -> String {
    let [apt, dnf, pacman, zypper, apk] = names;
    match packages {
        Packages::Apt => format!("sudo apt install {apt}"),
        Packages::Dnf => format!("sudo dnf install {dnf}"),
        Packages::Pacman => format!("sudo pacman -S {pacman}"),
        Packages::Zypper => format!("sudo zypper install {zypper}"),
        Packages::Apk => format!("sudo apk add {apk}"),
        Packages::Unknown => {
            format!("install the package that Debian calls {apt} and Fedora {dnf}")
        }
    }
}

impl System {
    fn read() -> Self {
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        Self {
            packages: packages(&release),
            cards: cards(Path::new("/sys/bus/pci/devices")),
            loader: loader(),
            nvidia_driver: std::fs::read_to_string("/sys/module/nvidia/version")
                .ok()
                .and_then(|version| version.trim().split('.').next().map(str::to_owned)),
            container: ["/.dockerenv", "/run/.containerenv"]
                .iter()
                .any(|path| Path::new(path).exists()),
            render_denied: render_denied(),
        }
    }
}

fn packages(os_release: &str) -> Packages {
    let ids: Vec<String> = os_release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches('"').split(' '))
        .map(str::to_lowercase)
        .collect();
    let is = |names: &[&str]| ids.iter().any(|id| names.contains(&id.as_str()));
    if is(&["debian", "ubuntu"]) {
        Packages::Apt
    } else if is(&["fedora", "rhel", "centos"]) {
        Packages::Dnf
    } else if is(&["arch"]) {
        Packages::Pacman
    } else if is(&["suse", "opensuse"]) {
        Packages::Zypper
    } else if is(&["alpine"]) {
        Packages::Apk
    } else {
        Packages::Unknown
    }
}

/// The vendors of graphics and compute cards on the PCI bus.
fn cards(devices: &Path) -> Vec<Card> {
    let mut cards = Vec::new();
    for device in std::fs::read_dir(devices).into_iter().flatten().flatten() {
        let read = |name: &str| {
            let text = std::fs::read_to_string(device.path().join(name)).unwrap_or_default();
            u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap_or(0)
        };
        // Display controllers, and accelerators without a screen.
        if !matches!(read("class") >> 16, 0x03 | 0x12) {
            continue;
        }
        let vendor = read("vendor");
        for card in [Card::Nvidia, Card::Amd, Card::Intel] {
            if card.vendor() == vendor && !cards.contains(&card) {
                cards.push(card);
            }
        }
    }
    cards
}

fn loader() -> bool {
    let folders = [
        "/usr/lib",
        "/usr/lib64",
        "/lib",
        "/lib64",
        "/usr/local/lib",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/run/opengl-driver/lib",
    ];
    let given = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    std::env::split_paths(&given)
        .chain(folders.iter().map(Into::into))
        .any(|folder| folder.join("libvulkan.so.1").exists())
}

fn render_denied() -> bool {
    let nodes: Vec<_> = std::fs::read_dir("/dev/dri")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("renderD"))
        .collect();
    let denied = |path: &Path| {
        let opened = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(path);
        opened.is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    };
    !nodes.is_empty() && nodes.iter().all(|node| denied(&node.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(cards: &[Card]) -> System {
        System {
            packages: Packages::Apt,
            cards: cards.to_vec(),
            loader: true,
            nvidia_driver: None,
            container: false,
            render_denied: false,
        }
    }

    #[test]
    fn a_card_without_a_driver_gets_the_command_that_installs_it() {
        let advice = linux(&[], &system(&[Card::Amd]));
        assert_eq!(advice.len(), 1);
        assert!(advice[0].missing.contains("AMD"));
        assert_eq!(advice[0].command, "sudo apt install mesa-vulkan-drivers");
    }

    #[test]
    fn an_nvidia_container_without_its_graphics_part_is_told_so() {
        let mut system = system(&[Card::Nvidia]);
        system.nvidia_driver = Some("570".into());
        assert_eq!(
            linux(&[], &system)[0].command,
            "sudo apt install libnvidia-gl-570"
        );
        system.container = true;
        assert!(
            linux(&[], &system)[0]
                .command
                .contains("NVIDIA_DRIVER_CAPABILITIES=all")
        );
    }

    #[test]
    fn distributions_map_to_their_package_managers() {
        assert!(packages("ID=debian\nNAME=x") == Packages::Apt);
        assert!(packages("ID=linuxmint\nID_LIKE=\"ubuntu debian\"") == Packages::Apt);
        assert!(packages("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"") == Packages::Dnf);
        assert!(packages("ID=nixos") == Packages::Unknown);
    }

    #[test]
    fn cards_are_recognised_by_class_and_vendor() {
        let bus = tempfile::tempdir().expect("a folder");
        for (slot, class, vendor) in [
            ("0000:00:02.0", "0x030000", "0x8086"),
            ("0000:01:00.0", "0x030200", "0x10de"),
            ("0000:02:00.0", "0x020000", "0x8086"),
        ] {
            let device = bus.path().join(slot);
            std::fs::create_dir(&device).expect("a folder");
            std::fs::write(device.join("class"), format!("{class}\n")).expect("a file");
            std::fs::write(device.join("vendor"), format!("{vendor}\n")).expect("a file");
        }
        let found = cards(bus.path());
        assert_eq!(found.len(), 2);
        assert!(found.contains(&Card::Intel) && found.contains(&Card::Nvidia));
    }
}
