//! A quicker way to the same ids for byte-level BPE: the general path of the tokenizers crate
//! keeps, for every character, where it came from, which corpora never ask for and which takes most
//! of the time. Here the text is split by the tokenizer's own pattern, and the ids of each distinct
//! word are remembered.

use std::collections::HashMap;
use std::sync::Mutex;

use serde_json::Value;
use tokenizers::utils::SysRegex;
use tokenizers::{Model, ModelWrapper};

use super::bytes;

/// Words remembered per thread, and the longest one worth remembering, in bytes.
const WORDS: usize = 1 << 16;
const LONGEST_WORD: usize = 64;

/// Looking for more added tokens than this in every text would cost more than is won.
const FEW_ADDED: usize = 16;

type Memory = HashMap<Box<str>, Box<[u32]>>;

pub(super) struct FastPath {
    pattern: SysRegex,
    added: Vec<String>,
    all_special: bool,
    /// One a thread, so that the locks are never waited for.
    memories: Vec<Mutex<Memory>>,
}

impl FastPath {
    /// `None` unless the tokenizer is: no normaliser, one splitting pattern, bytes as characters,
    /// BPE without dropout.
    pub fn for_tokenizer(json: &Value) -> Option<FastPath> {
        let [split, byte_level] = json["pre_tokenizer"]["pretokenizers"]
            .as_array()?
            .as_slice()
        else {
            return None;
        };
        let simple = json["normalizer"].is_null()
            && json["pre_tokenizer"]["type"] == "Sequence"
            && split["type"] == "Split"
            && split["behavior"] == "Isolated"
            && split["invert"] == false
            && byte_level["type"] == "ByteLevel"
            && byte_level["add_prefix_space"] == false
            && byte_level["use_regex"] == false
            && json["model"]["type"] == "BPE"
            && json["model"]["dropout"].as_f64().unwrap_or(0.0) == 0.0;
        if !simple {
            return None;
        }
        let pattern = SysRegex::new(split["pattern"]["Regex"].as_str()?).ok()?;
        let added = json["added_tokens"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        Some(FastPath {
            pattern,
            all_special: added.iter().all(|token| token["special"] == true),
            added: added
                .iter()
                .filter_map(|token| token["content"].as_str())
                .map(str::to_owned)
                .collect(),
            memories: (0..=rayon::current_num_threads())
                .map(|_| Mutex::default())
                .collect(),
        })
    }

    /// Whether only special tokens have to be looked for in a text.
    pub fn all_added_are_special(&self) -> bool {
        self.all_special
    }

    /// Whether `text` may hold an added token, so that it must go the general way.
    pub fn may_hold_added_token(&self, text: &str) -> bool {
        self.added.len() > FEW_ADDED || self.added.iter().any(|token| text.contains(token.as_str()))
    }

    /// Ids of `text`, in which no added token is looked for.
    pub fn encode(&self, model: &ModelWrapper, text: &str) -> tokenizers::Result<Vec<u32>> {
        // The last memory is for threads outside the pool.
        let slot = rayon::current_thread_index()
            .unwrap_or(usize::MAX)
            .min(self.memories.len() - 1);
        let mut memory = self.memories[slot]
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut ids = Vec::with_capacity(text.len() / 3);
        let mut done = 0;
        for (start, end) in self.pattern.find_iter(text) {
            if done < start {
                word(model, &text[done..start], &mut memory, &mut ids)?;
            }
            word(model, &text[start..end], &mut memory, &mut ids)?;
            done = end;
        }
        if done < text.len() {
            word(model, &text[done..], &mut memory, &mut ids)?;
        }
        Ok(ids)
    }
}

fn word(
    model: &ModelWrapper,
    text: &str,
    memory: &mut Memory,
    ids: &mut Vec<u32>,
) -> tokenizers::Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    if let Some(known) = memory.get(text) {
        ids.extend_from_slice(known);
        return Ok(());
    }
    let tokens = model.tokenize(&bytes::from_text(text))?;
    let start = ids.len();
    ids.extend(tokens.iter().map(|token| token.id));
    if text.len() <= LONGEST_WORD {
        if memory.len() >= WORDS {
            memory.clear();
        }
        memory.insert(text.into(), ids[start..].into());
    }
    Ok(())
}
