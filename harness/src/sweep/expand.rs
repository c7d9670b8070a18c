//! Expands a sweep into its trials: combinations or draws, solved, validated and labelled.

use super::draw::{MAX_TRIALS, Points, place_in};
use super::{Part, Reading, Sweep, Trial, Tune};
use crate::config::{
    ConfigError, ConfigErrors, Idle, Problem, Setting, TrialConfig, any_idle, config_of, differing, idle,
    plain, set, setting_key,
};
use crate::track::counted;
use rayon::prelude::*;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Draws per wanted trial after which drawing gives up.
const PATIENCE: u64 = 100;

/// Failed draws after which drawing gives up.
const MAX_MISSES: u64 = 1_000_000;

/// Fewest draws that are made in one parallel batch.
const DRAWN_TOGETHER: u64 = 64;

/// The settings of one trial that override the base.
pub(super) type Point = Vec<Setting>;

/// Every trial of a sweep, tuning candidates before those of the study; or all errors in any of them.
pub fn trials(sweep: &Sweep) -> Result<Vec<Trial>, ConfigErrors> {
    let one = |error| ConfigErrors { errors: vec![error] };
    let base = base(sweep).map_err(one)?;
    let points = points(sweep, &base).map_err(one)?;
    let (mut errors, trials) = all(&points, |point| trial(sweep, &base, point));
    if may_be_the_same(&points, &trials) {
        errors.errors.extend(same_settings(sweep, &points, &trials));
    }
    let trials: Vec<Trial> = trials.into_iter().map(|(_, trial)| trial).collect();
    match &sweep.tune {
        // Errors in the study are the same in its candidates.
        Some(tune) if errors.errors.is_empty() => tuned(sweep, tune, &base, &points, trials),
        _ => errors.or(trials),
    }
}

/// The trials of valid points, each with the index of its point, and all errors in the others.
fn all<P: Sync + AsRef<[Setting]>>(
    points: &[P],
    make: impl Fn(&P) -> Result<Trial, Vec<ConfigError>> + Sync + Send,
) -> (ConfigErrors, Vec<(usize, Trial)>) {
    let mut problems = Problems { total: points.len(), found: Vec::new(), index: BTreeMap::new() };
    let mut trials = Vec::new();
    let made: Vec<_> = points.par_iter().map(make).collect();
    for (index, made) in made.into_iter().enumerate() {
        match made {
            Ok(trial) => trials.push((index, trial)),
            Err(found) => problems.note(index, found),
        }
    }
    (problems.report(points), trials)
}

/// A tuning candidate before its trial is made.
struct Candidate {
    point: Point,
    /// Name of the group that it is for.
    of: String,
    /// Index of its value.
    value: usize,
    rung: usize,
}

impl AsRef<[Setting]> for Candidate {
    fn as_ref(&self) -> &[Setting] {
        &self.point
    }
}

/// The candidates of a tuned sweep, then the trials of the study, which take the chosen values.
fn tuned(
    sweep: &Sweep,
    tune: &Tune,
    base: &TrialConfig,
    points: &[Point],
    mut trials: Vec<Trial>,
) -> Result<Vec<Trial>, ConfigErrors> {
    let mut errors = ConfigErrors::default();
    errors.errors.extend(tune.check_seeds(trials.iter().map(|trial| trial.config.seed)));
    errors.errors.extend(trials.iter().find_map(|trial| tune.problem(&trial.config)));
    let (mut candidates, mut seen) = (Vec::new(), HashSet::new());
    for (point, trial) in points.iter().zip(&mut trials) {
        let of = label(tune.group(point));
        let tuning = tune.tuning(of.clone());
        trial.keys.push((tune.key.clone(), Value::Null));
        trial.part = Some(Part::Tuned { tuning, chosen: None });
        if seen.insert(of.clone()) {
            let found = tune.candidates(point).into_iter();
            candidates.extend(found.map(|(point, value, rung)| Candidate {
                point,
                of: of.clone(),
                value,
                rung,
            }));
        }
    }
    let total = candidates.len() + trials.len();
    if total as u64 > MAX_TRIALS {
        let problem = format!("makes {total} trials with those of the study, expected at most {MAX_TRIALS}");
        errors.push(ConfigError::new(&tune.place, "tune", problem));
        return Err(errors);
    }
    let (found, made) = all(&candidates, |candidate| self::candidate(sweep, tune, base, candidate));
    errors.errors.extend(found.errors);
    errors.or(made.into_iter().map(|(_, trial)| trial).chain(trials).collect())
}

fn candidate(
    sweep: &Sweep,
    tune: &Tune,
    base: &TrialConfig,
    candidate: &Candidate,
) -> Result<Trial, Vec<ConfigError>> {
    let Candidate { point, of, value, rung } = candidate;
    let mut trial = trial(sweep, base, point)?;
    let mut idle = idle(&trial.config).into_iter();
    if let Some(idle) = idle.find(|idle| idle.key == tune.key && idle.is_whole()) {
        let problem = format!("has no effect, as {}; expected a key to tune that has one", idle.why);
        return Err(vec![ConfigError::new(&tune.key_place, &tune.key, problem)]);
    }
    let mut config = TrialConfig::clone(&trial.config);
    if let Some((key, value)) = tune.shorten(&mut config, *rung) {
        trial.keys.retain(|(known, _)| *known != key);
        trial.keys.push((key, value));
        let problems = config.validate();
        if !problems.is_empty() {
            // The trial itself is valid: it is too short now, for example for its warm-up.
            let of_rung = |mut error: ConfigError| {
                error.problem +=
                    &format!("; rung {} of {} trains a part of the length only", rung + 1, tune.rung_count());
                error
            };
            return Err(problems
                .into_iter()
                .map(|problem| of_rung(locate_error(sweep, point, problem)))
                .collect());
        }
        trial.config = config.into();
    }
    trial.part = Some(Part::Candidate { tuning: tune.tuning(of.clone()), value: *value, rung: *rung });
    Ok(trial)
}

/// Whether two trials may be the same setting: only if two points are equal or a swept key has no effect.
fn may_be_the_same(points: &[Point], trials: &[(usize, Trial)]) -> bool {
    let has_idle = |(index, trial): &(usize, Trial)| {
        any_idle(&trial.config, points[*index].iter().map(|setting| setting.key.as_str()))
    };
    let labels: Vec<String> = points.par_iter().map(label).collect();
    let mut seen = HashSet::new();
    !labels.iter().all(|label| seen.insert(label)) || trials.par_iter().any(has_idle)
}

/// Errors about trials that are the same because the keys in which they differ have no effect: one per key and reason.
fn same_settings(sweep: &Sweep, points: &[Point], trials: &[(usize, Trial)]) -> Vec<ConfigError> {
    let mut first: HashMap<String, &(usize, Trial)> = HashMap::new();
    let mut found: BTreeMap<(String, Arc<str>), (ConfigError, usize)> = BTreeMap::new();
    let settings: Vec<String> = trials.par_iter().map(|(_, trial)| setting_key(&trial.config)).collect();
    for (trial, setting) in trials.iter().zip(settings) {
        let earlier = *first.entry(setting).or_insert(trial);
        if earlier.0 == trial.0 {
            continue;
        }
        let idle: Vec<Idle> = [earlier, trial].into_iter().flat_map(|(_, t)| idle(&t.config)).collect();
        let described = |(index, _): &(usize, Trial)| format!("{} ({})", index + 1, label(&points[*index]));
        let pair = format!("trials {} and {} are one setting", described(earlier), described(trial));
        let differing = differing(&earlier.1.config, &trial.1.config);
        let reason = |key: &str| idle.iter().find(|idle| idle.key == key).map(|idle| idle.why.clone());
        let mut reasons: Vec<_> =
            differing.into_iter().filter_map(|key| Some((key.to_string(), reason(key)?))).collect();
        if reasons.is_empty() {
            reasons.push((String::new(), "".into()));
        }
        for (key, why) in reasons {
            let error = || match key.as_str() {
                "" => ConfigError::new(&sweep.file, "", format!("{pair}, expected each once")),
                _ => locate_error(
                    sweep,
                    &points[trial.0],
                    Problem::new(&key, format!("has no effect, as {why}: {pair}")),
                ),
            };
            found.entry((key.clone(), why.clone())).or_insert_with(|| (error(), 0)).1 += 1;
        }
    }
    let whole = |(mut error, pairs): (ConfigError, usize)| {
        if pairs > 1 {
            error.problem += &format!(", and {}", counted(pairs - 1, "more pair"));
        }
        if !error.key.is_empty() {
            error.problem += "; vary it only where it has one, with [[zip]] or [[exclude]]";
        }
        error
    };
    found.into_values().map(whole).collect()
}

/// Whether a key may affect which files a trial reads.
fn is_about_files(key: &str) -> bool {
    ["data.", "tokenizer.", "exam."].iter().any(|start| key.starts_with(start)) || key.ends_with(".enabled")
}

/// The configurations that differ in the files that they read, each with the places of its keys.
pub fn readings(sweep: &Sweep) -> Vec<Reading> {
    let on_axes = sweep.axes.iter().flat_map(|axis| axis.keys.iter().map(|(key, _)| key));
    let drawn = sweep.sample.iter().flat_map(|sample| sample.keys.iter().map(|key| &key.key));
    let varies = on_axes.chain(drawn).any(|key| is_about_files(key));
    let all = || points(sweep, &base(sweep)?);
    let points = if varies { all().unwrap_or_default() } else { vec![vec![]] };
    let mut seen = HashSet::new();
    let mut found = vec![];
    for point in points {
        let point: Point = point.into_iter().filter(|setting| is_about_files(&setting.key)).collect();
        if !seen.insert(label(&point)) {
            continue;
        }
        let Ok(config) = config_of(tree(sweep, &point)) else { continue };
        let mut places = sweep.base.places.clone();
        places.extend(point.into_iter().map(|setting| (setting.key, setting.place)));
        found.push(Reading { config, places });
    }
    found
}

/// The point of each trial, in order: the first axis changes slowest.
fn points(sweep: &Sweep, base: &TrialConfig) -> Result<Vec<Point>, ConfigError> {
    let points = match &sweep.sample {
        None => combinations(sweep)?,
        Some(sample) => draws(sweep, sample, base)?,
    };
    if points.is_empty() {
        return Err(ConfigError::new(&sweep.file, "exclude", "leaves no trial, expected at least one"));
    }
    Ok(points)
}

fn combinations(sweep: &Sweep) -> Result<Vec<Point>, ConfigError> {
    let sizes = sweep.axes.iter().map(|axis| axis.points.len() as u64);
    let total = sizes.fold(1, u64::saturating_mul);
    if total > MAX_TRIALS {
        let problem = format!("makes {total} combinations, expected at most {MAX_TRIALS}; use [sample]");
        return Err(ConfigError::new(&sweep.file, "axes", problem));
    }
    let mut points: Vec<Point> = vec![Vec::new()];
    for axis in &sweep.axes {
        let extended = |point: &Point| {
            let point = point.clone();
            axis.points.iter().map(move |turn| point.iter().chain(turn).cloned().collect::<Point>())
        };
        points = points.iter().flat_map(extended).collect();
    }
    Ok(points.into_par_iter().filter(|point| !is_excluded(sweep, point)).collect())
}

fn draws(sweep: &Sweep, sample: &super::Sample, base: &TrialConfig) -> Result<Vec<Point>, ConfigError> {
    let dimensions = sweep.axes.len() + sample.keys.len();
    let mut random = Points::new(sample.method, sample.seed, dimensions);
    let setting = |point: &Point| match config(base, point) {
        Ok(config) if config.validate().is_empty() => Some(setting_key(&config)),
        // Errors are reported later; or the configuration is complete only after solving.
        _ => None,
    };
    let draw = |place: Vec<f64>, seen: &HashSet<String>| {
        let (on_axes, drawn) = place.split_at(sweep.axes.len());
        let turn = |(axis, &u): (&super::Axis, &f64)| axis.points[place_in(u, axis.points.len())].clone();
        let mut point: Point = sweep.axes.iter().zip(on_axes).flat_map(turn).collect();
        point.extend(sample.keys.iter().zip(drawn).map(|(key, &u)| key.at(u)));
        let label = label(&point);
        let is_new = !seen.contains(&label) && !is_excluded(sweep, &point);
        is_new.then(|| (label, setting(&point), point))
    };
    let (mut points, mut seen) = (Vec::new(), HashSet::new());
    // Draws that differ only in keys without effect are the same setting.
    let mut settings = HashSet::new();
    let tries = (PATIENCE * sample.count).min(sample.count + MAX_MISSES);
    let mut left = tries;
    while left > 0 {
        let together = (sample.count - points.len() as u64).max(DRAWN_TOGETHER).min(left);
        left -= together;
        let places: Vec<Vec<f64>> = (0..together).map(|_| random.next_point()).collect();
        let drawn: Vec<_> = places.into_par_iter().map(|place| draw(place, &seen)).collect();
        for (label, setting, point) in drawn.into_iter().flatten() {
            if seen.insert(label) && setting.is_none_or(|setting| settings.insert(setting)) {
                points.push(point);
            }
            if points.len() as u64 == sample.count {
                return Ok(points);
            }
        }
    }
    let problem = format!(
        "is {}, but {tries} draws gave {} different trials only; expected fewer trials or wider ranges",
        sample.count,
        points.len()
    );
    Err(ConfigError::new(&sample.place, "sample.count", problem))
}

fn is_excluded(sweep: &Sweep, point: &Point) -> bool {
    !sweep.exclude.is_empty() && {
        let tree = tree(sweep, point);
        sweep.exclude.iter().any(|exclude| exclude.matches(&tree))
    }
}

fn tree(sweep: &Sweep, point: &Point) -> Value {
    let mut tree = sweep.base.tree.clone();
    // A tuned key has its first value until one is chosen.
    for setting in sweep.tune.iter().filter_map(|tune| tune.values.first()).chain(point) {
        set(&mut tree, &setting.key, setting.value.clone());
    }
    tree
}

/// The configuration that all trials share.
fn base(sweep: &Sweep) -> Result<TrialConfig, ConfigError> {
    config_of(tree(sweep, &vec![]))
}

/// The configuration of a trial before it is solved.
fn config(base: &TrialConfig, point: &Point) -> Result<TrialConfig, ConfigError> {
    let mut config = base.clone();
    for Setting { key, value, .. } in point {
        config.set(key, value.clone()).map_err(|error| ConfigError::new("", "", error.to_string()))?;
    }
    Ok(config)
}

fn trial(sweep: &Sweep, base: &TrialConfig, point: &Point) -> Result<Trial, Vec<ConfigError>> {
    let mut config = config(base, point).map_err(|error| vec![error])?;
    let placed = |problems: Vec<Problem>| -> Vec<ConfigError> {
        problems.into_iter().map(|problem| locate_error(sweep, point, problem)).collect()
    };
    let mut keys: Vec<_> = point.iter().map(|s| (s.key.clone(), s.value.clone())).collect();
    let mut problems = Vec::new();
    // Sizes out of range cannot be counted; validation reports them.
    let solved =
        if sweep.solve.is_empty() || config.out_of_range().is_empty() { &sweep.solve[..] } else { &[] };
    for solve in solved {
        if !solve.is_shape() && config.model.validate().is_err() {
            continue;
        }
        match solve.apply(&mut config) {
            Ok(value) => keys.push((solve.key.clone(), value)),
            Err(problem) => problems.push(ConfigError::new(&solve.place, &solve.key, problem)),
        }
    }
    if problems.is_empty() {
        problems = placed(config.validate());
    }
    match problems.is_empty() {
        true => Ok(Trial { sweep: sweep.name.clone(), config: config.into(), keys, part: None }),
        false => Err(problems),
    }
}

/// The error at the place where its key, or a key of its table, or one of the keys that it conflicts with was last set.
fn locate_error(sweep: &Sweep, point: &Point, problem: Problem) -> ConfigError {
    let place_of = |key: &str| {
        let solved = sweep.solve.iter().find(|solve| solve.key == key).map(|solve| &solve.place);
        let is_in = |inner: &str| inner.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
        let varied = point.iter().find(|setting| setting.key == key || is_in(&setting.key));
        let varied = varied.map(|setting| &setting.place);
        let tuned = sweep.tune.iter().find(|tune| tune.key == key).map(|tune| &tune.key_place);
        solved.or(varied).or(tuned).or(sweep.base.places.get(key))
    };
    let place = problem.place(place_of).unwrap_or(&sweep.file);
    ConfigError::new(place, &problem.key, &problem.problem)
}

/// The settings of a point as text: `seed = 1, model.n_layers = 4`.
fn label<'a>(point: impl IntoIterator<Item = &'a Setting>) -> String {
    let parts = point.into_iter().map(|s| format!("{} = {}", s.key, plain(&s.value)));
    parts.collect::<Vec<String>>().join(", ")
}

/// Problems of trials; equal ones are merged.
struct Problems {
    total: usize,
    /// Each problem, the index of the first trial that has it, and the number of trials that do.
    found: Vec<(ConfigError, usize, usize)>,
    index: BTreeMap<String, usize>,
}

impl Problems {
    fn note(&mut self, trial: usize, problems: Vec<ConfigError>) {
        for problem in problems {
            let next = self.found.len();
            let index = *self.index.entry(problem.to_string()).or_insert(next);
            match self.found.get_mut(index) {
                Some(known) => known.2 += 1,
                None => self.found.push((problem, trial, 1)),
            }
        }
    }

    /// The errors; one that concerns only some trials says which.
    fn report<P: AsRef<[Setting]>>(self, points: &[P]) -> ConfigErrors {
        let mut errors = ConfigErrors::default();
        for (mut error, first, trials) in self.found {
            if trials < self.total {
                let which = label(points[first].as_ref());
                error.problem += &match trials {
                    1 => format!(" (where {which})"),
                    _ => format!(" (in {trials} of {} trials, first where {which})", self.total),
                };
            }
            errors.push(error);
        }
        errors
    }
}
