//! For tests: the designs that reports use, simulated thousands of times with a fixed seed. Intervals by t and by variance
//! components cover the truth in 93 to 97 % of them, exact methods in at least 95 %; no test rejects a true null hypothesis
//! more often than its level allows. Designs in which a method fails are refused, and the coverage that it would have had
//! is recorded here.
#![allow(clippy::unwrap_used)]

use super::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Binomial, Distribution, StandardNormal};

/// Number of experiments of each design: the standard error of a coverage of 95 % is 0.35 %.
const TRIALS: usize = 4_000;

/// Share of experiments in which `holds` is true; those in which it is `None` do not count.
fn share<T: Into<Option<bool>>>(
    seed: u64,
    trials: usize,
    mut holds: impl FnMut(&mut ChaCha8Rng) -> T,
) -> f64 {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let outcomes: Vec<bool> = (0..trials).filter_map(|_| holds(&mut random).into()).collect();
    assert!(outcomes.len() > trials * 9 / 10);
    outcomes.iter().filter(|holds| **holds).count() as f64 / outcomes.len() as f64
}

fn covers(name: &str, share: f64) {
    assert!((0.93..=0.97).contains(&share), "{name}: covers {share}");
}

/// Asserts that the share of rejections is at most the level plus two and a half standard errors of the simulation.
fn keeps_level(name: &str, level: f64, rejected: f64) {
    let error = (level * (1.0 - level) / TRIALS as f64).sqrt();
    assert!(rejected <= level + 2.5 * error, "{name}: rejects {rejected} at {level}");
}

fn normal(random: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(random)
}

fn normals(random: &mut ChaCha8Rng, n: usize, sd: f64) -> Vec<f64> {
    (0..n).map(|_| sd * normal(random)).collect()
}

/// A uniform random number of variance `sd^2`, within `sqrt(3) sd` of 0.
fn uniform(random: &mut ChaCha8Rng, sd: f64) -> f64 {
    3f64.sqrt() * sd * random.random_range(-1.0..1.0)
}

/// Answers of seeds to questions, 1 if correct and 0 if wrong; half of them are correct on average.
fn answers(random: &mut ChaCha8Rng, seeds: usize, questions: &[f64], sd_seed: f64) -> Vec<Vec<f64>> {
    let row = |_| {
        let seed = 0.5 + sd_seed * normal(random);
        questions.iter().map(|q| f64::from(random.random_bool((seed + q).clamp(0.0, 1.0)))).collect()
    };
    (0..seeds).map(row).collect()
}

#[test]
fn t_over_seeds_covers_and_keeps_its_level() {
    for n in 2..=5 {
        // Accuracies in an exam as long as C-Eval's, which vary between seeds beyond binomial noise.
        let accuracies = |random: &mut ChaCha8Rng| -> Vec<f64> {
            let seed = |_| {
                let right = Binomial::new(1346, 0.4 + 0.02 * normal(random)).unwrap();
                right.sample(random) as f64 / 1346.0
            };
            (0..n).map(seed).collect()
        };
        let (mut rejected, mut rejected_pairs) = (0, 0);
        let covered = share(n as u64, TRIALS, |random| {
            let (a, b) = (accuracies(random), accuracies(random));
            let mean = Mean::of(&a);
            rejected += usize::from(Mean::of_difference(&a, &b).is_ok_and(|m| m.test(0.0).p <= 0.05));
            rejected_pairs += usize::from(Mean::of_pairs(&a, &b).is_ok_and(|m| m.test(0.0).p <= 0.05));
            let interval = mean.ok()?.interval(0.95);
            Some((interval.low..=interval.high).contains(&0.4))
        });
        covers(&format!("t of {n} seeds"), covered);
        keeps_level(&format!("Welch of {n} seeds"), 0.05, rejected as f64 / TRIALS as f64);
        keeps_level(&format!("paired t of {n} seeds"), 0.05, rejected_pairs as f64 / TRIALS as f64);
    }
}

#[test]
fn welch_of_uneven_samples_keeps_its_level() {
    // If the smaller sample varies more, a little above the level, as is known of Welch's test: up to 7 %.
    for (a, b, sd, most) in [(3, 5, 1.0, 0.05), (4, 5, 1.0, 0.05), (3, 4, 2.0, 0.07), (4, 5, 2.0, 0.06)] {
        let rejected = share(53, TRIALS, |random| {
            let (a, b) = (normals(random, a, sd), normals(random, b, 1.0));
            Mean::of_difference(&a, &b).unwrap().test(0.0).p <= 0.05
        });
        keeps_level(&format!("Welch of {a} and {b}"), most, rejected);
    }
    // Two against five would reject 6 % with equal variances and 10 % with unequal ones: refused.
    assert!(matches!(Mean::of_difference(&[0.0, 1.0], &[0.0, 1.0, 2.0]), Err(StatsError::TooFew { .. })));
}

#[test]
fn slopes_of_lines_cover() {
    for n in [3, 5, 12] {
        let covered = share(59, TRIALS, |random| {
            let points: Vec<(f64, f64)> = (0..n)
                .map(|i| {
                    let x = 1e5 * 2f64.powi(i);
                    (x, 30.0 * x.powf(-0.2) * (0.05 * normal(random)).exp())
                })
                .collect();
            let b = fit(FitKind::Power, &points, 0.95).unwrap().b;
            b.low <= -0.2 && b.high >= -0.2
        });
        covers(&format!("a power law through {n}"), covered);
    }
}

#[test]
fn seeds_and_questions_crossed_cover() {
    // Standard deviations between seeds and between questions, in addition to the noise of single answers.
    for (seeds, questions, sd_seed, sd_question) in
        [(4, 52, 0.05, 0.2), (4, 300, 0.05, 0.1), (5, 52, 0.02, 0.2), (5, 100, 0.1, 0.1), (5, 300, 0.0, 0.2)]
    {
        let covered = share(7, TRIALS / 2, |random| {
            let of_questions: Vec<f64> = (0..questions).map(|_| uniform(random, sd_question)).collect();
            let table = answers(random, seeds, &of_questions, sd_seed);
            let interval = Components::of(&table).unwrap().mean().unwrap().interval(0.95);
            (interval.low..=interval.high).contains(&0.5)
        });
        covers(&format!("{seeds} x {questions}, {sd_seed}, {sd_question}"), covered);
    }
}

#[test]
fn seeds_and_subjects_crossed_cover() {
    // Subject means are nearly normal: 4 to 52 subjects.
    for (seeds, subjects, sd_seed, sd_subject) in [
        (4, 4, 0.5, 0.5),
        (4, 8, 0.7, 0.5),
        (4, 52, 0.3, 1.0),
        (5, 4, 0.3, 0.7),
        (5, 12, 0.2, 0.4),
        (5, 52, 0.3, 0.5),
    ] {
        let covered = share(11, TRIALS, |random| {
            let of_subjects = normals(random, subjects, sd_subject);
            let row = |_| -> Vec<f64> {
                let seed = sd_seed * normal(random);
                of_subjects.iter().map(|subject| subject + seed + 0.3 * normal(random)).collect()
            };
            let table: Vec<Vec<f64>> = (0..seeds).map(row).collect();
            let interval = Components::of(&table).unwrap().mean().unwrap().interval(0.95);
            interval.low <= 0.0 && interval.high >= 0.0
        });
        covers(&format!("{seeds} x {subjects} subjects, {sd_seed}, {sd_subject}"), covered);
    }
}

/// If single answers are nearly all that varies, the variance of what is specific to each setting is estimated as 0 or
/// above, never below, which makes the interval of a difference wider than necessary: coverage up to 98 %.
#[test]
fn crossed_differences_cover() {
    for (a, b, questions, sd_seed, sd_model) in
        [(3, 3, 52, 0.05, 0.15), (3, 3, 300, 0.05, 0.4), (5, 5, 52, 0.1, 0.4), (5, 4, 300, 0.02, 0.1)]
    {
        let is_wide = sd_model < 0.2;
        let covered = share(13, TRIALS / 2, |random| {
            let hard: Vec<f64> = (0..questions).map(|_| uniform(random, 0.1)).collect();
            let mut own = || -> Vec<f64> {
                let of_model = hard.iter().map(|hard| hard * 0.5 + uniform(random, sd_model) * 0.5);
                let of_model: Vec<f64> = of_model.collect();
                of_model
            };
            let (questions_a, questions_b) = (own(), own());
            let a = answers(random, a, &questions_a, sd_seed);
            let b = answers(random, b, &questions_b, sd_seed);
            let interval = crossed_difference(&a, &b).unwrap().interval(0.95);
            interval.low <= 0.0 && interval.high >= 0.0
        });
        match is_wide {
            true => assert!((0.93..0.985).contains(&covered), "{a} and {b} x {questions}: {covered}"),
            false => covers(&format!("{a} and {b} x {questions}"), covered),
        }
    }
}

#[test]
fn three_seeds_crossed_are_refused_as_they_fail() {
    // Coverage of Satterthwaite's degrees of freedom with three seeds that differ strongly, by the formula itself.
    let covered = share(17, TRIALS, |random| {
        let (seeds, questions) = (normals(random, 3, 1.0), normals(random, 200, 5.0));
        let of_seeds = Mean::of(&seeds).unwrap();
        let of_questions = Mean::of(&questions).unwrap();
        let (s, q) = (of_seeds.error.powi(2), of_questions.error.powi(2));
        let df = (s + q).powi(2) / (s * s / of_seeds.df + q * q / of_questions.df);
        let mean = Mean { value: of_seeds.value + of_questions.value, error: (s + q).sqrt(), df, n: 3 };
        let interval = mean.interval(0.95);
        interval.low <= 0.0 && interval.high >= 0.0
    });
    assert!(covered < 0.935, "{covered}");
    let table = vec![vec![0.0, 1.0, 0.0, 1.0, 1.0]; 3];
    assert!(matches!(Components::of(&table).unwrap().mean(), Err(StatsError::TooFew { .. })));
}

#[test]
fn subjects_as_clusters_cover() {
    // Cluster sizes of 15 to 37; those of C-Eval's validation sheets are 11 to 55.
    for subjects in [4, 8, 20, 52] {
        let sizes: Vec<usize> = (0..subjects).map(|i| 15 + i * 37 % 23).collect();
        let clusters: Vec<usize> = sizes.iter().enumerate().flat_map(|(i, n)| vec![i; *n]).collect();
        let covered = share(19 + subjects as u64, TRIALS / 2, |random| {
            let of_subjects: Vec<f64> = (0..subjects).map(|_| uniform(random, 0.1)).collect();
            let values: Vec<f64> =
                clusters.iter().map(|&c| f64::from(random.random_bool(0.4 + of_subjects[c]))).collect();
            let interval = Mean::of_clusters(&values, &clusters).unwrap().interval(0.95);
            (interval.low..=interval.high).contains(&0.4)
        });
        covers(&format!("{subjects} subjects"), covered);
    }
}

#[test]
fn bootstraps_cover_from_ten_units_on() {
    let draws = Draws { count: 600, seed: 1 };
    for subjects in [10, 20, 52] {
        let clusters: Vec<usize> = (0..subjects).flat_map(|i| vec![i; 8 + i * 5 % 7]).collect();
        let covered = share(23, TRIALS / 2, |random| {
            let of_subjects: Vec<f64> = (0..subjects).map(|_| uniform(random, 0.15)).collect();
            let values: Vec<f64> =
                clusters.iter().map(|&c| f64::from(random.random_bool(0.4 + of_subjects[c]))).collect();
            let interval = cluster_bootstrap(&values, &clusters, 0.95, draws).unwrap();
            (interval.low..=interval.high).contains(&0.4)
        });
        covers(&format!("cluster bootstrap of {subjects}"), covered);
    }
    let covered = share(29, TRIALS / 8, |random| {
        let (seeds, questions) = (normals(random, 10, 1.0), normals(random, 20, 1.0));
        let row = |s: &f64| -> Vec<f64> { questions.iter().map(|q| s + q + 0.5 * normal(random)).collect() };
        let table: Vec<Vec<f64>> = seeds.iter().map(row).collect();
        let interval = pigeonhole_bootstrap(&table, 0.95, draws).unwrap();
        interval.low <= 0.0 && interval.high >= 0.0
    });
    covers("pigeonhole bootstrap of 10 x 20", covered);
}

/// Exact coverage of an interval of a share.
fn coverage(n: u64, p: f64, interval: impl Fn(u64) -> (f64, f64)) -> f64 {
    use statrs::distribution::Discrete;
    let binomial = statrs::distribution::Binomial::new(p, n).unwrap();
    let holds = |k: &u64| {
        let (low, high) = interval(*k);
        low <= p && p <= high
    };
    (0..=n).filter(holds).map(|k| binomial.pmf(k)).sum()
}

#[test]
fn intervals_of_shares_cover() {
    let (mut sum, mut count) = (0.0, 0.0);
    for n in [4, 12, 26, 52, 300] {
        let exact: Vec<Estimate> = (0..=n).map(|k| clopper_pearson(k, n, 0.95).unwrap()).collect();
        for i in 1..40 {
            let p = f64::from(i) / 40.0;
            let covered = coverage(n, p, |k| (exact[k as usize].low, exact[k as usize].high));
            assert!(covered >= 0.95 - 1e-9, "Clopper-Pearson, {n}, {p}: {covered}");
            sum += coverage(n, p, |k| wilson95(k, n));
            count += 1.0;
        }
    }
    covers("Wilson on average", sum / count);
}

#[test]
fn paired_shares_cover_and_mcnemar_keeps_its_level() {
    for (n, only_a, only_b) in [(52, 0.15, 0.15), (300, 0.1, 0.1), (300, 0.2, 0.15)] {
        let mut rejected = 0;
        let covered = share(31, TRIALS, |random| {
            let (mut a, mut b) = (0, 0);
            for _ in 0..n {
                let u: f64 = random.random();
                a += u64::from(u < only_a);
                b += u64::from(u >= only_a && u < only_a + only_b);
            }
            rejected += usize::from(mcnemar(a, b).p <= 0.05);
            let found = difference_of_paired_shares(a, b, n, 0.95).unwrap();
            found.low <= only_a - only_b && found.high >= only_a - only_b
        });
        covers(&format!("paired shares of {n}"), covered);
        if only_a == only_b {
            keeps_level("McNemar", 0.05, rejected as f64 / TRIALS as f64);
        }
    }
    let covered = share(37, TRIALS, |random| {
        let mut right = |n, p| (0..n).filter(|_| random.random_bool(p)).count() as u64;
        let found = difference_of_shares((right(100, 0.3), 100), (right(60, 0.25), 60), 0.95).unwrap();
        found.low <= 0.05 && found.high >= 0.05
    });
    covers("independent shares", covered);
}

#[test]
fn randomisations_keep_their_level() {
    for n in [6, 8] {
        let rejected =
            share(41, TRIALS, |random| sign_flip(&normals(random, n, 1.0), 0.05).unwrap().p <= 0.05);
        keeps_level(&format!("sign-flip of {n}"), 0.05, rejected);
    }
    for n in [4, 5] {
        let rejected = share(43, TRIALS, |random| {
            let skewed = |random: &mut ChaCha8Rng| normals(random, n, 1.0).iter().map(|v| v.exp()).collect();
            let (a, b): (Vec<f64>, Vec<f64>) = (skewed(random), skewed(random));
            permutation(&a, &b, 0.05).unwrap().p <= 0.05
        });
        keeps_level(&format!("permutation of {n} and {n}"), 0.05, rejected);
    }
}

#[test]
fn equivalence_is_found_by_mistake_at_its_level() {
    // With the mean at the margin itself, equivalence is found no more often than the level.
    for n in [3, 5] {
        let found = share(47, TRIALS, |random| {
            let values: Vec<f64> = normals(random, n, 0.3).iter().map(|v| v + 1.0).collect();
            Mean::of(&values).unwrap().equivalence(1.0, 0.05).unwrap().p <= 0.05
        });
        keeps_level(&format!("equivalence of {n}"), 0.05, found);
    }
}
