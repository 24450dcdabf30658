//! The engine against the numbers of reference implementations, on the device that
//! `BELLOWS_TEST_DEVICE` names.

use std::path::{Path, PathBuf};

use bellows::verify::{KINDS, verify};
use burn::tensor::Device;

/// The device under test: `cpu` (also when unset), or `gpu`, the default wgpu device.
fn test_device() -> Device {
    match std::env::var("BELLOWS_TEST_DEVICE").as_deref() {
        Err(std::env::VarError::NotPresent) | Ok("cpu") => Device::flex(),
        Ok("gpu") => {
            bellows::device::DeviceChoice::Gpu(0)
                .open()
                .unwrap_or_else(|error| panic!("gpu:0 does not open: {error}"))
                .device
        }
        other => panic!("BELLOWS_TEST_DEVICE is {other:?}; it must be \"cpu\" or \"gpu\""),
    }
}

fn fixtures(group: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let entries = std::fs::read_dir(root.join(group)).expect("the group's folder is checked in");
    let mut folders: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("golden.safetensors").exists())
        .collect();
    folders.sort();
    folders
}

/// Verifies every folder of `group`, and tells all that is wrong at once. `kinds` are compared in
/// every folder: a golden file without them would make the test say less than it seems to.
fn equals_the_reference(group: &str, folders: usize, kinds: &[&str]) {
    let device = test_device();
    let found = fixtures(group);
    assert_eq!(found.len(), folders, "{found:?}");
    let mut wrong = Vec::new();
    for folder in &found {
        let report = match verify(folder, &device, Some(CHUNK)) {
            Ok(report) => report,
            Err(error) => {
                wrong.push(format!("{}: {error}", folder.display()));
                continue;
            }
        };
        for kind in kinds {
            if report.worst(kind).is_none() {
                wrong.push(format!("{}: no {kind} was compared", folder.display()));
            }
        }
        if !report.passed() {
            let worst: Vec<String> = KINDS
                .iter()
                .filter_map(|kind| report.worst(kind))
                .filter(|check| !check.passed)
                .map(|check| format!("{} {:.1e}", check.key, check.error))
                .collect();
            wrong.push(format!(
                "{}: {worst:?}; not produced: {:?}",
                folder.display(),
                report.not_produced
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Tokens of a chunk. Of the fixtures' sequences of 14 to 24 tokens it divides those of 20 alone.
const CHUNK: usize = 5;

const ALWAYS: [&str; 6] = ["logits", "loss", "grad", "stream", "step2", "loss_after_2"];

#[test]
fn the_public_architectures_equal_transformers() {
    equals_the_reference("hf", 9, &ALWAYS);
}

#[test]
fn chains_of_experts_equal_their_authors_code() {
    equals_the_reference("coe", 5, &ALWAYS);
}

#[test]
fn rope_scaling_windows_and_router_variants_equal_transformers() {
    equals_the_reference("extra", 10, &ALWAYS);
}

/// A comparison that cannot fail would pass everything above.
#[test]
fn a_weight_that_is_slightly_off_is_noticed() {
    let device = test_device();
    let source = &fixtures("hf")[0];
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["config.json", "model.safetensors", "golden.safetensors"] {
        std::fs::copy(source.join(file), folder.path().join(file)).expect("a copy");
    }
    let weights = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("the weights");
    // The last value of the file, some 1 % off.
    let at = bytes.len() - 4;
    let value = f32::from_le_bytes(bytes[at..].try_into().expect("four bytes"));
    bytes[at..].copy_from_slice(&(value * 1.01 + 0.01).to_le_bytes());
    std::fs::write(&weights, bytes).expect("the weights");
    let report = verify(folder.path(), &device, None).expect("the folder is whole");
    assert!(!report.passed());
}
