//! The `[data]` section of a run's configuration: where text comes from, how it becomes tokens,
//! what is held out.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::DataError;

/// The `[data]` section: corpus, tokenizer, validation split and packing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// Where the text comes from. Default: Rust sources that cargo has already fetched.
    pub source: SourceConfig,
    /// How text becomes tokens. Default: a byte-level BPE is learned from the corpus.
    pub tokenizer: TokenizerConfig,
    /// What is held out for validation.
    pub validation: ValidationConfig,
    /// How documents become sequences. Default: `respect`.
    pub packing: Packing,
    /// Whether documents and sequences are visited in a random order, a new one each epoch.
    /// Default: true.
    pub shuffle: bool,
    /// Seed of the corpus sample and of the train/validation split (the order of batches has a seed
    /// of its own). Default: 0.
    pub seed: u64,
    /// Folder of learned tokenizers and token caches. Default:
    /// [`default_cache_dir`](crate::default_cache_dir).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig {
            source: SourceConfig::default(),
            tokenizer: TokenizerConfig::default(),
            validation: ValidationConfig::default(),
            packing: Packing::default(),
            shuffle: true,
            seed: 0,
            cache: None,
        }
    }
}

/// `[data.source]`: the kind of corpus (key `kind`) and its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum SourceConfig {
    /// Rust source that cargo has already fetched; needs no download.
    RustSources(RustSourcesConfig),
    /// Plain text files.
    Text(TextConfig),
    /// JSON Lines: one object a line.
    Jsonl(RecordsConfig),
    /// Parquet files.
    Parquet(RecordsConfig),
}

impl Default for SourceConfig {
    fn default() -> Self {
        SourceConfig::RustSources(RustSourcesConfig::default())
    }
}

/// A deterministic sample of cargo's registry sources, split by crate name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RustSourcesConfig {
    /// Size of the sample in bytes. Default: 33554432 (32 MiB).
    pub max_bytes: u64,
    /// At most this many bytes of one crate, all its versions together, so that no large crate
    /// dominates. Default: 524288.
    pub max_crate_bytes: u64,
    /// Larger files are left out: they are mostly generated tables. Default: 262144.
    pub max_file_bytes: u64,
    /// Folder that holds cargo's `<registry>/<crate>-<version>` folders. Default:
    /// `$CARGO_HOME/registry/src`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<PathBuf>,
    /// Folder whose own Rust sources are used when the registry holds none. Default: the cargo
    /// workspace or git repository around the current folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<PathBuf>,
}

impl Default for RustSourcesConfig {
    fn default() -> Self {
        RustSourcesConfig {
            max_bytes: 32 << 20,
            max_crate_bytes: 512 << 10,
            max_file_bytes: 256 << 10,
            registry: None,
            fallback: None,
        }
    }
}

/// Plain text files: each file is a document, unless a separator cuts it into several.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextConfig {
    /// Files, folders (their `.txt` and `.md` files) and globs (`corpus/**/*.txt`).
    pub paths: Vec<String>,
    /// A line that ends a document, e.g. `<|endoftext|>`; the line itself is not part of the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
}

/// JSON Lines or Parquet: rows with columns. A document is made from a text column, a column of
/// chat messages, or a template.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordsConfig {
    /// Files, folders (their `.jsonl` or `.parquet` files) and globs.
    pub paths: Vec<String>,
    /// Column with the document's text. Default: `text`, when neither `messages_column` nor
    /// `template` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text_column: Option<String>,
    /// Column with a list of chat messages, each with `role` and `content`, rendered through the
    /// chat template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_column: Option<String>,
    /// Jinja template over the columns, e.g. `Question: {{ question }}\nAnswer: `.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Jinja template of the part that follows `template` and that `train_on = "completion"` trains
    /// on, e.g. `{{ answer }}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion: Option<String>,
    /// What rows hold, by TRL's names of columns, instead of `text_column`, `messages_column` and
    /// `template`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form: Option<RecordForm>,
    /// Chat template, inline. Default: the tokenizer's own, else ChatML.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// File with the chat template: Jinja, or a `tokenizer_config.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template_file: Option<PathBuf>,
    /// Which tokens count in the loss: `all`, or `completion` (assistant turns; the completion
    /// template). Default: `all`.
    pub train_on: TrainOn,
    /// Column that names each document's source (a domain, a site), reported with its tokens.
    /// Default: the file's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_column: Option<String>,
}

/// What rows hold, by TRL's names of columns. A prompt or completion is a text, or a list of chat
/// messages that go through the chat template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordForm {
    /// `messages`, or `prompt` and `completion`.
    Supervised,
    /// `prompt`, `chosen` and `rejected`: two documents a row, in this order. Of chats without a
    /// `prompt` it is the messages with which both begin. Only what follows the prompt is trained
    /// on, whatever `train_on` says.
    Preference,
    /// `prompt`, `completions`, `rewards` and, where they are known, `old_logprobs`: a document a
    /// completion. Only what follows the prompt is trained on.
    Groups,
}

impl RecordForm {
    /// Its name in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            RecordForm::Supervised => "supervised",
            RecordForm::Preference => "preference",
            RecordForm::Groups => "groups",
        }
    }
}

/// Which tokens of a document count in the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainOn {
    /// Every token.
    #[default]
    All,
    /// Only the completion: assistant turns, or what the `completion` template rendered, and the
    /// end of the document.
    Completion,
}

/// How documents become sequences, and whether those in one sequence may see each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Packing {
    /// Attention, positions and labels end at a document's end.
    #[default]
    Respect,
    /// The sequence is one run of text; documents are parted only by the end-of-text token.
    Ignore,
    /// As many whole documents as fit; one that is longer than a sequence is cut. What is left of a
    /// sequence is filled with its own documents again, without labels.
    Whole,
    /// One document a sequence, filled likewise.
    Off,
}

impl Packing {
    /// Its name in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Packing::Respect => "respect",
            Packing::Ignore => "ignore",
            Packing::Whole => "whole",
            Packing::Off => "off",
        }
    }
}

/// `[data.tokenizer]`: a Hugging Face `tokenizer.json`, or a byte-level BPE learned from the
/// training split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerConfig {
    /// A `tokenizer.json` or the folder that holds one. Absent: a tokenizer is learned, and the
    /// next keys apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Learned: number of tokens, special tokens and the 256 bytes included. Default: 4096.
    pub vocab_size: usize,
    /// Learned: bytes of training text to learn from. Default: 4194304 (4 MiB).
    pub sample_bytes: u64,
    /// Learned: a pair must occur this often in the sample to become a token. Default: 2.
    pub min_frequency: u64,
    /// Learned: add a `<|pad|>` token. Default: false (padding is ignored in the loss whatever its
    /// id is).
    pub pad: bool,
    /// Learned: further special tokens. The default chat template's markers are added by
    /// themselves.
    pub special_tokens: Vec<String>,
    /// Token put before every document. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos_token: Option<String>,
    /// Token that ends every document. Default: what `tokenizer_config.json` beside the tokenizer
    /// says, else a common name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eos_token: Option<String>,
    /// Whether special tokens written out in the text become special tokens. Default: only in
    /// templates and chats, so that a document that talks about `<|endoftext|>` is not cut in two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parse_special_tokens: Option<bool>,
}

impl Default for TokenizerConfig {
    fn default() -> Self {
        TokenizerConfig {
            path: None,
            vocab_size: 4096,
            sample_bytes: 4 << 20,
            min_frequency: 2,
            pad: false,
            special_tokens: Vec::new(),
            bos_token: None,
            eos_token: None,
            parse_special_tokens: None,
        }
    }
}

/// `[data.validation]`: what is held out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ValidationConfig {
    /// Share of the corpus held out when `paths` is empty, from 0 (none) to 0.5. Whole crates of
    /// Rust sources, whole rows, whole files; of fewer than 20 text files without a separator, the
    /// end of each file. Default: 0.05.
    pub fraction: f64,
    /// Files, folders and globs of a separate validation corpus, of the same kind and columns.
    /// Default: none.
    pub paths: Vec<String>,
}

impl Default for ValidationConfig {
    fn default() -> Self {
        ValidationConfig {
            fraction: 0.05,
            paths: Vec::new(),
        }
    }
}

impl DataConfig {
    /// Checks every value's range and that the keys do not contradict each other. Reads no file.
    ///
    /// # Errors
    /// [`DataError::Config`] with the dotted key, what is wrong and what is allowed.
    pub fn validate(&self) -> Result<(), DataError> {
        let fraction = self.validation.fraction;
        if !(0.0..=0.5).contains(&fraction) {
            return Err(DataError::config(
                "data.validation.fraction",
                format!("{fraction} is not a share between 0 (no validation) and 0.5"),
            ));
        }
        self.tokenizer.validate()?;
        match &self.source {
            SourceConfig::RustSources(rust) => {
                if !self.validation.paths.is_empty() {
                    return Err(DataError::config(
                        "data.validation.paths",
                        "Rust sources are split by crate: remove the paths and set data.validation.fraction",
                    ));
                }
                rust.validate()
            }
            SourceConfig::Text(text) => {
                if text
                    .separator
                    .as_deref()
                    .is_some_and(|s| s.is_empty() || s.contains(['\n', '\r']))
                {
                    return Err(DataError::config(
                        "data.source.separator",
                        "must be the text of one line, not empty and without a line break",
                    ));
                }
                paths(&text.paths)
            }
            SourceConfig::Jsonl(records) | SourceConfig::Parquet(records) => {
                paths(&records.paths)?;
                records.validate()
            }
        }
    }
}

fn paths(paths: &[String]) -> Result<(), DataError> {
    if paths.is_empty() {
        return Err(DataError::config(
            "data.source.paths",
            "is empty: give at least one file, folder or glob",
        ));
    }
    Ok(())
}

impl RustSourcesConfig {
    fn validate(&self) -> Result<(), DataError> {
        for (key, value) in [
            ("data.source.max_bytes", self.max_bytes),
            ("data.source.max_crate_bytes", self.max_crate_bytes),
            ("data.source.max_file_bytes", self.max_file_bytes),
        ] {
            if value < 1024 {
                return Err(DataError::config(
                    key,
                    format!("{value} bytes is too little: give at least 1024 bytes"),
                ));
            }
        }
        Ok(())
    }
}

impl TokenizerConfig {
    fn validate(&self) -> Result<(), DataError> {
        // The 256 bytes, the end-of-text token and any other special token must fit.
        let least = 256 + 1 + usize::from(self.pad) + self.special_tokens.len();
        if self.path.is_none() && !(least..=1 << 20).contains(&self.vocab_size) {
            return Err(DataError::config(
                "data.tokenizer.vocab_size",
                format!(
                    "{} is out of range: {least} (256 bytes and the special tokens) to 1048576 tokens",
                    self.vocab_size
                ),
            ));
        }
        if self.path.is_none() && !(4096..=256 << 20).contains(&self.sample_bytes) {
            return Err(DataError::config(
                "data.tokenizer.sample_bytes",
                format!(
                    "{} is out of range: 4096 to 268435456 bytes (256 MiB)",
                    self.sample_bytes
                ),
            ));
        }
        if self.special_tokens.iter().any(String::is_empty) {
            return Err(DataError::config(
                "data.tokenizer.special_tokens",
                "holds an empty token",
            ));
        }
        Ok(())
    }
}

impl RecordsConfig {
    fn validate(&self) -> Result<(), DataError> {
        let forms = [
            ("text_column", self.text_column.is_some()),
            ("messages_column", self.messages_column.is_some()),
            ("template", self.template.is_some()),
            ("form", self.form.is_some()),
        ];
        let given: Vec<&str> = forms
            .iter()
            .filter(|(_, set)| *set)
            .map(|(name, _)| *name)
            .collect();
        if given.len() > 1 {
            return Err(DataError::config(
                format!("data.source.{}", given[1]),
                format!(
                    "contradicts {}: a document comes from a text column, from messages, from a template, or from the columns of a form",
                    given[0]
                ),
            ));
        }
        if self.completion.is_some() && self.template.is_none() {
            return Err(DataError::config(
                "data.source.completion",
                "needs data.source.template, the text before it",
            ));
        }
        let chat = self.messages_column.is_some() || self.form.is_some();
        for (key, set) in [
            ("data.source.chat_template", self.chat_template.is_some()),
            (
                "data.source.chat_template_file",
                self.chat_template_file.is_some(),
            ),
        ] {
            if set && !chat {
                return Err(DataError::config(
                    key,
                    "needs data.source.messages_column, the column with the chat, or data.source.form",
                ));
            }
        }
        if self.chat_template.is_some() && self.chat_template_file.is_some() {
            return Err(DataError::config(
                "data.source.chat_template_file",
                "contradicts chat_template: give one of them",
            ));
        }
        if self.train_on == TrainOn::Completion && !chat && self.completion.is_none() {
            return Err(DataError::config(
                "data.source.train_on",
                "\"completion\" needs messages_column, template and completion, or form, to tell what the completion is",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unknown_keys_are_refused_at_every_level_with_the_known_ones() {
        for (config, key) in [
            (json!({"sorce": {}}), "sorce"),
            (json!({"source": {"kind": "text", "pathz": []}}), "pathz"),
            (
                json!({"source": {"kind": "rust-sources", "max_byte": 1}}),
                "max_byte",
            ),
            (
                json!({"source": {"kind": "jsonl", "text_colum": "a"}}),
                "text_colum",
            ),
            (json!({"tokenizer": {"vocab": 1}}), "vocab"),
            (json!({"validation": {"share": 0.1}}), "share"),
        ] {
            let error = serde_json::from_value::<DataConfig>(config)
                .unwrap_err()
                .to_string();
            assert!(error.contains(&format!("unknown field `{key}`")), "{error}");
            assert!(error.contains("expected"), "{error}");
        }
    }

    #[test]
    fn the_resolved_form_reads_back_as_the_same_configuration() {
        let empty: DataConfig = serde_json::from_value(json!({})).unwrap();
        assert_eq!(empty, DataConfig::default());
        empty.validate().unwrap();
        let written = serde_json::to_value(&empty).unwrap();
        assert_eq!(written["source"]["kind"], "rust-sources");
        assert_eq!(written["source"]["max_bytes"], 32 << 20);
        let form = json!({
            "source": {"kind": "parquet", "paths": ["a.parquet"], "template": "{{ q }}",
                       "completion": "{{ a }}", "train_on": "completion"},
            "packing": "ignore"
        });
        let config: DataConfig = serde_json::from_value(form).unwrap();
        config.validate().unwrap();
        let again = serde_json::from_value(serde_json::to_value(&config).unwrap()).unwrap();
        assert_eq!(config, again);
    }
}
