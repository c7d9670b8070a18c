//! Hashes of the words of a text and of sequences of words.

/// Base of the polynomial hash of a sequence: any odd number, here the multiplier of Knuth's LCG (MMIX).
const BASE: u64 = 6_364_136_223_846_793_005;

/// Whether a character counts as a word, because its script has no spaces between words: Chinese characters, kana, Thai,
/// Lao, Khmer, Myanmar.
fn is_alone(c: char) -> bool {
    matches!(
        c,
        '\u{0e00}'..='\u{0eff}'
            | '\u{1000}'..='\u{109f}'
            | '\u{1780}'..='\u{17ff}'
            | '\u{3005}'..='\u{3007}'
            | '\u{3040}'..='\u{30ff}'
            | '\u{3400}'..='\u{4dbf}'
            | '\u{4e00}'..='\u{9fff}'
            | '\u{f900}'..='\u{faff}'
            | '\u{20000}'..='\u{3134f}'
    )
}

/// Returns the hash of each word of a text. Words are runs of letters and digits in lower case, or single characters of
/// scripts without spaces.
pub fn words(text: &str) -> Vec<u64> {
    let mut found = vec![];
    each(text, |word| {
        found.push(word.iter().fold(0xcbf2_9ce4_8422_2325, |hash, c| mix(hash ^ u64::from(u32::from(*c)))))
    });
    found
}

/// Returns the words of a text.
#[cfg(test)]
pub fn spelled(text: &str) -> Vec<String> {
    let mut found = vec![];
    each(text, |word| found.push(word.iter().collect()));
    found
}

fn each(text: &str, mut visit: impl FnMut(&[char])) {
    let mut word: Vec<char> = vec![];
    for c in text.chars() {
        let alone = is_alone(c) && c.is_alphanumeric();
        if (alone || !c.is_alphanumeric()) && !word.is_empty() {
            visit(&word);
            word.clear();
        }
        if alone {
            visit(&[c]);
        } else if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
    }
    if !word.is_empty() {
        visit(&word);
    }
}

/// The finalizer of SplitMix64 (Steele et al. 2014).
fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// Polynomial hashes of word sequences, each computed from the hashes of two prefixes (Karp and Rabin 1987).
pub struct Sequences {
    /// Hash of every prefix, from the empty one on.
    beginnings: Vec<u64>,
}

impl Sequences {
    /// Computes the prefix hashes of a text's words.
    pub fn new(words: &[u64]) -> Self {
        let mut beginnings = Vec::with_capacity(words.len() + 1);
        let mut hash = 0u64;
        beginnings.push(hash);
        for word in words {
            hash = hash.wrapping_mul(BASE).wrapping_add(*word);
            beginnings.push(hash);
        }
        Self { beginnings }
    }

    /// Returns the hash of every sequence of `length` words, which must be at least 1.
    pub fn of(&self, length: usize) -> impl Iterator<Item = u64> + '_ {
        let power = (0..length).fold(1u64, |power, _| power.wrapping_mul(BASE));
        let pairs = self.beginnings.iter().zip(self.beginnings.iter().skip(length));
        pairs.map(move |(before, to)| mix(to.wrapping_sub(before.wrapping_mul(power))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_of_letters_and_single_characters_of_chinese() {
        let words = ["python3", "的", "列", "表", "x", "1", "ｈｅ", "カ", "é"];
        assert_eq!(spelled("Python3的列表：x+1，ＨＥ カ… É。"), words);
        assert_eq!(spelled(" \n，。"), [""; 0]);
        assert_eq!(super::words("Ab c"), super::words("aB—C"));
        assert_ne!(super::words("ab"), super::words("ba"));
    }

    #[test]
    fn equal_sequences_have_equal_hashes_wherever_they_stand() {
        let text = words("a b c d a b c e");
        let three: Vec<u64> = Sequences::new(&text).of(3).collect();
        assert_eq!(three.len(), 6);
        assert_eq!(three[0], three[4]);
        assert_eq!(three.iter().collect::<std::collections::BTreeSet<_>>().len(), 5);
        assert_eq!(Sequences::new(&words("x a b c")).of(3).nth(1), Some(three[0]));
        assert_eq!(Sequences::new(&text).of(9).count(), 0);
    }
}
