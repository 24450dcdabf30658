//! Where the chat template comes from.

use serde_json::Value;

use super::render::SpecialTexts;
use crate::DataError;
use crate::config::RecordsConfig;

/// ChatML, used where neither the configuration nor the tokenizer brings a chat template.
const DEFAULT_CHAT_TEMPLATE: &str = "{% for message in messages %}\
     {{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}\
     {% endfor %}\
     {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// The markers of [`DEFAULT_CHAT_TEMPLATE`].
pub(crate) const DEFAULT_CHAT_SPECIAL_TOKENS: [&str; 2] = ["<|im_start|>", "<|im_end|>"];

/// The chat template: the configuration's, else the tokenizer's, else ChatML.
pub(super) fn chat_template(
    config: &RecordsConfig,
    specials: &SpecialTexts,
) -> Result<String, DataError> {
    let text = if let Some(template) = &config.chat_template {
        template.clone()
    } else if let Some(path) = &config.chat_template_file {
        let text = std::fs::read_to_string(path)
            .map_err(|e| DataError::io("read the chat template", path, e))?;
        if path.extension().is_some_and(|e| e == "json") {
            let json: Value = serde_json::from_str(&text).map_err(|e| {
                DataError::config(
                    "data.source.chat_template_file",
                    format!("{}: {e}", path.display()),
                )
            })?;
            crate::tokenizer::chat_template_of(&json).ok_or_else(|| {
                DataError::config(
                    "data.source.chat_template_file",
                    format!("{} holds no chat_template", path.display()),
                )
            })?
        } else {
            text
        }
    } else {
        specials
            .chat_template
            .clone()
            .unwrap_or_else(|| DEFAULT_CHAT_TEMPLATE.to_owned())
    };
    Ok(without_generation_blocks(&text))
}

/// transformers' own block `{% generation %}` only marks the assistant's part; to the template
/// engine it becomes a block that always applies, which keeps the white-space control of its tags.
fn without_generation_blocks(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(open) = rest.find("{%") {
        let Some(length) = rest[open..].find("%}") else {
            break;
        };
        let tag = &rest[open..open + length + 2];
        let inner = tag[2..tag.len() - 2].trim_matches(|c| c == '-' || c == '+');
        let replaced = match inner.trim() {
            "generation" => tag.replacen("generation", "if true", 1),
            "endgeneration" => tag.replacen("endgeneration", "endif", 1),
            _ => tag.to_owned(),
        };
        out.push_str(&rest[..open]);
        out.push_str(&replaced);
        rest = &rest[open + length + 2..];
    }
    out.push_str(rest);
    out
}
