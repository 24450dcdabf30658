//! What was found in a corpus, and what was left out and why.

use serde::{Deserialize, Serialize};

use crate::{Progress, Split};

/// How many of the things left out are kept by name; all of them are counted.
const EXAMPLES: usize = 20;

/// Counts of one side of the corpus.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SplitReport {
    /// Documents with at least one token.
    pub documents: u64,
    /// Bytes of text, as UTF-8.
    pub bytes: u64,
    /// Tokens, end-of-text tokens included.
    pub tokens: u64,
    /// Distinct source names (crates, files, values of the source column).
    pub sources: u64,
}

/// Something left out of the corpus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Skipped {
    /// The file.
    pub path: String,
    /// The row or line (counted from 1), when not the whole file was left out.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub row: Option<u64>,
    /// Why.
    pub reason: String,
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.row {
            Some(row) => write!(f, "{}:{row}: {}", self.path, self.reason),
            None => write!(f, "{}: {}", self.path, self.reason),
        }
    }
}

/// What was found in a corpus, and what was left out and why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CorpusReport {
    /// One line about the corpus: its kind and where it was found.
    pub source: String,
    /// The training side.
    pub train: SplitReport,
    /// The validation side.
    pub validation: SplitReport,
    /// Invalid UTF-8 sequences that were replaced by U+FFFD.
    pub replaced_sequences: u64,
    /// Documents in which that happened.
    pub documents_with_replacements: u64,
    /// Documents without any text.
    pub empty_documents: u64,
    /// Whole files left out (vanished, unreadable, not text).
    pub skipped_files: u64,
    /// Of those, the ones that could not be opened or read to their end: another time they may be
    /// there again.
    pub unreadable_files: u64,
    /// Rows left out (malformed, a missing column, a template that failed).
    pub skipped_rows: u64,
    /// The first few of what was left out.
    pub skipped: Vec<Skipped>,
    /// Paths, globs and folders that were looked at.
    pub looked_at: Vec<String>,
    /// What the user should know, a sentence each.
    pub warnings: Vec<String>,
}

impl CorpusReport {
    /// Counts of one side.
    pub fn split(&self, split: Split) -> &SplitReport {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
        }
    }

    pub(crate) fn split_mut(&mut self, split: Split) -> &mut SplitReport {
        match split {
            Split::Train => &mut self.train,
            Split::Validation => &mut self.validation,
        }
    }

    pub(crate) fn skip_file(&mut self, path: &str, reason: impl Into<String>) {
        self.skipped_files += 1;
        self.keep(Skipped {
            path: path.to_owned(),
            row: None,
            reason: reason.into(),
        });
    }

    /// A file that cannot be opened or read, or that vanished after it was listed.
    pub(crate) fn skip_unreadable(&mut self, path: &str, error: &std::io::Error) {
        self.unreadable_files += 1;
        match error.kind() {
            std::io::ErrorKind::NotFound => self.skip_file(path, "vanished after it was listed"),
            _ => self.skip_file(path, format!("cannot be read: {error}")),
        }
    }

    /// Takes over what reading counted.
    pub(crate) fn take_reading(&mut self, read: CorpusReport) {
        self.replaced_sequences += read.replaced_sequences;
        self.documents_with_replacements += read.documents_with_replacements;
        self.empty_documents += read.empty_documents;
        self.skipped_files += read.skipped_files;
        self.unreadable_files += read.unreadable_files;
        self.skipped_rows += read.skipped_rows;
        self.skipped.extend(read.skipped);
    }

    pub(crate) fn skip_row(&mut self, path: &str, row: u64, reason: impl Into<String>) {
        self.skipped_rows += 1;
        self.keep(Skipped {
            path: path.to_owned(),
            row: Some(row),
            reason: reason.into(),
        });
    }

    fn keep(&mut self, skipped: Skipped) {
        if self.skipped.len() < EXAMPLES {
            self.skipped.push(skipped);
        }
    }

    /// The first few reasons, for an error message.
    pub(crate) fn reasons(&self) -> Vec<String> {
        let mut reasons: Vec<String> = self
            .skipped
            .iter()
            .take(5)
            .map(Skipped::to_string)
            .collect();
        if self.empty_documents > 0 {
            reasons.push(format!("{} empty documents", self.empty_documents));
        }
        reasons
    }

    /// Adds the sentences that follow from the counts, and tells all of them.
    pub(crate) fn conclude(&mut self) {
        if self.replaced_sequences > 0 {
            self.warnings.push(format!(
                "{} invalid UTF-8 sequences in {} documents were replaced by U+FFFD",
                self.replaced_sequences, self.documents_with_replacements
            ));
        }
        if self.skipped_files > 0 || self.skipped_rows > 0 {
            self.warnings.push(format!(
                "{} files and {} rows were left out, first: {}",
                self.skipped_files,
                self.skipped_rows,
                self.skipped
                    .iter()
                    .take(3)
                    .map(Skipped::to_string)
                    .collect::<Vec<_>>()
                    .join("; ")
            ));
        }
    }

    pub(crate) fn warn(&self, progress: &dyn Progress) {
        for warning in &self.warnings {
            progress.warning(warning);
        }
    }
}
