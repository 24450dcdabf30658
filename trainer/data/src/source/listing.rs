//! The files of a corpus, before any of them is read: what the cache key covers.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::{paths, rust_sources};
use crate::config::{DataConfig, SourceConfig};
use crate::split::{hash_name, mix, side};
use crate::{DataError, Split};

/// With fewer text files than this, whole files would make a poor split: the end of each file is
/// held out instead.
const FEW_FILES: usize = 20;

/// How the documents of a file are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileSide {
    /// The whole file.
    Whole(Split),
    /// By a hash of the row number, with the file's own hash.
    ByRow(u64),
    /// From the first line that starts at or after this byte on: validation.
    Tail(u64),
}

impl FileSide {
    pub(super) fn of_row(self, row: u64, seed: u64, fraction: f64) -> Split {
        match self {
            FileSide::Whole(split) => split,
            FileSide::ByRow(file) => side(mix(file ^ mix(row ^ mix(seed))), fraction),
            FileSide::Tail(_) => Split::Train,
        }
    }
}

/// A file of the corpus.
#[derive(Clone, Debug)]
pub(crate) struct ListedFile {
    pub path: PathBuf,
    /// Name in reports and messages.
    pub name: String,
    /// Name of its documents' source, unless a column says otherwise.
    pub source: String,
    pub bytes: u64,
    /// Modification time in nanoseconds since 1970; part of the cache key only.
    pub modified: i128,
    pub side: FileSide,
}

impl ListedFile {
    /// `None` when the file vanished between listing and now.
    pub(super) fn new(
        path: &Path,
        name: String,
        source: String,
        side: FileSide,
    ) -> Option<ListedFile> {
        let metadata = std::fs::metadata(path).ok()?;
        let modified =
            metadata
                .modified()
                .ok()
                .map_or(0, |time| match time.duration_since(UNIX_EPOCH) {
                    Ok(after) => after.as_nanos() as i128,
                    Err(before) => -(before.duration().as_nanos() as i128),
                });
        Some(ListedFile {
            path: path.to_owned(),
            name,
            source,
            bytes: metadata.len(),
            modified,
            side,
        })
    }
}

/// The files of a corpus in reading order.
#[derive(Clone, Debug)]
pub(crate) struct Listing {
    pub files: Vec<ListedFile>,
    /// One line about the corpus.
    pub description: String,
    pub looked_at: Vec<String>,
    pub warnings: Vec<String>,
    /// Whether any document is to be held out.
    pub wants_validation: bool,
    /// Whether validation has files of its own.
    pub separate_validation: bool,
}

/// Lists the files of the configured corpus.
pub(crate) fn list(config: &DataConfig) -> Result<Listing, DataError> {
    let (patterns, extensions, what): (_, &[&str], _) = match &config.source {
        SourceConfig::RustSources(rust) => {
            return rust_sources::list(rust, config.seed, config.validation.fraction);
        }
        SourceConfig::Text(text) => (&text.paths, &["txt", "md"], "text files"),
        SourceConfig::Jsonl(records) => (&records.paths, &["jsonl", "ndjson"], "JSON Lines files"),
        SourceConfig::Parquet(records) => (&records.paths, &["parquet"], "Parquet files"),
    };
    let found = paths::expand(patterns, "data.source.paths", extensions, what)?;
    let separate = !config.validation.paths.is_empty();
    let fraction = if separate {
        0.0
    } else {
        config.validation.fraction
    };
    let whole_documents =
        matches!(&config.source, SourceConfig::Text(text) if text.separator.is_none());
    let by_tail = whole_documents && found.len() < FEW_FILES;

    let mut files = Vec::with_capacity(found.len());
    let mut warnings = Vec::new();
    let mut add = |found: &paths::Found, side: &dyn Fn(u64) -> FileSide| {
        let name = found.path.display().to_string();
        let source = Path::new(&found.key)
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        match ListedFile::new(
            &found.path,
            name.clone(),
            source,
            FileSide::Whole(Split::Train),
        ) {
            Some(mut file) => {
                file.side = side(file.bytes);
                files.push(file);
            }
            None => warnings.push(format!(
                "{name} vanished while the corpus was listed and was left out"
            )),
        }
    };
    for item in &found {
        let hash = hash_name(config.seed, &item.key);
        add(item, &|bytes| match () {
            () if fraction == 0.0 => FileSide::Whole(Split::Train),
            () if by_tail => FileSide::Tail((bytes as f64 * (1.0 - fraction)) as u64),
            () if whole_documents => FileSide::Whole(side(hash, fraction)),
            () => FileSide::ByRow(hash),
        });
    }
    let mut looked_at: Vec<String> = patterns
        .iter()
        .map(|p| paths::describe(p, extensions))
        .collect();
    if separate {
        let held_out = paths::expand(
            &config.validation.paths,
            "data.validation.paths",
            extensions,
            what,
        )?;
        if let Some(both) = held_out
            .iter()
            .find(|item| found.iter().any(|other| other.path == item.path))
        {
            return Err(DataError::config(
                "data.validation.paths",
                format!(
                    "{} is also matched by data.source.paths: a file is for training or for validation",
                    both.path.display()
                ),
            ));
        }
        held_out
            .iter()
            .for_each(|item| add(item, &|_| FileSide::Whole(Split::Validation)));
        looked_at.extend(
            config
                .validation
                .paths
                .iter()
                .map(|p| paths::describe(p, extensions)),
        );
    }
    if files.is_empty() {
        return Err(DataError::NoFiles {
            what: what.to_owned(),
            looked_at,
            hint: "All of them vanished while being listed".to_owned(),
        });
    }
    Ok(Listing {
        description: format!("{what}: {}", files.len()),
        files,
        looked_at,
        warnings,
        wants_validation: separate || fraction > 0.0,
        separate_validation: separate,
    })
}
