//! Sampling of the next token from logits.

use crate::backend::cpu::math::{exp_below_largest, log_sum_exp};
use crate::{Error, Result};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Sampling parameters; the steps apply in the order of the fields, the penalty first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Divisor of positive logits and factor of negative logits of tokens seen before (Keskar et al. 2019, section 4.1,
    /// with the sign taken into account); 1 changes nothing.
    pub repetition_penalty: f64,
    /// Divisor of the logits; 0 selects the most likely token, the lowest id in case of a tie.
    pub temperature: f64,
    /// Number of most likely tokens to keep; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of most likely tokens whose total probability reaches this value (Holtzman et al. 2020); 1 keeps
    /// all.
    pub top_p: f64,
    /// Keep tokens with at least this fraction of the probability of the most likely one (Nguyen et al. 2024, equation 2); 0
    /// keeps all.
    pub min_p: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { repetition_penalty: 1.0, temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 }
    }
}

impl Sampling {
    /// Checks that every value is valid.
    ///
    /// # Errors
    /// Returns the first invalid value and what was expected.
    pub fn validate(&self) -> Result<()> {
        let Self { repetition_penalty, temperature, top_k: _, top_p, min_p } = *self;
        let fail = |text: String| Err(Error::Input(text));
        if !(temperature.is_finite() && temperature >= 0.0) {
            return fail(format!(
                "the temperature is {temperature}, expected 0 (the likeliest token) or more, such as 0.7"
            ));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return fail(format!("top_p is {top_p}, expected above 0 and at most 1 (all tokens)"));
        }
        if !(0.0..=1.0).contains(&min_p) {
            return fail(format!("min_p is {min_p}, expected 0 (all tokens) to 1 (the likeliest)"));
        }
        // Far outside this range, logits would overflow.
        if !(0.01..=100.0).contains(&repetition_penalty) {
            return fail(format!(
                "the repetition penalty is {repetition_penalty}, expected 0.01 to 100; 1 changes nothing, 1.1 repeats less"
            ));
        }
        Ok(())
    }

    /// Returns the possible next tokens with their probabilities, which sum to 1, most likely first.
    ///
    /// `logits`: `(vocab_size,)`; `seen` marks the tokens to which the penalty applies, `(vocab_size,)`.
    pub fn distribution(&self, logits: &[f32], seen: &[bool]) -> Vec<(u32, f64)> {
        let mut ranked = self.ranked(logits, seen);
        let (kept, sum) = self.apply_top_p_min_p(&mut ranked);
        ranked.sort_up_to(kept);
        ranked.tokens.truncate(kept);
        ranked.tokens.iter_mut().for_each(|token| token.1 /= sum);
        ranked.tokens
    }

    /// Returns the logit of each token after the penalty, in order of id.
    fn penalised(&self, logits: &[f32], seen: &[bool]) -> Vec<f64> {
        let mut penalised: Vec<f64> = logits.iter().map(|&logit| logit.into()).collect();
        let penalty = self.repetition_penalty;
        if penalty != 1.0 {
            for (logit, _) in penalised.iter_mut().zip(seen).filter(|(_, seen)| **seen) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
        penalised
    }

    /// Returns the number of tokens that `temperature` and `top_k` keep of a vocabulary of this size.
    fn kept(&self, vocab_size: usize) -> usize {
        match (self.temperature, self.top_k) {
            (0.0, _) => 1,
            (_, 0) => vocab_size,
            (_, k) => k.min(vocab_size),
        }
    }

    /// Returns whether every token of a vocabulary of this size may be drawn.
    fn keeps_all(&self, vocab_size: usize) -> bool {
        let is_warm = self.temperature > 0.0;
        is_warm && self.kept(vocab_size) == vocab_size && self.top_p == 1.0 && self.min_p == 0.0
    }

    /// Returns the tokens that `top_k` keeps, with their probabilities divided by that of the most likely one.
    fn ranked(&self, logits: &[f32], seen: &[bool]) -> Ranked {
        let kept = self.kept(logits.len());
        let scores = (0..).zip(self.penalised(logits, seen));
        let tokens: Vec<(u32, f64)> = match kept {
            1 => scores
                .reduce(|best, next| if next.1.total_cmp(&best.1).is_gt() { next } else { best })
                .into_iter()
                .collect(),
            _ => scores.collect(),
        };
        let mut ranked = Ranked { tokens, sorted: 0 };
        if kept < ranked.tokens.len() {
            ranked.sort_up_to(kept);
            ranked.tokens.truncate(kept);
        }
        let mut weights: Vec<f64> = ranked.tokens.iter().map(|token| token.1).collect();
        exp_below_largest(&mut weights, if self.temperature > 0.0 { self.temperature } else { 1.0 });
        ranked.tokens.iter_mut().zip(weights).for_each(|(token, weight)| token.1 = weight);
        ranked
    }

    /// Returns the number of tokens that `top_p` and `min_p` keep, and the sum of their probabilities.
    fn apply_top_p_min_p(&self, ranked: &mut Ranked) -> (usize, f64) {
        let (mut kept, mut sum) = (ranked.tokens.len(), ranked.tokens.iter().map(|token| token.1).sum());
        if self.top_p < 1.0 {
            let enough = self.top_p * sum;
            (kept, sum) = ranked.sum_until(kept, |sum, _| sum >= enough);
        }
        if self.min_p > 0.0 {
            (kept, sum) = ranked.sum_until(kept, |_, next| next < self.min_p);
        }
        (kept, sum)
    }
}

/// Tokens with their logits or probabilities, of which the first `sorted` are in order, most likely first. Sorting is lazy
/// because one token rarely requires the order of the whole vocabulary.
struct Ranked {
    tokens: Vec<(u32, f64)>,
    sorted: usize,
}

impl Ranked {
    fn sort_up_to(&mut self, len: usize) {
        let likelier = |a: &(u32, f64), b: &(u32, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if len <= self.sorted {
            return;
        }
        let rest = &mut self.tokens[self.sorted..];
        let more = len - self.sorted;
        if more < rest.len() {
            rest.select_nth_unstable_by(more, likelier);
        }
        rest[..more].sort_unstable_by(likelier);
        self.sorted = len;
    }

    fn get(&mut self, place: usize) -> (u32, f64) {
        if place >= self.sorted {
            self.sort_up_to((4 * place).max(32).min(self.tokens.len()));
        }
        self.tokens[place]
    }

    /// Sums probabilities, most likely first, until `is_end(sum, next probability)` holds or `most` tokens are summed. Returns
    /// their number and their sum.
    fn sum_until(&mut self, most: usize, is_end: impl Fn(f64, f64) -> bool) -> (usize, f64) {
        let mut sum = 0.0;
        for place in 0..most {
            sum += self.get(place).1;
            let next = if place + 1 < most { self.get(place + 1).1 } else { 0.0 };
            if is_end(sum, next) {
                return (place + 1, sum);
            }
        }
        (most, sum)
    }
}

/// Log-probabilities at one place of a text, by softmax over the original logits, before any step of [`Sampling`].
#[derive(Debug, Clone, PartialEq)]
pub struct LogProbs {
    /// Log-probability of the token at this place.
    pub own: f64,
    /// The most likely tokens with their log-probabilities, most likely first, ties in order of id.
    pub top: Vec<(u32, f64)>,
}

impl LogProbs {
    /// Computes the log-probabilities of token `id` and of the `top` most likely tokens. `logits`: `(vocab_size,)`, which must
    /// include `id`.
    pub fn new(logits: &[f32], id: u32, top: usize) -> Self {
        let total = log_sum_exp(logits);
        let log_prob = |logit: f32| f64::from(logit) - total;
        let mut ranked = Ranked { tokens: vec![], sorted: 0 };
        if top > 0 {
            ranked.tokens = (0..).zip(logits.iter().copied().map(log_prob)).collect();
            let top = top.min(ranked.tokens.len());
            ranked.sort_up_to(top);
            ranked.tokens.truncate(top);
            ranked.tokens.shrink_to_fit();
        }
        Self { own: log_prob(logits[id as usize]), top: ranked.tokens }
    }
}

/// Returns the error for logits that are not finite.
pub(crate) fn not_finite() -> Error {
    Error::Input("the model's logits are not finite; did its training diverge?".into())
}

/// Returns the item at which the sum of the weights exceeds `at`, and how far `at` is beyond the items before it.
fn draw(at: f64, weights: impl Iterator<Item = (u32, f64)>) -> (u32, f64) {
    let (mut chosen, mut left, mut next) = (0, at, at);
    for (item, weight) in weights {
        // Rounding may leave a remainder after the last item.
        (chosen, left) = (item, next);
        next -= weight;
        if next < 0.0 {
            break;
        }
    }
    (chosen, left)
}

/// Draws a token from the weights of all tokens, in order of id. First a chunk is drawn, then one of its tokens: adding
/// up all weights one after the other takes longer than computing them.
fn draw_from_all(random: f64, weights: &[f64]) -> u32 {
    const CHUNK: usize = 32;
    let sums: Vec<f64> = weights.chunks(CHUNK).map(|chunk| chunk.iter().sum()).collect();
    let at = random * sums.iter().sum::<f64>();
    let (chunk, at) = draw(at, (0..).zip(sums));
    let first = chunk as usize * CHUNK;
    let rest = weights[first..].iter().take(CHUNK).copied();
    draw(at, (first as u32..).zip(rest)).0
}

/// Draws tokens and keeps track of those seen.
pub struct Sampler {
    sampling: Sampling,
    random: ChaCha8Rng,
    seen: Vec<bool>,
}

impl Sampler {
    /// Creates a sampler that has seen `prompt`. Equal seeds and choices draw equal tokens; `choice` distinguishes texts
    /// with the same seed.
    ///
    /// # Errors
    /// Same as [`Sampling::validate`].
    pub fn new(
        sampling: Sampling,
        seed: u64,
        choice: u64,
        vocab_size: usize,
        prompt: &[u32],
    ) -> Result<Self> {
        sampling.validate()?;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(choice);
        let mut sampler = Self { sampling, random, seen: vec![false; vocab_size] };
        prompt.iter().for_each(|&id| sampler.see(id));
        Ok(sampler)
    }

    fn see(&mut self, id: u32) {
        if let Some(seen) = self.seen.get_mut(id as usize) {
            *seen = true;
        }
    }

    /// Draws the next token. `logits`: `(vocab_size,)`.
    ///
    /// # Errors
    /// If `logits` is empty, or they are not finite.
    pub fn next(&mut self, logits: &[f32]) -> Result<u32> {
        if logits.is_empty() {
            return Err(Error::Input("there are no logits".into()));
        }
        // Check before ranking, which would drop a NaN with its sign bit set as the least likely token.
        // No early exit, so that the check vectorizes.
        if !logits.iter().fold(true, |all, logit| all & logit.is_finite()) {
            return Err(not_finite());
        }
        let random: f64 = self.random.random_range(0.0..1.0);
        let Self { sampling, seen, .. } = self;
        let chosen = if sampling.keeps_all(logits.len()) {
            // Any order is valid, so no ranking is necessary.
            let mut weights = sampling.penalised(logits, seen);
            exp_below_largest(&mut weights, sampling.temperature);
            draw_from_all(random, &weights)
        } else {
            let mut ranked = sampling.ranked(logits, seen);
            let (kept, sum) = sampling.apply_top_p_min_p(&mut ranked);
            let is_all = kept == ranked.tokens.len();
            let tokens = (0..kept).map(|place| if is_all { ranked.tokens[place] } else { ranked.get(place) });
            draw(random * sum, tokens).0
        };
        self.see(chosen);
        Ok(chosen)
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
        // Each of the two most likely tokens has e^3 / (2 e^3 + e + 1/e) = 0.464.
        assert_eq!(ids(Sampling { top_p: 0.46, ..warm }, [false; 4]), [1]);
        assert_eq!(ids(Sampling { top_p: 0.47, ..warm }, [false; 4]), [1, 3]);
        // The third has e^-2 = 0.135 of the largest probability, the last e^-4 = 0.018.
        assert_eq!(ids(Sampling { min_p: 0.136, ..warm }, [false; 4]), [1, 3]);
        assert_eq!(ids(Sampling { min_p: 0.135, ..warm }, [false; 4]), [1, 3, 0]);
        assert_eq!(ids(Sampling { min_p: 1.0, ..warm }, [false; 4]), [1, 3]);
        assert_eq!(ids(Sampling { min_p: 0.01, top_p: 0.47, ..warm }, [false; 4]), [1, 3]);
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
            let mut sampler = Sampler::new(sampling, seed, 0, 4, &[])?;
            (0..20_000).map(|_| sampler.next(&LOGITS)).collect()
        };
        let drawn = draw(1)?;
        for (id, p) in want {
            let share = drawn.iter().filter(|&&d| d == id).count() as f64 / 20_000.0;
            // About 3.5 standard deviations of the share in 20,000 draws.
            assert!((share - p).abs() < 0.0125, "{id}: {share} {p}");
        }
        assert!(drawn == draw(1)? && drawn != draw(2)?);
        Ok(())
    }

    #[test]
    fn a_draw_by_chunks_is_one_from_the_running_sum() {
        for len in [1, 31, 32, 33, 500] {
            let weights: Vec<f64> = (0..len).map(|i| f64::from((i * 37) % 11)).collect();
            let total: f64 = weights.iter().sum();
            for random in (0..1000).map(|i| f64::from(i) / 1000.0) {
                // The weights are whole numbers, so sums are exact in any order.
                let mut sum = 0.0;
                let want = weights.iter().position(|weight| {
                    sum += weight;
                    random * total < sum
                });
                let want = want.unwrap_or(weights.len() - 1);
                assert_eq!(draw_from_all(random, &weights) as usize, want, "{random} of {len}");
            }
        }
        // Rounding can put a draw past the sum of all weights: it is the last token.
        assert_eq!(draw_from_all(1.0, &[0.5; 40]), 39);
    }

    #[test]
    fn impossible_settings_and_broken_weights_are_errors() {
        for bad in [
            Sampling { temperature: -1.0, ..Sampling::default() },
            Sampling { top_p: 0.0, ..Sampling::default() },
            Sampling { repetition_penalty: 0.0, ..Sampling::default() },
            Sampling { repetition_penalty: 1e-320, ..Sampling::default() },
            Sampling { repetition_penalty: 1e300, ..Sampling::default() },
            Sampling { min_p: 1.5, ..Sampling::default() },
            Sampling { min_p: f64::NAN, ..Sampling::default() },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
        for sampling in [
            Sampling::default(),
            Sampling { temperature: 1.0, top_k: 1, ..Sampling::default() },
            Sampling { temperature: 1.0, ..Sampling::default() },
        ] {
            let mut sampler = Sampler::new(sampling, 1, 0, 2, &[]).expect("a sampler");
            // A NaN with its sign bit set is below all other numbers in the total order.
            for broken in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                assert!(sampler.next(&[broken, 0.0]).is_err(), "{sampling:?} {broken}");
            }
            assert!(sampler.next(&[1.0, 0.0]).is_ok());
        }
    }

    #[test]
    fn log_probabilities_are_those_of_the_logits() {
        // log(2 e^3 + e + 1/e) = 3.76727.
        let found = LogProbs::new(&LOGITS, 0, 3);
        let total = (2.0 * 3f64.exp() + 1f64.exp() + (-1f64).exp()).ln();
        let is_near = |found: f64, want: f64| (found - want).abs() < 1e-6; // exponentials are computed in f32
        assert!(is_near(found.own, 1.0 - total));
        let want = [(1, 3.0 - total), (3, 3.0 - total), (0, 1.0 - total)];
        for (found, want) in found.top.iter().zip(want) {
            assert!(found.0 == want.0 && is_near(found.1, want.1), "{found:?} {want:?}");
        }
        assert_eq!(found.top.len(), 3);
        assert_eq!(LogProbs::new(&LOGITS, 2, 9).top.len(), 4);
        assert!(LogProbs::new(&LOGITS, 2, 0).top.is_empty());
    }

    #[test]
    fn a_large_vocabulary_is_ranked_as_if_it_were_sorted() -> Result<()> {
        let logits: Vec<f32> = (0..5000u32).map(|i| ((i * 7919) % 5000) as f32 / 1000.0).collect();
        let mut sorted: Vec<(u32, f64)> =
            (0..).zip(logits.iter().map(|&l| (f64::from(l) - 4.999).exp())).collect();
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1));
        let sum: f64 = sorted.iter().map(|token| token.1).sum();
        let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
        let found = sampling.distribution(&logits, &vec![false; 5000]);
        assert!(found.iter().zip(&sorted).all(|(a, b)| a.0 == b.0 && (a.1 - b.1 / sum).abs() < 1e-9));
        // Draws far down the ranking are as frequent as expected: compare the share of the more likely half.
        let half: f64 = sorted[..2500].iter().map(|token| token.1).sum::<f64>() / sum;
        let mut sampler = Sampler::new(sampling, 3, 0, 5000, &[])?;
        let drawn: Vec<u32> = (0..4000).map(|_| sampler.next(&logits)).collect::<Result<_>>()?;
        let likely = drawn.iter().filter(|&&id| logits[id as usize] >= 2.5).count() as f64 / 4000.0;
        assert!((likely - half).abs() < 0.03, "{likely} {half}");
        Ok(())
    }

    #[test]
    fn choices_of_one_seed_differ() -> Result<()> {
        let sampling = Sampling { temperature: 1.5, ..Sampling::default() };
        let draw = |choice| -> Result<Vec<u32>> {
            let mut sampler = Sampler::new(sampling, 1, choice, 4, &[])?;
            (0..50).map(|_| sampler.next(&LOGITS)).collect()
        };
        assert!(draw(0)? != draw(1)? && draw(1)? == draw(1)?);
        Ok(())
    }
}
