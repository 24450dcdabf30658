//! Corpora, tokenizers and packed batches for Bellows.
//!
//! As data flows: [`DataConfig`] → listed files → documents → token ids → the memory-mapped token
//! cache → packed, shuffled batches. [`Dataset::prepare`] goes the whole way; a [`Loader`] hands
//! out [`Batch`]es of plain integers, and knows nothing of tensors or devices. Nothing is printed:
//! a [`Progress`] is told, a [`CorpusReport`] counts, a [`DataError`] explains.
//!
//! Everything here is deterministic: the same files, settings and seeds give the same tokenizer,
//! tokens, split and batches.

mod batch;
mod config;
mod dataset;
mod error;
mod files;
mod progress;
mod report;
mod source;
mod split;
mod store;
mod tokenizer;

pub use batch::{
    Batch, IGNORE_INDEX, Loader, LoaderConfig, LoaderState, Origin, PADDING_SEGMENT, ProbeSequence,
    ProbeSet, Span, ValidationSet,
};
pub use config::{
    DataConfig, Packing, RecordForm, RecordsConfig, RustSourcesConfig, SourceConfig, TextConfig,
    TokenizerConfig, TrainOn, ValidationConfig,
};
pub use dataset::{Dataset, DatasetId};
pub use error::DataError;
pub use files::default_cache_dir;
pub use progress::{NoProgress, Progress, Stage};
pub use report::{CorpusReport, Skipped, SplitReport};
pub use split::Split;
pub use tokenizer::Tokenizer;
