//! Rust source that is already on the machine: a deterministic sample of what cargo has fetched,
//! split by crate name.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use walkdir::WalkDir;

use super::listing::{FileSide, ListedFile, Listing};
use crate::config::RustSourcesConfig;
use crate::split::{hash_name, side};
use crate::{DataError, Split};

/// Crates are walked in groups of this size until the sample is full, so that a large registry is
/// not walked whole.
const GROUP: usize = 64;

/// A crate by name, with the folders of all its versions, newest first.
struct Crate {
    name: String,
    folders: Vec<(String, PathBuf)>,
}

/// Lists a sample of the registry's Rust files, else of the workspace's.
pub(super) fn list(
    config: &RustSourcesConfig,
    seed: u64,
    fraction: f64,
) -> Result<Listing, DataError> {
    let registry = match &config.registry {
        Some(folder) => folder.clone(),
        None => home::cargo_home()
            .map_err(|e| DataError::io("find cargo's home for", Path::new("registry/src"), e))?
            .join("registry/src"),
    };
    let mut looked_at = vec![registry.display().to_string()];
    let crates = registry_crates(&registry)?;
    let mut files = sample(crates, config, seed);
    let mut origin = format!(
        "Rust sources that cargo has fetched ({})",
        registry.display()
    );
    if files.is_empty() {
        let folder = match &config.fallback {
            Some(folder) => folder.clone(),
            None => workspace_root(
                &std::env::current_dir().map_err(|e| DataError::io("find", Path::new("."), e))?,
            ),
        };
        looked_at.push(folder.display().to_string());
        files = sample(workspace_crates(&folder)?, config, seed);
        origin = format!("Rust sources of the workspace ({})", folder.display());
    }
    if files.is_empty() {
        return Err(DataError::NoFiles {
            what: "Rust source files".to_owned(),
            looked_at,
            hint: "Build any Rust project first, so that cargo fetches some crates, or set \
                   data.source.registry to a folder that \
                   holds <registry>/<crate>-<version> folders"
                .to_owned(),
        });
    }
    let mut warnings = Vec::new();
    if fraction > 0.0 {
        assign_sides(&mut files, seed, fraction, &mut warnings);
    }
    let crates = files
        .iter()
        .map(|f| f.source.as_str())
        .collect::<BTreeSet<_>>()
        .len();
    Ok(Listing {
        description: format!("{origin}: {} files of {crates} crates", files.len()),
        files,
        looked_at,
        warnings,
        wants_validation: fraction > 0.0,
        separate_validation: false,
    })
}

/// `name` and `version` of a folder `name-version`. A crate name holds no dot, so the version
/// begins after the last hyphen before the first dot, whatever hyphens and digits the name and the
/// pre-release part hold.
pub(crate) fn parse_folder(folder: &str) -> Option<(&str, &str)> {
    let dot = folder.find('.')?;
    let hyphen = folder[..dot].rfind('-')?;
    let (name, version) = (&folder[..hyphen], &folder[hyphen + 1..]);
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    (!name.is_empty() && digits(&folder[hyphen + 1..dot])).then_some((name, version))
}

/// Orders versions; a release is newer than its own pre-releases.
fn version_key(version: &str) -> (Vec<u64>, bool, String) {
    let version = version.split('+').next().unwrap_or(version);
    let (numbers, pre) = version.split_once('-').unwrap_or((version, ""));
    (
        numbers.split('.').map(|n| n.parse().unwrap_or(0)).collect(),
        pre.is_empty(),
        pre.to_owned(),
    )
}

fn subfolders(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(DataError::io("list", folder, error)),
    };
    let mut folders: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect();
    folders.sort();
    Ok(folders)
}

fn registry_crates(registry: &Path) -> Result<Vec<Crate>, DataError> {
    let mut by_name: BTreeMap<String, Vec<(String, PathBuf)>> = BTreeMap::new();
    for index in subfolders(registry)? {
        for folder in subfolders(&index)? {
            let name = folder.file_name().and_then(OsStr::to_str);
            if let Some((name, version)) = name.and_then(parse_folder) {
                by_name
                    .entry(name.to_owned())
                    .or_default()
                    .push((version.to_owned(), folder.clone()));
            }
        }
    }
    Ok(by_name
        .into_iter()
        .map(|(name, mut folders)| {
            folders.sort_by_cached_key(|(version, path)| {
                (Reverse(version_key(version)), path.clone())
            });
            let folders = folders
                .into_iter()
                .map(|(version, path)| (format!("{name}-{version}"), path))
                .collect();
            Crate { name, folders }
        })
        .collect())
}

/// The folder whose sources stand in for an empty registry: the cargo workspace or git repository
/// around `from`.
fn workspace_root(from: &Path) -> PathBuf {
    let is_root = |folder: &Path| {
        folder.join(".git").exists()
            || std::fs::read_to_string(folder.join("Cargo.toml")).is_ok_and(|text| {
                text.lines()
                    .any(|l| l.trim_start().starts_with("[workspace"))
            })
    };
    let nearest = |test: &dyn Fn(&Path) -> bool| {
        from.ancestors()
            .find(|folder| test(folder))
            .map(Path::to_owned)
    };
    nearest(&is_root)
        .or_else(|| nearest(&|folder| folder.join("Cargo.toml").is_file()))
        .unwrap_or_else(|| from.to_owned())
}

/// Each folder with a `Cargo.toml` below `root` is a crate, named by its place; what lies in no
/// such folder is one more.
fn workspace_crates(root: &Path) -> Result<Vec<Crate>, DataError> {
    let mut found = vec![root.to_owned()];
    for entry in WalkDir::new(root)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(is_source)
        .filter_map(Result::ok)
    {
        if entry.file_name() == "Cargo.toml" && entry.depth() > 1 {
            found.extend(entry.path().parent().map(Path::to_owned));
        }
    }
    Ok(found
        .into_iter()
        .map(|folder| {
            let place = folder.strip_prefix(root).unwrap_or(&folder);
            let place = if place.as_os_str().is_empty() {
                root.file_name().map_or(Path::new("workspace"), Path::new)
            } else {
                place
            };
            let name = place.to_string_lossy().replace('\\', "/");
            Crate {
                folders: vec![(name.clone(), folder)],
                name,
            }
        })
        .collect())
}

/// Leaves out build output and hidden folders.
fn is_source(entry: &walkdir::DirEntry) -> bool {
    if entry.depth() == 0 || !entry.file_type().is_dir() {
        return true;
    }
    let hidden = entry.file_name().to_string_lossy().starts_with('.');
    !(hidden || entry.file_name() == "target" || entry.path().join("CACHEDIR.TAG").exists())
}

/// Takes crates in the order of a hash of their names, and of each crate files in the order of a
/// hash of their paths, until the sample is full. Which crates are taken first depends on nothing
/// but the seed and their names.
fn sample(mut crates: Vec<Crate>, config: &RustSourcesConfig, seed: u64) -> Vec<ListedFile> {
    crates.sort_by_cached_key(|c| (hash_name(seed, &c.name), c.name.clone()));
    let mut files = Vec::new();
    let mut left = config.max_bytes;
    for group in crates.chunks(GROUP) {
        let sampled: Vec<Vec<ListedFile>> = group
            .par_iter()
            .map(|c| crate_files(c, config, seed))
            .collect();
        for file in sampled.into_iter().flatten() {
            // A file that does not fit is passed over; smaller ones behind it may still fit.
            if file.bytes <= left {
                left -= file.bytes;
                files.push(file);
            }
        }
        if left < 1024 {
            break;
        }
    }
    files
}

fn crate_files(krate: &Crate, config: &RustSourcesConfig, seed: u64) -> Vec<ListedFile> {
    let mut left = config.max_crate_bytes;
    let mut taken = Vec::new();
    // Two versions of a crate share most files: the same path with the same size is taken from the
    // newest only.
    let mut seen = BTreeSet::new();
    for (folder_name, folder) in &krate.folders {
        let mut found: Vec<(u64, String, PathBuf)> = WalkDir::new(folder)
            .into_iter()
            // A nested crate of a workspace is a crate of its own.
            .filter_entry(|e| {
                is_source(e)
                    && (e.depth() == 0
                        || !e.file_type().is_dir()
                        || !e.path().join("Cargo.toml").is_file())
            })
            .filter_map(Result::ok)
            .filter(|e| e.file_type().is_file() && e.path().extension() == Some(OsStr::new("rs")))
            .map(|e| {
                let relative = e
                    .path()
                    .strip_prefix(folder)
                    .unwrap_or(e.path())
                    .to_string_lossy()
                    .replace('\\', "/");
                (hash_name(seed, &relative), relative, e.into_path())
            })
            .collect();
        found.sort();
        for (_, relative, path) in found {
            let name = format!("{folder_name}/{relative}");
            let Some(file) = ListedFile::new(
                &path,
                name,
                krate.name.clone(),
                FileSide::Whole(Split::Train),
            ) else {
                continue;
            };
            let fits = file.bytes > 0 && file.bytes <= config.max_file_bytes && file.bytes <= left;
            if fits && seen.insert((relative, file.bytes)) {
                left -= file.bytes;
                taken.push(file);
            }
        }
    }
    taken
}

/// Decides the side of each crate. A crate of a large sample keeps its side when others come and
/// go; a sample so small that the hash leaves one side empty gets its extreme crate moved there; a
/// single crate has to be split by file.
fn assign_sides(files: &mut [ListedFile], seed: u64, fraction: f64, warnings: &mut Vec<String>) {
    let hash = |name: &str| hash_name(!seed, name);
    let mut groups: BTreeMap<String, u64> = files
        .iter()
        .map(|f| (f.source.clone(), hash(&f.source)))
        .collect();
    let by_file = groups.len() == 1 && files.len() > 1;
    if by_file {
        warnings.push(format!(
            "only one crate was found ({}): training and validation are split by file, so \
             the validation loss will look better than it is",
            files[0].source
        ));
        groups = files
            .iter()
            .map(|f| (f.name.clone(), hash(&f.name)))
            .collect();
    }
    let mut sides: BTreeMap<&str, Split> = groups
        .iter()
        .map(|(name, hash)| (name.as_str(), side(*hash, fraction)))
        .collect();
    if groups.len() > 1 {
        let lowest = groups
            .iter()
            .min_by_key(|(_, hash)| **hash)
            .map(|(name, _)| name.as_str());
        let highest = groups
            .iter()
            .max_by_key(|(_, hash)| **hash)
            .map(|(name, _)| name.as_str());
        for (split, name) in [(Split::Validation, lowest), (Split::Train, highest)] {
            if let Some(name) = name.filter(|_| sides.values().all(|s| *s != split)) {
                sides.insert(name, split);
            }
        }
    }
    for file in files {
        let key = if by_file { &file.name } else { &file.source };
        file.side = FileSide::Whole(sides[key.as_str()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crate_names_with_hyphens_digits_and_prereleases_are_told_from_versions() {
        for (folder, name, version) in [
            ("serde-1.0.228", "serde", "1.0.228"),
            ("md-5-0.10.6", "md-5", "0.10.6"),
            (
                "foo-2-1.0.0-rc.3+build-5.1",
                "foo-2",
                "1.0.0-rc.3+build-5.1",
            ),
            ("windows-sys-0.61.2", "windows-sys", "0.61.2"),
            (
                "curl-sys-0.4.83+curl-8.15.0",
                "curl-sys",
                "0.4.83+curl-8.15.0",
            ),
            ("tokenizers-1.0.0-rc.3", "tokenizers", "1.0.0-rc.3"),
            ("r2-d2-3-10.0.0-0.2.1", "r2-d2-3", "10.0.0-0.2.1"),
        ] {
            assert_eq!(parse_folder(folder), Some((name, version)), "{folder}");
        }
        for folder in [
            "noversion",
            "no-version",
            "dots.but-no",
            "-1.0.0",
            "name-x1.0.0",
        ] {
            assert_eq!(parse_folder(folder), None, "{folder}");
        }
    }

    #[test]
    fn newer_versions_come_first_and_a_release_before_its_prereleases() {
        let mut versions = ["1.9.0", "1.10.0-rc.1", "1.10.0", "0.3.0"];
        versions.sort_by_cached_key(|v| Reverse(version_key(v)));
        assert_eq!(versions, ["1.10.0", "1.10.0-rc.1", "1.9.0", "0.3.0"]);
    }

    fn registry(crates: &[(&str, usize)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (folder, bytes) in crates {
            let source = dir
                .path()
                .join("index.crates.io-x")
                .join(folder)
                .join("src");
            std::fs::create_dir_all(&source).unwrap();
            std::fs::write(
                source.join("lib.rs"),
                format!("// {folder}\n{}", "x".repeat(*bytes)),
            )
            .unwrap();
        }
        dir
    }

    fn config(dir: &tempfile::TempDir) -> RustSourcesConfig {
        RustSourcesConfig {
            registry: Some(dir.path().to_owned()),
            ..RustSourcesConfig::default()
        }
    }

    #[test]
    fn versions_of_one_crate_are_never_on_both_sides() {
        let folders: Vec<String> = (0..40)
            .flat_map(|i| {
                [
                    format!("krate-{i}-1.0.0"),
                    format!("krate-{i}-2.0.0-rc.1+b"),
                ]
            })
            .collect();
        let crates: Vec<(&str, usize)> = folders
            .iter()
            .enumerate()
            .map(|(i, f)| (f.as_str(), 100 + i))
            .collect();
        let dir = registry(&crates);
        for seed in 0..8 {
            let listing = list(&config(&dir), seed, 0.3).unwrap();
            assert_eq!(listing.files.len(), 80);
            let names = |split| -> BTreeSet<String> {
                listing
                    .files
                    .iter()
                    .filter(|f| f.side == FileSide::Whole(split))
                    .map(|f| f.source.clone())
                    .collect()
            };
            let (train, held_out) = (names(Split::Train), names(Split::Validation));
            assert!(!train.is_empty() && !held_out.is_empty());
            assert!(train.is_disjoint(&held_out));
        }
    }

    #[test]
    fn two_crates_always_give_both_sides_and_one_crate_is_split_by_file_with_a_warning() {
        let dir = registry(&[("a-1.0.0", 10), ("b-1.0.0", 20)]);
        for seed in 0..20 {
            let listing = list(&config(&dir), seed, 0.05).unwrap();
            assert_ne!(listing.files[0].side, listing.files[1].side);
        }
        let dir = registry(&[("a-1.0.0", 10), ("a-2.0.0", 20)]);
        let listing = list(&config(&dir), 0, 0.05).unwrap();
        assert_ne!(listing.files[0].side, listing.files[1].side);
        assert_eq!(listing.warnings.len(), 1);
    }

    #[test]
    fn no_crate_and_no_file_takes_more_than_its_share() {
        let dir = registry(&[
            ("big-1.0.0", 90_000),
            ("big-2.0.0", 91_000),
            ("huge-1.0.0", 300_000),
            ("small-1.0.0", 2_000),
        ]);
        let config = RustSourcesConfig {
            max_crate_bytes: 100_000,
            max_file_bytes: 200_000,
            max_bytes: 95_000,
            ..config(&dir)
        };
        let files = list(&config, 0, 0.0).unwrap().files;
        assert!(files.iter().all(|f| f.source != "huge"));
        assert!(files.iter().filter(|f| f.source == "big").count() <= 1);
        assert!(files.iter().map(|f| f.bytes).sum::<u64>() <= 95_000);
    }

    #[test]
    fn an_empty_registry_falls_back_to_the_workspace_without_its_build_output() {
        let registry = tempfile::tempdir().unwrap();
        let workspace = tempfile::tempdir().unwrap();
        for path in [
            "one/src/lib.rs",
            "two/src/lib.rs",
            "target/debug/build/out.rs",
            ".git/hook.rs",
        ] {
            let path = workspace.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "fn main() {}").unwrap();
        }
        for member in ["one", "two"] {
            std::fs::write(
                workspace.path().join(member).join("Cargo.toml"),
                "[package]",
            )
            .unwrap();
        }
        let config = RustSourcesConfig {
            fallback: Some(workspace.path().to_owned()),
            ..config(&registry)
        };
        let listing = list(&config, 0, 0.05).unwrap();
        let mut names: Vec<&str> = listing.files.iter().map(|f| f.name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["one/src/lib.rs", "two/src/lib.rs"]);
        let empty = RustSourcesConfig {
            fallback: Some(registry.path().to_owned()),
            ..config
        };
        assert!(
            matches!(list(&empty, 0, 0.05), Err(DataError::NoFiles { looked_at, .. }) if looked_at.len() == 2)
        );
    }
}
