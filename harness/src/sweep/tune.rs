//! `[tune]`: a key whose value is chosen for each setting before the study, on seeds that the study does not use.
//!
//! A grid, or successive halving (Karnin, Koren, Somekh 2013, "Almost optimal exploration in multi-armed bandits"): the
//! candidates of a rung are trained, and the best of them advance to the next rung, which is longer; each rung is a training
//! of its own, with a schedule of its own length. *Invariant:* candidates are ordinary trials, all known before anything
//! starts; which of them are run depends on validation losses alone.

use super::axis::columns;
use super::expand::Point;
use crate::config::{
    ConfigError, ConfigErrors, Entry, Node, Setting, TrainStage, Training, TrialConfig, did_you_mean,
    settings,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Default number of rungs of successive halving.
pub(super) const RUNGS: usize = 3;

/// Default share of values that advance to the next rung.
pub(super) const KEEP: f64 = 0.5;

/// Most rungs of successive halving.
pub(super) const MAX_RUNGS: u64 = 10;

/// The section as it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Tune {
    /// Where the section was written.
    pub place: String,
    /// The tuned key.
    pub key: String,
    /// Where the key was written.
    pub key_place: String,
    /// The candidate values.
    pub values: Vec<Setting>,
    /// The seeds of the candidates.
    pub seeds: Vec<u64>,
    /// Where the seeds were written.
    seeds_place: String,
    /// The stage whose validation loss decides.
    pub stage: TrainStage,
    /// Settings of the candidates that replace swept ones: settings of the study that differ only in these keys share a value.
    pub at: Vec<Setting>,
    /// Number of values that each rung tries; a grid has one rung.
    rungs: Vec<usize>,
    /// Share of values that advance to the next rung.
    keep: f64,
}

/// One tuning: the choice of one value, by its candidates and the procedure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tuning {
    /// The settings that it chooses for, such as `model.n_layers = 4`; empty if all settings share the value.
    pub of: String,
    /// The tuned key.
    pub key: String,
    /// The stage whose validation loss decides.
    pub stage: TrainStage,
    /// The candidate values.
    pub values: Vec<Value>,
    /// The seeds that each value is tried with.
    pub seeds: Vec<u64>,
    /// Number of values that each rung tries; a grid has one rung.
    pub rungs: Vec<usize>,
}

/// A trial's part in a tuning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// A candidate: it tries a value.
    Candidate {
        /// The tuning that it is a candidate of.
        tuning: Tuning,
        /// Index of its value.
        value: usize,
        /// Index of its rung.
        rung: usize,
    },
    /// A trial of the study: it takes the chosen value.
    Tuned {
        /// The tuning that chooses it.
        tuning: Tuning,
        /// Index of the chosen value; until then `None`, and the configuration has the first value.
        chosen: Option<usize>,
    },
}

impl Part {
    /// The tuning.
    pub fn tuning(&self) -> &Tuning {
        match self {
            Self::Candidate { tuning, .. } | Self::Tuned { tuning, .. } => tuning,
        }
    }

    /// Index of the value that a tuned trial takes; `None` until it is chosen, and for candidates.
    pub fn chosen(&self) -> Option<usize> {
        match self {
            Self::Candidate { .. } => None,
            Self::Tuned { chosen, .. } => *chosen,
        }
    }
}

impl Tuning {
    /// Whether it is successive halving, with several rungs.
    pub fn is_halving(&self) -> bool {
        self.rungs.len() > 1
    }

    /// Number of trainings of the tuning, eliminated candidates excluded.
    pub fn trials(&self) -> usize {
        self.rungs.iter().sum::<usize>() * self.seeds.len()
    }
}

impl Tune {
    /// The keys of the section other than the tuned one.
    const KEYS: [&str; 6] = ["seeds", "method", "rungs", "keep", "stage", "at"];

    /// Parses `[tune]`; `None` if there are errors in it.
    pub fn read(place: &str, entries: &[Entry], errors: &mut ConfigErrors) -> Option<Self> {
        let before = errors.errors.len();
        let (own, tuned): (Vec<_>, Vec<_>) =
            entries.iter().cloned().partition(|entry| Self::KEYS.contains(&entry.key.as_str()));
        let mut fail = |place: &str, key: &str, problem: String| {
            errors.push(ConfigError::new(place, format!("tune.{key}"), problem));
        };
        let mut seeds = None;
        let (mut is_halving, mut rungs, mut keep, mut stage) = (false, None, None, None);
        for Entry { key, place, node, .. } in &own {
            let mut wrong =
                |expected: &str| fail(place, key, format!("is {}, expected {expected}", node.shown));
            match key.as_str() {
                "seeds" => match seeds_of(node) {
                    Some(found) => seeds = Some((found, place.clone())),
                    None => wrong("a list of different seeds, such as [101]"),
                },
                "method" => match node.str() {
                    Some("grid") => {}
                    Some("halving") => is_halving = true,
                    _ => wrong("\"grid\" or \"halving\""),
                },
                "rungs" => match node.whole().filter(|rungs| (2..=MAX_RUNGS).contains(rungs)) {
                    Some(found) => rungs = Some((found as usize, place)),
                    None => wrong(&format!("a whole number from 2 to {MAX_RUNGS}")),
                },
                "keep" => match node.number().filter(|keep| 0.0 < *keep && *keep < 1.0) {
                    Some(found) => keep = Some((found, place)),
                    None => wrong("a share above 0 and below 1"),
                },
                "stage" => match node.str().and_then(TrainStage::named) {
                    Some(found) => stage = Some(found),
                    None => {
                        let names: Vec<&str> = TrainStage::all().map(TrainStage::name).collect();
                        wrong(&format!("one of {}", names.join(", ")));
                    }
                },
                _ => {}
            }
        }
        for (key, place) in [("rungs", rungs.map(|r| r.1)), ("keep", keep.map(|k| k.1))] {
            if let (Some(place), false) = (place, is_halving) {
                fail(place, key, "is for method = \"halving\" only".into());
            }
        }
        if !own.iter().any(|entry| entry.key == "seeds") {
            let problem = "missing, expected seeds that no trial of the study has, such as seeds = [101]";
            fail(place, "seeds", problem.into());
        }
        let at =
            own.iter().find(|entry| entry.key == "at").map(|entry| at(entry, errors)).unwrap_or_default();
        for entry in &tuned {
            let hint = did_you_mean(&entry.key, Self::KEYS);
            if !hint.is_empty() && entry.node.table().is_none() && !entry.key.contains('.') {
                errors.push(ConfigError::new(
                    &entry.place,
                    format!("tune.{}", entry.key),
                    format!("unknown key{hint}"),
                ));
                return None;
            }
        }
        let mut keys = columns(&tuned, errors);
        if errors.errors.len() > before {
            return None;
        }
        if keys.len() != 1 {
            let problem = format!(
                "has {} keys to tune, expected one with the values to try, such as \"pretrain.lr\" = [1e-3, 2e-3, 4e-3]",
                keys.len()
            );
            errors.push(ConfigError::new(place, "tune", problem));
            return None;
        }
        let (key, key_place, values) = keys.swap_remove(0);
        let is_new =
            |(index, value): (usize, &Setting)| !values[..index].iter().any(|v| v.value == value.value);
        let problem = match () {
            () if values.len() < 2 => Some("has one value, expected at least two to choose from"),
            () if !values.iter().enumerate().all(is_new) => Some("has a value twice, expected each once"),
            () if at.iter().any(|at| at.key == key) => Some("is in tune.at as well, expected it once"),
            () => None,
        };
        if let Some(problem) = problem {
            errors.push(ConfigError::new(key_place, key, problem));
            return None;
        }
        let section = key.split('.').next().and_then(TrainStage::named);
        let (seeds, seeds_place) = seeds?;
        let keep = keep.map_or(KEEP, |keep| keep.0);
        let most = if is_halving { rungs.map_or(RUNGS, |rungs| rungs.0) } else { 1 };
        // A rung with a single value would decide nothing.
        let next = |count: &usize| {
            Some((*count as f64 * keep).ceil() as usize).filter(|&next| 1 < next && next < *count)
        };
        Some(Self {
            place: place.into(),
            stage: stage.or(section).unwrap_or(TrainStage::Pretrain),
            rungs: std::iter::successors(Some(values.len()), next).take(most).collect(),
            key,
            key_place,
            values,
            seeds,
            seeds_place,
            at,
            keep,
        })
    }

    /// The settings that all candidates of a point share: those of the point except the seed and the keys in `at`. They name
    /// the group of trials that shares a tuned value.
    pub fn group<'a>(&'a self, point: &'a [Setting]) -> impl Iterator<Item = &'a Setting> + Clone {
        let is_own =
            |setting: &&Setting| setting.key != "seed" && self.at.iter().all(|at| at.key != setting.key);
        point.iter().filter(is_own)
    }

    /// The tuning of a group; `of` is the group's name.
    pub fn tuning(&self, of: String) -> Tuning {
        Tuning {
            of,
            key: self.key.clone(),
            stage: self.stage,
            values: self.values.iter().map(|setting| setting.value.clone()).collect(),
            seeds: self.seeds.clone(),
            rungs: self.rungs.clone(),
        }
    }

    /// The points of a group's candidates, each with the index of its value and of its rung.
    pub fn candidates(&self, point: &[Setting]) -> Vec<(Point, usize, usize)> {
        let base: Point = self.group(point).chain(&self.at).cloned().collect();
        let mut found = Vec::new();
        for rung in 0..self.rungs.len() {
            for (place, value) in self.values.iter().enumerate() {
                for &seed in &self.seeds {
                    let seed =
                        Setting { key: "seed".into(), value: seed.into(), place: self.seeds_place.clone() };
                    found.push((base.iter().cloned().chain([value.clone(), seed]).collect(), place, rung));
                }
            }
        }
        found
    }

    /// Number of rungs; a grid has one.
    pub fn rung_count(&self) -> usize {
        self.rungs.len()
    }

    /// Shortens the training of a candidate to the length of its rung; returns the changed key and its value, if any.
    pub fn shorten(&self, config: &mut TrialConfig, rung: usize) -> Option<(String, Value)> {
        let share = self.keep.powi((self.rungs.len() - 1 - rung) as i32);
        let (key, value) = shorten((self.stage.spec().training_mut)(config), share)?;
        Some((format!("{}.{key}", self.stage.name()), value))
    }

    /// The error if the study uses a seed of the candidates.
    pub fn check_seeds(&self, seeds: impl Iterator<Item = u64>) -> Option<ConfigError> {
        let mut shared: Vec<u64> = seeds.filter(|seed| self.seeds.contains(seed)).collect();
        shared.sort_unstable();
        let seed = shared.first()?;
        let problem =
            format!("has {seed}, a seed of the study, expected seeds that no trial of the study has");
        Some(ConfigError::new(&self.seeds_place, "tune.seeds", problem))
    }

    /// The error if the stage has no validation loss to decide by; `None` if it has one.
    pub fn problem(&self, config: &TrialConfig) -> Option<ConfigError> {
        let (stage, name) = (self.stage, self.stage.name());
        let why = if !stage.training(config).enabled {
            format!("{name}.enabled is false")
        } else if config.probe().is_none()
            && stage.val_files(&config.data).is_none()
            && config.data.val_share == 0.0
        {
            "data.val_share is 0".into()
        } else {
            return None;
        };
        let problem = format!("is chosen by the validation loss of {name}, and there is none, as {why}");
        Some(ConfigError::new(&self.key_place, &self.key, problem))
    }
}

fn seeds_of(node: &Node) -> Option<Vec<u64>> {
    let seeds: Vec<u64> = node.array()?.iter().map(Node::whole).collect::<Option<_>>()?;
    let is_new = |(index, seed): (usize, &u64)| !seeds[..index].contains(seed);
    (!seeds.is_empty() && seeds.iter().enumerate().all(is_new)).then_some(seeds)
}

fn at(entry: &Entry, errors: &mut ConfigErrors) -> Vec<Setting> {
    let Some(entries) = entry.node.table() else {
        let problem = format!(
            "is {}, expected keys and their values, such as {{ \"pretrain.tokens\" = 1_000_000 }}",
            entry.node.shown
        );
        errors.push(ConfigError::new(&entry.place, "tune.at", problem));
        return Vec::new();
    };
    let at = settings(entries, errors);
    if let Some(seed) = at.iter().find(|setting| setting.key == "seed") {
        errors.push(ConfigError::new(&seed.place, "tune.at", "has the seed, expected it in tune.seeds"));
    }
    at
}

/// Shortens a training to a share of its steps, operations, tokens or epochs, whichever determines its length.
///
/// Its warm-up stays as it is. Whether the rest is long enough is checked here for steps, and when the training starts for other
/// lengths, since their steps depend on the data.
fn shorten(training: &mut Training, share: f64) -> Option<(&'static str, Value)> {
    if share == 1.0 {
        return None;
    }
    // Six digits, like drawn numbers.
    let of = |number: f64| format!("{:.5e}", number * share).parse().unwrap_or(number * share);
    let whole = |number: u64| ((number as f64 * share).round() as u64).max(1);
    Some(if let Some(steps) = &mut training.steps {
        *steps = whole(*steps);
        ("steps", (*steps).into())
    } else if let Some(flops) = &mut training.flops {
        *flops = of(*flops);
        ("flops", (*flops).into())
    } else if let Some(tokens) = &mut training.tokens {
        *tokens = whole(*tokens);
        ("tokens", (*tokens).into())
    } else {
        training.epochs = of(training.epochs);
        ("epochs", training.epochs.into())
    })
}
