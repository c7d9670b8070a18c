//! What a sweep can show, before anything runs: the smallest difference between two settings that its seeds are likely
//! to detect.

use crate::records::GUESSING;
use crate::stats::{Sureness, detectable_by_pairs, detectable_by_seeds};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// The minimal detectable differences of a sweep, with 80 % power at the 5 % level by Welch's t over seeds, or by the
/// paired t where all that is claimed is paired.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Detectable {
    /// Seeds of the setting that has fewest.
    pub seeds: usize,
    /// Whether seeds are paired.
    pub paired: bool,
    /// The smallest difference in standard deviations between seeds, or of the differences of pairs; `None` for a single
    /// seed.
    pub in_sd: Option<f64>,
    /// Questions of the exam; `None` where none is sat.
    pub questions: Option<u64>,
    /// The smallest difference of accuracies near guessing: of seeds that differ by the luck of their answers alone, and
    /// seeds differ by more.
    pub accuracy: Option<f64>,
}

impl Detectable {
    /// Of trials, each by its setting and seed, that sit an exam of so many questions; `None` where they are of one
    /// setting, so that nothing is compared.
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
        let with = |sd: f64| detectable(sd, seeds, Sureness::default()).ok();
        // The luck of both is in a difference.
        let sides = if paired { 2.0 } else { 1.0 };
        let luck = |questions: u64| (sides * GUESSING * (1.0 - GUESSING) / questions as f64).sqrt();
        let accuracy =
            questions.filter(|questions| *questions > 0).and_then(|questions| with(luck(questions)));
        Some(Self { seeds, paired, in_sd: with(1.0), questions, accuracy })
    }

    /// In a sentence.
    pub fn sentence(&self) -> String {
        let (Some(in_sd), seeds) = (self.in_sd, self.seeds) else {
            return "1 seed a setting: differences between settings cannot be distinguished from chance; add seeds"
                .into();
        };
        let exam = match (self.accuracy, self.questions) {
            (Some(accuracy), Some(questions)) => format!(
                "; of accuracy over {} at least {:.1} points",
                crate::track::counted(questions as usize, "question"),
                100.0 * accuracy
            ),
            _ => String::new(),
        };
        let (between, test) = match self.paired {
            true => ("of the differences of paired seeds", "paired t"),
            false => ("between seeds", "Welch's t"),
        };
        format!(
            "{seeds} seeds a setting detect differences from {in_sd:.1} standard deviations {between} on{exam} ({test}, \
             80 % power, 5 % level)"
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// `seeds` of each of `settings`.
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
            "5 seeds a setting detect differences from 2.0 standard deviations between seeds on; of accuracy over 300 \
             questions at least 5.1 points (Welch's t, 80 % power, 5 % level)"
        );
    }

    #[test]
    fn claims_that_are_paired_are_tested_by_pairs() {
        let found = Detectable::of(trials(2, 5), Some(300), true).unwrap();
        // By scipy.stats.nct: 4 degrees of freedom and a noncentrality of 1.6820 * sqrt(5) reject in 80 %; times
        // sqrt(2 * 0.1875 / 300).
        assert!((found.in_sd.unwrap() - 1.6820).abs() < 1e-4, "{:?}", found.in_sd);
        assert!((found.accuracy.unwrap() - 1.6820 * 0.0353553).abs() < 1e-4, "{:?}", found.accuracy);
        assert_eq!(
            found.sentence(),
            "5 seeds a setting detect differences from 1.7 standard deviations of the differences of paired seeds on; of \
             accuracy over 300 questions at least 5.9 points (paired t, 80 % power, 5 % level)"
        );
    }

    #[test]
    fn one_seed_shows_nothing_and_one_setting_compares_nothing() {
        let single = Detectable::of(trials(2, 1), None, false).unwrap();
        assert_eq!((single.seeds, single.in_sd, single.accuracy), (1, None, None));
        assert!(single.sentence().starts_with("1 seed a setting: "));
        assert_eq!(Detectable::of(trials(1, 2), Some(300), false), None);
    }
}
