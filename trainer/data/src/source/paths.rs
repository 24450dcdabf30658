//! Paths, folders and globs → a sorted list of files.

use std::path::{Path, PathBuf};

use globset::GlobBuilder;
use walkdir::WalkDir;

use crate::DataError;

/// A file found under a configured path.
pub(super) struct Found {
    pub path: PathBuf,
    /// The path below the folder or glob's fixed part: names the file independently of where the
    /// corpus lies.
    pub key: String,
}

/// Expands `patterns` in order; each one's files are sorted, and a file found twice is taken once.
///
/// # Errors
/// [`DataError::NoFiles`] when a pattern matches nothing (a typing error would otherwise silently
/// shrink the corpus), [`DataError::Config`] for a malformed glob, [`DataError::Io`] for a folder
/// that cannot be listed.
pub(super) fn expand(
    patterns: &[String],
    key: &str,
    extensions: &[&str],
    what: &str,
) -> Result<Vec<Found>, DataError> {
    let mut all: Vec<Found> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for pattern in patterns {
        let found = one(pattern, key, extensions)?;
        if found.is_empty() {
            return Err(DataError::NoFiles {
                what: what.to_owned(),
                looked_at: vec![describe(pattern, extensions)],
                hint: format!(
                    "Check {key}; paths are relative to the folder the program runs in ({})",
                    std::env::current_dir()
                        .map_or_else(|e| e.to_string(), |dir| dir.display().to_string())
                ),
            });
        }
        all.extend(
            found
                .into_iter()
                .filter(|found| seen.insert(found.path.clone())),
        );
    }
    Ok(all)
}

/// How a pattern is named in messages: a folder with the extensions that were looked for.
pub(super) fn describe(pattern: &str, extensions: &[&str]) -> String {
    if Path::new(pattern).is_dir() {
        let wanted: Vec<String> = extensions.iter().map(|e| format!("*.{e}")).collect();
        format!("{pattern} ({})", wanted.join(", "))
    } else {
        pattern.to_owned()
    }
}

fn one(pattern: &str, key: &str, extensions: &[&str]) -> Result<Vec<Found>, DataError> {
    let path = Path::new(pattern);
    // A file whose very name holds glob characters is that file.
    if path.is_file() {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        return Ok(vec![Found {
            path: path.to_owned(),
            key: name,
        }]);
    }
    if path.is_dir() {
        return walk(path, |relative| {
            relative.extension().is_some_and(|e| {
                extensions
                    .iter()
                    .any(|wanted| e.eq_ignore_ascii_case(wanted))
            })
        });
    }
    if !pattern.contains(['*', '?', '[', '{']) {
        return Ok(Vec::new());
    }
    let glob = GlobBuilder::new(pattern)
        .literal_separator(true)
        .build()
        .map_err(|error| DataError::config(key, format!("malformed glob {pattern:?}: {error}")))?
        .compile_matcher();
    let base = fixed_part(path);
    let root = if base.as_os_str().is_empty() {
        Path::new(".")
    } else {
        &base
    };
    if !root.is_dir() {
        return Ok(Vec::new());
    }
    walk(root, |relative| glob.is_match(base.join(relative)))
}

/// The leading components of a glob without glob characters.
fn fixed_part(pattern: &Path) -> PathBuf {
    pattern
        .components()
        .take_while(|component| {
            !component
                .as_os_str()
                .to_string_lossy()
                .contains(['*', '?', '[', '{'])
        })
        .collect()
}

fn walk(root: &Path, wanted: impl Fn(&Path) -> bool) -> Result<Vec<Found>, DataError> {
    let mut found = Vec::new();
    for entry in WalkDir::new(root).follow_links(true).sort_by_file_name() {
        let entry = match entry {
            Ok(entry) => entry,
            // A link to nowhere, or a file that vanishes while the folder is listed, is no reason
            // to stop.
            Err(error)
                if error
                    .io_error()
                    .is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) =>
            {
                continue;
            }
            Err(error) => {
                let path = error.path().unwrap_or(root).to_owned();
                return Err(DataError::io("list", &path, error.into()));
            }
        };
        let relative = entry.path().strip_prefix(root).unwrap_or(entry.path());
        if entry.file_type().is_file() && wanted(relative) {
            let key = relative.to_string_lossy().replace('\\', "/");
            // Without a leading "./", which only the walk put there.
            let path = entry
                .path()
                .strip_prefix(".")
                .unwrap_or(entry.path())
                .to_owned();
            found.push(Found { path, key });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(found: &[Found]) -> Vec<&str> {
        found.iter().map(|f| f.key.as_str()).collect()
    }

    #[test]
    fn globs_folders_and_files_are_found_sorted_and_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        for name in ["z.txt", "a/one.txt", "a/b/two.txt", "a/three.bin"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        let root = dir.path().display().to_string();
        let expand =
            |patterns: &[String]| expand(patterns, "data.source.paths", &["txt"], "text files");
        assert_eq!(
            names(&expand(&[format!("{root}/**/*.txt")]).unwrap()),
            ["a/b/two.txt", "a/one.txt", "z.txt"]
        );
        assert_eq!(
            names(&expand(&[format!("{root}/*.txt")]).unwrap()),
            ["z.txt"]
        );
        assert_eq!(
            expand(&[root.clone(), format!("{root}/z.txt")])
                .unwrap()
                .len(),
            3
        );
        assert!(matches!(
            expand(&[format!("{root}/*.md")]),
            Err(DataError::NoFiles { .. })
        ));
        assert!(matches!(
            expand(&[format!("{root}/nowhere.txt")]),
            Err(DataError::NoFiles { .. })
        ));
        assert!(matches!(
            expand(&[format!("{root}/[.txt")]),
            Err(DataError::Config { .. })
        ));
    }
}
