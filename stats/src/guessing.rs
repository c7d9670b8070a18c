//! Fisher's randomisation test of guessing (Fisher 1935): do answers agree with the key more, or less, than they would
//! with a key that is shuffled within each subject?
//!
//! All models that took one exam are scored with the same shuffled key. So seeds that answer alike do not count as
//! independent evidence, and a preference for a letter has no effect: a model that always says B is correct equally often
//! with every key.

use super::resample::below;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Number of shuffled keys of a test: the standard error of a p near 0.05 is 0.002, and no estimate is below 0.0001.
pub const PERMUTATIONS: u32 = 9_999;

/// Maximum number of options of a question: the number of letters.
pub const OPTIONS: usize = 26;

/// One question of an exam, as answered by one or several models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// Number of its subject, or of any group of questions whose correct letters may be exchanged.
    pub stratum: usize,
    /// The correct letter: 0 is A.
    pub right: usize,
    /// Number of models that chose each letter.
    pub chosen: [u32; OPTIONS],
}

/// The result of a randomisation test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Randomised {
    /// Number of correct answers of all models together.
    pub statistic: u64,
    /// Their mean over all shuffled keys.
    pub expected: f64,
    /// Two-sided p.
    pub p: f64,
    /// Whether `p` is an upper bound, because no shuffled key was as far from the mean as the true one.
    pub is_bound: bool,
    /// Number of shuffled keys.
    pub n: u32,
}

/// Runs the test with `n` random keys; `None` if nothing was answered.
///
/// p is `(1 + hits) / (1 + n)`, which is never too small (Phipson & Smyth 2010); a hit is a key with which the number
/// of correct answers is at least as far from its mean as with the true one. Without any hit, p is the smaller of that and
/// Chatterjee's bound `2 exp(-t^2 / (4 m + 2 t))` on the probability that a sum of `a[i, shuffled i]`, all between 0 and 1,
/// with mean `m`, is `t` away from it (Chatterjee 2007, proposition 1.1; his argument bounds the moments, so it holds for
/// the sum over subjects too). Without that bound, Holm's correction for hundreds of settings would drown the clearest result.
pub fn guessing(questions: &[Answered], n: u32, seed: u64) -> Option<Randomised> {
    let most = questions.iter().map(|q| q.chosen.iter().sum::<u32>()).max().filter(|most| *most > 0)?;
    let mut sorted = questions.to_vec();
    sorted.sort_by_key(|question| question.stratum);
    // Only as many letters as occur, in one contiguous table.
    let last = |q: &Answered| q.chosen.iter().rposition(|count| *count > 0).unwrap_or(0).max(q.right);
    let letters = sorted.iter().map(last).max().unwrap_or(0) + 1;
    let chosen: Vec<u32> = sorted.iter().flat_map(|question| question.chosen[..letters].to_vec()).collect();
    let mut key: Vec<usize> = sorted.iter().map(|question| question.right).collect();
    let sizes: Vec<usize> = sorted.chunk_by(|a, b| a.stratum == b.stratum).map(<[_]>::len).collect();
    let agreement = |key: &[usize]| -> u64 {
        chosen.chunks_exact(letters).zip(key).map(|(chosen, &letter)| u64::from(chosen[letter])).sum()
    };
    let expected: f64 = sorted.chunk_by(|a, b| a.stratum == b.stratum).map(mean_agreement).sum();
    let statistic = agreement(&key);
    let distance = (statistic as f64 - expected).abs();
    // Equal distances count as hits; the slack absorbs rounding.
    let limit = distance - 1e-9 * (1.0 + expected);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut hits = 0;
    for _ in 0..n {
        let mut rest = key.as_mut_slice();
        for &size in &sizes {
            let (stratum, others) = rest.split_at_mut(size);
            shuffle(stratum, &mut random);
            rest = others;
        }
        hits += u32::from((agreement(&key) as f64 - expected).abs() >= limit);
    }
    let estimate = f64::from(1 + hits) / (1.0 + f64::from(n));
    let (t, m) = (distance / f64::from(most), expected / f64::from(most));
    let bound = if t > 0.0 { 2.0 * (-t * t / (4.0 * m + 2.0 * t)).exp() } else { 1.0 };
    let p = if hits == 0 { estimate.min(bound) } else { estimate };
    Some(Randomised { statistic, expected, p, is_bound: hits == 0, n })
}

/// Mean number of correct answers in a subject over all its shuffled keys: each answer counts its letter's share of the key.
fn mean_agreement(stratum: &[Answered]) -> f64 {
    let of_letter = |letter: usize| {
        let answers: u64 = stratum.iter().map(|question| u64::from(question.chosen[letter])).sum();
        let keys = stratum.iter().filter(|question| question.right == letter).count();
        answers as f64 * keys as f64 / stratum.len() as f64
    };
    (0..OPTIONS).map(of_letter).sum()
}

/// Shuffles a slice (Fisher & Yates 1938), identically on every machine.
fn shuffle(items: &mut [usize], random: &mut ChaCha8Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(random, last + 1));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rand::RngCore;
    use std::collections::BTreeMap;

    fn random(seed: u64) -> impl FnMut(u32) -> usize {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        move |below| (random.next_u32() % below) as usize
    }

    /// Questions of one subject: the key, and the letters that each model chose.
    fn answered(key: &str, models: &[&str]) -> Vec<Answered> {
        let letter = |text: &str, i: usize| usize::from(text.as_bytes()[i] - b'A');
        let question = |i: usize| {
            let mut chosen = [0; OPTIONS];
            models.iter().for_each(|answers| chosen[letter(answers, i)] += 1);
            Answered { stratum: 0, right: letter(key, i), chosen }
        };
        (0..key.len()).map(question).collect()
    }

    /// The exact p: the distribution of the number of correct answers over all orders of the key, built question by question.
    fn exact(questions: &[Answered]) -> f64 {
        let mut total = BTreeMap::from([(0, 1.0)]);
        let mut sorted = questions.to_vec();
        sorted.sort_by_key(|q| q.stratum);
        for stratum in sorted.chunk_by(|a, b| a.stratum == b.stratum) {
            let mut left = [0; 4];
            stratum.iter().for_each(|q| left[q.right] += 1);
            let mut states = BTreeMap::from([((left, 0), 1.0)]);
            for (done, question) in stratum.iter().enumerate() {
                let mut next = BTreeMap::new();
                for ((left, right), p) in states {
                    for letter in (0..4).filter(|&letter| left[letter] > 0) {
                        let mut then = left;
                        then[letter] -= 1;
                        let share = f64::from(left[letter]) / (stratum.len() - done) as f64;
                        *next.entry((then, right + question.chosen[letter])).or_insert(0.0) += p * share;
                    }
                }
                states = next;
            }
            let mut sum = BTreeMap::new();
            for (sofar, p) in &total {
                for ((_, right), q) in &states {
                    *sum.entry(sofar + right).or_insert(0.0) += p * q;
                }
            }
            total = sum;
        }
        let expected: f64 = total.iter().map(|(right, p)| f64::from(*right) * p).sum();
        let seen: u32 = questions.iter().map(|q| q.chosen[q.right]).sum();
        let far = |right: u32| (f64::from(right) - expected).abs();
        total.iter().filter(|(right, _)| far(**right) >= far(seen) - 1e-9).map(|(_, p)| p).sum()
    }

    #[test]
    fn favouring_a_letter_is_not_knowledge() {
        // Five seeds that always say B, each correct 320 of 1,200 times: a binomial test of all 6,000 has p = 0.003.
        let key = |i: usize| if i < 320 { 1 } else { [0, 2, 3][i % 3] };
        let mut chosen = [0; OPTIONS];
        chosen[1] = 5;
        let questions: Vec<Answered> =
            (0..1200).map(|i| Answered { stratum: i % 4, right: key(i), chosen }).collect();
        let found = guessing(&questions, PERMUTATIONS, 1).unwrap();
        assert_eq!((found.statistic, found.p, found.is_bound, found.n), (1600, 1.0, false, 9_999));
        assert!((found.expected - 1600.0).abs() < 1e-6, "{}", found.expected);
        assert!(crate::binomial_p(1600, 6000, 0.25) < 0.004);
    }

    #[test]
    fn seeds_that_answer_alike_count_as_one() {
        let mut draw = random(7);
        let one: Vec<Answered> = (0..200)
            .map(|i| {
                let (right, mut chosen) = (draw(4), [0; OPTIONS]);
                chosen[if i % 10 == 0 { right } else { draw(4) }] = 1;
                Answered { stratum: i % 3, right, chosen }
            })
            .collect();
        let five: Vec<Answered> =
            one.iter().map(|q| Answered { chosen: q.chosen.map(|c| 5 * c), ..*q }).collect();
        let p = |questions: &[Answered]| guessing(questions, 999, 1).unwrap().p;
        assert_eq!(p(&one), p(&five));
        assert!(p(&one) > 0.001 && p(&one) < 0.2, "{}", p(&one));
    }

    #[test]
    fn who_knows_answers_is_found_out_however_many_settings_there_are() {
        let mut draw = random(3);
        let know = |share: u32, draw: &mut dyn FnMut(u32) -> usize| -> Vec<Answered> {
            let one = |i: usize| {
                let (right, mut chosen) = (draw(4), [0; OPTIONS]);
                for _ in 0..5 {
                    chosen[if draw(100) < share as usize { right } else { draw(4) }] += 1;
                }
                Answered { stratum: i % 52, right, chosen }
            };
            (0..1346).map(one).collect()
        };
        let sure = guessing(&know(87, &mut draw), 99, 1).unwrap();
        // 90 % correct: no shuffled key comes near, and with the bound a correction for thousands of settings does not matter.
        assert!(sure.is_bound && sure.p < 1e-50, "{sure:?}");
        let weak = guessing(&know(8, &mut draw), PERMUTATIONS, 1).unwrap();
        assert_eq!((weak.p, weak.is_bound), (1e-4, true));
        // Knowing the answer and always choosing another is not guessing either.
        let wrong: Vec<Answered> =
            know(87, &mut draw).iter().map(|q| Answered { right: (q.right + 1) % 4, ..*q }).collect();
        let wrong = guessing(&wrong, 999, 1).unwrap();
        assert!(wrong.p <= 0.001 && (wrong.statistic as f64) < wrong.expected, "{wrong:?}");
    }

    #[test]
    fn estimates_agree_with_every_key_counted_and_the_bound_holds() {
        for seed in 0..40 {
            let mut draw = random(seed);
            let questions: Vec<Answered> = (0..14)
                .map(|i| {
                    let (right, mut chosen) = (draw(4), [0; OPTIONS]);
                    for _ in 0..3 {
                        chosen[if draw(10) < seed as usize / 4 { right } else { draw(4) }] += 1;
                    }
                    Answered { stratum: i / 7, right, chosen }
                })
                .collect();
            let (p, found) = (exact(&questions), guessing(&questions, 4_999, seed).unwrap());
            let error = (p * (1.0 - p) / 5000.0).sqrt();
            assert!((found.p - p).abs() < 4.0 * error + 2e-4, "{} instead of {p}", found.p);
            // The bound alone, without any shuffled key.
            assert!(guessing(&questions, 0, seed).unwrap().p >= p, "{p}");
        }
    }

    #[test]
    fn p_is_uniform_where_nothing_is_known() {
        // Three seeds that share half of their answers and prefer B: two subjects of 25 questions each.
        let mut draw = random(11);
        let trials = 800;
        let mut at_most = [0; 3];
        for trial in 0..trials {
            let questions: Vec<Answered> = (0..50)
                .map(|i| {
                    let mut letter = || [1, 1, 0, 1, 2, 3][draw(6)];
                    let (common, mut chosen) = (letter(), [0; OPTIONS]);
                    for _ in 0..3 {
                        let own = letter();
                        chosen[if own % 2 == 0 { own } else { common }] += 1;
                    }
                    Answered { stratum: i % 2, right: draw(4), chosen }
                })
                .collect();
            let p = guessing(&questions, 199, trial).unwrap().p;
            for (count, level) in at_most.iter_mut().zip([0.05, 0.2, 0.5]) {
                *count += u32::from(p <= level);
            }
        }
        // Within three standard errors, which are 6.2, 11.3 and 14.1. Numbers of correct answers are whole, so a little fewer.
        let expected = [40, 160, 400];
        assert!(at_most.iter().zip(expected).all(|(n, e)| n.abs_diff(e) < 45), "{at_most:?}");
        assert!(at_most[0].abs_diff(40) < 19, "{at_most:?}");
    }

    #[test]
    fn nothing_answered_is_no_test() {
        assert_eq!(guessing(&[], 99, 1), None);
        assert_eq!(guessing(&[Answered { stratum: 0, right: 1, chosen: [0; OPTIONS] }], 99, 1), None);
    }

    #[test]
    fn p_agrees_with_scipy() {
        // scripts/guessing_scipy.py with SciPy 1.17.1: all permutations of eight letters, a million of forty.
        let eight = answered("ABCDABCA", &["ABCDBBCB", "ABCCBBAB"]);
        let found = guessing(&eight, 99_999, 1).unwrap();
        assert_eq!((found.statistic, found.expected), (10, 4.25));
        assert!((exact(&eight) - 0.017_857).abs() < 1e-6, "{}", exact(&eight));
        assert!((found.p - 0.017_857).abs() < 0.0017, "{}", found.p);
        let forty = answered(
            "CADBBACDDBCAABDCCDABDACBBCDAACBDDBACCABD",
            &[
                "DDDCBBBDBAABBACBCBBBBDBDBBBBCCBDBBBAABAB",
                "CBDBBBBBABAACBDBBADBAABBBBBAABBCDBABCBCC",
                "BBBBBCDBBCBABDDCBBDBCBBBCBDBBDBCBBBADCCB",
            ],
        );
        let found = guessing(&forty, 99_999, 1).unwrap();
        assert_eq!((found.statistic, found.expected), (39, 30.0));
        assert!((found.p - 0.051_215).abs() < 0.0029, "{}", found.p); // four standard errors
    }
}
