//! `stats signal`: which metric tells models apart.

use super::table::{Table, wanted};
use super::{number, say};
use crate::stats::{SignalToNoise, signal_to_noise};
use anyhow::{Result, ensure};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// Arguments of `signal`.
#[derive(Debug, Args)]
pub struct SignalArgs {
    /// A table with a row for each seed or checkpoint of each model, such as trials.csv
    file: PathBuf,
    /// Column of a metric; may be repeated
    #[arg(long, value_name = "COLUMN", required = true)]
    metric: Vec<String>,
    /// Columns that tell models apart, whose rows are then the spread of one model; may be repeated
    #[arg(long, value_name = "COLUMN", required = true)]
    model: Vec<String>,
    /// Only rows whose COLUMN is VALUE; may be repeated, and several values of one column add up
    #[arg(long, value_name = "COLUMN=VALUE")]
    r#where: Vec<String>,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Tells the signal and the noise of metrics, the best first.
pub fn signal(args: &SignalArgs) -> Result<()> {
    let mut table = Table::read(&args.file)?;
    table.keep(&wanted(&args.r#where)?)?;
    let columns = args.model.iter().map(|name| table.column(name)).collect::<Result<Vec<usize>>>()?;
    let mut models: Vec<(Vec<&str>, Vec<usize>)> = vec![];
    for (place, (_, row)) in table.rows().enumerate() {
        let key: Vec<&str> = columns.iter().map(|&column| row[column].as_str()).collect();
        match models.iter_mut().find(|(known, _)| *known == key) {
            Some((_, places)) => places.push(place),
            None => models.push((key, vec![place])),
        }
    }
    ensure!(models.len() > 1, "{}: {} tells no two models apart", table.file, args.model.join(" and "));
    let mut found = vec![];
    for metric in &args.metric {
        let values = table.numbers(metric)?;
        let scores: Vec<Vec<f64>> =
            models.iter().map(|(_, places)| places.iter().map(|&place| values[place]).collect()).collect();
        found.push((metric, signal_to_noise(&scores).map_err(|error| error.to_string())));
    }
    let ratio = |found: &Result<SignalToNoise, String>| found.as_ref().map_or(f64::NEG_INFINITY, |s| s.ratio);
    found.sort_by(|a, b| ratio(&b.1).total_cmp(&ratio(&a.1)));
    if args.json {
        let all = found.iter().map(|(metric, found)| match found {
            Ok(s) => json!({ "metric": metric, "signal": s.signal, "noise": s.noise, "ratio": s.ratio }),
            Err(reason) => json!({ "metric": metric, "refused": reason }),
        });
        return say(serde_json::to_string_pretty(&all.collect::<Vec<_>>())?);
    }
    say(format!("{} models by {}", models.len(), args.model.join(" and ")))?;
    for (metric, found) in found {
        say(match found {
            Ok(SignalToNoise { signal, noise, ratio }) => format!(
                "{metric}: signal to noise {} (models differ by {:.2} %, one model by {:.2} %)",
                number(ratio),
                100.0 * signal,
                100.0 * noise
            ),
            Err(reason) => format!("{metric}: none: {reason}"),
        })?;
    }
    Ok(())
}
