//! Text ↔ token ids: a Hugging Face `tokenizer.json`, or a byte-level BPE learned from the corpus.

mod bytes;
mod fast;
mod learn;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::DataError;
use crate::config::TokenizerConfig;
use crate::files::{hex, write_atomically};
use crate::source::SpecialTexts;
use fast::FastPath;
pub(crate) use learn::{Sample, learn_cached};

/// End-of-text token of learned tokenizers.
pub(crate) const END_OF_TEXT: &str = "<|endoftext|>";

/// Names under which tokenizers without a `tokenizer_config.json` keep their end-of-text token, the
/// most telling first.
const COMMON_EOS: [&str; 8] = [
    END_OF_TEXT,
    "</s>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|im_end|>",
    "<eos>",
    "<|end|>",
    "[SEP]",
];
const COMMON_PAD: [&str; 4] = ["<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>"];

/// Text ↔ token ids. Cheap to share between threads behind an `Arc`.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The same, but special tokens in the text are ordinary text.
    plain: OnceLock<Box<tokenizers::Tokenizer>>,
    fast: Option<FastPath>,
    json: String,
    /// `tokenizer_config.json`, as it was found or as it is written.
    config: Value,
    hash: String,
    origin: String,
    byte_level: bool,
    vocab_size: usize,
    eos: u32,
    bos: Option<u32>,
    pad: Option<u32>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("origin", &self.origin)
            .field("vocab_size", &self.vocab_size)
            .field("hash", &self.hash)
            .finish()
    }
}

impl Tokenizer {
    /// Loads `path`, a `tokenizer.json` or the folder that holds one (a checkpoint, a Hugging Face
    /// folder). A `tokenizer_config.json` beside it names the special tokens and the chat template.
    ///
    /// # Errors
    /// [`DataError::Io`] when a file cannot be read, [`DataError::Tokenizer`] when it is malformed
    /// or has no end-of-text token.
    pub fn load(path: &Path) -> Result<Tokenizer, DataError> {
        Self::load_with(path, &TokenizerConfig::default())
    }

    /// As [`Tokenizer::load`]; the configuration's `bos_token` and `eos_token` come first.
    pub(crate) fn load_with(path: &Path, config: &TokenizerConfig) -> Result<Tokenizer, DataError> {
        let file: PathBuf = if path.is_dir() {
            path.join("tokenizer.json")
        } else {
            path.to_owned()
        };
        let json = std::fs::read_to_string(&file)
            .map_err(|e| DataError::io("read the tokenizer", &file, e))?;
        let folder = file.parent().unwrap_or(Path::new("."));
        let beside = folder.join("tokenizer_config.json");
        let mut settings = match std::fs::read_to_string(&beside) {
            Ok(text) => serde_json::from_str(&text).map_err(|e| DataError::Tokenizer {
                origin: beside.display().to_string(),
                message: format!("is not valid JSON: {e}"),
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => json!({}),
            Err(error) => return Err(DataError::io("read", &beside, error)),
        };
        // Newer Hugging Face folders keep the chat template in a file of its own.
        if chat_template_of(&settings).is_none()
            && let (Ok(template), Some(map)) = (
                std::fs::read_to_string(folder.join("chat_template.jinja")),
                settings.as_object_mut(),
            )
        {
            map.insert("chat_template".to_owned(), Value::String(template));
        }
        if let Some(map) = settings.as_object_mut() {
            for (key, token) in [
                ("bos_token", &config.bos_token),
                ("eos_token", &config.eos_token),
            ] {
                if let Some(token) = token {
                    map.insert(key.to_owned(), Value::String(token.clone()));
                }
            }
        }
        Self::from_parts(
            json,
            settings,
            file.display().to_string(),
            config.bos_token.is_some(),
        )
    }

    /// `add_bos` is whether a beginning-of-text token goes before every document.
    pub(crate) fn from_parts(
        json: String,
        config: Value,
        origin: String,
        add_bos: bool,
    ) -> Result<Tokenizer, DataError> {
        let fail = |message: String| DataError::Tokenizer {
            origin: origin.clone(),
            message,
        };
        let mut inner = tokenizers::Tokenizer::from_bytes(json.as_bytes()).map_err(|e| {
            fail(format!(
                "is not a readable tokenizer.json: {e}. Check that the file is complete"
            ))
        })?;
        // Corpora are cut and padded by the packing, not by the tokenizer.
        inner
            .with_truncation(None)
            .map_err(|e| fail(e.to_string()))?;
        inner.with_padding(None);
        let structure: Value =
            serde_json::from_str(&json).map_err(|e| fail(format!("is not valid JSON: {e}")))?;
        let id = |name: &str| inner.token_to_id(name);
        let named = |key: &str| -> Result<Option<u32>, DataError> {
            match special_text(&config, key) {
                None => Ok(None),
                Some(name) => id(&name)
                    .map(Some)
                    .ok_or_else(|| fail(format!("has no token {name:?}, which {key} names. Set data.tokenizer.{key} to one of its tokens"))),
            }
        };
        let eos = match named("eos_token")? {
            Some(eos) => eos,
            None => COMMON_EOS.iter().find_map(|name| id(name)).ok_or_else(|| {
                fail("has no known end-of-text token: set data.tokenizer.eos_token to the token that ends a document".to_owned())
            })?,
        };
        let bos = if add_bos { named("bos_token")? } else { None };
        // A pad token that the vocabulary lacks is not worth an error: padding never counts in the
        // loss.
        let pad = special_text(&config, "pad_token")
            .and_then(|name| id(&name))
            .or_else(|| COMMON_PAD.iter().find_map(|name| id(name)));
        let largest = inner.get_vocab(true).into_values().max();
        let vocab_size = largest.map_or(0, |id| id as usize + 1);
        let byte_level = structure["decoder"]["type"] == "ByteLevel";
        let hash = hex(&Sha256::new()
            .chain_update(&json)
            .chain_update(eos.to_le_bytes())
            .chain_update(format!("{bos:?}"))
            .finalize());
        let fast = FastPath::for_tokenizer(&structure);
        Ok(Tokenizer {
            inner,
            plain: OnceLock::new(),
            fast,
            json,
            config,
            hash,
            origin,
            byte_level,
            vocab_size,
            eos,
            bos,
            pad,
        })
    }

    /// The largest token id plus one: what the model's `vocab_size` must at least be.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Where the tokenizer came from, for messages: a path, or `(learned)`.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Token ids of `text`; special tokens written in the text are recognised, none is added.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] when the tokenizer has no token for some of the text and no unknown
    /// token either.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        match &self.fast {
            Some(fast) if !fast.may_hold_added_token(text) => {
                fast.encode(self.inner.get_model(), text)
            }
            _ => self
                .inner
                .encode_fast(text, false)
                .map(|encoding| encoding.get_ids().to_vec()),
        }
        .map_err(|e| self.failed(e))
    }

    /// As [`Tokenizer::encode`], but special tokens written in the text are ordinary text.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_plain(&self, text: &str) -> Result<Vec<u32>, DataError> {
        match &self.fast {
            Some(fast) if fast.all_added_are_special() => fast.encode(self.inner.get_model(), text),
            _ => {
                let plain = self.plain.get_or_init(|| {
                    let mut plain = Box::new(self.inner.clone());
                    plain.set_encode_special_tokens(true);
                    plain
                });
                plain
                    .encode_fast(text, false)
                    .map(|encoding| encoding.get_ids().to_vec())
            }
        }
        .map_err(|e| self.failed(e))
    }

    /// Text of token ids, special tokens included. For byte-level tokenizers `decode(encode(text))`
    /// is `text`; ids that stop in the middle of a character give U+FFFD there.
    ///
    /// # Errors
    /// [`DataError::Tokenizer`] when the decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        self.inner.decode(ids, false).map_err(|e| self.failed(e))
    }

    fn failed(&self, error: Box<dyn std::error::Error + Send + Sync>) -> DataError {
        DataError::Tokenizer {
            origin: self.origin.clone(),
            message: error.to_string(),
        }
    }

    /// The token that ends every document.
    pub fn eos_id(&self) -> u32 {
        self.eos
    }

    /// The token put before every document, if one was asked for.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    /// The padding token, if the tokenizer has one.
    pub fn pad_id(&self) -> Option<u32> {
        self.pad
    }

    /// The token as it stands in the vocabulary, e.g. `Ġlet`.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The text of one token, e.g. ` let`; a token that holds only part of a character shows
    /// U+FFFD.
    pub fn token_text(&self, id: u32) -> String {
        let Some(token) = self.inner.id_to_token(id) else {
            return format!("<{id}>");
        };
        if self.inner.get_added_vocabulary().is_special_token(&token) {
            token
        } else if self.byte_level {
            bytes::to_text(&token)
        } else if let Some(word) = token.strip_prefix('▁') {
            format!(" {word}")
        } else {
            self.inner.decode(&[id], false).unwrap_or(token)
        }
    }

    /// The `tokenizer.json`, byte for byte as it was loaded or learned.
    pub fn to_json(&self) -> &str {
        &self.json
    }

    /// SHA-256 of the tokenizer and its special tokens, in hexadecimal.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The tokenizer's own chat template.
    pub fn chat_template(&self) -> Option<String> {
        chat_template_of(&self.config)
    }

    pub(crate) fn special_texts(&self) -> SpecialTexts {
        SpecialTexts {
            bos_token: special_text(&self.config, "bos_token").unwrap_or_default(),
            eos_token: self.token(self.eos).unwrap_or_default(),
            chat_template: self.chat_template(),
        }
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` into `folder`, which must exist; each
    /// appears whole or not at all.
    ///
    /// # Errors
    /// [`DataError::Io`] when a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), DataError> {
        write_atomically(&folder.join("tokenizer.json"), self.json.as_bytes())?;
        let mut config = self.config.clone();
        if let Some(map) = config.as_object_mut() {
            map.entry("tokenizer_class")
                .or_insert_with(|| json!("PreTrainedTokenizerFast"));
            for (key, id) in [
                ("eos_token", Some(self.eos)),
                ("bos_token", self.bos),
                ("pad_token", self.pad),
            ] {
                if let Some(token) = id.and_then(|id| self.token(id)) {
                    map.entry(key).or_insert_with(|| json!(token));
                }
            }
        }
        let text = serde_json::to_string_pretty(&config).expect("JSON values always serialise");
        write_atomically(&folder.join("tokenizer_config.json"), text.as_bytes())
    }
}

/// A special token of a `tokenizer_config.json`: a string, or an object with `content`.
fn special_text(config: &Value, key: &str) -> Option<String> {
    let value = &config[key];
    value
        .as_str()
        .or_else(|| value["content"].as_str())
        .map(str::to_owned)
}

/// The chat template of a `tokenizer_config.json`: a string, or a list of named ones of which
/// `default` is taken.
pub(crate) fn chat_template_of(config: &Value) -> Option<String> {
    let value = &config["chat_template"];
    let named = || value.as_array()?.iter().find(|t| t["name"] == "default")?["template"].as_str();
    value.as_str().or_else(named).map(str::to_owned)
}
