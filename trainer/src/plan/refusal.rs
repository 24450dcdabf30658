//! A device that refuses memory after all: CubeCL panics there, on its own thread or the caller's.

use std::panic::resume_unwind;

use bellows_engine::kernels::memory::{failed_at, last_request};

use crate::device::contain;
use crate::ui::{bytes, report_bug};

/// What came of work that may run out of memory.
#[derive(Debug)]
pub enum Attempt<T> {
    /// It was done.
    Done(T),
    /// The device refused memory: what was asked of it, and where.
    Refused(String),
}

/// Runs `work` and contains the panic of a device that has no memory left. Any other panic is
/// reported as the bug that it is, and goes on.
pub fn attempt<T>(work: impl FnOnce() -> T) -> Attempt<T> {
    match contain(work) {
        Ok(result) => Attempt::Done(result),
        Err(message) if is_about_memory(&message) => Attempt::Refused(describe(&message)),
        Err(message) => {
            report_bug(&message);
            resume_unwind(Box::new(message));
        }
    }
}

/// Whether a panic's message tells of memory that was not to be had: wgpu's, CubeCL's, and those of
/// Vulkan's results.
fn is_about_memory(message: &str) -> bool {
    message.lines().any(tells_of_memory)
}

fn tells_of_memory(line: &str) -> bool {
    let line = line.to_lowercase();
    let signs = [
        "out of memory",
        "outofmemory",
        "out of device memory",
        "out_of_device_memory",
        "out_of_host_memory",
        "not enough memory",
        "can't allocate buffer",
        "memory allocation",
        "buffertoobig",
        "buffer too big",
    ];
    signs.iter().any(|sign| line.contains(sign))
}

/// The request: the driver's words, and who asked.
fn describe(message: &str) -> String {
    let telling = message
        .lines()
        .map(str::trim)
        .find(|line| tells_of_memory(line));
    let what: String = telling.unwrap_or(message).chars().take(200).collect();
    let mut text = format!("the device refused memory ({what})");
    if let Some(place) = failed_at() {
        text += &format!(", {place}");
    }
    // Burn's own operations ask too: where the driver tells a size, which is longer than an error's
    // number, that is the request.
    let has_size = |line: &str| {
        line.split(|c: char| !c.is_ascii_digit())
            .any(|n| n.len() > 3)
    };
    let told = telling.is_some_and(has_size);
    match last_request() {
        0 => {}
        _ if told => {}
        request => {
            text += &format!(
                "; the last buffer that a kernel asked for has {}",
                bytes(request)
            )
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_contained_and_names_what_was_asked_for() {
        let attempt =
            attempt(|| -> () { panic!("wgpu error: Out of Memory\n\n  in create_buffer") });
        let Attempt::Refused(what) = attempt else {
            panic!("memory was refused");
        };
        assert!(what.contains("Out of Memory"), "{what}");
        assert!(matches!(super::attempt(|| 3), Attempt::Done(3)));
    }

    #[test]
    fn the_words_of_every_layer_are_known() {
        for message in [
            "wgpu error: Out of Memory",
            "out of device memory allocating 1073741824 bytes",
            "can't allocate buffer of size: 268435456",
            "IoError(BufferTooBig { size: 12 })",
            "ERROR_OUT_OF_DEVICE_MEMORY",
        ] {
            assert!(is_about_memory(message), "{message}");
        }
        for message in ["index out of bounds", "a lost device", "shape mismatch"] {
            assert!(!is_about_memory(message), "{message}");
        }
    }
}
