//! Learning a byte-level BPE from a bounded sample of the training split.

use std::path::Path;

use serde_json::json;
use sha2::{Digest, Sha256};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::{END_OF_TEXT, Tokenizer};
use crate::DataError;
use crate::config::TokenizerConfig;
use crate::files::{hex, write_atomically};

/// Raised whenever the same sample and settings would give another tokenizer than before.
const VERSION: u32 = 1;

/// How text is cut into words before pairs are counted: a word with the one character before it (a
/// space, an underscore, a dot), a single digit, a run of punctuation with the line ends after it,
/// line ends, other white space. As GPT-4's pattern, but digits stand alone (arithmetic), and there
/// is no look-ahead, which keeps matching linear.
const PATTERN: &str = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";

const PAD: &str = "<|pad|>";

/// Texts to learn from, in a fixed order.
#[derive(Default)]
pub(crate) struct Sample {
    pub texts: Vec<String>,
}

/// Learns a tokenizer, or takes it from `cache` where the same sample and settings were learned
/// before.
pub(crate) fn learn_cached(
    sample: &Sample,
    config: &TokenizerConfig,
    extra_special: &[&str],
    cache: &Path,
) -> Result<Tokenizer, DataError> {
    let special = special_tokens(config, extra_special);
    let mut key = Sha256::new();
    key.update(format!(
        "{VERSION} {} {} {special:?} {PATTERN}",
        config.vocab_size, config.min_frequency
    ));
    for text in &sample.texts {
        key.update((text.len() as u64).to_le_bytes());
        key.update(text);
    }
    let file = cache
        .join("tokenizers")
        .join(format!("{}.json", hex(&key.finalize()[..16])));
    let settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": config.eos_token.as_deref().unwrap_or(END_OF_TEXT),
        "bos_token": config.bos_token,
        "pad_token": config.pad.then_some(PAD),
        "clean_up_tokenization_spaces": false,
    });
    let finish = |json: String| {
        Tokenizer::from_parts(
            json,
            settings.clone(),
            "(learned)".to_owned(),
            config.bos_token.is_some(),
        )
    };
    // A damaged file is learned anew.
    if let Some(tokenizer) = std::fs::read_to_string(&file)
        .ok()
        .and_then(|json| finish(json).ok())
    {
        return Ok(tokenizer);
    }
    let json = learn(sample, config, &special).map_err(|e| DataError::Tokenizer {
        origin: "(learned)".to_owned(),
        message: e.to_string(),
    })?;
    write_atomically(&file, json.as_bytes())?;
    finish(json)
}

/// The end-of-text token first, so that its id is 0.
fn special_tokens(config: &TokenizerConfig, extra: &[&str]) -> Vec<String> {
    let mut special = vec![END_OF_TEXT.to_owned()];
    let pad = config.pad.then_some(PAD);
    for token in pad
        .into_iter()
        .chain(extra.iter().copied())
        .chain(config.special_tokens.iter().map(String::as_str))
    {
        if !special.iter().any(|t| t == token) {
            special.push(token.to_owned());
        }
    }
    special
}

fn learn(
    sample: &Sample,
    config: &TokenizerConfig,
    special: &[String],
) -> tokenizers::Result<String> {
    let special: Vec<AddedToken> = special
        .iter()
        .map(|token| AddedToken::from(token.as_str(), true))
        .collect();
    let mut tokenizer = tokenizers::Tokenizer::new(BPE::default());
    let split = Split::new(
        SplitPattern::Regex(PATTERN.to_owned()),
        SplitDelimiterBehavior::Isolated,
        false,
    )?;
    // The pattern splits; this only writes bytes as characters.
    let byte_level = ByteLevel::new(false, true, false);
    tokenizer
        .with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(vec![
            split.into(),
            byte_level.into(),
        ]))))
        .with_decoder(Some(byte_level));
    let mut trainer = TrainerWrapper::from(
        BpeTrainer::builder()
            .vocab_size(config.vocab_size)
            .min_frequency(config.min_frequency)
            .show_progress(false)
            .special_tokens(special)
            // All 256 bytes, seen or not: any text can be encoded.
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build(),
    );
    tokenizer.train(&mut trainer, sample.texts.iter())?;
    tokenizer.to_string(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Sample {
        let code = "fn main() {\n    let x_1 = 42; // größer 你好\n    println!(\"{x_1:?}\");\n}\n";
        Sample {
            texts: (0..50)
                .map(|i| code.replace("42", &i.to_string()))
                .collect(),
        }
    }

    fn config(vocab_size: usize) -> TokenizerConfig {
        TokenizerConfig {
            vocab_size,
            ..TokenizerConfig::default()
        }
    }

    fn learned(cache: &Path) -> Tokenizer {
        learn_cached(&sample(), &config(400), &[], cache).unwrap()
    }

    #[test]
    fn the_same_sample_gives_the_same_bytes_without_the_cache() {
        let [a, b] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        assert_eq!(learned(a.path()).to_json(), learned(b.path()).to_json());
    }

    #[test]
    fn a_damaged_cached_tokenizer_is_learned_again() {
        let cache = tempfile::tempdir().unwrap();
        let first = learned(cache.path());
        let file = std::fs::read_dir(cache.path().join("tokenizers"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        std::fs::write(&file, &first.to_json()[..100]).unwrap();
        assert_eq!(learned(cache.path()).to_json(), first.to_json());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), first.to_json());
    }

    #[test]
    fn any_text_survives_the_round_trip_and_special_tokens_in_plain_text_stay_text() {
        let cache = tempfile::tempdir().unwrap();
        let tokenizer = learned(cache.path());
        let noise: Vec<u8> = (0..4096u32)
            .map(|i| crate::split::mix(u64::from(i)) as u8)
            .collect();
        let lossy = String::from_utf8_lossy(&noise);
        for text in [
            &lossy,
            "",
            "\0\u{feff}\r\n\t",
            "日本語 🦀 e\u{301}",
            "a <|endoftext|> b",
            "    fn  x\n\n\n  y",
        ] {
            let plain = tokenizer.encode_plain(text).unwrap();
            assert_eq!(tokenizer.decode(&plain).unwrap(), text);
            assert!(!plain.contains(&tokenizer.eos_id()));
            assert_eq!(
                tokenizer.decode(&tokenizer.encode(text).unwrap()).unwrap(),
                text
            );
        }
        assert!(
            tokenizer
                .encode("a <|endoftext|> b")
                .unwrap()
                .contains(&tokenizer.eos_id())
        );
        assert_eq!(tokenizer.eos_id(), 0);
        assert!((258..=400).contains(&tokenizer.vocab_size()));
    }

    #[test]
    fn the_fast_path_gives_the_ids_of_the_tokenizers_crate() {
        let cache = tempfile::tempdir().unwrap();
        let tokenizer = learned(cache.path());
        assert!(tokenizer.fast.is_some());
        let noise: Vec<u8> = (0..20_000u32)
            .map(|i| crate::split::mix(u64::from(i)) as u8 % 128)
            .collect();
        let noise = String::from_utf8(noise).unwrap();
        for text in [
            noise.as_str(),
            &sample().texts.concat(),
            "  \n  größer\u{a0}你好 123",
            "x<|endoftext|>y",
        ] {
            let slow = tokenizer.inner.encode_fast(text, false).unwrap();
            assert_eq!(tokenizer.encode(text).unwrap(), slow.get_ids());
            let mut plain = tokenizer.inner.clone();
            plain.set_encode_special_tokens(true);
            assert_eq!(
                tokenizer.encode_plain(text).unwrap(),
                plain.encode_fast(text, false).unwrap().get_ids()
            );
        }
    }

    #[test]
    fn a_saved_tokenizer_loads_with_the_same_special_tokens() {
        let cache = tempfile::tempdir().unwrap();
        let config = TokenizerConfig {
            pad: true,
            special_tokens: vec!["<s>".into()],
            bos_token: Some("<s>".into()),
            ..config(300)
        };
        let tokenizer = learn_cached(&sample(), &config, &[], cache.path()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        tokenizer.save(folder.path()).unwrap();
        let loaded = Tokenizer::load(folder.path()).unwrap();
        assert_eq!(
            (loaded.eos_id(), loaded.pad_id(), loaded.to_json()),
            (0, Some(1), tokenizer.to_json())
        );
        assert_eq!(
            (tokenizer.bos_id(), loaded.token(2).as_deref()),
            (Some(2), Some("<s>"))
        );
        assert_eq!(
            loaded
                .token_text(loaded.encode(" let").unwrap()[0])
                .chars()
                .next(),
            Some(' ')
        );
        assert!(matches!(
            Tokenizer::load(&folder.path().join("absent")),
            Err(DataError::Io { .. })
        ));
        std::fs::write(folder.path().join("tokenizer.json"), "{").unwrap();
        assert!(matches!(
            Tokenizer::load(folder.path()),
            Err(DataError::Tokenizer { .. })
        ));
    }

    #[test]
    fn a_bos_token_that_was_not_learned_is_an_error_that_names_it() {
        let cache = tempfile::tempdir().unwrap();
        let config = TokenizerConfig {
            bos_token: Some("<s>".into()),
            ..config(300)
        };
        let error = learn_cached(&sample(), &config, &[], cache.path())
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("<s>") && error.contains("bos_token"),
            "{error}"
        );
    }
}
