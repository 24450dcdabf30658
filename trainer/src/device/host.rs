//! The machine's processor and memory, which the CPU backend runs on.

use serde::Serialize;

/// The machine.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// Name of the processor.
    pub processor: String,
    /// Threads that this process may use.
    pub cores: usize,
    /// Vector instructions of the processor.
    pub simd: Vec<&'static str>,
    /// Memory that this process may use, in bytes.
    pub memory_bytes: u64,
    /// Memory that is free now, in bytes.
    pub available_bytes: u64,
}

impl Host {
    /// Asks the system.
    pub fn read() -> Self {
        use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
        let system = System::new_with_specifics(
            RefreshKind::nothing()
                .with_cpu(CpuRefreshKind::nothing())
                .with_memory(MemoryRefreshKind::nothing().with_ram()),
        );
        let brand = system
            .cpus()
            .first()
            .map(|cpu| cpu.brand().trim().to_owned())
            .filter(|brand| !brand.is_empty());
        // A container's limit is what counts, where there is one.
        let limits = system.cgroup_limits();
        let (total, available) = (system.total_memory(), system.available_memory());
        Self {
            processor: brand.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            simd: simd(),
            memory_bytes: limits
                .as_ref()
                .map_or(total, |limits| limits.total_memory.min(total)),
            available_bytes: limits
                .as_ref()
                .map_or(available, |limits| limits.free_memory.min(available)),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn simd() -> Vec<&'static str> {
    let mut found = Vec::new();
    for (name, present) in [
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("FMA", is_x86_feature_detected!("fma")),
        ("AVX-512", is_x86_feature_detected!("avx512f")),
    ] {
        if present {
            found.push(name);
        }
    }
    found
}

#[cfg(target_arch = "aarch64")]
fn simd() -> Vec<&'static str> {
    vec!["NEON"]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn simd() -> Vec<&'static str> {
    Vec::new()
}
