//! `stats power`: the smallest difference that a design is likely to detect.

use super::scores::{Columns, Scores};
use super::table::Wanted;
use super::{number, say};
use crate::track::counted;
use anyhow::{Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use stats::{
    Components, PowerTarget, detectable_by_pairs, detectable_by_questions, detectable_by_seeds,
    detectable_crossed, differences,
};
use std::path::PathBuf;

/// Arguments of `power`.
#[derive(Debug, Args)]
pub struct PowerArgs {
    /// Number of seeds per setting
    #[arg(long)]
    seeds: Option<usize>,
    /// Number of questions of the exam
    #[arg(long)]
    questions: Option<usize>,
    /// Standard deviation of a setting's value between seeds; with --paired, that of the differences
    #[arg(long, requires = "seeds")]
    sd: Option<f64>,
    /// Pair the settings seed by seed
    #[arg(long, requires = "seeds")]
    paired: bool,
    /// Expected accuracy, if the answers of different seeds are independent
    #[arg(long, requires = "questions", requires = "seeds", conflicts_with = "sd")]
    accuracy: Option<f64>,
    /// Fraction of the questions on which two single models disagree
    #[arg(long, requires = "questions", conflicts_with_all = ["seeds", "sd", "paired", "accuracy"])]
    disagreement: Option<f64>,
    /// Two tables of scores, one per setting and with the same seeds, from which the variances are estimated
    #[arg(long, num_args = 2, value_names = ["A", "B"], requires = "seeds", requires = "questions",
          conflicts_with_all = ["sd", "paired", "accuracy", "disagreement"])]
    pilot: Vec<PathBuf>,
    #[command(flatten)]
    columns: Columns,
    /// Two-sided significance level of the test
    #[arg(long, default_value_t = 0.05)]
    alpha: f64,
    /// Probability of detecting the difference
    #[arg(long, default_value_t = 0.8)]
    power: f64,
    /// Print machine-readable JSON
    #[arg(long)]
    json: bool,
}

/// Prints the smallest difference that a design detects.
pub fn power(args: &PowerArgs) -> Result<()> {
    if args.pilot.is_empty() {
        let unused = "--score, --question, --subject and --seed name columns of the tables of --pilot, which is missing";
        ensure!(args.columns.is_unset(), "{unused}");
    }
    let sure = PowerTarget { alpha: args.alpha, power: args.power };
    let test = if args.paired { "paired t over seeds" } else { "Welch's t over seeds" };
    let by_seeds = |sd: f64, seeds: usize| match args.paired {
        true => detectable_by_pairs(sd, seeds, sure),
        false => detectable_by_seeds(sd, seeds, sure),
    };
    let (design, found): (String, f64) = match (args.seeds, args.questions, args.pilot.as_slice()) {
        (Some(seeds), Some(questions), [a, b]) => {
            let (components, note) = pilot(a, b, &args.columns)?;
            let found = detectable_crossed(&components, seeds, questions, sure)?;
            (
                format!(
                    "{seeds} seeds x {questions} questions, variances of the pilot{note}, other seeds and questions"
                ),
                found,
            )
        }
        (None, Some(questions), _) if args.disagreement.is_some() => {
            let share = args.disagreement.unwrap_or_default();
            let found = detectable_by_questions(share, questions, sure)?;
            (
                format!("two models that disagree on {} of {questions} questions, McNemar", number(share)),
                found,
            )
        }
        (Some(seeds), Some(questions), _) if args.accuracy.is_some() => {
            let p = args.accuracy.unwrap_or_default();
            ensure!(p > 0.0 && p < 1.0, "--accuracy {p}: expected a number between 0 and 1");
            let sd = (p * (1.0 - p) / questions as f64).sqrt() * if args.paired { 2f64.sqrt() } else { 1.0 };
            (
                format!("{seeds} seeds a setting, {questions} questions at {}, {test}, at least", number(p)),
                by_seeds(sd, seeds)?,
            )
        }
        (Some(_), Some(questions), _) => bail!(
            "--questions {questions} has no effect with --seeds alone, expected --accuracy or --pilot, too"
        ),
        (Some(seeds), None, _) => {
            let sd = args.sd.unwrap_or(1.0);
            let unit = if args.sd.is_some() { "" } else { ", in standard deviations between seeds" };
            (format!("{seeds} seeds a setting, {test}{unit}"), by_seeds(sd, seeds)?)
        }
        _ => bail!("expected --seeds with --sd, --accuracy or --pilot, or --questions with --disagreement"),
    };
    if args.json {
        let all: Value = json!({
            "design": design, "minimal_detectable_difference": found, "alpha": args.alpha, "power": args.power,
            "seeds": args.seeds, "questions": args.questions,
        });
        return say(serde_json::to_string_pretty(&all)?);
    }
    say(format!("{design}: {} (power {}, level {})", number(found), args.power, args.alpha))
}

/// Estimates the variance components of the differences between a pilot's paired seeds; also returns a note on their number.
fn pilot(a: &PathBuf, b: &PathBuf, columns: &Columns) -> Result<(Components, String)> {
    let read = |path: &PathBuf| Scores::read(path, columns, &Wanted::new());
    let (a, b) = (read(a)?, read(b)?);
    let questions = a.common(&b)?;
    ensure!(questions.len() > 1, "{} and {} have fewer than two questions in common", a.file, b.file);
    let names = |scores: &Scores| scores.seeds.keys().cloned().collect::<Vec<_>>().join(", ");
    ensure!(
        a.seeds.keys().eq(b.seeds.keys()),
        "--pilot: {} has the seeds {}, {} has {}; expected the same, as their differences are taken seed by seed",
        a.file,
        names(&a),
        b.file,
        names(&b)
    );
    let left_out = a.answered().union(&b.answered()).count() - questions.len();
    let left_out = match left_out {
        0 => String::new(),
        n => format!(", {} not answered by all left out", counted(n, "question")),
    };
    let note = format!(
        " ({}, {}{left_out}{}{})",
        counted(a.seeds.len(), "paired seed"),
        counted(questions.len(), "question"),
        a.rows.note(),
        b.rows.note()
    );
    let components = Components::of(&differences(&a.table(&questions), &b.table(&questions))?)?;
    Ok((components, note))
}
