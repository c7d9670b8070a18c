//! What judgements come to. The unit is the prompt: judgements of one prompt are not independent of each other.

use super::judge::{Judgement, UNREADABLE, Verdict};
use crate::stats::{Mean, StatsError, holm, sign_flip, wilson_of_share};
use serde::Serialize;
use std::collections::BTreeMap;

/// The level of intervals, and one minus that of tests.
const LEVEL: f64 = 0.95;

/// What a judge said of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    /// The judge.
    pub judge: String,
    /// The seed of the order of its questions.
    pub seed: u64,
    /// Judgements that were to be made: every two answers to a prompt in both orders.
    pub planned: usize,
    /// Judgements with a verdict.
    pub valid: usize,
    /// Replies without one.
    pub unreadable: usize,
    /// Judgements that got no reply.
    pub failed: usize,
    /// Judgements that were not asked for, since the work was stopped or the judge failed too often.
    pub not_asked: usize,
    /// Pairs of answers with a verdict in both orders, on which everything below rests.
    pub pairs_in_both_orders: usize,
    /// How often both orders have the same winner, or neither one.
    pub agreement: Option<Share>,
    /// How often the first answer wins, ties counting half: 0.5 without a liking for a place.
    pub first_wins: Option<Share>,
    /// How often each model wins against the others, ties counting half; an answer wins where it does in both orders,
    /// and else it is a tie.
    pub win_rates: Vec<Option<Share>>,
    /// Every two models.
    pub pairs: Vec<Pair>,
    /// Why there is no verdict, with how often.
    pub problems: BTreeMap<String, usize>,
    /// Every judgement, in the order that was drawn.
    pub judgements: Vec<Judgement>,
}

/// A share over prompts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Share {
    /// The share.
    pub value: f64,
    /// The 95 % interval, where there are several prompts.
    pub interval: Option<(f64, f64)>,
    /// Prompts that it rests on.
    pub prompts: usize,
}

/// Two models against each other. The numbers are places, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pair {
    /// The one.
    pub a: usize,
    /// The other.
    pub b: usize,
    /// Prompts on which `a` wins in both orders.
    pub wins: usize,
    /// Prompts on which neither does.
    pub ties: usize,
    /// Prompts on which `b` wins in both orders.
    pub losses: usize,
    /// How often `a` wins, ties counting half.
    pub win_rate: Option<Share>,
    /// The sign-flip test that both win equally often, corrected by Holm over all pairs; `None` where there are too few
    /// prompts for it.
    pub p: Option<f64>,
}

/// Both judgements of two answers, as scores of the first model: 1 where it wins, 0 where it loses.
struct Both {
    prompt: usize,
    models: [usize; 2],
    /// Where its answer came first.
    ahead: f64,
    /// Where its answer came second.
    behind: f64,
}

impl Both {
    fn agrees(&self) -> bool {
        self.ahead == self.behind
    }

    /// The score of the first model: what both orders say, or a tie (Zheng et al. 2023, section 3.4).
    fn outcome(&self) -> f64 {
        if self.agrees() { self.ahead } else { 0.5 }
    }

    /// The same for either of both models.
    fn outcome_of(&self, model: usize) -> Option<f64> {
        let [a, b] = self.models;
        if model == a { Some(self.outcome()) } else { (model == b).then(|| 1.0 - self.outcome()) }
    }
}

impl Judged {
    pub(super) fn new(judge: &str, seed: u64, models: usize, judgements: Vec<Judgement>) -> Self {
        let both = both(&judgements);
        let share_of =
            |value: fn(&Both) -> f64| share(&both.iter().map(|b| (b.prompt, value(b))).collect::<Vec<_>>());
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
            first_wins: share_of(|both| (both.ahead + 1.0 - both.behind) / 2.0),
            win_rates: (0..models).map(|model| share(&outcomes(&both, model))).collect(),
            pairs: pairs(&both, models),
            problems,
            judgements,
        }
    }

    /// The share of the other answers to its prompt that each answer was better than, by prompt and model.
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

/// The outcomes of a model, each with its prompt.
fn outcomes(both: &[Both], model: usize) -> Vec<(usize, f64)> {
    both.iter().filter_map(|both| Some((both.prompt, both.outcome_of(model)?))).collect()
}

/// Pairs of answers that were judged in both orders, by prompt and models.
fn both(judgements: &[Judgement]) -> Vec<Both> {
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
    let found = found.filter_map(|(&(prompt, first, second), &ahead)| {
        let behind = 1.0 - scores.get(&(prompt, second, first))?;
        Some(Both { prompt, models: [first, second], ahead, behind })
    });
    found.collect()
}

fn pairs(both: &[Both], models: usize) -> Vec<Pair> {
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

/// A mean of values from 0 to 1 with the interval of Student's t over prompts; where all are equal, Wilson's of so many
/// prompts.
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
