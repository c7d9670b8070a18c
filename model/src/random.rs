//! Random numbers: a separate stream for each purpose, so that no two uses of a seed draw the same numbers.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::RngCore;

/// Purpose of random numbers. The discriminants affect every result and must not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Initial weights.
    Weights = 1,
    /// Initial low-rank adapters.
    Adapters = 2,
    /// Order of the rows; one part for each epoch.
    Order = 3,
    /// Dropout.
    Dropout = 4,
}

/// Returns the stream of a seed for a purpose; `part` distinguishes streams of the same purpose.
pub fn stream(seed: u64, purpose: Purpose, part: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&(purpose as u64).to_le_bytes());
    let mut stream = ChaCha8Rng::from_seed(key);
    stream.set_stream(part);
    stream
}

/// Derives a seed for other kinds of generators.
pub fn derived_seed(seed: u64, purpose: Purpose) -> u64 {
    stream(seed, purpose, 0).next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_seed_purpose_and_part() {
        let uses = [
            (1, Purpose::Weights, 0),
            (1, Purpose::Adapters, 0),
            (1, Purpose::Order, 0),
            (1, Purpose::Order, 1),
            (1, Purpose::Dropout, 0),
            (2, Purpose::Weights, 0),
        ];
        let mut first: Vec<u64> =
            uses.map(|(seed, purpose, part)| stream(seed, purpose, part).next_u64()).into();
        assert_eq!(first[0], stream(1, Purpose::Weights, 0).next_u64());
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), uses.len());
    }
}
