//! Devices: what `--device` names, which adapters the machine has, and opening one.
//!
//! Adapters are asked for and numbered by the same rules by which CubeCL turns a device's kind and
//! index into an adapter, so `gpu:1` in a list is the adapter that `--device gpu:1` opens.

mod adapters;
mod advice;
mod choice;
mod contain;
mod details;
mod heap;
mod host;
mod peak;
mod precision;
mod self_test;

pub use adapters::{Adapter, AdapterKind, adapters};
pub use advice::{Advice, advice};
pub use choice::DeviceChoice;
pub(crate) use contain::contain;
pub use contain::{hush_display_library, install_panic_hook};
pub use details::{CooperativeMatrix, Details, details};
pub use host::Host;
pub use precision::{Precision, PrecisionError, Resolved};

use burn::tensor::{DType, Device};

use crate::error::Error;

/// A device that is open and can hold tensors.
#[derive(Clone, Debug)]
pub struct OpenDevice {
    /// Burn's handle, without autodiff.
    pub device: Device,
    /// How `--device` names it: `cpu` or `gpu:N`.
    pub label: String,
    /// The adapter; absent for the CPU backend.
    pub adapter: Option<Adapter>,
    /// What the adapter can do; absent for the CPU backend.
    pub details: Option<Details>,
    /// The machine's processor and memory.
    pub host: Host,
}

impl DeviceChoice {
    /// Finds and opens the device.
    ///
    /// # Errors
    /// Bad input when the device does not exist or this build cannot use it, a failure when its
    /// driver refuses.
    pub fn open(self) -> Result<OpenDevice, Error> {
        let opened = self.look_at()?;
        opened.test()?;
        Ok(opened)
    }

    /// Finds and opens the device without testing it: for questions, not for training.
    ///
    /// # Errors
    /// As [`DeviceChoice::open`].
    pub fn look_at(self) -> Result<OpenDevice, Error> {
        let index = match self {
            DeviceChoice::Cpu => return Ok(OpenDevice::cpu()),
            DeviceChoice::Auto => {
                let adapters = adapters();
                match adapters.iter().position(Adapter::is_hardware) {
                    Some(index) => return open(&adapters, index),
                    None => return Ok(OpenDevice::cpu()),
                }
            }
            DeviceChoice::Gpu(index) => index,
        };
        open(&adapters(), index)
    }
}

impl OpenDevice {
    fn cpu() -> Self {
        Self {
            device: Device::flex(),
            label: "cpu".into(),
            adapter: None,
            details: None,
            host: Host::read(),
        }
    }

    /// Name for people.
    pub fn name(&self) -> &str {
        match &self.adapter {
            Some(adapter) => &adapter.name,
            None => &self.host.processor,
        }
    }

    /// Memory that the device can use in bytes, where it is known.
    pub fn memory_bytes(&self) -> Option<u64> {
        let Some(adapter) = &self.adapter else {
            return Some(self.host.memory_bytes);
        };
        let own = self
            .details
            .as_ref()
            .and_then(|details| details.memory_bytes);
        match adapter.kind {
            // Its memory is the processor's.
            AdapterKind::Software | AdapterKind::Integrated => {
                let host = self.host.memory_bytes;
                Some(own.map_or(host, |own| own.min(host)))
            }
            _ => own,
        }
    }

    /// Multiplies on it, because a device that computes wrong numbers is worse than none.
    fn test(&self) -> Result<(), Error> {
        let Some(adapter) = &self.adapter else {
            return Ok(());
        };
        self_test::multiplies(&self.device).map_err(|reason| {
            Error::failed(format!(
                "{} ({}) cannot be trusted: {reason}",
                self.label, adapter.name
            ))
            .help(
                "update its driver, try a build with another shader compiler (without --features), or use --device cpu",
            )
        })
    }

    /// The device as a run's manifest describes it, its peak measured on the spot, which takes a
    /// fraction of a second. `dtype` is the type of the weights, `precision` that in which
    /// matrices are multiplied.
    pub fn record(&self, dtype: &str, precision: &str) -> bellows_record::DeviceInfo {
        let adapter = self.adapter.as_ref();
        bellows_record::DeviceInfo {
            name: self.name().to_owned(),
            kind: adapter
                .map_or("cpu", |adapter| adapter.kind.as_str())
                .into(),
            backend: adapter.map_or("flex", |adapter| adapter.backend).into(),
            driver: adapter.map_or_else(String::new, |adapter| adapter.driver.clone()),
            compiler: self
                .details
                .as_ref()
                .map_or_else(String::new, |details| details.compiler.clone()),
            dtype: dtype.into(),
            precision: precision.into(),
            memory_bytes: self.memory_bytes(),
            peak_flops: peak::measure(&self.device, precision),
        }
    }
}

/// The types that the CPU backend computes with.
pub fn cpu_dtypes() -> Vec<&'static str> {
    let device = Device::flex();
    [
        ("f64", DType::F64),
        ("f32", DType::F32),
        ("f16", DType::F16),
        ("bf16", DType::BF16),
        ("i64", DType::I64),
        ("i32", DType::I32),
        ("i16", DType::I16),
        ("i8", DType::I8),
        ("u8", DType::U8),
    ]
    .into_iter()
    .filter(|(_, dtype)| device.supports_dtype(*dtype))
    .map(|(name, _)| name)
    .collect()
}

fn open(adapters: &[Adapter], index: usize) -> Result<OpenDevice, Error> {
    let Some(adapter) = adapters.get(index) else {
        return Err(absent(adapters, index));
    };
    if let Some(reason) = adapter.refusal() {
        return Err(Error::input(format!(
            "gpu:{index} ({}) cannot be used: {reason}",
            adapter.name
        ))
        .help("choose another device of `bellows devices`, or --device cpu"));
    }
    let (device, mut details) = details::open(adapter).map_err(|reason| {
        Error::failed(format!(
            "gpu:{index} ({}) does not open: {reason}",
            adapter.name
        ))
        .help("update its driver, or choose --device cpu")
    })?;
    details.memory_bytes = details.memory_bytes.or_else(|| heap::heap_bytes(adapter));
    Ok(OpenDevice {
        device,
        label: format!("gpu:{index}"),
        adapter: Some(adapter.clone()),
        details: Some(details),
        host: Host::read(),
    })
}

fn absent(adapters: &[Adapter], index: usize) -> Error {
    let mut existing = vec!["cpu".to_owned()];
    existing.extend(
        adapters
            .iter()
            .enumerate()
            .map(|(index, adapter)| format!("gpu:{index} ({})", adapter.name)),
    );
    let error = Error::input(format!(
        "there is no device gpu:{index}; this machine has {}",
        existing.join(", ")
    ));
    let advice: Vec<String> = advice(adapters).into_iter().map(|a| a.line()).collect();
    if advice.is_empty() {
        error.help("choose one of them, or --device auto")
    } else {
        error.help(advice.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_bad_input_and_lists_those_that_exist() {
        let error = open(&[], 7).expect_err("there is no adapter 7");
        assert_eq!(error.kind(), crate::error::ErrorKind::Input);
        assert!(error.to_string().contains("no device gpu:7"));
        assert!(error.to_string().contains("cpu"));
        assert!(error.help_text().is_some());
    }

    #[test]
    fn the_cpu_is_always_there() {
        let device = DeviceChoice::Cpu.open().expect("no driver is needed");
        assert_eq!(device.label, "cpu");
        assert!(device.memory_bytes().is_some_and(|bytes| bytes > 0));
        assert_eq!(device.record("f32", "f32").backend, "flex");
    }
}
