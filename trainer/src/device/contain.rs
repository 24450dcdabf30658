//! What drivers and their libraries do to a process: panics are contained while a driver is probed
//! and reported as a bug everywhere else; their chatter is hushed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many probes are under way. A driver may panic on a thread of its own, so the mark is the
/// process's, not the thread's.
static CONTAINED: AtomicUsize = AtomicUsize::new(0);

/// Whether panics are being turned into errors just now.
fn is_contained() -> bool {
    CONTAINED.load(Ordering::Relaxed) > 0
}

/// Runs what may panic; the panic's message becomes the error, and nothing is printed.
pub fn contain<T>(probe: impl FnOnce() -> T) -> Result<T, String> {
    CONTAINED.fetch_add(1, Ordering::Relaxed);
    let result = catch_unwind(AssertUnwindSafe(probe));
    CONTAINED.fetch_sub(1, Ordering::Relaxed);
    result.map_err(|payload| message(payload.as_ref()))
}

/// What a panic said.
fn message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked without a message").to_owned()
}

/// Keeps a library of the system from printing about a desktop that a server does not have: looking
/// for an OpenGL driver, libwayland prints two lines that begin with "error:" where this variable is
/// not set, although nothing is wrong.
///
/// # Safety
/// No other thread may be running: call it first thing in `main`.
pub unsafe fn hush_display_library() {
    const VARIABLE: &str = "XDG_RUNTIME_DIR";
    if cfg!(target_os = "linux") && std::env::var_os(VARIABLE).is_none() {
        // SAFETY: the caller promises that nobody else reads or writes the environment now.
        unsafe { std::env::set_var(VARIABLE, "/nonexistent") };
    }
}

/// Makes a panic one clear message on standard error; a backtrace only where `RUST_BACKTRACE` asks.
pub fn install_panic_hook() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if is_contained() {
            return;
        }
        let place = info.location().map_or_else(String::new, |place| {
            format!(" at {}:{}", place.file(), place.line())
        });
        crate::ui::report_bug(&format!("{}{place}", message(info.payload())));
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") {
            default(info);
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panicking_driver_becomes_a_reason() {
        let probe: Result<(), String> = contain(|| panic!("no device {}", 3));
        assert_eq!(probe, Err("no device 3".to_owned()));
        assert_eq!(contain(|| 5), Ok(5));
    }
}
