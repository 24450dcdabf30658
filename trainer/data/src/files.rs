//! Files of the cache folder: where it lies, and how a file appears whole or not at all.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::DataError;

/// Where learned tokenizers and token caches are kept unless `data.cache` says otherwise:
/// `$XDG_CACHE_HOME/bellows` (or `~/.cache/bellows`), on macOS `~/Library/Caches/bellows`, on
/// Windows `%LOCALAPPDATA%\bellows\cache`; without a home folder, `bellows-cache` in the folder for
/// temporary files.
pub fn default_cache_dir() -> PathBuf {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    if let Some(folder) = absolute("XDG_CACHE_HOME") {
        return folder.join("bellows");
    }
    let place = if cfg!(windows) {
        absolute("LOCALAPPDATA").map(|folder| folder.join("bellows").join("cache"))
    } else if cfg!(target_os = "macos") {
        home::home_dir().map(|home| home.join("Library/Caches/bellows"))
    } else {
        home::home_dir().map(|home| home.join(".cache/bellows"))
    };
    place.unwrap_or_else(|| std::env::temp_dir().join("bellows-cache"))
}

/// A name beside `path` that no other process or thread uses.
pub(crate) fn aside(path: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    path.with_file_name(format!(
        ".{name}.{}-{}.tmp",
        std::process::id(),
        COUNTER.fetch_add(1, Ordering::Relaxed)
    ))
}

/// Writes a file aside, syncs it and renames it into place; creates the folder.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), DataError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| DataError::io("create", folder, e))?;
    }
    let temporary = aside(path);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|error| {
            let _ = std::fs::remove_file(&temporary);
            DataError::io("write", path, error)
        })
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
