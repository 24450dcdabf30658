//! The memory of an adapter, asked of its Vulkan driver: wgpu itself does not tell.

use burn_wgpu::wgpu;

use super::adapters::Adapter;

/// Size of the largest heap of memory that is the adapter's own, in bytes; `None` where its driver
/// is not Vulkan.
#[cfg(any(target_os = "linux", target_os = "android", windows))]
pub fn heap_bytes(adapter: &Adapter) -> Option<u64> {
    use super::contain::contain;

    /// `VK_MEMORY_HEAP_DEVICE_LOCAL_BIT`.
    const DEVICE_LOCAL: u32 = 1;
    if adapter.backend != "vulkan" {
        return None;
    }
    contain(|| {
        let found = wgpu_adapters();
        let wanted = found.into_iter().find(|other| {
            let info = other.get_info();
            info.name.trim() == adapter.name && info.vendor == adapter.vendor
        })?;
        // SAFETY: the driver's handles are only asked for properties, and nothing of them outlives
        // the adapter.
        let vulkan = unsafe { wanted.as_hal::<wgpu::hal::api::Vulkan>() }?;
        let instance = vulkan.shared_instance().raw_instance();
        // SAFETY: the physical device is one of this instance.
        let properties =
            unsafe { instance.get_physical_device_memory_properties(vulkan.raw_physical_device()) };
        let count = properties.memory_heap_count as usize;
        let heaps = properties.memory_heaps.iter().take(count);
        heaps
            .filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0)
            .map(|heap| heap.size)
            .max()
    })
    .ok()
    .flatten()
}

/// As above: no Vulkan here.
#[cfg(not(any(target_os = "linux", target_os = "android", windows)))]
pub fn heap_bytes(_: &Adapter) -> Option<u64> {
    None
}

#[cfg(any(target_os = "linux", target_os = "android", windows))]
fn wgpu_adapters() -> Vec<wgpu::Adapter> {
    let backends = wgpu::Backends::VULKAN;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    cubecl::future::block_on(instance.enumerate_adapters(backends))
}
