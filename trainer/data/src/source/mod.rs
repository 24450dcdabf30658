//! Corpus → pieces of documents: listing files, reading them in bounded pieces, deciding train or
//! validation.

mod chat_template;
mod jsonl;
mod listing;
mod lossy;
mod parquet;
mod paths;
mod records;
mod render;
mod rust_sources;
mod text;

use std::ops::ControlFlow;
use std::sync::Arc;

pub(crate) use chat_template::DEFAULT_CHAT_SPECIAL_TOKENS;
pub(crate) use listing::{ListedFile, Listing, list};
use render::Rendered;
pub(crate) use render::{Renderer, SpecialTexts};

use crate::config::SourceConfig;
use crate::{CorpusReport, DataError, Split};

/// Row number of a document that is a whole file.
pub(crate) const WHOLE_FILE: u64 = u64::MAX;

/// A document longer than this is handed on in several pieces.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// A row longer than this is left out: it would have to be held in memory whole.
pub(crate) const ROW_BYTES: usize = 256 << 20;

/// A run of text that is trained on, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub text: String,
    pub trained: bool,
}

/// A bounded piece of a document, in reading order.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// Running number of the document within the file; pieces of one document follow each other.
    pub document: u64,
    /// Row (from 0) or [`WHOLE_FILE`].
    pub row: u64,
    pub split: Split,
    /// Overrides the file's source name.
    pub source: Option<Arc<str>>,
    pub segments: Vec<Segment>,
    /// Reward of a completion of a group.
    pub reward: Option<f32>,
    /// Log-probabilities of its tokens, of the end-of-text token too where there is one more.
    pub old: Option<Vec<f32>>,
    /// Bytes of the file that this piece stands for, for progress.
    pub consumed: u64,
}

/// What a reader hands its pieces to; `Break` stops the reading.
pub(crate) type Visit<'a> = dyn FnMut(Piece) -> ControlFlow<()> + 'a;

/// Reads files of one kind.
pub(crate) struct Reader<'a> {
    source: &'a SourceConfig,
    renderer: Option<Renderer>,
    seed: u64,
    fraction: f64,
}

impl<'a> Reader<'a> {
    pub fn new(
        source: &'a SourceConfig,
        specials: &SpecialTexts,
        seed: u64,
        fraction: f64,
    ) -> Result<Self, DataError> {
        let renderer = match source {
            SourceConfig::Jsonl(records) | SourceConfig::Parquet(records) => {
                Some(Renderer::new(records, specials)?)
            }
            SourceConfig::RustSources(_) | SourceConfig::Text(_) => None,
        };
        Ok(Reader {
            source,
            renderer,
            seed,
            fraction,
        })
    }

    /// Whether special tokens written in the text are meant as such when the configuration does not
    /// say.
    pub fn parses_special_tokens(&self) -> bool {
        self.renderer.as_ref().is_some_and(Renderer::is_template)
    }

    /// Whether any part of a document is left out of the loss.
    pub fn has_mask(&self) -> bool {
        self.renderer.as_ref().is_some_and(Renderer::has_mask)
    }

    /// Whether documents are completions with rewards.
    pub fn has_groups(&self) -> bool {
        self.renderer.as_ref().is_some_and(Renderer::has_groups)
    }

    /// What the rendering of rows depends on besides the configuration: templates from files and
    /// from the tokenizer.
    pub fn identity(&self) -> &str {
        self.renderer.as_ref().map_or("", Renderer::identity)
    }

    /// Hands every piece of `file` to `visit`. What is left out goes into `report`; only what makes
    /// the configuration itself wrong (a missing Parquet column, …) is an error.
    pub fn read(
        &self,
        file: &ListedFile,
        report: &mut CorpusReport,
        visit: &mut Visit<'_>,
    ) -> Result<(), DataError> {
        match (self.source, &self.renderer) {
            (SourceConfig::Jsonl(_), Some(renderer)) => {
                jsonl::read(self, file, renderer, report, visit)
            }
            (SourceConfig::Parquet(_), Some(renderer)) => {
                return parquet::read(self, file, renderer, report, visit);
            }
            (SourceConfig::Text(config), _) => {
                text::read(self, file, config.separator.as_deref(), report, visit)
            }
            _ => text::read(self, file, None, report, visit),
        }
        Ok(())
    }

    /// Hands on the documents of a row; `next` is the number of the next document of the file.
    fn emit(
        &self,
        file: &ListedFile,
        row: u64,
        rendered: Rendered,
        mut consumed: u64,
        next: &mut u64,
        visit: &mut Visit<'_>,
    ) -> ControlFlow<()> {
        let source: Option<Arc<str>> = rendered.source.map(Into::into);
        for document in rendered.documents {
            visit(Piece {
                document: *next,
                row,
                split: self.side(file, row),
                source: source.clone(),
                segments: document.segments,
                reward: document.reward,
                old: document.old,
                consumed: std::mem::take(&mut consumed),
            })?;
            *next += 1;
        }
        ControlFlow::Continue(())
    }

    /// The side of a row.
    fn side(&self, file: &ListedFile, row: u64) -> Split {
        file.side.of_row(row, self.seed, self.fraction)
    }
}
