//! GPT-2's alphabet: each byte as one printable character, so that a vocabulary of strings can hold
//! any bytes.

use std::sync::LazyLock;

/// Bytes that stand for themselves; the others take the characters from U+0100 on, in order.
fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

static CHARS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let mut next = 0x100;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        if is_printable(byte) {
            return char::from(byte);
        }
        next += 1;
        char::from_u32(next - 1).expect("below the surrogates")
    })
});

/// The bytes of `text`, each as its character.
pub(super) fn from_text(text: &str) -> String {
    text.bytes().map(|byte| CHARS[byte as usize]).collect()
}

/// The text of a vocabulary entry; characters outside the alphabet (of added tokens) stay as they
/// are.
pub(super) fn to_text(token: &str) -> String {
    let mut bytes = Vec::with_capacity(token.len());
    for character in token.chars() {
        match CHARS.iter().position(|c| *c == character) {
            Some(byte) => bytes.push(byte as u8),
            None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_that_of_the_tokenizers_crate() {
        let theirs: std::collections::BTreeSet<char> =
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet()
                .into_iter()
                .collect();
        assert_eq!(theirs, CHARS.iter().copied().collect());
        assert_eq!(from_text(" é\n"), "ĠÃ©Ċ");
        assert_eq!(to_text("ĠÃ©Ċ"), " é\n");
    }
}
