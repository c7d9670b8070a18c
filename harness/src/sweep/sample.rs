//! Random or quasi-random draws instead of every combination.

use crate::config::{check_key, resolve};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use toml::{Table, Value};

/// `[sample]` of a sweep file.
#[derive(Debug, Clone)]
pub struct Sample {
    count: u64,
    seed: u64,
    halton: bool,
    keys: Vec<(String, Draw)>,
}

#[derive(Debug, Clone)]
enum Draw {
    Uniform(f64, f64),
    LogUniform(f64, f64),
    IntUniform(i64, i64),
    Choice(Vec<Value>),
}

const PRIMES: [u64; 10] = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29];

impl Sample {
    /// Reads and checks the table; an error comes with its key.
    pub fn new(table: &Table, known: &[String]) -> Result<Self, (String, String)> {
        let fail = |key: &str, problem: String| (key.to_string(), format!("sample.{key}: {problem}"));
        let count = table.get("count").and_then(Value::as_integer).filter(|c| *c > 0);
        let count = count.ok_or_else(|| fail("count", "expected the number of draws".into()))? as u64;
        let seed = table.get("seed").and_then(Value::as_integer).unwrap_or(1) as u64;
        let halton = match table.get("method").map(|m| m.as_str()) {
            None | Some(Some("random")) => false,
            Some(Some("halton")) => true,
            _ => return Err(fail("method", "expected random or halton".into())),
        };
        let mut keys = vec![];
        for (key, value) in table.iter().filter(|(k, _)| !["count", "seed", "method"].contains(&k.as_str())) {
            check_key(key, known).map_err(|e| fail(key, e))?;
            let draw = draw(value).ok_or_else(|| {
                fail(
                    key,
                    "expected uniform, log_uniform or int_uniform = [low, high], or choice = [..]".into(),
                )
            })?;
            let example = draw.at(0.5);
            resolve(&[(key.clone(), example)]).map_err(|e| fail(key, e))?;
            keys.push((key.clone(), draw));
        }
        if halton && keys.len() > PRIMES.len() {
            return Err(fail("method", format!("halton serves up to {} keys", PRIMES.len())));
        }
        Ok(Self { count, seed, halton, keys })
    }

    /// All draws.
    pub fn draw(&self) -> Vec<Vec<(String, Value)>> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let rows = (0..self.count).map(|i| {
            let draws = self.keys.iter().zip(PRIMES.iter().cycle()).map(|((key, draw), &base)| {
                let u = if self.halton { radical_inverse(i + self.seed, base) } else { rng.random::<f64>() };
                (key.clone(), draw.at(u))
            });
            draws.collect()
        });
        rows.collect()
    }
}

/// The digits of `i` in `base`, mirrored at the point (Halton 1960).
fn radical_inverse(mut i: u64, base: u64) -> f64 {
    let (mut result, mut scale) = (0.0, 1.0 / base as f64);
    while i > 0 {
        result += (i % base) as f64 * scale;
        i /= base;
        scale /= base as f64;
    }
    result
}

fn draw(value: &Value) -> Option<Draw> {
    let table = value.as_table().filter(|t| t.len() == 1)?;
    let (kind, range) = table.iter().next()?;
    let items = range.as_array()?;
    if kind == "choice" {
        return (!items.is_empty()).then(|| Draw::Choice(items.clone()));
    }
    let [low, high] = items.as_slice() else { return None };
    let float = |v: &Value| v.as_float().or(v.as_integer().map(|i| i as f64));
    let (a, b) = (float(low)?, float(high)?);
    match kind.as_str() {
        "uniform" if a < b => Some(Draw::Uniform(a, b)),
        "log_uniform" if 0.0 < a && a < b => Some(Draw::LogUniform(a, b)),
        "int_uniform" if a < b => Some(Draw::IntUniform(low.as_integer()?, high.as_integer()?)),
        _ => None,
    }
}

impl Draw {
    /// The value at `u` in [0, 1).
    fn at(&self, u: f64) -> Value {
        match self {
            Self::Uniform(a, b) => Value::Float(a + u * (b - a)),
            Self::LogUniform(a, b) => Value::Float((a.ln() + u * (b.ln() - a.ln())).exp()),
            Self::IntUniform(a, b) => Value::Integer(a + (u * (b - a + 1) as f64) as i64),
            Self::Choice(values) => {
                values[((u * values.len() as f64) as usize).min(values.len() - 1)].clone()
            }
        }
    }
}
