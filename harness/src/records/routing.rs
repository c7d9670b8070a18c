//! Routing of the tokens of an exam's prompts to the experts of a mixture.

use serde::{Deserialize, Serialize};

/// Routing of the tokens of one subject's prompts, or of several subjects'.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Routing {
    /// Name of the subject; empty for several.
    pub subject: String,
    /// Number of tokens read.
    pub tokens: u64,
    /// Entropy of the router's scores in nats, mean over tokens and layers.
    pub entropy: f64,
    /// Number of tokens routed to each expert, `(layer, expert)`.
    pub load: Vec<Vec<u64>>,
}

impl Routing {
    /// Adds up several subjects; `None` if there are none.
    pub fn sum(subjects: &[Self]) -> Option<Self> {
        let (first, others) = subjects.split_first()?;
        let mut sum = Self { subject: String::new(), ..first.clone() };
        for other in others {
            let tokens = sum.tokens + other.tokens;
            let entropy = sum.entropy * sum.tokens as f64 + other.entropy * other.tokens as f64;
            (sum.tokens, sum.entropy) = (tokens, entropy / tokens.max(1) as f64);
            for (mine, theirs) in sum.load.iter_mut().zip(&other.load) {
                mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine += theirs);
            }
        }
        Some(sum)
    }

    /// Each expert's share of its layer's routes, `(layer, expert)`.
    pub fn shares(&self) -> Vec<Vec<f64>> {
        let shares = |layer: &Vec<u64>| {
            let all = layer.iter().sum::<u64>().max(1) as f64;
            layer.iter().map(|&of| of as f64 / all).collect()
        };
        self.load.iter().map(shares).collect()
    }

    /// Distance of the routing from that of `all`: total variation (half the sum of the absolute differences of the experts'
    /// shares), from 0 to 1, mean over layers.
    pub fn distance(&self, all: &Self) -> f64 {
        let layers = self.shares().into_iter().zip(all.shares());
        let of_layer = |(mine, theirs): (Vec<f64>, Vec<f64>)| {
            mine.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).sum::<f64>() / 2.0
        };
        layers.map(of_layer).sum::<f64>() / self.load.len().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_add_up_and_differ_from_their_sum() {
        let of = |subject: &str, tokens, entropy, load: [[u64; 2]; 2]| Routing {
            subject: subject.into(),
            tokens,
            entropy,
            load: load.iter().map(|layer| layer.to_vec()).collect(),
        };
        let (law, art) = (of("law", 30, 0.2, [[30, 0], [15, 15]]), of("art", 10, 0.6, [[0, 10], [5, 5]]));
        let both = Routing::sum(&[law.clone(), art.clone()]).unwrap_or_default();
        assert_eq!((both.tokens, both.load.as_slice()), (40, &[vec![30, 10], vec![20, 20]][..]));
        assert!((both.entropy - 0.3).abs() < 1e-12, "{}", both.entropy);
        assert_eq!(both.shares(), [[0.75, 0.25], [0.5, 0.5]]);
        // Layer 0 is 0.25 away for law and 0.75 for art; layer 1 does not differ.
        assert_eq!((law.distance(&both), art.distance(&both)), (0.125, 0.375));
        assert_eq!((law.distance(&law), Routing::sum(&[])), (0.0, None));
    }
}
