//! The device that a test runs on.

use std::sync::OnceLock;

use burn::tensor::wgpu::WgpuInitError;
use burn::tensor::{Device, DeviceKind};

/// The device that `BELLOWS_TEST_DEVICE` names, without autodiff. Where it is `gpu` and there is no
/// adapter, says so and returns `None`: the test then has nothing to do.
///
/// # Panics
/// If the variable has another value, or an adapter is there but does not open.
pub fn test_device() -> Option<Device> {
    match std::env::var("BELLOWS_TEST_DEVICE").as_deref() {
        Err(std::env::VarError::NotPresent) | Ok("cpu") => Some(Device::flex()),
        Ok("gpu") => match gpu() {
            Ok(device) => Some(device),
            Err(reason) => {
                let test = std::thread::current();
                println!("SKIPPED {}: {reason}", test.name().unwrap_or("unnamed"));
                None
            }
        },
        other => panic!("BELLOWS_TEST_DEVICE is {other:?}: it must be cpu or gpu"),
    }
}

/// Opened once for the process: a second runtime on one adapter would be refused.
fn gpu() -> Result<Device, String> {
    static GPU: OnceLock<Result<Device, String>> = OnceLock::new();
    let opened = GPU.get_or_init(|| {
        match Device::wgpu_options()
            .device_kind(DeviceKind::DefaultDevice)
            .init()
        {
            Ok(device) => Ok(device),
            Err(error @ WgpuInitError::AdapterUnavailable { .. }) => Err(error.to_string()),
            Err(error) => panic!("the adapter does not open: {error}"),
        }
    });
    opened.clone()
}
