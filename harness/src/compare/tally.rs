//! Statistics of judgements. The unit is the prompt: judgements of one prompt are not independent of each other.

use super::judge::{Judgement, UNREADABLE, Verdict};
use serde::Serialize;
use stats::{Mean, StatsError, holm, sign_flip, wilson_of_share};
use std::collections::BTreeMap;

/// Confidence level of intervals; tests use a significance level of one minus it.
const LEVEL: f64 = 0.95;

/// Verdicts of a judge on a comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    /// Name of the judging model.
    pub judge: String,
    /// Seed of the order of the judgements.
    pub seed: u64,
    /// Number of planned judgements: every pair of answers to a prompt in both orders.
    pub planned: usize,
    /// Number of judgements with a verdict.
    pub valid: usize,
    /// Number of replies without a verdict.
    pub unreadable: usize,
    /// Number of judgements without a reply.
    pub failed: usize,
    /// Number of judgements that were not asked for, because of a request to stop or too many failures.
    pub not_asked: usize,
    /// Number of pairs of answers with a verdict in both orders, on which everything below is based.
    pub pairs_in_both_orders: usize,
    /// How often both orders have the same winner, or both a tie.
    pub agreement: Option<Share>,
    /// How often the first answer wins, ties counting half: 0.5 without position bias.
    pub first_wins: Option<Share>,
    /// Win rate of each model against the others, ties counting half; an answer wins if it does so in both orders,
    /// otherwise it is a tie.
    pub win_rates: Vec<Option<Share>>,
    /// Every pair of models.
    pub pairs: Vec<Pair>,
    /// Reasons for missing verdicts, with their counts.
    pub problems: BTreeMap<String, usize>,
    /// Every judgement, in the order drawn.
    pub judgements: Vec<Judgement>,
}

/// A share averaged over prompts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    /// Value from 0 to 1.
    pub value: f64,
    /// 95 % interval; `None` if there are too few prompts.
    pub interval: Option<(f64, f64)>,
    /// Number of prompts that it is based on.
    pub prompts: usize,
}

/// Two models compared with each other; numbers are indices from 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pair {
    /// Index of the first model.
    pub a: usize,
    /// Index of the second model.
    pub b: usize,
    /// Number of prompts on which `a` wins in both orders.
    pub wins: usize,
    /// Number of prompts on which neither does.
    pub ties: usize,
    /// Number of prompts on which `b` wins in both orders.
    pub losses: usize,
    /// How often `a` wins, ties counting half.
    pub win_rate: Option<Share>,
    /// p-value of the sign-flip test that both win equally often, with Holm's correction over all pairs; `None` if
    /// there are too few prompts.
    pub p: Option<f64>,
}

/// Both judgements of two answers, as scores of the first model: 1 if it wins, 0.5 for a tie, 0 if it loses.
struct JudgedPair {
    prompt: usize,
    models: [usize; 2],
    /// Score when its answer came first.
    score_first: f64,
    /// Score when its answer came second.
    score_second: f64,
}

impl JudgedPair {
    fn agrees(&self) -> bool {
        self.score_first == self.score_second
    }

    /// Returns the score of the first model: that of both orders if they agree, otherwise a tie (Zheng et al. 2023,
    /// section 3.4).
    fn outcome(&self) -> f64 {
        if self.agrees() { self.score_first } else { 0.5 }
    }

    /// Returns the score of either of the two models; `None` for any other model.
    fn outcome_of(&self, model: usize) -> Option<f64> {
        let [a, b] = self.models;
        if model == a { Some(self.outcome()) } else { (model == b).then(|| 1.0 - self.outcome()) }
    }
}

impl Judged {
    pub(super) fn new(judge: &str, seed: u64, models: usize, judgements: Vec<Judgement>) -> Self {
        let both = both(&judgements);
        let share_of = |value: fn(&JudgedPair) -> f64| {
            share(&both.iter().map(|b| (b.prompt, value(b))).collect::<Vec<_>>())
        };
        let mut problems = BTreeMap::new();
        for problem in judgements.iter().filter_map(|judgement| judgement.problem.as_ref()) {
            *problems.entry(problem.clone()).or_insert(0) += 1;
        }
        let valid = judgements.iter().filter(|judgement| judgement.verdict.is_some()).count();
        let unreadable = problems.get(UNREADABLE).copied().unwrap_or(0);
        let failed = problems.values().sum::<usize>() - unreadable;
        Self {
            judge: judge.into(),
            seed,
            planned: judgements.len(),
            valid,
            unreadable,
            failed,
            not_asked: judgements.len() - valid - unreadable - failed,
            pairs_in_both_orders: both.len(),
            agreement: share_of(|both| f64::from(u8::from(both.agrees()))),
            first_wins: share_of(|both| (both.score_first + 1.0 - both.score_second) / 2.0),
            win_rates: (0..models).map(|model| share(&outcomes(&both, model))).collect(),
            pairs: pairs(&both, models),
            problems,
            judgements,
        }
    }

    /// Returns the fraction of the other answers to its prompt that each answer was better than, by prompt and model.
    pub(super) fn scores(&self) -> BTreeMap<(usize, usize), f64> {
        let mut found: BTreeMap<(usize, usize), (f64, f64)> = BTreeMap::new();
        for both in both(&self.judgements) {
            for (model, outcome) in both.models.into_iter().zip([both.outcome(), 1.0 - both.outcome()]) {
                let (sum, count) = found.entry((both.prompt, model)).or_default();
                (*sum, *count) = (*sum + outcome, *count + 1.0);
            }
        }
        found.into_iter().map(|(place, (sum, count))| (place, sum / count)).collect()
    }
}

/// Returns the scores of a model, each with its prompt.
fn outcomes(both: &[JudgedPair], model: usize) -> Vec<(usize, f64)> {
    both.iter().filter_map(|both| Some((both.prompt, both.outcome_of(model)?))).collect()
}

/// Returns the pairs of answers judged in both orders, by prompt and models.
fn both(judgements: &[Judgement]) -> Vec<JudgedPair> {
    let score = |judgement: &Judgement| match judgement.verdict? {
        Verdict::First => Some(1.0),
        Verdict::Tie => Some(0.5),
        Verdict::Second => Some(0.0),
    };
    let scores: BTreeMap<(usize, usize, usize), f64> = judgements
        .iter()
        .filter_map(|judgement| {
            Some(((judgement.prompt, judgement.first, judgement.second), score(judgement)?))
        })
        .collect();
    let found = scores.iter().filter(|((_, first, second), _)| first < second);
    let found = found.filter_map(|(&(prompt, first, second), &score_first)| {
        let score_second = 1.0 - scores.get(&(prompt, second, first))?;
        Some(JudgedPair { prompt, models: [first, second], score_first, score_second })
    });
    found.collect()
}

fn pairs(both: &[JudgedPair], models: usize) -> Vec<Pair> {
    let mut found = vec![];
    for a in 0..models {
        for b in a + 1..models {
            let mine = both.iter().filter(|both| both.models == [a, b]);
            let outcomes: Vec<(usize, f64)> = mine.map(|both| (both.prompt, both.outcome())).collect();
            let count = |score: f64| outcomes.iter().filter(|(_, outcome)| *outcome == score).count();
            let differences: Vec<f64> = outcomes.iter().map(|(_, outcome)| outcome - 0.5).collect();
            let p = sign_flip(&differences, 1.0 - LEVEL).ok().map(|test| test.p);
            let (wins, ties, losses) = (count(1.0), count(0.5), count(0.0));
            found.push(Pair { a, b, wins, ties, losses, win_rate: share(&outcomes), p });
        }
    }
    let tested: Vec<f64> = found.iter().filter_map(|pair| pair.p).collect();
    let mut corrected = holm(&tested).into_iter();
    for p in found.iter_mut().filter_map(|pair| pair.p.as_mut()) {
        *p = corrected.next().unwrap_or(*p);
    }
    found
}

/// Averages values from 0 to 1, with the interval of Student's t over prompts; if all values are equal, with Wilson's
/// interval for the number of prompts.
fn share(values: &[(usize, f64)]) -> Option<Share> {
    let (clusters, values): (Vec<usize>, Vec<f64>) = values.iter().copied().unzip();
    if values.is_empty() {
        return None;
    }
    let value = values.iter().sum::<f64>() / values.len() as f64;
    let mut prompts = clusters.clone();
    prompts.sort_unstable();
    prompts.dedup();
    let prompts = prompts.len();
    let interval = match Mean::of_clusters(&values, &clusters) {
        Ok(mean) => {
            let found = mean.interval(LEVEL);
            Some((found.low.max(0.0), found.high.min(1.0)))
        }
        Err(StatsError::NoVariance) => Some(wilson_of_share(value, prompts as u64, LEVEL)),
        Err(_) => None,
    };
    Some(Share { value, interval, prompts })
}
