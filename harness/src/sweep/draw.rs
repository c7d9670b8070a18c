//! `[sample]`: random or evenly spread draws instead of all combinations.

use crate::config::{
    ConfigError, ConfigErrors, Entry, KeySpec, Kind, Node, Setting, did_you_mean, find, leaves, not_a_key,
};
use rand::RngCore;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

/// Most trials of one sweep.
pub const MAX_TRIALS: u64 = 100_000;

/// How draws are distributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Independent of each other.
    Random,
    /// Spread evenly over the whole space: Halton's sequence (1960), shifted at random (Cranley & Patterson 1976).
    Halton,
}

/// `[sample]`: the number of draws, and the keys that are drawn in addition to the axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Number of different trials.
    pub count: u64,
    /// Seed of the draws.
    pub seed: u64,
    /// How the draws are distributed.
    pub method: Method,
    /// Keys that are drawn from ranges or choices.
    pub keys: Vec<Drawn>,
    /// Where the section was written.
    pub place: String,
}

/// A key that is drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawn {
    /// The key.
    pub key: String,
    /// Where it was written.
    pub place: String,
    /// The distribution of its values.
    pub from: Distribution,
    /// Whether the key takes whole numbers.
    whole: bool,
}

/// The distribution of a drawn key.
#[derive(Debug, Clone, PartialEq)]
pub enum Distribution {
    /// Uniform between two numbers.
    Uniform(f64, f64),
    /// Uniform in the logarithm, between two numbers.
    LogUniform(f64, f64),
    /// Uniform over whole numbers, both bounds included.
    IntUniform(u64, u64),
    /// Uniform over these settings.
    Choice(Vec<Setting>),
}

impl Drawn {
    /// The setting at `u`, a number in [0, 1).
    pub fn at(&self, u: f64) -> Setting {
        let number = |x: f64, low: f64, high: f64| match self.whole {
            true => Value::from(x.round() as u64),
            // Six digits: more would differ between math libraries, and so would the trial's name.
            false => Value::from(format!("{x:.5e}").parse().unwrap_or(x).clamp(low, high)),
        };
        let value = match &self.from {
            Distribution::Uniform(low, high) => number(low + u * (high - low), *low, *high),
            Distribution::LogUniform(low, high) => {
                number((low.ln() + u * (high.ln() - low.ln())).exp(), *low, *high)
            }
            Distribution::IntUniform(low, high) => {
                let whole = (low + (u * (high - low + 1) as f64) as u64).min(*high);
                if self.whole { whole.into() } else { (whole as f64).into() }
            }
            Distribution::Choice(settings) => return settings[place_in(u, settings.len())].clone(),
        };
        Setting { key: self.key.clone(), value, place: self.place.clone() }
    }
}

/// The index in `0..len` for `u` in [0, 1).
pub fn place_in(u: f64, len: usize) -> usize {
    ((u * len as f64) as usize).min(len.saturating_sub(1))
}

/// An endless sequence of points in `[0, 1)^dimensions`.
pub struct Points {
    random: ChaCha8Rng,
    method: Method,
    /// One random shift for each dimension.
    shifts: Vec<f64>,
    primes: Vec<u64>,
    index: u64,
}

impl Points {
    /// The sequence for a seed.
    pub fn new(method: Method, seed: u64, dimensions: usize) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let shifts = (0..dimensions).map(|_| fraction(&mut random)).collect();
        Self { random, method, shifts, primes: primes(dimensions), index: 0 }
    }

    /// The next point.
    pub fn next_point(&mut self) -> Vec<f64> {
        self.index += 1;
        match self.method {
            Method::Random => (0..self.shifts.len()).map(|_| fraction(&mut self.random)).collect(),
            Method::Halton => {
                let place = |(&prime, shift): (&u64, &f64)| (mirrored(self.index, prime) + shift).fract();
                self.primes.iter().zip(&self.shifts).map(place).collect()
            }
        }
    }
}

/// A random number in [0, 1) with 53 bits.
fn fraction(random: &mut ChaCha8Rng) -> f64 {
    (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The digits of `index` in a base, mirrored at the radix point: 6 = 110 in base 2 becomes 0.011.
fn mirrored(mut index: u64, base: u64) -> f64 {
    let (mut sum, mut digit) = (0.0, 1.0);
    while index > 0 {
        digit /= base as f64;
        sum += digit * (index % base) as f64;
        index /= base;
    }
    sum
}

fn primes(count: usize) -> Vec<u64> {
    let mut primes: Vec<u64> = Vec::with_capacity(count);
    let mut number = 2;
    while primes.len() < count {
        if primes.iter().all(|prime| number % prime != 0) {
            primes.push(number);
        }
        number += 1;
    }
    primes
}

/// Names of the distributions.
pub(super) const DISTRIBUTIONS: [&str; 4] = ["uniform", "log_uniform", "int_uniform", "choice"];

/// Parses `[sample]`.
pub fn read(place: &str, entries: &[Entry], errors: &mut ConfigErrors) -> Sample {
    let mut sample =
        Sample { count: 0, seed: 1, method: Method::Random, keys: Vec::new(), place: place.into() };
    let mut has_count = false;
    let (own, drawn): (Vec<_>, Vec<_>) =
        entries.iter().cloned().partition(|entry| match entry.key.as_str() {
            "count" | "method" => true,
            // A table under `seed` draws the trial's seed; a number seeds the draws.
            "seed" => entry.node.table().is_none(),
            _ => false,
        });
    for Entry { key, place, node, .. } in &own {
        let mut fail = |expected: &str| {
            let problem = format!("is {}, expected {expected}", node.shown);
            errors.push(ConfigError::new(place, format!("sample.{key}"), problem));
        };
        match key.as_str() {
            "count" => {
                has_count = true;
                match node.whole().filter(|count| (1..=MAX_TRIALS).contains(count)) {
                    Some(count) => sample.count = count,
                    None => fail(&format!("a number of trials from 1 to {MAX_TRIALS}")),
                }
            }
            "seed" => match node.whole() {
                Some(seed) => sample.seed = seed,
                None => fail("a whole number of 0 or more"),
            },
            _ => match node.str() {
                Some("random") => sample.method = Method::Random,
                Some("halton") => sample.method = Method::Halton,
                _ => fail("\"random\" or \"halton\""),
            },
        }
    }
    if !has_count {
        errors.push(ConfigError::new(place, "sample.count", "missing, expected the number of trials"));
    }
    for (key, place, node) in leaves(&drawn, errors) {
        match read_key(&key, &place, &node, errors) {
            Ok(drawn) => sample.keys.push(drawn),
            Err(Some(problem)) => errors.push(ConfigError::new(place, key, problem)),
            Err(None) => {}
        }
    }
    sample
}

/// Parses a drawn key; `Err(None)` if its errors are already in `errors`.
fn read_key(key: &str, place: &str, node: &Node, errors: &mut ConfigErrors) -> Result<Drawn, Option<String>> {
    let Some(spec) = find(key) else {
        let hint = did_you_mean(key, ["count", "seed", "method"]);
        return Err(Some(if hint.is_empty() { not_a_key(key) } else { format!("unknown key{hint}") }));
    };
    let expected = || format!("expected one of {} with its range or list", DISTRIBUTIONS.join(", "));
    let [Entry { key: kind, node: range, .. }] =
        node.table().ok_or_else(|| Some(format!("is {}, {}", node.shown, expected())))?
    else {
        return Err(Some(expected()));
    };
    if !DISTRIBUTIONS.contains(&kind.as_str()) {
        let hint = did_you_mean(kind, DISTRIBUTIONS);
        return Err(Some(format!("{kind} is unknown, {}{hint}", expected())));
    }
    let items = range.array().unwrap_or_default();
    let from = match kind.as_str() {
        "choice" => Distribution::Choice(choices(spec, items, errors)?),
        _ => numbers(kind, spec, range, items)?,
    };
    Ok(Drawn { key: key.into(), place: place.into(), from, whole: spec.kind == Kind::Whole })
}

fn choices(
    spec: &KeySpec,
    items: &[Node],
    errors: &mut ConfigErrors,
) -> Result<Vec<Setting>, Option<String>> {
    if items.is_empty() {
        return Err(Some("choice expected a list of values".into()));
    }
    let mut settings = Vec::new();
    for item in items {
        match spec.check(item) {
            Ok(value) => settings.push(Setting { key: spec.path.clone(), value, place: item.place.clone() }),
            Err(problem) => errors.push(ConfigError::new(&item.place, &spec.path, problem)),
        }
    }
    if settings.len() == items.len() { Ok(settings) } else { Err(None) }
}

fn numbers(kind: &str, spec: &KeySpec, range: &Node, items: &[Node]) -> Result<Distribution, Option<String>> {
    if !matches!(spec.kind, Kind::Whole | Kind::Number) {
        let problem = format!("{kind} draws numbers, but the key holds {}; use choice", spec.expected());
        return Err(Some(problem));
    }
    let wrong = |expected: &str| {
        Some(format!("{kind} is {}, expected {expected}, the smaller number first", range.shown))
    };
    let bounds = match items {
        [low, high] => (low, high),
        _ => return Err(wrong("[lowest, highest]")),
    };
    if kind == "int_uniform" {
        // Bounds that 53 random bits can cover.
        let bounds = (bounds.0.whole(), bounds.1.whole());
        return match bounds {
            (Some(low), Some(high)) if low < high && high < 1 << 53 => {
                Ok(Distribution::IntUniform(low, high))
            }
            _ => Err(wrong("[lowest, highest] of whole numbers")),
        };
    }
    let finite = |node: &Node| node.number().filter(|number| number.is_finite());
    let is_whole = spec.kind == Kind::Whole;
    match (kind, finite(bounds.0), finite(bounds.1)) {
        ("log_uniform", Some(low), Some(high)) if 0.0 < low && low < high => {
            Ok(Distribution::LogUniform(low, high))
        }
        ("log_uniform", _, _) => Err(wrong("[lowest, highest] above 0")),
        (_, Some(low), Some(high)) if low < high && (low >= 0.0 || !is_whole) => {
            Ok(Distribution::Uniform(low, high))
        }
        _ if is_whole => Err(wrong("[lowest, highest] of 0 or more")),
        _ => Err(wrong("[lowest, highest]")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(from: Distribution, whole: bool) -> Drawn {
        Drawn { key: "k".into(), place: String::new(), from, whole }
    }

    #[test]
    fn halton_mirrors_digits() {
        let base_two: Vec<f64> = (1..=4).map(|index| mirrored(index, 2)).collect();
        assert_eq!(base_two, [0.5, 0.25, 0.75, 0.125]);
        assert_eq!(mirrored(5, 3), 2.0 / 3.0 + 1.0 / 9.0); // 5 = 12 in base 3
        assert_eq!(primes(5), [2, 3, 5, 7, 11]);
    }

    #[test]
    fn halton_fills_every_part_of_the_room() {
        // Any 2^k consecutive points in base 2, shifted or not, leave no gap wider than 2 / 2^k.
        let mut points = Points::new(Method::Halton, 7, 2);
        let mut first: Vec<f64> = (0..16).map(|_| points.next_point()[0]).collect();
        first.sort_by(f64::total_cmp);
        assert!(first.windows(2).all(|pair| pair[1] - pair[0] <= 2.0 / 16.0));
    }

    #[test]
    fn points_follow_the_seed() {
        for method in [Method::Random, Method::Halton] {
            let point = |seed| Points::new(method, seed, 3).next_point();
            assert_eq!(point(1), point(1));
            assert_ne!(point(1), point(2));
            assert!(point(1).iter().all(|u| (0.0..1.0).contains(u)));
        }
    }

    #[test]
    fn distributions_reach_from_end_to_end() {
        let value = |from: &Distribution, whole, u| drawn(from.clone(), whole).at(u).value;
        let uniform = Distribution::Uniform(1.0, 3.0);
        assert_eq!((value(&uniform, false, 0.0), value(&uniform, false, 0.5)), (1.0.into(), 2.0.into()));
        let log = Distribution::LogUniform(1e-4, 1e-2);
        assert_eq!((value(&log, false, 0.0), value(&log, false, 0.5)), (1e-4.into(), 1e-3.into()));
        assert_eq!(value(&Distribution::LogUniform(10.0, 1000.0), true, 0.5), Value::from(100));
        let whole = Distribution::IntUniform(3, 5);
        let reached: Vec<Value> = [0.0, 0.34, 0.67, 0.999].map(|u| value(&whole, true, u)).into();
        assert_eq!(reached, [3, 4, 5, 5].map(Value::from));
        assert_eq!(value(&whole, false, 0.0), Value::from(3.0));
    }
}
