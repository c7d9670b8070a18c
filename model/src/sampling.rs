//! From logits to the next token.

use crate::{Error, Result};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// How the next token is chosen; the steps apply in the order of the fields below, the penalty first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Positive logits of tokens that were seen are divided by it, negative ones multiplied (Keskar et al. 2019,
    /// section 4.1, with the sign minded); 1 changes nothing.
    pub repetition_penalty: f64,
    /// Logits are divided by it; 0 takes the likeliest token, the lowest id of equals.
    pub temperature: f64,
    /// Only so many of the likeliest tokens; 0 is all.
    pub top_k: usize,
    /// Only the likeliest tokens that together reach this probability (Holtzman et al. 2020); 1 is all.
    pub top_p: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { repetition_penalty: 1.0, temperature: 0.0, top_k: 0, top_p: 1.0 }
    }
}

impl Sampling {
    /// Checks that every value makes sense.
    ///
    /// # Errors
    /// Names the first value that makes no sense, and what was expected.
    pub fn validate(&self) -> Result<()> {
        let Self { repetition_penalty, temperature, top_p, .. } = *self;
        let fail = |text: String| Err(Error::Input(text));
        if !(temperature.is_finite() && temperature >= 0.0) {
            return fail(format!(
                "the temperature is {temperature}, expected 0 (the likeliest token) or more"
            ));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return fail(format!("top_p is {top_p}, expected above 0 and at most 1"));
        }
        if !(repetition_penalty.is_finite() && repetition_penalty > 0.0) {
            return fail(format!(
                "the repetition penalty is {repetition_penalty}, expected a positive number"
            ));
        }
        Ok(())
    }

    /// The tokens that may come next with their probabilities, which sum to 1, likeliest first.
    ///
    /// `logits`: `(vocab_size,)`; `seen` marks the tokens that the penalty applies to, `(vocab_size,)`.
    pub fn distribution(&self, logits: &[f32], seen: &[bool]) -> Vec<(u32, f64)> {
        let penalty = self.repetition_penalty;
        let penalised = |(logit, &seen): (&f32, &bool)| {
            let logit = f64::from(*logit);
            match seen {
                true if logit > 0.0 => logit / penalty,
                true => logit * penalty,
                false => logit,
            }
        };
        let mut tokens: Vec<(u32, f64)> = (0..).zip(logits.iter().zip(seen).map(penalised)).collect();
        let likelier = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let kept = match (self.temperature, self.top_k) {
            (0.0, _) => 1,
            (_, 0) => tokens.len(),
            (_, k) => k.min(tokens.len()),
        };
        if kept < tokens.len() {
            tokens.select_nth_unstable_by(kept, likelier);
            tokens.truncate(kept);
        }
        tokens.sort_unstable_by(likelier);
        let temperature = if self.temperature > 0.0 { self.temperature } else { 1.0 };
        let largest = tokens.first().map_or(0.0, |t| t.1);
        for (_, p) in &mut tokens {
            *p = ((*p - largest) / temperature).exp();
        }
        normalise(&mut tokens);
        if self.top_p < 1.0 {
            let mut sum = 0.0;
            let reached = tokens.iter().position(|(_, p)| {
                sum += p;
                sum >= self.top_p
            });
            tokens.truncate(reached.map_or(tokens.len(), |last| last + 1));
            normalise(&mut tokens);
        }
        tokens
    }
}

fn normalise(tokens: &mut [(u32, f64)]) {
    let sum: f64 = tokens.iter().map(|t| t.1).sum();
    tokens.iter_mut().for_each(|t| t.1 /= sum);
}

/// Draws tokens, and remembers which were seen.
pub struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
    seen: Vec<bool>,
}

impl Sampler {
    /// A sampler that has seen `prompt`. Equal seeds draw equal tokens.
    ///
    /// # Errors
    /// As [`Sampling::validate`].
    pub fn new(sampling: Sampling, seed: u64, vocab_size: usize, prompt: &[u32]) -> Result<Self> {
        sampling.validate()?;
        let mut sampler =
            Self { sampling, random: ChaCha8Rng::seed_from_u64(seed), seen: vec![false; vocab_size] };
        prompt.iter().for_each(|&id| sampler.see(id));
        Ok(sampler)
    }

    fn see(&mut self, id: u32) {
        if let Some(seen) = self.seen.get_mut(id as usize) {
            *seen = true;
        }
    }

    /// The next token. `logits`: `(vocab_size,)`.
    ///
    /// # Errors
    /// Where there are no logits, or they are not finite.
    pub fn next(&mut self, logits: &[f32]) -> Result<u32> {
        let tokens = self.sampling.distribution(logits, &self.seen);
        let mut left = self.random.random_range(0.0..1.0);
        let chosen = tokens.iter().find(|(_, p)| {
            left -= p;
            left < 0.0
        });
        // Rounding may leave a rest after the last token; a sum that is not a number means broken weights.
        let &(id, p) = chosen.or(tokens.last()).ok_or_else(|| Error::Input("there are no logits".into()))?;
        if !p.is_finite() {
            return Err(Error::Input("the model's logits are not finite; did its training diverge?".into()));
        }
        self.see(id);
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [1.0, 3.0, -1.0, 3.0];

    fn ids(sampling: Sampling, seen: [bool; 4]) -> Vec<u32> {
        sampling.distribution(&LOGITS, &seen).iter().map(|t| t.0).collect()
    }

    #[test]
    fn zero_temperature_takes_the_first_of_the_likeliest() {
        assert_eq!(Sampling::default().distribution(&LOGITS, &[false; 4]), [(1, 1.0)]);
    }

    #[test]
    fn top_k_and_top_p_keep_the_likeliest() {
        let warm = Sampling { temperature: 1.0, ..Sampling::default() };
        assert_eq!(ids(warm, [false; 4]), [1, 3, 0, 2]);
        assert_eq!(ids(Sampling { top_k: 3, ..warm }, [false; 4]), [1, 3, 0]);
        // Each of the two likeliest has e^3 / (2 e^3 + e + 1/e) = 0.464.
        assert_eq!(ids(Sampling { top_p: 0.46, ..warm }, [false; 4]), [1]);
        assert_eq!(ids(Sampling { top_p: 0.47, ..warm }, [false; 4]), [1, 3]);
        let all = warm.distribution(&LOGITS, &[false; 4]);
        let e = std::f64::consts::E;
        assert!((all[2].1 - e / (2.0 * e.powi(3) + e + 1.0 / e)).abs() < 1e-12);
    }

    #[test]
    fn the_penalty_makes_seen_tokens_less_likely_whatever_their_sign() {
        let sampling = Sampling { temperature: 1.0, repetition_penalty: 2.0, ..Sampling::default() };
        let found = sampling.distribution(&LOGITS, &[false, true, true, false]);
        // The logits become 1, 1.5, -2, 3.
        let sum = 1f64.exp() + 1.5f64.exp() + (-2f64).exp() + 3f64.exp();
        let want = [(3, 3f64), (1, 1.5), (0, 1.0), (2, -2.0)].map(|(id, l)| (id, l.exp() / sum));
        for (found, want) in found.iter().zip(want) {
            assert!(found.0 == want.0 && (found.1 - want.1).abs() < 1e-12, "{found:?} {want:?}");
        }
    }

    #[test]
    fn draws_follow_the_distribution_and_the_seed() -> Result<()> {
        let sampling = Sampling { temperature: 1.5, ..Sampling::default() };
        let want = sampling.distribution(&LOGITS, &[false; 4]);
        let draw = |seed| -> Result<Vec<u32>> {
            let mut sampler = Sampler::new(sampling, seed, 4, &[])?;
            (0..20_000).map(|_| sampler.next(&LOGITS)).collect()
        };
        let drawn = draw(1)?;
        for (id, p) in want {
            let share = drawn.iter().filter(|&&d| d == id).count() as f64 / 20_000.0;
            // Three and a half standard deviations of a share of 20,000 draws.
            assert!((share - p).abs() < 0.0125, "{id}: {share} {p}");
        }
        assert!(drawn == draw(1)? && drawn != draw(2)?);
        Ok(())
    }

    #[test]
    fn impossible_settings_and_broken_weights_are_errors() {
        for bad in [
            Sampling { temperature: -1.0, ..Sampling::default() },
            Sampling { top_p: 0.0, ..Sampling::default() },
            Sampling { repetition_penalty: 0.0, ..Sampling::default() },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
        let mut sampler = Sampler::new(Sampling::default(), 1, 2, &[]).expect("a sampler");
        assert!(sampler.next(&[f32::NAN, 0.0]).is_err());
    }
}
