//! The adapters of this machine, in the order in which `gpu:N` numbers them.

use std::sync::{Mutex, PoisonError};

use burn_wgpu::WgpuDevice;
use burn_wgpu::wgpu;
use cubecl::wgpu::{AutoGraphicsApi, WgpuDeviceKind};
use serde::Serialize;

use super::contain::contain;

/// What an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AdapterKind {
    /// A card with memory of its own.
    Discrete,
    /// Shares the processor's memory.
    Integrated,
    /// Passed into a virtual machine.
    Virtual,
    /// Hardware that its driver does not classify.
    Other,
    /// A driver that computes on the CPU.
    Software,
}

impl AdapterKind {
    /// As a record and JSON write it.
    pub fn as_str(self) -> &'static str {
        match self {
            AdapterKind::Discrete => "discrete",
            AdapterKind::Integrated => "integrated",
            AdapterKind::Virtual => "virtual",
            AdapterKind::Other => "other",
            AdapterKind::Software => "software",
        }
    }
}

/// One adapter.
#[derive(Clone, Debug, Serialize)]
pub struct Adapter {
    /// Its name.
    pub name: String,
    /// Hardware or software.
    pub kind: AdapterKind,
    /// Name and version of its driver.
    pub driver: String,
    /// Graphics interface: `vulkan`, `metal`, `dx12` or `gl`.
    pub backend: &'static str,
    /// PCI vendor, 0 where there is none.
    pub vendor: u32,
    /// Smallest subgroup, in invocations; 0: unknown.
    pub subgroup_min: u32,
    /// Largest subgroup, in invocations; 0: unknown.
    pub subgroup_max: u32,
    /// Position among the adapters of its kind, as CubeCL counts them.
    #[serde(skip)]
    position: usize,
}

impl Adapter {
    /// Whether it is more than a driver that computes on the CPU.
    pub fn is_hardware(&self) -> bool {
        self.kind != AdapterKind::Software
    }

    /// Why this build does not use the adapter, if it does not.
    pub fn refusal(&self) -> Option<String> {
        if self.kind == AdapterKind::Software && self.position > 0 {
            return Some(
                "of several software adapters only the first can be opened; \
                 set VK_DRIVER_FILES to the one driver to use"
                    .into(),
            );
        }
        // Mesa's SPIR-V front end crashes the process on CubeCL's SPIR-V; no error could be caught.
        if cfg!(feature = "vulkan") && self.backend == "vulkan" && self.is_llvmpipe() {
            return Some(
                "llvmpipe crashes on the SPIR-V of a build with `--features vulkan`; \
                 a build without that feature runs on it"
                    .into(),
            );
        }
        None
    }

    fn is_llvmpipe(&self) -> bool {
        self.name.to_lowercase().contains("llvmpipe")
            || self.driver.to_lowercase().contains("llvmpipe")
    }

    /// The device that CubeCL resolves to this adapter.
    pub(super) fn wgpu_device(&self) -> WgpuDevice {
        WgpuDevice::new(match self.kind {
            AdapterKind::Discrete => WgpuDeviceKind::DiscreteGpu(self.position),
            AdapterKind::Integrated => WgpuDeviceKind::IntegratedGpu(self.position),
            AdapterKind::Virtual => WgpuDeviceKind::VirtualGpu(self.position),
            AdapterKind::Other => WgpuDeviceKind::Other(self.position),
            AdapterKind::Software => WgpuDeviceKind::Cpu,
        })
    }
}

/// Every adapter: hardware first (discrete, integrated, virtual, other), software last, in the
/// driver's order within a kind. A driver that panics counts as having none.
pub fn adapters() -> Vec<Adapter> {
    // The Vulkan loader crashes when instances come and go on several threads at once.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    number(settle(AutoGraphicsApi::chain(), |api| {
        contain(|| probe(api)).unwrap_or_default()
    }))
}

/// The adapters of the first interface with a GPU, else of the first with anything at all: the
/// rule by which CubeCL settles on one interface.
fn settle(
    chain: Vec<wgpu::Backend>,
    probe: impl Fn(wgpu::Backend) -> Vec<wgpu::AdapterInfo>,
) -> Vec<wgpu::AdapterInfo> {
    let mut software = Vec::new();
    for api in chain {
        let found = probe(api);
        if found
            .iter()
            .any(|info| info.device_type != wgpu::DeviceType::Cpu)
        {
            return found;
        }
        if software.is_empty() {
            software = found;
        }
    }
    software
}

fn probe(api: wgpu::Backend) -> Vec<wgpu::AdapterInfo> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: api.into(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    cubecl::future::block_on(instance.enumerate_adapters(api.into()))
        .iter()
        .map(wgpu::Adapter::get_info)
        .collect()
}

fn number(found: Vec<wgpu::AdapterInfo>) -> Vec<Adapter> {
    let mut adapters: Vec<Adapter> = Vec::new();
    for info in found {
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
            wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
            wgpu::DeviceType::VirtualGpu => AdapterKind::Virtual,
            wgpu::DeviceType::Other => AdapterKind::Other,
            wgpu::DeviceType::Cpu => AdapterKind::Software,
        };
        let position = adapters.iter().filter(|other| other.kind == kind).count();
        let driver = [info.driver.trim(), info.driver_info.trim()];
        adapters.push(Adapter {
            name: info.name.trim().to_owned(),
            kind,
            driver: driver.join(" ").trim().to_owned(),
            backend: match info.backend {
                wgpu::Backend::Vulkan => "vulkan",
                wgpu::Backend::Metal => "metal",
                wgpu::Backend::Dx12 => "dx12",
                wgpu::Backend::Gl => "gl",
                wgpu::Backend::BrowserWebGpu => "webgpu",
                wgpu::Backend::Noop => "noop",
            },
            vendor: info.vendor,
            subgroup_min: info.subgroup_min_size,
            subgroup_max: info.subgroup_max_size,
            position,
        });
    }
    adapters.sort_by_key(|adapter| match adapter.kind {
        AdapterKind::Discrete => 0,
        AdapterKind::Integrated => 1,
        AdapterKind::Virtual => 2,
        AdapterKind::Other => 3,
        AdapterKind::Software => 4,
    });
    adapters
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name: &str, device_type: wgpu::DeviceType) -> wgpu::AdapterInfo {
        let mut info = wgpu::AdapterInfo::new(device_type, wgpu::Backend::Vulkan);
        info.name = name.into();
        info
    }

    #[test]
    fn a_software_driver_that_is_listed_first_does_not_become_gpu_0() {
        use wgpu::DeviceType::{Cpu, DiscreteGpu, IntegratedGpu};
        let adapters = number(vec![
            info("llvmpipe", Cpu),
            info("card a", DiscreteGpu),
            info("shared", IntegratedGpu),
            info("card b", DiscreteGpu),
            info("SwiftShader", Cpu),
        ]);
        let names: Vec<&str> = adapters
            .iter()
            .map(|adapter| adapter.name.as_str())
            .collect();
        assert_eq!(
            names,
            ["card a", "card b", "shared", "llvmpipe", "SwiftShader"]
        );
        // CubeCL counts each kind by itself, in the driver's order.
        let kinds: Vec<WgpuDeviceKind> = adapters
            .iter()
            .map(|adapter| adapter.wgpu_device().kind)
            .collect();
        assert_eq!(
            kinds,
            [
                WgpuDeviceKind::DiscreteGpu(0),
                WgpuDeviceKind::DiscreteGpu(1),
                WgpuDeviceKind::IntegratedGpu(0),
                WgpuDeviceKind::Cpu,
                WgpuDeviceKind::Cpu,
            ]
        );
        assert!(
            adapters[4].refusal().is_some(),
            "CubeCL opens only the first of them"
        );
        assert!(adapters[0].refusal().is_none());
        // Its crash on SPIR-V could not be caught; without the feature there is none.
        assert_eq!(
            adapters[3].refusal().is_some(),
            cfg!(feature = "vulkan"),
            "llvmpipe is refused where kernels become SPIR-V"
        );
    }

    #[test]
    fn an_interface_with_only_software_gives_way_to_one_with_a_gpu() {
        let chain = vec![wgpu::Backend::Vulkan, wgpu::Backend::Gl];
        let found = settle(chain.clone(), |api| match api {
            wgpu::Backend::Vulkan => vec![info("llvmpipe", wgpu::DeviceType::Cpu)],
            _ => vec![info("passed through", wgpu::DeviceType::Other)],
        });
        assert_eq!(found[0].name, "passed through");
        let found = settle(chain, |_| vec![info("llvmpipe", wgpu::DeviceType::Cpu)]);
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn the_numbering_agrees_with_the_devices_that_cubecl_lists() {
        let listed = cubecl::Device::enumerate_all();
        let ours = adapters();
        assert_eq!(listed.len(), ours.len());
        for adapter in ours.iter().filter(|adapter| adapter.refusal().is_none()) {
            let device = cubecl::Device::Wgpu(adapter.wgpu_device());
            assert!(
                listed.contains(&device),
                "{} is not in {listed:?}",
                adapter.name
            );
        }
    }
}
