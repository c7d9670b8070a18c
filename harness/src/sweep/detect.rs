//! The statistical power of a sweep, before anything runs: the smallest difference between two settings that its seeds are
//! likely to detect.

use crate::records::GUESSING;
use serde::Serialize;
use stats::{PowerTarget, detectable_by_pairs, detectable_by_seeds};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// The minimal detectable differences of a sweep, with 80 % power at the 5 % level by Welch's t-test over seeds, or by the
/// paired t-test if all claims are paired.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Detectable {
    /// Number of seeds of the setting that has the fewest.
    pub seeds: usize,
    /// Whether seeds are paired.
    pub paired: bool,
    /// The smallest detectable difference in standard deviations: between seeds, or of paired differences; `None` for a
    /// single seed.
    pub in_sd: Option<f64>,
    /// Number of questions of the exam; `None` without an exam.
    pub questions: Option<u64>,
    /// The smallest detectable difference of accuracies near guessing, as a fraction, if seeds differ only by the chance of
    /// their answers; real seeds differ by more.
    pub accuracy: Option<f64>,
}

impl Detectable {
    /// Computes the differences for trials, each given by its setting and seed, that take an exam of `questions` questions; `None`
    /// if all trials have the same setting, so that nothing is compared.
    pub fn of(
        trials: impl IntoIterator<Item = (Uuid, u64)>,
        questions: Option<u64>,
        paired: bool,
    ) -> Option<Self> {
        let mut settings: BTreeMap<Uuid, BTreeSet<u64>> = BTreeMap::new();
        for (setting, seed) in trials {
            settings.entry(setting).or_default().insert(seed);
        }
        if settings.len() < 2 {
            return None;
        }
        let seeds = settings.values().map(BTreeSet::len).min()?;
        let detectable = if paired { detectable_by_pairs } else { detectable_by_seeds };
        let with = |sd: f64| detectable(sd, seeds, PowerTarget::default()).ok();
        // A paired difference contains the chance of both sides.
        let sides = if paired { 2.0 } else { 1.0 };
        let luck = |questions: u64| (sides * GUESSING * (1.0 - GUESSING) / questions as f64).sqrt();
        let accuracy =
            questions.filter(|questions| *questions > 0).and_then(|questions| with(luck(questions)));
        Some(Self { seeds, paired, in_sd: with(1.0), questions, accuracy })
    }

    /// The result in a sentence.
    pub fn sentence(&self) -> String {
        let (Some(in_sd), seeds) = (self.in_sd, self.seeds) else {
            return "1 seed per setting: differences between settings cannot be distinguished from chance; add seeds"
                .into();
        };
        let exam = match (self.accuracy, self.questions) {
            (Some(accuracy), Some(questions)) => format!(
                ", or of {:.1} points of accuracy over {}",
                100.0 * accuracy,
                crate::track::counted(questions as usize, "question")
            ),
            _ => String::new(),
        };
        let (between, test) = match self.paired {
            true => ("of the differences of paired seeds", "paired t"),
            false => ("between seeds", "Welch's t"),
        };
        format!(
            "{seeds} seeds per setting detect differences of at least {in_sd:.1} standard deviations {between}{exam} ({test}, \
             80 % power, 5 % level)"
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// `seeds` seeds of each of `settings` settings.
    fn trials(settings: u128, seeds: u64) -> impl Iterator<Item = (Uuid, u64)> {
        let of = move |setting| (1..=seeds).map(move |seed| (Uuid::from_u128(setting), seed));
        (0..settings).flat_map(of)
    }

    #[test]
    fn seeds_and_questions_set_what_is_seen() {
        let found = Detectable::of(trials(2, 5), Some(300), false).unwrap();
        // statsmodels: TTestIndPower().solve_power(power=0.8, nobs1=5, alpha=0.05) = 2.0244; times sqrt(0.1875 / 300).
        assert!((found.in_sd.unwrap() - 2.0244).abs() < 1e-4);
        assert!((found.accuracy.unwrap() - 2.0244 * 0.025).abs() < 1e-5);
        assert_eq!(
            found.sentence(),
            "5 seeds per setting detect differences of at least 2.0 standard deviations between seeds, or of 5.1 points of \
             accuracy over 300 questions (Welch's t, 80 % power, 5 % level)"
        );
    }

    #[test]
    fn claims_that_are_paired_are_tested_by_pairs() {
        let found = Detectable::of(trials(2, 5), Some(300), true).unwrap();
        // By scipy.stats.nct: with 4 degrees of freedom, a noncentrality of 1.6820 * sqrt(5) rejects in 80 % of cases; times
        // sqrt(2 * 0.1875 / 300).
        assert!((found.in_sd.unwrap() - 1.6820).abs() < 1e-4, "{:?}", found.in_sd);
        assert!((found.accuracy.unwrap() - 1.6820 * 0.0353553).abs() < 1e-4, "{:?}", found.accuracy);
        assert_eq!(
            found.sentence(),
            "5 seeds per setting detect differences of at least 1.7 standard deviations of the differences of paired seeds, \
             or of 5.9 points of accuracy over 300 questions (paired t, 80 % power, 5 % level)"
        );
    }

    #[test]
    fn one_seed_shows_nothing_and_one_setting_compares_nothing() {
        let single = Detectable::of(trials(2, 1), None, false).unwrap();
        assert_eq!((single.seeds, single.in_sd, single.accuracy), (1, None, None));
        assert!(single.sentence().starts_with("1 seed per setting: "));
        assert_eq!(Detectable::of(trials(1, 2), Some(300), false), None);
    }
}
