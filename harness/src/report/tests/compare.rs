//! Comparisons, from recorded trials to verdicts, checked against values of SciPy.

use super::*;
use crate::report::analysis::compare::{Comparison, Verdict, compare};
use crate::report::columns::{Better, Column};
use crate::report::experiment::condition::Condition;
use crate::report::experiment::table_spec::CompareSpec;
use crate::report::results::observation::Results;

fn spec(a: &str, b: &str, paired_by: &[&str]) -> CompareSpec {
    CompareSpec {
        claim: "c".into(),
        metric: Column::find("exam.accuracy").unwrap(),
        better: Better::Higher,
        a: Condition::parse(a).unwrap(),
        b: Condition::parse(b).unwrap(),
        paired_by: paired_by.iter().map(|name| Column::find(name).unwrap()).collect(),
        margin: None,
        family: None,
    }
}

/// Trials for seeds 1, 2, ... with these numbers of right answers out of 100, by number of layers.
fn trials(by_layers: &[(u64, &[u64])]) -> Vec<TrialRecord> {
    let of = |(n_layers, correct): &(u64, &[u64])| -> Vec<TrialRecord> {
        let seeds = correct.iter().enumerate();
        seeds.map(|(i, correct)| trial(i as u64 + 1, *n_layers, *correct, Status::Done)).collect()
    };
    by_layers.iter().flat_map(of).collect()
}

fn with<T>(trials: &[TrialRecord], specs: &[CompareSpec], read: impl Fn(&[Comparison]) -> T) -> T {
    read(&compare(specs, &Results::new(trials, &[])))
}

fn close(got: f64, want: f64) {
    assert!((got - want).abs() < 1e-6, "{got} instead of {want}");
}

#[test]
fn pairs_are_by_seed_and_several_trials_of_a_seed_are_averaged() {
    // Side b by seed: (20 + 24) / 2 = 22, (26 + 22) / 2 = 24, 27; differences of 8, 10 and 13 percentage points.
    let trials = trials(&[(8, &[30, 34, 40]), (2, &[20, 26, 27]), (4, &[24, 22, 27])]);
    let specs = [spec("model.n_layers == 8", "model.n_layers <= 4", &["seed"])];
    with(&trials, &specs, |found| {
        let c = &found[0];
        let tested = c.tested.unwrap();
        assert_eq!((c.test, c.n, c.unpaired), ("paired t", (3, 3), 0));
        close(c.effect().unwrap(), 31.0 / 300.0);
        // scipy.stats.ttest_rel([.30, .34, .40], [.22, .24, .27]): statistic 7.1118877.
        close(tested.p, 0.019_203_404);
        close(tested.interval.0, 0.040_817_239);
        assert_eq!(c.sentence(), "supported");
    });
}

#[test]
fn depths_and_subjects_match_but_do_not_multiply_seeds() {
    // Three seeds at two depths each, with and without experts: six differences, three seeds.
    let of = |experts: u64, by_layers: &[(u64, &[u64])]| -> Vec<TrialRecord> {
        let mut found = trials(by_layers);
        for trial in &mut found {
            trial.keys.push(("model.n_experts".into(), experts.into()));
            trial.setting = Uuid::from_u128(trial.setting.as_u128() + u128::from(100 * experts));
            trial.trial = Uuid::from_u128(trial.trial.as_u128() + u128::from(10_000 * experts));
        }
        found
    };
    let mut all = of(4, &[(2, &[30, 34, 40]), (4, &[34, 36, 46])]);
    all.extend(of(0, &[(2, &[20, 26, 27]), (4, &[22, 27, 26])]));
    let specs = [
        spec("model.n_experts == 4", "model.n_experts == 0", &["seed", "model.n_layers"]),
        spec("model.n_experts == 4", "model.n_experts == 0", &["model.n_layers"]),
    ];
    for spec in &specs {
        with(&all, std::slice::from_ref(spec), |found| {
            let (c, tested) = (&found[0], found[0].tested.unwrap());
            // Differences of 10 and 12, 8 and 9, 13 and 20 percentage points; means by seed 11, 8.5 and 16.5.
            // scipy.stats.ttest_rel([.32, .35, .43], [.21, .265, .265]): statistic 5.0784884.
            assert_eq!((c.n, c.unpaired, c.sentence().as_str()), ((3, 3), 0, "supported"));
            close(c.effect().unwrap(), 0.12);
            close(tested.p, 0.036_654_594);
        });
    }
    // One seed lacks one depth; its other depth still matches.
    all.pop();
    with(&all, &specs, |found| {
        assert_eq!((found[0].n, found[0].unpaired), ((3, 3), 1));
        close(found[0].effect().unwrap(), (0.11 + 0.085 + 0.13) / 3.0);
    });
}

#[test]
fn a_seed_that_lacks_a_setting_of_its_side_is_left_out_and_counted() {
    // 8 layers compared with the mean of 2 and 4. The third seed lacks 4 layers, so its mean would be that of 2 alone.
    let mut all = trials(&[(8, &[30, 34, 40]), (2, &[20, 26, 27]), (4, &[24, 30])]);
    for paired_by in [&["seed"][..], &[]] {
        let spec = spec("model.n_layers == 8", "model.n_layers <= 4", paired_by);
        with(&all, &[spec], |found| {
            assert_eq!(found[0].unpaired, if paired_by.is_empty() { 1 } else { 2 });
            let of_a = if paired_by.is_empty() { (30.0 + 34.0 + 40.0) / 3.0 } else { 32.0 };
            close(found[0].effect().unwrap(), (of_a - (22.0 + 28.0) / 2.0) / 100.0);
            assert!(found[0].sentence().contains("lack a setting"));
        });
    }
    all.push(trial(3, 4, 29, Status::Done));
    with(&all, &[spec("model.n_layers == 8", "model.n_layers <= 4", &["seed"])], |found| {
        assert_eq!((found[0].n, found[0].unpaired), ((3, 3), 0));
    });
}

#[test]
fn without_pairs_the_samples_are_independent() {
    let trials = trials(&[(8, &[30, 34, 40, 33]), (2, &[20, 26, 27])]);
    let specs = [spec("model.n_layers == 2", "model.n_layers == 8", &[])];
    with(&trials, &specs, |found| {
        let (c, tested) = (&found[0], found[0].tested.unwrap());
        assert_eq!((c.test, c.n), ("Welch t", (3, 4)));
        // scipy.stats.ttest_ind([.20, .26, .27], [.30, .34, .40, .33], equal_var=False).
        close(tested.p, 0.024_096_791);
        close(tested.interval.0, -0.178_470_442);
        // The claim was that a is higher.
        assert_eq!(c.verdict, Verdict::Contradicted);
    });
}

#[test]
fn holm_counts_the_claims_that_could_be_tested() {
    let trials = trials(&[(8, &[30, 34, 40]), (2, &[20, 26, 27]), (4, &[24, 22, 27])]);
    let specs = [
        spec("model.n_layers == 8", "model.n_layers <= 4", &["seed"]),
        spec("model.n_layers == 4", "model.n_layers == 2", &["seed"]),
        spec("model.n_layers == 8", "model.n_layers == 9", &["seed"]),
        spec("model.n_layers == 8", "model.n_layers <= 4", &["seed"]),
    ];
    with(&trials, &specs, |found| {
        close(found[0].tested.unwrap().p_holm, 3.0 * 0.019_203_404);
        close(found[0].tested.unwrap().p_bh, 1.5 * 0.019_203_404);
        assert_eq!(
            found[0].sentence(),
            "not decided: Holm's correction over 3 claims raises p from 0.019 to 0.058, not below 0.05"
        );
        assert_eq!(found[1].sentence(), "not decided: interval covers 0");
        assert_eq!(
            found[2].sentence(),
            "not decided: no finished trial of b (model.n_layers == 9) has exam_accuracy"
        );
    });
}

#[test]
fn a_side_without_a_finished_trial_says_how_its_trials_stand() {
    let mut trials = trials(&[(8, &[30, 34, 40]), (2, &[20, 26, 27])]);
    trials[..3].iter_mut().for_each(|trial| trial.status = Status::Failed);
    trials[2].status = Status::Pending;
    let specs = [spec("model.n_layers == 8", "model.n_layers == 2", &["seed"])];
    with(&trials, &specs, |found| {
        assert_eq!(found[0].sentence(), "not decided: no trial of a has finished (2 failed, 1 pending)");
    });
}

#[test]
fn families_are_corrected_apart() {
    let trials = trials(&[(8, &[30, 34, 40]), (2, &[20, 26, 27]), (4, &[24, 22, 27])]);
    let own = |family: &str| CompareSpec {
        family: Some(family.into()),
        ..spec("model.n_layers == 8", "model.n_layers <= 4", &["seed"])
    };
    with(&trials, &[own("depth"), own("width"), own("width")], |found| {
        close(found[0].tested.unwrap().p_holm, 0.019_203_404);
        close(found[1].tested.unwrap().p_holm, 2.0 * 0.019_203_404);
    });
}

#[test]
fn no_difference_is_found_within_a_margin() {
    let trials = trials(&[(8, &[300, 303, 301, 299]), (2, &[301, 302, 301, 301])]);
    let within = |margin: f64| CompareSpec {
        margin: Some(margin),
        ..spec("model.n_layers == 8", "model.n_layers == 2", &["seed"])
    };
    with(&trials, &[within(0.05), within(0.001)], |found| {
        // statsmodels: ttost_paired([3, 3.03, 3.01, 2.99], [3.01, 3.02, 3.01, 3.01], -0.05, 0.05): p = 0.003028424.
        let (wide, narrow) = (found[0].tested.unwrap(), found[1].tested.unwrap());
        close(wide.p_equivalence.unwrap(), 0.003_028_424);
        close(wide.p_equivalence_holm.unwrap(), 2.0 * 0.003_028_424);
        assert_eq!((&found[0].verdict, found[0].sentence().as_str()), (&Verdict::Equivalent, "equivalent"));
        assert!(narrow.p_equivalence.unwrap() > 0.3);
        assert_eq!(found[1].sentence(), "not decided: interval covers 0");
        // Mean -0.005, standard deviation 0.0129099; the correction with 3 degrees of freedom is 0.7236013.
        close(wide.g.unwrap().value, -0.005 / 0.012_909_944 * 0.723_601_3);
    });
}

#[test]
fn what_cannot_be_tested_is_not() {
    let sentence = |by_layers: &[(u64, &[u64])], paired_by: &[&str]| {
        let specs = [spec("model.n_layers == 8", "model.n_layers <= 4", paired_by)];
        with(&trials(by_layers), &specs, |found| {
            assert_eq!(found[0].tested, None);
            found[0].sentence()
        })
    };
    assert_eq!(sentence(&[(8, &[30]), (2, &[20])], &["seed"]), "not decided: too few seeds: n=1");
    assert_eq!(sentence(&[(8, &[30]), (2, &[20])], &[]), "not decided: too few seeds: n=1");
    assert_eq!(sentence(&[(8, &[30, 31, 33]), (2, &[20])], &[]), "not decided: too few seeds: n=1");
    assert_eq!(
        sentence(&[(8, &[30, 31, 33]), (2, &[20])], &["seed"]),
        "not decided: too few seeds: n=1 (2 left out: without a partner, or of seeds that lack a setting)"
    );
    assert_eq!(
        sentence(&[(8, &[30, 40]), (2, &[20, 30])], &["seed"]),
        "not decided: the values do not vary between seeds, so no interval can be computed"
    );
    assert_eq!(
        sentence(&[(8, &[30, 40]), (2, &[20, 30])], &["model.n_layers"]),
        "not decided: no pairs: the sides share no seed with equal values of paired_by (4 left out: without a partner, or of seeds that lack a setting)"
    );
    let overlap = [spec("model.n_layers >= 2", "model.n_layers <= 4", &["seed"])];
    with(&trials(&[(8, &[30, 40]), (2, &[20, 30])]), &overlap, |found| {
        assert_eq!(found[0].sentence(), "not decided: a and b overlap: 2 results are on both sides");
    });
}
