//! Who a process is, and whether it still lives.

use std::fs;

/// The machine's name; empty where the system does not tell.
pub(crate) fn hostname() -> String {
    #[cfg(unix)]
    {
        let mut name = [0u8; 256];
        // SAFETY: the pointer and length describe `name`, and the call writes no further.
        let rc = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len()) };
        if rc == 0 {
            let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
            return String::from_utf8_lossy(&name[..end]).into_owned();
        }
        String::new()
    }
    #[cfg(not(unix))]
    std::env::var("COMPUTERNAME").unwrap_or_default()
}

/// Names what a process id is relative to: the machine, its boot, and (two containers may share a
/// host name) the process namespace.
pub(crate) fn scope() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::read_link("/proc/self/ns/pid")
        .map(|link| link.to_string_lossy().into_owned())
        .unwrap_or_default();
    format!("{} {} {namespace}", hostname(), boot.trim())
}

/// Whether the process exists; `None` where that cannot be known.
pub(crate) fn exists(pid: u32) -> Option<bool> {
    #[cfg(unix)]
    {
        let pid = libc::pid_t::try_from(pid).ok().filter(|&pid| pid > 0)?;
        // SAFETY: signal 0 is never delivered; the call only looks the process up.
        if unsafe { libc::kill(pid, 0) } == 0 {
            return Some(true);
        }
        match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::ESRCH) => Some(false),
            // It exists and belongs to somebody else.
            Some(libc::EPERM) => Some(true),
            _ => None,
        }
    }
    #[cfg(not(unix))]
    {
        let _ = pid;
        None
    }
}
