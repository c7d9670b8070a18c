//! `stats signal`: which metric distinguishes models best.

use super::table::{Table, wanted};
use super::{number, say};
use anyhow::{Result, ensure};
use clap::Args;
use serde_json::json;
use stats::{SignalToNoise, signal_to_noise};
use std::path::PathBuf;

/// Arguments of `signal`.
#[derive(Debug, Args)]
pub struct SignalArgs {
    /// Table with one row per seed or checkpoint of each model, such as trials.csv
    file: PathBuf,
    /// Column of a metric; may be repeated
    #[arg(long, value_name = "COLUMN", required = true)]
    metric: Vec<String>,
    /// Column that identifies a model, whose rows then measure the noise; may be repeated
    #[arg(long, value_name = "COLUMN", required = true)]
    model: Vec<String>,
    /// Use only rows whose COLUMN is VALUE; may be repeated; several values of one column are alternatives
    #[arg(long, value_name = "COLUMN=VALUE")]
    r#where: Vec<String>,
    /// Print machine-readable JSON
    #[arg(long)]
    json: bool,
}

/// Prints the signal and noise of metrics, best ratio first.
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
    ensure!(
        models.len() > 1,
        "{}: all rows have the same {}, expected two or more models",
        table.file,
        args.model.join(" and ")
    );
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
