//! The bytes of text that each id stands for.

use super::Tokenizer;
use std::collections::HashMap;

impl Tokenizer {
    /// Returns the number of bytes of text that each id stands for; 0 for special tokens.
    ///
    /// Exact for byte-level tokenizers; for others, the bytes of the vocabulary entry's text.
    pub fn token_bytes(&self) -> Vec<u16> {
        let special: Vec<u32> = self.special_tokens().iter().filter_map(|token| self.id(token)).collect();
        let mut bytes: Vec<u16> =
            self.spellings().iter().map(|bytes| u16::try_from(bytes.len()).unwrap_or(u16::MAX)).collect();
        special.into_iter().for_each(|id| bytes[id as usize] = 0);
        bytes
    }

    /// Returns the bytes of each id, which may be part of a character; special tokens have the bytes of their names.
    ///
    /// Exact for byte-level tokenizers; for others, the text of the vocabulary entry.
    pub fn spellings(&self) -> Vec<Vec<u8>> {
        let is_byte_level =
            self.inner.to_string(false).is_ok_and(|text| text.contains("\"type\":\"ByteLevel\""));
        let alphabet = if is_byte_level { byte_alphabet() } else { HashMap::new() };
        let added = self.inner.get_added_tokens_decoder();
        let mut spelled = vec![vec![]; self.vocab_size];
        for (token, id) in self.inner.get_vocab(true) {
            let byte = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
            let byte = byte.filter(|hex| hex.len() == 2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
            spelled[id as usize] = if added.contains_key(&id) {
                token.into_bytes()
            } else if is_byte_level {
                token.chars().filter_map(|c| alphabet.get(&c).copied()).collect()
            } else if let Some(byte) = byte {
                vec![byte]
            } else {
                token.replace('\u{2581}', " ").into_bytes()
            };
        }
        spelled
    }
}

/// Returns the byte of each character of the byte-level alphabet (GPT-2's `bytes_to_unicode`): printable Latin-1 bytes are
/// their own characters, the others follow in order from U+0100.
fn byte_alphabet() -> HashMap<char, u8> {
    let mut next = 0x100;
    let character = |byte: u8| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => {
            next += 1;
            char::from_u32(next - 1).unwrap_or_default()
        }
    };
    let bytes: Vec<u8> = (0..=255).collect();
    bytes.iter().copied().map(character).zip(bytes.iter().copied()).collect()
}
