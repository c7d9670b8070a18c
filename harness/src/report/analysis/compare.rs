//! Tests of claims: paired or independent samples of seeds, with Holm's correction within each family of claims.

use crate::records::Status;
use crate::report::columns::{Better, Column};
use crate::report::experiment::condition::Condition;
use crate::report::experiment::table_spec::CompareSpec;
use crate::report::number::p_text;
use crate::report::results::observation::{Cell, Observation, Results, distinct, grouped, per_seed};
use stats::{
    Estimate, Mean, PowerTarget, StatsError, benjamini_hochberg, detectable, hedges_g, hedges_g_of_pairs,
    holm, mean,
};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Significance level: a p below this decides.
const ALPHA: f64 = 0.05;

/// The result of a comparison. Shares are fractions of 1 here, not percent.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison<'a> {
    /// The comparison as specified in the experiment file.
    pub spec: &'a CompareSpec,
    /// `paired t`, `Welch t`, or `none` if no test is possible.
    pub test: &'static str,
    /// Number of seeds of each side; if paired, of the seeds that form pairs.
    pub n: (usize, usize),
    /// Number of values left out: they have no partner of the same seed and `paired_by`, or their seed lacks a setting of its side.
    pub unpaired: usize,
    /// Mean of each side over the values used; `None` if the sides cannot be compared.
    pub means: Option<(f64, f64)>,
    /// 95 % interval of `a - b` and two-sided p; `None` if no test is possible.
    pub tested: Option<Tested>,
    /// The conclusion about the claim.
    pub verdict: Verdict,
}

/// The numbers of a test of `a - b`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tested {
    /// 95 % interval of the difference, uncorrected.
    pub interval: (f64, f64),
    /// Two-sided p of the null hypothesis of no difference.
    pub p: f64,
    /// `p` after Holm's correction over all tested claims of its family.
    pub p_holm: f64,
    /// `p` after Benjamini and Hochberg's correction over the same claims; verdicts do not depend on it.
    pub p_bh: f64,
    /// Hedges' g with its 95 % interval; for pairs, in standard deviations of their differences.
    pub g: Option<Estimate>,
    /// The smallest difference that this test detects with 80 % power, given the observed variation between seeds.
    pub detectable: Option<f64>,
    /// p of the null hypothesis of no equivalence within the claim's margin; `None` without a margin.
    pub p_equivalence: Option<f64>,
    /// `p_equivalence` after Holm's correction over the claims of its family that have a margin.
    pub p_equivalence_holm: Option<f64>,
}

/// The conclusion about a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The difference is significant and in the claimed direction.
    Supported,
    /// The difference is significant and in the opposite direction.
    Contradicted,
    /// No significant difference, and one as large as the margin is ruled out.
    Equivalent,
    /// None of these, with the reason.
    NotDecided(String),
}

impl Verdict {
    /// The verdict in one or two words, for a table.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Supported => "supported",
            Self::Contradicted => "contradicted",
            Self::Equivalent => "equivalent",
            Self::NotDecided(_) => "not decided",
        }
    }
}

impl Comparison<'_> {
    /// Mean of `a` minus mean of `b`.
    pub fn effect(&self) -> Option<f64> {
        self.means.map(|(a, b)| a - b)
    }

    /// The verdict, with its reason if it is undecided, and the number of values left out.
    pub fn sentence(&self) -> String {
        let left_out = match self.unpaired {
            0 => String::new(),
            n => format!(" ({n} left out: without a partner, or of seeds that lack a setting)"),
        };
        match &self.verdict {
            Verdict::NotDecided(reason) => format!("not decided: {reason}{left_out}"),
            decided => format!("{}{left_out}", decided.word()),
        }
    }
}

/// Tests every claim of an experiment; p-values are corrected within the families that its claims name.
pub fn compare<'a>(specs: &'a [CompareSpec], results: &Results) -> Vec<Comparison<'a>> {
    let mut compared: Vec<Comparison> = specs.iter().map(|spec| compare_one(spec, results)).collect();
    let families: BTreeSet<Option<&str>> = specs.iter().map(|spec| spec.family.as_deref()).collect();
    for family in families {
        let mut own: Vec<&mut Comparison> = compared
            .iter_mut()
            .filter(|c| c.spec.family.as_deref() == family && c.tested.is_some())
            .collect();
        correct(&mut own, holm, |tested| Some(tested.p), |tested, p| tested.p_holm = p);
        correct(&mut own, benjamini_hochberg, |tested| Some(tested.p), |tested, p| tested.p_bh = p);
        correct(
            &mut own,
            holm,
            |tested| tested.p_equivalence,
            |tested, p| tested.p_equivalence_holm = Some(p),
        );
        let tests = own.len();
        own.iter_mut().for_each(|compared| compared.verdict = verdict(compared, tests));
    }
    compared
}

/// Corrects the p-values that `read` finds together, and stores the results with `write`.
fn correct(
    own: &mut [&mut Comparison],
    correction: fn(&[f64]) -> Vec<f64>,
    read: fn(&Tested) -> Option<f64>,
    write: fn(&mut Tested, f64),
) {
    let mut tested: Vec<&mut Tested> =
        own.iter_mut().filter_map(|c| c.tested.as_mut()).filter(|tested| read(tested).is_some()).collect();
    let p: Vec<f64> = tested.iter().filter_map(|tested| read(tested)).collect();
    tested.iter_mut().zip(correction(&p)).for_each(|(tested, p)| write(tested, p));
}

fn verdict(compared: &Comparison, tests: usize) -> Verdict {
    let (Some(tested), Some(effect)) = (compared.tested, compared.effect()) else {
        return compared.verdict.clone();
    };
    let is_different = tested.p < ALPHA && tested.p_holm < ALPHA;
    if !is_different && tested.p_equivalence_holm.is_some_and(|p| p < ALPHA) {
        return Verdict::Equivalent;
    }
    if tested.p >= ALPHA {
        return Verdict::NotDecided("interval covers 0".into());
    }
    if tested.p_holm >= ALPHA {
        let (p, holm) = (p_text(tested.p), p_text(tested.p_holm));
        return Verdict::NotDecided(format!(
            "Holm's correction over {tests} claims raises p from {p} to {holm}, not below {ALPHA}"
        ));
    }
    match (compared.spec.better, effect > 0.0) {
        (Better::Higher, true) | (Better::Lower, false) => Verdict::Supported,
        _ => Verdict::Contradicted,
    }
}

fn compare_one<'a>(spec: &'a CompareSpec, results: &Results) -> Comparison<'a> {
    let observations = results.observations(&spec.columns());
    let has_value = |o: &&Observation| spec.metric.number(o).is_some_and(f64::is_finite);
    let counted: Vec<&Observation> = observations.iter().filter(has_value).collect();
    let mut compared = Comparison {
        spec,
        test: "none",
        n: (0, 0),
        unpaired: 0,
        means: None,
        tested: None,
        verdict: Verdict::NotDecided(String::new()),
    };
    match test(&mut compared, &counted, results) {
        Ok((found, g)) => {
            compared.test = if spec.paired_by.is_empty() { "Welch t" } else { "paired t" };
            let (interval, p) = (found.interval(1.0 - ALPHA), found.test(0.0).p);
            let p_equivalence = spec.margin.and_then(|margin| Some(found.equivalence(margin, ALPHA).ok()?.p));
            compared.tested = Some(Tested {
                interval: (interval.low, interval.high),
                p,
                p_holm: p,
                p_bh: p,
                g,
                detectable: detectable(found.error, found.df, PowerTarget::default()).ok(),
                p_equivalence,
                p_equivalence_holm: p_equivalence,
            });
        }
        Err(reason) => compared.verdict = Verdict::NotDecided(reason),
    }
    compared
}

/// Fills in the counts and means of the sides; returns the difference and its effect size, or why no test is possible.
fn test(
    compared: &mut Comparison,
    observations: &[&Observation],
    results: &Results,
) -> Result<(Mean, Option<Estimate>), String> {
    let spec = compared.spec;
    let side = |condition: &Condition| -> Vec<&Observation> {
        distinct(&observations.iter().copied().filter(|o| condition.holds(o)).collect::<Vec<_>>())
    };
    let (a, b) = (side(&spec.a), side(&spec.b));
    for (name, side, condition) in [("a", &a, &spec.a), ("b", &b, &spec.b)] {
        if side.is_empty() {
            let metric = spec.metric.name();
            let none = || format!("no finished trial of {name} ({}) has {metric}", condition.text);
            return Err(unfinished(name, condition, results).unwrap_or_else(none));
        }
    }
    // Identities ignore sweeps, so overlaps across sweeps are found as well.
    let in_b: BTreeSet<_> = b.iter().map(|o| o.identity()).collect();
    let both = a.iter().filter(|o| in_b.contains(&o.identity())).count();
    if both > 0 {
        return Err(format!("a and b overlap: {both} results are on both sides"));
    }
    let found = if spec.paired_by.is_empty() {
        let values = |(side, lacking): (Vec<&Observation>, usize)| {
            (per_seed(&side, &spec.metric).into_values().collect::<Vec<f64>>(), lacking)
        };
        let ((a, without), (b, also_without)) = (values(complete_seeds(&a)), values(complete_seeds(&b)));
        compared.unpaired = without + also_without;
        compared.n = (a.len(), b.len());
        compared.means = Some((mean(&a), mean(&b)));
        let g = hedges_g(&a, &b, 1.0 - ALPHA).ok();
        Mean::of_difference(&a, &b).map(|mean| (mean, g))
    } else {
        let (pairs, unpaired) = seed_pairs(&a, &b, spec);
        (compared.n, compared.unpaired) = ((pairs.len(), pairs.len()), unpaired);
        let (a, b): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
        match pairs.len() {
            0 => return Err("no pairs: the sides share no seed with equal values of paired_by".into()),
            _ => compared.means = Some((mean(&a), mean(&b))),
        }
        let differences: Vec<f64> = pairs.iter().map(|(a, b)| a - b).collect();
        let g = hedges_g_of_pairs(&differences, 1.0 - ALPHA).ok();
        Mean::of_pairs(&a, &b).map(|mean| (mean, g))
    };
    found.map_err(|error| match error {
        StatsError::TooFew { n: n @ ..2, .. } => format!("too few seeds: n={n}"),
        StatsError::NoVariance => {
            "the values do not vary between seeds, so no interval can be computed".into()
        }
        other => other.to_string(),
    })
}

/// Message about a side of which no trial has finished, with the statuses of its trials; `None` if one has finished, or
/// if the side has no trials.
fn unfinished(name: &str, condition: &Condition, results: &Results) -> Option<String> {
    let planned = results.planned();
    let of_side = planned.iter().filter(|observation| condition.may_hold(observation));
    let of_side: BTreeMap<_, _> = of_side.map(|o| (o.trial.trial, o.trial.status)).collect();
    let count = |wanted: Status| of_side.values().filter(|status| **status == wanted).count();
    if of_side.is_empty() || count(Status::Done) > 0 {
        return None;
    }
    let stand = [
        (Status::Running, "running"),
        (Status::Failed, "failed"),
        (Status::Stopped, "stopped"),
        (Status::Pending, "pending"),
    ];
    let stand = stand.map(|(status, word)| (count(status), word)).into_iter().filter(|(n, _)| *n > 0);
    let stand: Vec<String> = stand.map(|(n, word)| format!("{n} {word}")).collect();
    Some(format!("no trial of {name} has finished ({})", stand.join(", ")))
}

/// Returns, for each seed, the means of `a` and `b` over all values of `paired_by` that both have, and the number of
/// values left out.
///
/// Pairs are formed within a seed and averaged over it: depths or subjects of one seed share its randomness, so they
/// can be matched but are not replications.
fn seed_pairs(a: &[&Observation], b: &[&Observation], spec: &CompareSpec) -> (Vec<(f64, f64)>, usize) {
    let matched: Vec<Column> =
        spec.paired_by.iter().copied().filter(|column| column.name() != "seed").collect();
    let mut lacking = 0;
    let mut values = |side: &[&Observation]| -> Vec<(u64, Vec<Option<Cell>>, f64)> {
        let of_group = |(key, group): (Vec<Option<Cell>>, Vec<&Observation>)| {
            let (group, without) = complete_seeds(&group);
            lacking += without;
            per_seed(&group, &spec.metric).into_iter().map(move |(seed, value)| (seed, key.clone(), value))
        };
        grouped(side, &matched).into_iter().flat_map(of_group).collect()
    };
    let (a, b) = (values(a), values(b));
    let mut seeds: BTreeMap<u64, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    let mut found = 0;
    for (seed, key, value) in &a {
        let Some((_, _, partner)) = b.iter().find(|(s, k, _)| (s, k) == (seed, key)) else { continue };
        let (own, other) = seeds.entry(*seed).or_default();
        own.push(*value);
        other.push(*partner);
        found += 1;
    }
    let pairs = seeds.into_values().map(|(a, b)| (mean(&a), mean(&b))).collect();
    (pairs, lacking + a.len() + b.len() - 2 * found)
}

/// Returns the observations of seeds that have all settings of their side, and the number of seeds that lack one: a mean
/// over other settings would be a different quantity.
fn complete_seeds<'a>(side: &[&'a Observation<'a>]) -> (Vec<&'a Observation<'a>>, usize) {
    let mut seeds: BTreeMap<u64, BTreeSet<Uuid>> = BTreeMap::new();
    for observation in side {
        seeds.entry(observation.trial.seed).or_default().insert(observation.trial.setting);
    }
    let settings = seeds.values().flatten().collect::<BTreeSet<_>>().len();
    let is_whole = |observation: &&Observation| seeds[&observation.trial.seed].len() == settings;
    let lacking = seeds.values().filter(|of_seed| of_seed.len() < settings).count();
    (side.iter().copied().filter(is_whole).collect(), lacking)
}
