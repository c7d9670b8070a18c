//! `stats fit`: scaling laws, iso-FLOP optima and simple curves through the points of a table.

use super::table::{Table, wanted};
use super::{check_level, number, say};
use crate::track::counted;
use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};
use stats::{
    Budget, Draws, Estimate, Fit, FitKind, HeldOut, IsoFlop, LawFit, budgets as optima, fit as fit_line,
    fit_law, held_out, isoflop,
};
use std::path::PathBuf;

/// The curve to fit.
#[derive(Debug, Subcommand)]
pub enum FitVerb {
    /// Fit L = E + A N^-alpha + B D^-beta; without --d, L = E + A N^-alpha
    #[command(
        after_help = "Example: mindscale stats fit chinchilla points.csv --n N --d D --loss loss --json"
    )]
    Chinchilla(LawArgs),
    /// Find the size with the lowest loss for each compute budget, and how it grows with the budget
    #[command(after_help = "\
If every budget has a single row, that row is taken as its optimum.

Examples:
  mindscale stats fit isoflop runs.csv --flops train_flops --n params --loss val_loss
  mindscale stats fit isoflop optima.csv --flops flops --n params --d tokens --by counting")]
    Isoflop(IsoFlopArgs),
    /// Fit a power law, a line or a logarithm
    #[command(
        after_help = "Example: mindscale stats fit line trials.csv --x params --y val_loss --kind power"
    )]
    Line(LineArgs),
}

/// The table and the output options.
#[derive(Debug, Args)]
struct Points {
    /// Table with one row per training run
    file: PathBuf,
    /// Use only rows whose COLUMN is VALUE; may be repeated; several values of one column are alternatives
    #[arg(long, value_name = "COLUMN=VALUE")]
    r#where: Vec<String>,
    /// Confidence level of intervals
    #[arg(long, default_value_t = 0.95)]
    level: f64,
    /// Print machine-readable JSON
    #[arg(long)]
    json: bool,
}

impl Points {
    /// Checks the level, and reads the rows to fit.
    fn table(&self) -> Result<Table> {
        check_level(self.level)?;
        let mut table = Table::read(&self.file)?;
        table.keep(&wanted(&self.r#where)?)?;
        Ok(table)
    }
}

/// Arguments of `fit chinchilla`.
#[derive(Debug, Args)]
pub struct LawArgs {
    #[command(flatten)]
    points: Points,
    /// Column of parameter counts
    #[arg(long, value_name = "COLUMN")]
    n: String,
    /// Column of token counts
    #[arg(long, value_name = "COLUMN")]
    d: Option<String>,
    /// Column of losses
    #[arg(long, value_name = "COLUMN")]
    loss: String,
    /// Number of bootstrap resamples for the intervals
    #[arg(long, default_value_t = 1_000)]
    draws: u32,
    /// Seed of the resamples
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Fraction of the points, those with most compute, that a second fit to the others predicts; 0: none
    #[arg(long, default_value_t = 0.2, allow_negative_numbers = true)]
    hold_out: f64,
}

/// Arguments of `fit isoflop`.
#[derive(Debug, Args)]
pub struct IsoFlopArgs {
    #[command(flatten)]
    points: Points,
    /// Column of compute budgets in FLOPs
    #[arg(long, value_name = "COLUMN")]
    flops: String,
    /// Column of parameter counts
    #[arg(long, value_name = "COLUMN")]
    n: Option<String>,
    /// Column of token counts
    #[arg(long, value_name = "COLUMN")]
    d: Option<String>,
    /// Column of losses; not needed if every budget has a single row
    #[arg(long, value_name = "COLUMN")]
    loss: Option<String>,
    /// Column that separates families of budgets, each of which is fitted on its own
    #[arg(long, value_name = "COLUMN")]
    by: Option<String>,
}

/// Arguments of `fit line`.
#[derive(Debug, Args)]
pub struct LineArgs {
    #[command(flatten)]
    points: Points,
    /// Column of x values
    #[arg(long, value_name = "COLUMN")]
    x: String,
    /// Column of y values
    #[arg(long, value_name = "COLUMN")]
    y: String,
    /// The curve to fit
    #[arg(long, value_enum, default_value = "power")]
    kind: Kind,
}

/// A simple curve.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// y = a x^b, by least squares in logarithms
    Power,
    /// y = a + b x
    Linear,
    /// y = a + b ln x
    Log,
}

/// Runs a verb of `stats fit`.
pub fn fit(verb: &FitVerb) -> Result<()> {
    match verb {
        FitVerb::Chinchilla(args) => law(args),
        FitVerb::Isoflop(args) => budgets(args),
        FitVerb::Line(args) => line(args),
    }
}

fn with_interval(estimate: &Estimate) -> String {
    let Estimate { value, low, high, .. } = estimate;
    format!("{} [{}, {}]", number(*value), number(*low), number(*high))
}

fn json_of(estimate: &Estimate) -> Value {
    json!({ "value": estimate.value, "low": estimate.low, "high": estimate.high })
}

fn law(args: &LawArgs) -> Result<()> {
    ensure!(
        (0.0..1.0).contains(&args.hold_out),
        "--hold-out {}: expected a share of the points below 1, or 0 for none",
        args.hold_out
    );
    let table = args.points.table()?;
    let loss = table.positive_numbers(&args.loss)?;
    let names: Vec<&str> =
        [Some(&args.n), args.d.as_ref()].into_iter().flatten().map(String::as_str).collect();
    let sizes: Vec<Vec<f64>> =
        names.iter().map(|name| table.positive_numbers(name)).collect::<Result<_>>()?;
    let x: Vec<&[f64]> = sizes.iter().map(Vec::as_slice).collect();
    let draws = Draws { count: args.draws, seed: args.seed };
    let found = fit_law(&x, &loss, args.points.level, draws)
        .map_err(|error| anyhow!("{}: {}", table.file, error.naming(&names)))?;
    let held = match args.hold_out {
        0.0 => None,
        share => Some(held_out(&x, &loss, share).map_err(|error| error.naming(&names))),
    };
    let LawFit { e, terms, exponent, objective, rms, .. } = &found;
    let mut parameters: Vec<(&str, &Estimate)> = vec![("E", e)];
    for ((a, alpha), names) in terms.iter().zip([["A", "alpha"], ["B", "beta"]]) {
        parameters.extend([(names[0], a), (names[1], alpha)]);
    }
    let warnings = warnings(&found, &loss);
    if args.points.json {
        let mut all: Map<String, Value> =
            parameters.iter().map(|(name, estimate)| (name.to_string(), json_of(estimate))).collect();
        if let Some(exponent) = exponent {
            all.insert("n_exponent".into(), json_of(exponent));
        }
        let rest = json!({
            "points": loss.len(), "level": args.points.level, "draws": draws.count, "huber_delta": 1e-3,
            "objective": objective, "rms_log_error": rms, "warnings": warnings,
            "held_out": held.as_ref().map(|held| match held {
                Ok(h) => json!({ "fitted": h.fitted, "held": h.held, "rms_log_error": h.rms, "bias": h.bias }),
                Err(reason) => json!({ "refused": reason }),
            }),
        });
        all.extend(rest.as_object().cloned().unwrap_or_default());
        return say(serde_json::to_string_pretty(&all)?);
    }
    let form = if args.d.is_some() { "E + A N^-alpha + B D^-beta" } else { "E + A N^-alpha" };
    say(format!(
        "L = {form} through {} points, {} intervals by {} draws",
        loss.len(),
        args.points.level,
        draws.count
    ))?;
    for (name, estimate) in parameters {
        say(format!("{name:<6} {}", with_interval(estimate)))?;
    }
    if let Some(exponent) = exponent {
        say(format!("best N grows as C^{}", with_interval(exponent)))?;
    }
    say(format!(
        "off by {:.2} % (root mean square of ln L), Huber loss {}",
        100.0 * rms,
        number(*objective)
    ))?;
    warnings.iter().try_for_each(say)?;
    match held {
        None => Ok(()),
        Some(Ok(HeldOut { fitted, held, rms, bias, .. })) => say(format!(
            "the {held} points with most compute, predicted from the other {fitted}: off by {:.2} %, on average {:+.2} %",
            100.0 * rms,
            100.0 * bias
        )),
        Some(Err(reason)) => say(format!("cannot extrapolate to larger runs: {reason}")),
    }
}

/// What the parameters of a law do not mean.
fn warnings(found: &LawFit, loss: &[f64]) -> Vec<String> {
    let sizes = [("alpha", "N"), ("beta", "D")];
    let mut warnings: Vec<String> = found
        .rising()
        .map(|k| {
            format!(
                "{} is not above 0: the loss rises with {}, so E is no limit of it",
                sizes[k].0, sizes[k].1
            )
        })
        .collect();
    let least = loss.iter().copied().fold(f64::INFINITY, f64::min);
    if found.law.e < 1e-6 * least {
        warnings.push(
            "E is 0 but for rounding: these losses show no floor, and its interval has no meaning".into(),
        );
    }
    warnings
}

fn budgets(args: &IsoFlopArgs) -> Result<()> {
    let sizes: Vec<(&str, &String)> = [("N", &args.n), ("D", &args.d)]
        .into_iter()
        .filter_map(|(name, column)| Some((name, column.as_ref()?)))
        .collect();
    if sizes.is_empty() {
        bail!("--n or --d: expected a column of sizes");
    }
    let whole = args.points.table()?;
    let families: Vec<String> = match &args.by {
        None => vec![String::new()],
        Some(by) => {
            let column = whole.column(by)?;
            let mut seen: Vec<String> = vec![];
            for (_, row) in whole.rows() {
                if !seen.contains(&row[column]) {
                    seen.push(row[column].clone());
                }
            }
            seen
        }
    };
    let mut all = vec![];
    for family in &families {
        let mut table = whole.clone();
        if let Some(by) = &args.by {
            table.keep(&[(by.clone(), vec![family.clone()])].into())?;
        }
        let flops = table.positive_numbers(&args.flops)?;
        let loss = match &args.loss {
            Some(loss) => table.positive_numbers(loss)?,
            // The only row of a budget is its optimum, whatever its loss.
            None => vec![1.0; flops.len()],
        };
        for (name, column) in &sizes {
            let place = || {
                format!(
                    "{}{}: {column}",
                    table.file,
                    if family.is_empty() { String::new() } else { format!(", {family}") }
                )
            };
            let size = table.positive_numbers(column)?;
            let found = isoflop(&flops, &size, &loss, args.points.level).map_err(|error| {
                let reasons = reasons(&flops, &size, &loss, args.points.level);
                anyhow!("{}: {error}{reasons}", place())
            })?;
            if args.loss.is_none() && !found.is_given {
                bail!("{}: budgets have several rows, expected --loss to find their optimum by", place());
            }
            all.push((family.clone(), *name, found));
        }
    }
    if args.points.json {
        let found =
            all.iter().map(|(family, name, found)| isoflop_json(family, name, found, args.loss.is_some()));
        return say(serde_json::to_string_pretty(&found.collect::<Vec<_>>())?);
    }
    for (family, name, found) in &all {
        let family = if family.is_empty() { String::new() } else { format!("{family}: ") };
        let how = if found.is_given { "optima as given" } else { "optima of parabolas" };
        let Fit { a, b, n, .. } = &found.law;
        say(format!("{family}{name} = {} C^{}, through {n} {how}", number(*a), with_interval(b)))?;
        for budget in found.budgets.iter().filter(|_| !found.is_given) {
            let optimum = match &budget.optimum {
                Ok(o) => {
                    o.interval.as_ref().map_or_else(|| number(o.size), with_interval)
                        + &format!(", loss {}", number(o.loss))
                }
                Err(reason) => format!("left out: {reason}"),
            };
            say(format!("  C = {}, {} runs: {optimum}", number(budget.flops), budget.runs.len()))?;
        }
    }
    Ok(())
}

/// The budgets without an optimum with their reasons, a line each.
fn reasons(flops: &[f64], size: &[f64], loss: &[f64], level: f64) -> String {
    let Ok(budgets) = optima(flops, size, loss, level) else { return String::new() };
    let line = |budget: &Budget| {
        let reason = budget.optimum.as_ref().err()?;
        Some(format!("\n  C = {}, {}: {reason}", number(budget.flops), counted(budget.runs.len(), "run")))
    };
    budgets.iter().filter_map(line).collect()
}

fn isoflop_json(family: &str, name: &str, found: &IsoFlop, has_loss: bool) -> Value {
    let budgets = found.budgets.iter().map(|budget| match &budget.optimum {
        Ok(o) => json!({
            "flops": budget.flops, "runs": budget.runs.len(), "optimum": o.size, "loss": has_loss.then_some(o.loss),
            "interval": o.interval.as_ref().map(json_of),
        }),
        Err(reason) => json!({ "flops": budget.flops, "runs": budget.runs.len(), "refused": reason.to_string() }),
    });
    let budgets: Vec<Value> = budgets.collect();
    json!({
        "by": family, "size": name, "coefficient": found.law.a, "exponent": json_of(&found.law.b),
        "r2": found.law.r2, "optima_given": found.is_given, "budgets": budgets,
    })
}

fn line(args: &LineArgs) -> Result<()> {
    let table = args.points.table()?;
    let (x, y) = match args.kind {
        Kind::Power => (table.positive_numbers(&args.x)?, table.positive_numbers(&args.y)?),
        Kind::Linear => (table.numbers(&args.x)?, table.numbers(&args.y)?),
        Kind::Log => (table.positive_numbers(&args.x)?, table.numbers(&args.y)?),
    };
    let points: Vec<(f64, f64)> = x.into_iter().zip(y).collect();
    let (kind, form) = match args.kind {
        Kind::Power => (FitKind::Power, "y = a x^b"),
        Kind::Linear => (FitKind::Linear, "y = a + b x"),
        Kind::Log => (FitKind::Log, "y = a + b ln x"),
    };
    let found = fit_line(kind, &points, args.points.level).with_context(|| table.file.clone())?;
    if args.points.json {
        let all = json!({ "form": form, "a": found.a, "b": json_of(&found.b), "r2": found.r2, "n": found.n });
        return say(serde_json::to_string_pretty(&all)?);
    }
    say(format!(
        "{form} through {} points: a = {}, b = {}, R2 = {:.4}",
        found.n,
        number(found.a),
        with_interval(&found.b),
        found.r2
    ))
}
