//! Results of tuning candidates: which of them are to be run, and which value the tuned trials take.
//!
//! *Invariant:* a choice follows from the manifests of the candidates alone, so that it is the same on every machine and
//! however often the sweep was interrupted.

use super::graph::Participation;
use crate::config::plain;
use crate::runs::manifest::{Manifest, RunStatus};
use crate::sweep::{Part, Trial, Tuning};
use std::collections::BTreeMap;
use std::path::Path;
use uuid::Uuid;

/// The progress of a tuning.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// The values that are tried on this rung.
    Trying {
        /// Index of the rung.
        rung: usize,
        /// Indices of the values.
        values: Vec<usize>,
    },
    /// Index of the chosen value.
    Chosen(usize),
    /// No value of this rung finished training.
    Lost {
        /// Index of the rung.
        rung: usize,
        /// Why one of them did not.
        reason: String,
    },
}

/// A tuning of the plan.
#[derive(Debug, Clone)]
pub struct PlannedTuning {
    /// Name of its sweep.
    pub sweep: String,
    /// The tuned key, its values and the procedure.
    pub tuning: Tuning,
    /// Indices of its candidate trials.
    pub candidates: Vec<usize>,
    /// Indices of the trials that take the chosen value.
    pub tuned: Vec<usize>,
    /// Its progress.
    pub standing: Standing,
    /// The result of each candidate, in the order of `candidates`.
    pub tried: Vec<CandidateResult>,
}

/// The result of a candidate.
#[derive(Debug, Clone, PartialEq)]
pub enum CandidateResult {
    /// It is not trained yet.
    Open,
    /// Its training failed for this reason, and would fail again.
    Lost(String),
    /// Its validation loss.
    Loss(f64),
}

impl CandidateResult {
    /// Reads the result from the folder of a candidate's last stage run.
    pub fn read(dir: &Path, uuid: Uuid) -> Self {
        let manifest = Manifest::read(dir).ok().flatten().filter(|manifest| manifest.uuid == uuid);
        let Some(manifest) = manifest else { return Self::Open };
        match (manifest.status, manifest.results.val_loss) {
            (RunStatus::Done, Some(loss)) if loss.is_finite() => Self::Loss(loss),
            (RunStatus::Done, _) => Self::Lost("there is no validation loss; see data.val_share".into()),
            (RunStatus::Failed, _) if !manifest.cut_off => {
                Self::Lost(manifest.reason.unwrap_or_else(|| "it failed".into()))
            }
            _ => Self::Open,
        }
    }
}

/// The progress of a tuning; `tried` returns the results of a rung and a value, one per seed.
///
/// On each rung the values with the lowest mean loss advance, in case of ties the first ones; a value that failed with one
/// seed is eliminated.
pub fn standing<'a>(tuning: &Tuning, tried: impl Fn(usize, usize) -> &'a [CandidateResult]) -> Standing {
    let mut values: Vec<usize> = (0..tuning.values.len()).collect();
    for rung in 0..tuning.rungs.len() {
        let (mut means, mut reason) = (Vec::new(), None);
        for &value in &values {
            let (mut sum, mut count, mut is_lost) = (0.0, 0, false);
            for one in tried(rung, value) {
                match one {
                    CandidateResult::Open => return Standing::Trying { rung, values },
                    CandidateResult::Lost(why) => {
                        is_lost = true;
                        reason.get_or_insert(why);
                    }
                    CandidateResult::Loss(loss) => (sum, count) = (sum + loss, count + 1),
                }
            }
            if count == 0 && !is_lost {
                return Standing::Trying { rung, values };
            }
            if !is_lost {
                means.push((sum / f64::from(count), value));
            }
        }
        means.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let Some(&(_, best)) = means.first() else {
            return Standing::Lost { rung, reason: reason.cloned().unwrap_or_default() };
        };
        let Some(&next) = tuning.rungs.get(rung + 1) else { return Standing::Chosen(best) };
        values = means.iter().take(next).map(|mean| mean.1).collect();
        values.sort_unstable();
        if let [only] = values[..] {
            // The others failed: there is nothing left to compare.
            return Standing::Chosen(only);
        }
    }
    Standing::Trying { rung: 0, values }
}

/// The tunings of trials; `last` returns the folder and the name of a candidate's last stage run.
pub fn tunings<'a>(trials: &[Trial], last: impl Fn(usize) -> (&'a Path, Uuid)) -> Vec<PlannedTuning> {
    let mut found: Vec<PlannedTuning> = Vec::new();
    let mut places: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (index, trial) in trials.iter().enumerate() {
        let Some(part) = &trial.part else { continue };
        let place = *places.entry((&trial.sweep, &part.tuning().of)).or_insert_with(|| {
            found.push(PlannedTuning::new(&trial.sweep, part.tuning()));
            found.len() - 1
        });
        let planned = &mut found[place];
        match part {
            Part::Candidate { .. } => {
                let (dir, uuid) = last(index);
                planned.candidates.push(index);
                planned.tried.push(CandidateResult::read(dir, uuid));
            }
            Part::Tuned { .. } => planned.tuned.push(index),
        }
    }
    for planned in &mut found {
        let mut tried: BTreeMap<(usize, usize), Vec<CandidateResult>> = BTreeMap::new();
        for (&index, one) in planned.candidates.iter().zip(&planned.tried) {
            if let Some(Part::Candidate { value, rung, .. }) = trials[index].part {
                tried.entry((rung, value)).or_default().push(one.clone());
            }
        }
        let of = |rung, value| tried.get(&(rung, value)).map_or(&[][..], Vec::as_slice);
        planned.standing = standing(&planned.tuning, of);
    }
    found
}

impl PlannedTuning {
    fn new(sweep: &str, tuning: &Tuning) -> Self {
        Self {
            sweep: sweep.into(),
            tuning: tuning.clone(),
            candidates: Vec::new(),
            tuned: Vec::new(),
            standing: Standing::Trying { rung: 0, values: Vec::new() },
            tried: Vec::new(),
        }
    }

    /// Whether the candidate at index `place`, which tries this value on this rung, is to be run.
    pub fn participation(&self, place: usize, rung: usize, value: usize) -> Participation {
        match &self.standing {
            Standing::Trying { rung: now, values } if values.contains(&value) && rung >= *now => {
                match self.tried[place] {
                    CandidateResult::Lost(_) => Participation::Inactive,
                    _ if rung == *now => Participation::Active,
                    _ => Participation::Pending,
                }
            }
            _ => Participation::Inactive,
        }
    }

    /// Indices of the values in ascending order; values that are not numbers keep their order.
    fn in_order(&self) -> Vec<usize> {
        let mut places: Vec<usize> = (0..self.tuning.values.len()).collect();
        let number = |place: &usize| self.tuning.values[*place].as_f64().unwrap_or(0.0);
        places.sort_by(|a, b| number(a).total_cmp(&number(b)));
        places
    }

    /// A notice if the chosen value is the smallest or the largest one tried, since a better one may lie beyond.
    pub fn edge(&self) -> Option<String> {
        let Standing::Chosen(chosen) = self.standing else { return None };
        self.tuning.values[chosen].as_f64()?;
        let order = self.in_order();
        let which = match (order.first() == Some(&chosen), order.last() == Some(&chosen)) {
            (true, _) => "smallest",
            (_, true) => "largest",
            _ => return None,
        };
        Some(format!(
            "{} = {}{} is the {which} value that was tried; a better one may lie beyond",
            self.tuning.key,
            self.tuning.values[chosen],
            self.for_setting()
        ))
    }

    /// The setting that is tuned, for sentences: ` for model.n_layers = 4`; empty if there is only one.
    fn for_setting(&self) -> String {
        if self.tuning.of.is_empty() { String::new() } else { format!(" for {}", self.tuning.of) }
    }

    /// The progress in a sentence.
    pub fn sentence(&self) -> String {
        let Tuning { key, values, rungs, .. } = &self.tuning;
        let of = self.for_setting();
        match &self.standing {
            Standing::Trying { rung, values: left } => {
                let left: Vec<String> = left.iter().map(|&value| plain(&values[value])).collect();
                let rung = if rungs.len() > 1 {
                    format!("rung {} of {} ", rung + 1, rungs.len())
                } else {
                    String::new()
                };
                format!("tuning {key}{of}: {rung}tries {}", left.join(", "))
            }
            Standing::Chosen(value) => match self.edge() {
                Some(edge) => format!("tuned: {edge}"),
                None => format!("tuned: {key} = {}{of}", plain(&values[*value])),
            },
            Standing::Lost { .. } => self.problem().unwrap_or_default(),
        }
    }

    /// Why no value can be chosen; `None` if one is or may still be.
    pub fn problem(&self) -> Option<String> {
        let Standing::Lost { rung, reason } = &self.standing else { return None };
        let rung = if self.tuning.rungs.len() > 1 { format!(" on rung {}", rung + 1) } else { String::new() };
        let (key, of) = (&self.tuning.key, self.for_setting());
        Some(format!("{key} is not tuned{of}: no value finished training{rung}: {reason}"))
    }

    /// The share of the remaining values whose candidates are run on this rung; 1 for the current rung and earlier ones.
    pub fn chance(&self, rung: usize) -> f64 {
        match &self.standing {
            Standing::Trying { rung: now, values } if rung > *now => {
                self.tuning.rungs[rung] as f64 / values.len() as f64
            }
            _ => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tuning(values: usize, seeds: usize, rungs: &[usize]) -> Tuning {
        Tuning {
            of: "model.n_layers = 4".into(),
            key: "pretrain.lr".into(),
            stage: crate::config::TrainStage::Pretrain,
            values: (1..=values).map(|value| json!(value as f64 * 1e-3)).collect(),
            seeds: (101..).take(seeds).collect(),
            rungs: rungs.into(),
        }
    }

    /// The standing after these losses, by rung, value and seed; NaN is a failed training, infinity an open one.
    fn after(tuning: &Tuning, losses: &[&[&[f64]]]) -> Standing {
        let one = |&loss: &f64| match loss {
            loss if loss.is_nan() => CandidateResult::Lost("the loss is not finite".into()),
            loss if loss.is_infinite() => CandidateResult::Open,
            loss => CandidateResult::Loss(loss),
        };
        let tried: Vec<Vec<Vec<CandidateResult>>> = losses
            .iter()
            .map(|rung| rung.iter().map(|seeds| seeds.iter().map(one).collect()).collect())
            .collect();
        standing(tuning, |rung, value| tried.get(rung).map_or(&[][..], |rung| &rung[value][..]))
    }

    const OPEN: f64 = f64::INFINITY;
    const LOST: f64 = f64::NAN;

    #[test]
    fn a_grid_chooses_the_lowest_mean_over_seeds() {
        let grid = tuning(3, 2, &[3]);
        let trying = Standing::Trying { rung: 0, values: vec![0, 1, 2] };
        assert_eq!(after(&grid, &[&[&[1.0, 1.2], &[1.1, OPEN], &[1.3, 1.3]]]), trying);
        assert_eq!(after(&grid, &[&[&[1.0, 1.4], &[1.1, 1.2], &[1.3, 1.3]]]), Standing::Chosen(1));
        // The first of equal values wins; and one failed seed eliminates a value.
        assert_eq!(after(&grid, &[&[&[1.2, 1.2], &[1.2, 1.2], &[1.3, 1.3]]]), Standing::Chosen(0));
        assert_eq!(after(&grid, &[&[&[1.2, 1.2], &[0.1, LOST], &[1.3, 1.0]]]), Standing::Chosen(2));
        let reason = "the loss is not finite".to_string();
        let lost = Standing::Lost { rung: 0, reason };
        assert_eq!(after(&grid, &[&[&[LOST, 1.0], &[LOST, LOST], &[1.0, LOST]]]), lost);
    }

    #[test]
    fn halving_keeps_the_best_of_each_rung() {
        let halving = tuning(5, 1, &[5, 3, 2]);
        let first: &[&[f64]] = &[&[5.0], &[1.0], &[3.0], &[2.0], &[4.0]];
        assert_eq!(after(&halving, &[first]), Standing::Trying { rung: 1, values: vec![1, 2, 3] });
        // Eliminated values stay open on later rungs.
        let second: &[&[f64]] = &[&[OPEN], &[1.5], &[0.9], &[0.8], &[OPEN]];
        assert_eq!(after(&halving, &[first, second]), Standing::Trying { rung: 2, values: vec![2, 3] });
        let third: &[&[f64]] = &[&[OPEN], &[OPEN], &[0.7], &[0.75], &[OPEN]];
        assert_eq!(after(&halving, &[first, second, third]), Standing::Chosen(2));
        // If one value is left, it is chosen.
        let failing: &[&[f64]] = &[&[LOST], &[1.0], &[LOST], &[LOST], &[LOST]];
        assert_eq!(after(&halving, &[failing]), Standing::Chosen(1));
        let failing: &[&[f64]] = &[&[OPEN], &[LOST], &[LOST], &[LOST], &[OPEN]];
        assert!(matches!(after(&halving, &[first, failing]), Standing::Lost { rung: 1, .. }));
    }

    #[test]
    fn the_best_at_an_edge_is_reported() {
        let planned = |standing| PlannedTuning { standing, ..PlannedTuning::new("s", &tuning(3, 1, &[3])) };
        assert_eq!(planned(Standing::Chosen(1)).edge(), None);
        assert_eq!(
            planned(Standing::Chosen(1)).sentence(),
            "tuned: pretrain.lr = 0.002 for model.n_layers = 4"
        );
        assert_eq!(
            planned(Standing::Chosen(2)).sentence(),
            "tuned: pretrain.lr = 0.003 for model.n_layers = 4 is the largest value that was tried; a better one may lie beyond"
        );
        assert_eq!(planned(Standing::Chosen(0)).edge().map(|text| text.contains("smallest")), Some(true));
    }
}
