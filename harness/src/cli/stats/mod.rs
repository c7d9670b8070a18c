//! The verb `stats`: the statistics of the reports, applied to any table of scores.

mod compare;
mod fits;
mod power;
mod scores;
mod signal;
mod single;
mod table;

use super::say;
use anyhow::{Result, ensure};
use clap::Subcommand;
use scores::Rows;
use serde::Serialize;
use serde_json::Value;
use stats::{Estimate, StatsError, TestResult, p_of_equal_pairs};

/// Statistics on tables of scores.
#[derive(Debug, Subcommand)]
pub enum StatsVerb {
    /// Compare two models, or two settings across seeds, on the questions that both answered
    #[command(after_help = "\
Files are CSV with a header or JSON lines: questions.csv of this program, samples_*.jsonl of lm-evaluation-harness,
the tables of nanochat's evaluations, or your own. docs/statistics.md explains the output.

Examples:
  mindscale stats compare a.csv b.csv
  mindscale stats compare samples_a.jsonl samples_b.jsonl --score acc_norm --margin 0.02
  mindscale stats compare q.csv q.csv --where-a trial=0a1b --where-b trial=2c3d --where stage=dpo
  mindscale stats compare law.csv medicine.csv --independent")]
    Compare(compare::CompareArgs),
    /// Test whether answers are better than guessing
    #[command(after_help = "\
Examples:
  mindscale stats guess questions.csv --where stage=dpo
  mindscale stats guess --correct 316,344,351 --questions 1346")]
    Guess(single::GuessArgs),
    /// Test whether the mean of a sample differs from a number
    #[command(after_help = "Example: mindscale stats one-sample seeds.csv --value accuracy --null 0.25")]
    OneSample(single::OneSampleArgs),
    /// Rank metrics by how well they distinguish models: signal-to-noise ratio
    #[command(after_help = "\
Example: mindscale stats signal trials.csv --model model.n_layers --metric val_bpb --metric exam_accuracy")]
    Signal(signal::SignalArgs),
    /// Fit a curve to points
    Fit {
        /// The curve to fit
        #[command(subcommand)]
        curve: fits::FitVerb,
    },
    /// Compute the smallest difference that a design is likely to detect
    #[command(after_help = "\
Examples:
  mindscale stats power --seeds 5 --sd 0.012
  mindscale stats power --seeds 5 --questions 1346 --accuracy 0.3
  mindscale stats power --questions 1346 --disagreement 0.4
  mindscale stats power --seeds 8 --questions 1346 --pilot a.csv b.csv")]
    Power(power::PowerArgs),
}

/// Runs a verb of `stats`.
pub fn stats(verb: &StatsVerb) -> Result<bool> {
    match verb {
        StatsVerb::Compare(args) => compare::compare(args)?,
        StatsVerb::Guess(args) => single::guess(args)?,
        StatsVerb::OneSample(args) => single::one_sample(args)?,
        StatsVerb::Signal(args) => signal::signal(args)?,
        StatsVerb::Fit { curve } => fits::fit(curve)?,
        StatsVerb::Power(args) => power::power(args)?,
    }
    Ok(true)
}

/// Result of one statistical method: an interval, a test, or the reason why there is none.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Finding {
    /// Name of the method.
    method: String,
    /// Population that the result generalizes to, such as `other seeds, these questions`.
    speaks_of: String,
    /// Estimate with its interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate: Option<Estimate>,
    /// Result of the test.
    #[serde(skip_serializing_if = "Option::is_none")]
    test: Option<TestResult>,
    /// p-value of the test of equivalence within the margin; a small one rejects a difference beyond the margin.
    #[serde(skip_serializing_if = "Option::is_none")]
    p_equivalence: Option<f64>,
    /// Why the method does not apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

impl Finding {
    fn new(method: &str, speaks_of: &str) -> Self {
        Self { method: method.into(), speaks_of: speaks_of.into(), ..Self::default() }
    }

    fn estimate(self, found: Result<Estimate, StatsError>) -> Self {
        match found {
            Ok(estimate) => Self { estimate: Some(estimate), ..self },
            Err(error) => Self { refused: Some(error.to_string()), ..self },
        }
    }

    fn test(self, found: Result<TestResult, StatsError>) -> Self {
        match found {
            Ok(test) => Self { test: Some(test), ..self },
            Err(error) => Self { refused: Some(error.to_string()), ..self },
        }
    }

    /// Adds interval, test and test of equivalence of a mean.
    fn mean(self, found: Result<stats::Mean, StatsError>, null: f64, how: &How) -> Result<Self> {
        let mean = match found {
            Ok(mean) => mean,
            Err(error) => return Ok(Self { refused: Some(error.to_string()), ..self }),
        };
        let p_equivalence = match how.margin {
            Some(margin) => Some(mean.equivalence(margin, how.alpha())?.p),
            None => None,
        };
        let (estimate, test) = (Some(mean.interval(how.level)), Some(mean.test(null)));
        Ok(Self { estimate, test, p_equivalence, ..self })
    }

    /// Reports that none of `n` pairs differs; `are_shares`: their scores lie between 0 and 1, so that this bounds the
    /// difference.
    fn equal(self, n: usize, units: &str, are_shares: bool, how: &How) -> Self {
        let p_equivalence = how.margin.filter(|_| are_shares).map(|margin| p_of_equal_pairs(n, margin));
        let refused = Some(format!("no interval, as the difference is 0 for each of {n} {units}"));
        Self { refused, p_equivalence, ..self }
    }

    fn line(&self) -> String {
        let mut parts = vec![];
        if let Some(Estimate { value, low, high, .. }) = self.estimate {
            parts.push(format!("{} [{}, {}]", number(value), number(low), number(high)));
        }
        if let Some(test) = self.test {
            let df = test.df.map_or(String::new(), |df| format!(", df = {}", number(df)));
            parts.push(format!("p = {}{df}, n = {}", number(test.p), test.n));
        } else if let Some(estimate) = self.estimate {
            parts.push(format!("n = {}", estimate.n));
        }
        if let Some(reason) = &self.refused {
            parts.push(format!("none: {reason}"));
        }
        if let Some(p) = self.p_equivalence {
            parts.push(format!("p of no equivalence = {}", number(p)));
        }
        format!("    {}: {}", self.method, parts.join(", "))
    }
}

/// Prints the findings, grouped by the population that they generalize to.
fn say_findings(findings: &[Finding]) -> Result<()> {
    for same in findings.chunk_by(|a, b| a.speaks_of == b.speaks_of) {
        say(format!("{}:", same[0].speaks_of))?;
        same.iter().try_for_each(|finding| say(finding.line()))?;
    }
    Ok(())
}

/// Checks the confidence level of intervals.
fn check_level(level: f64) -> Result<()> {
    ensure!(level > 0.5 && level < 1.0, "--level {level}: expected a number between 0.5 and 1");
    Ok(())
}

/// Confidence level, equivalence margin and output format.
#[derive(Debug, Clone, Copy, clap::Args)]
struct How {
    /// Confidence level of intervals; tests use a significance level of 1 minus it
    #[arg(long, default_value_t = 0.95)]
    level: f64,
    /// Largest difference that would not matter, chosen in advance; adds tests of equivalence within it
    #[arg(long, allow_negative_numbers = true)]
    margin: Option<f64>,
    /// Print machine-readable JSON
    #[arg(long)]
    json: bool,
}

impl How {
    fn check(&self) -> Result<()> {
        if let Some(margin) = self.margin {
            ensure!(margin > 0.0 && margin.is_finite(), "--margin {margin}: expected a number above 0");
        }
        check_level(self.level)
    }

    /// Returns the significance level of tests, 0.05 for 0.95, without the rounding error of the difference.
    fn alpha(&self) -> f64 {
        (1e12 * (1.0 - self.level)).round() / 1e12
    }
}

/// Adds to JSON the numbers of rows that are counted and reported.
fn with_rows(mut found: Value, rows: &Rows) -> Value {
    found["rows_without_score"] = rows.without_score.into();
    found["rows_without_prediction"] = rows.without_prediction.into();
    found["rows_in_other_case"] = rows.in_other_case.into();
    found
}

/// Formats a number with four significant digits, without trailing zeros.
fn number(x: f64) -> String {
    if x == 0.0 || !x.is_finite() {
        return x.to_string();
    }
    let rounded: f64 = format!("{x:.3e}").parse().unwrap_or(x);
    match rounded.abs() {
        size if !(1e-4..1e7).contains(&size) => format!("{rounded:e}"),
        _ => rounded.to_string(),
    }
}
