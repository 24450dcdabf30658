//! Files that were truncated, tampered with, or belong to something else.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::common::Folder;

type Damage = fn(&[u8]) -> Vec<u8>;

/// A safetensors file with its header changed.
fn with_header(bytes: &[u8], change: impl Fn(&mut Map<String, Value>)) -> Vec<u8> {
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let mut header: Map<String, Value> =
        serde_json::from_slice(&bytes[8..8 + length]).expect("a header");
    change(&mut header);
    let text = serde_json::to_string(&header).expect("JSON");
    let mut changed = (text.len() as u64).to_le_bytes().to_vec();
    changed.extend(text.as_bytes());
    changed.extend(&bytes[8 + length..]);
    changed
}

/// Names of two tensors of one shape, and of one whose dimensions differ.
fn tensors(header: &Map<String, Value>) -> (String, String) {
    let tensors: Vec<_> = header
        .iter()
        .filter(|(name, _)| *name != "__metadata__")
        .collect();
    for (index, (name, tensor)) in tensors.iter().enumerate() {
        let same = |(_, other): &&(&String, &Value)| other["shape"] == tensor["shape"];
        if let Some((other, _)) = tensors[index + 1..].iter().find(same) {
            return ((*name).clone(), (*other).clone());
        }
    }
    panic!("no two tensors have one shape");
}

/// Every way to damage a safetensors file, and what the message says of it.
const DAMAGES: [(&str, Damage); 12] = [
    ("empty", |_| Vec::new()),
    ("shorter than a length", |bytes| bytes[..5].to_vec()),
    ("a header beyond the file", |bytes| {
        let mut bytes = bytes.to_vec();
        let beyond = bytes.len() as u64 + 1;
        bytes[..8].copy_from_slice(&beyond.to_le_bytes());
        bytes
    }),
    ("a header of absurd length", |bytes| {
        let mut bytes = bytes.to_vec();
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        bytes
    }),
    ("a header that is no JSON", |bytes| {
        let mut bytes = bytes.to_vec();
        bytes[8..12].copy_from_slice(b"oops");
        bytes
    }),
    ("cut within the data", |bytes| {
        bytes[..bytes.len() - 10].to_vec()
    }),
    ("cut within the header", |bytes| bytes[..100].to_vec()),
    ("overlapping tensors", |bytes| {
        with_header(bytes, |header| {
            let (one, other) = tensors(header);
            header[&other]["data_offsets"] = header[&one]["data_offsets"].clone();
        })
    }),
    ("offsets beyond the file", |bytes| {
        with_header(bytes, |header| {
            let (_, other) = tensors(header);
            header[&other]["data_offsets"] = json!([1_u64 << 40, (1_u64 << 40) + 64]);
        })
    }),
    ("another type of the same size", |bytes| {
        with_header(bytes, |header| {
            let (_, other) = tensors(header);
            header[&other]["dtype"] = json!("I32");
        })
    }),
    ("another shape of the same size", |bytes| {
        with_header(bytes, |header| {
            let (_, other) = tensors(header);
            let shape = header[&other]["shape"].as_array_mut().expect("a shape");
            shape.push(json!(1));
        })
    }),
    ("a missing tensor", |bytes| {
        with_header(bytes, |header| {
            let (_, other) = tensors(header);
            let tensor = header.remove(&other).expect("it is there");
            header.insert("somebody.else".into(), tensor);
        })
    }),
];

#[test]
fn damaged_weights_are_refused_by_name_and_cost_nothing() {
    let folder = Folder::new();
    folder.train("run", &[]).ok();
    folder.copy_run("run", "damaged");
    let before = listing(&folder.run("damaged"));
    for (file, commands) in [
        (
            "model.safetensors",
            &[
                "resume runs/damaged --from 6 --steps 15",
                "generate runs/damaged --checkpoint 6 --device cpu -p the",
                "export runs/damaged --checkpoint 6 --output exported",
            ][..],
        ),
        (
            "optimizer.safetensors",
            &["resume runs/damaged --from 6 --steps 15"][..],
        ),
    ] {
        let path = folder.checkpoint("damaged", 6, file);
        let good = std::fs::read(&path).expect("a file");
        for (what, damage) in DAMAGES {
            std::fs::write(&path, damage(&good)).expect("a file");
            for command in commands {
                println!("{file}: {what}: {command}");
                folder.bellows(command).refused(&[file, "checkpoint"]);
                let _ = std::fs::remove_dir(folder.path("exported"));
            }
        }
        std::fs::write(&path, good).expect("a file");
    }
    assert_eq!(
        before,
        listing(&folder.run("damaged")),
        "something was written"
    );
    // The other checkpoint was good all the time, and this one is again.
    folder.bellows("resume runs/damaged --from 6").ok();
    folder.assert_equal_runs("run", "damaged", 12);
}

/// Files of a folder with their sizes, but for the lock.
fn listing(folder: &Path) -> Vec<(std::path::PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(listing(&path));
        } else if !path.ends_with("lock") {
            let size = std::fs::metadata(&path).expect("a file").len();
            found.push((path, size));
        }
    }
    found.sort();
    found
}

#[test]
fn damaged_texts_of_a_checkpoint_are_refused_by_name() {
    let folder = Folder::new();
    folder.train("run", &[]).ok();
    for (file, command) in [
        ("config.json", "generate runs/run --device cpu -p the"),
        ("tokenizer.json", "generate runs/run --device cpu -p the"),
        ("state.json", "resume runs/run --steps 15"),
        ("config.json", "resume runs/run --steps 15"),
    ] {
        let path = folder.checkpoint("run", 12, file);
        let good = std::fs::read(&path).expect("a file");
        std::fs::write(&path, &good[..good.len() / 2]).expect("a file");
        folder.bellows(command).refused(&[file]);
        std::fs::remove_file(&path).expect("a file");
        folder.bellows(command).refused(&[file]);
        std::fs::write(&path, good).expect("a file");
    }
    for (file, command) in [
        ("manifest.json", "resume runs/run --steps 15"),
        ("config.toml", "resume runs/run --steps 15"),
    ] {
        let path = folder.run("run").join(file);
        let good = std::fs::read(&path).expect("a file");
        std::fs::write(&path, &good[..good.len() / 2]).expect("a file");
        folder.bellows(command).refused(&[file]);
        std::fs::write(&path, good).expect("a file");
    }
    folder.bellows("resume runs/run --steps 15").ok();
}

#[test]
fn a_checkpoint_of_another_configuration_is_refused() {
    let folder = Folder::new();
    folder.train("run", &[]).ok();
    let good = folder.text("runs/run/config.toml");
    for (from, to, words) in [
        ("hidden_size = 16", "hidden_size = 32", "[model]"),
        ("n_routed_experts = 4", "n_routed_experts = 6", "[model]"),
        ("sequence_length = 32", "sequence_length = 16", "sequence"),
        ("seed = 0", "seed = 1", "seed"),
    ] {
        assert!(good.contains(from), "{good}");
        folder.write("runs/run/config.toml", good.replacen(from, to, 1));
        folder
            .bellows("resume runs/run --steps 15")
            .refused(&[words]);
    }
    folder.write("runs/run/config.toml", good);
    folder.bellows("resume runs/run --steps 15").ok();
}
