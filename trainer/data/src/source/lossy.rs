//! Bytes → text, with invalid UTF-8 replaced and counted.

/// Text of `bytes` and the number of invalid sequences replaced by U+FFFD, as
/// `String::from_utf8_lossy` replaces them.
pub(super) fn decode(bytes: &[u8]) -> (String, u64) {
    let mut text = String::with_capacity(bytes.len());
    let mut replaced = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        if !chunk.invalid().is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
            replaced += 1;
        }
    }
    (text, replaced)
}

/// Length of the longest prefix of `bytes` that does not end inside a character. Invalid bytes
/// count as characters.
pub(super) fn char_boundary(bytes: &[u8]) -> usize {
    // A character has at most 4 bytes, so an unfinished one starts within the last 3.
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let need = match bytes[at] {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return bytes.len(),
        };
        return if need > back { at } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_sequences_are_replaced_and_counted_as_the_standard_library_does() {
        for bytes in [
            &b"fine"[..],
            b"\xff\xfe",
            b"a\xe2\x82b",
            b"\xf0\x9f\x98",
            "é\u{fffd}".as_bytes(),
        ] {
            let (text, replaced) = decode(bytes);
            assert_eq!(text, String::from_utf8_lossy(bytes));
            let inherent = std::str::from_utf8(bytes).is_ok();
            assert_eq!(replaced == 0, inherent, "{bytes:?}");
        }
        assert_eq!(decode(b"a\xffb\xff").1, 2);
    }

    #[test]
    fn a_cut_never_splits_a_character() {
        let text = "aé€😀".as_bytes();
        for end in 0..=text.len() {
            let cut = char_boundary(&text[..end]);
            assert!(std::str::from_utf8(&text[..cut]).is_ok(), "{end} → {cut}");
            assert!(end - cut < 4);
        }
        assert_eq!(char_boundary(b"\x80\x80\x80\x80"), 4);
    }
}
