//! `stats guess` and `stats one-sample`: test one model, or one setting, against chance or a number.

use super::table::{Table, wanted};
use super::{Finding, How, number, say, say_findings};
use crate::records::{GUESSING, place_of};
use crate::stats::{
    Answered, Mean, OPTIONS, PERMUTATIONS, TestResult, binomial_p, clopper_pearson, guessing,
    hedges_g_of_pairs, holm, sign_flip, wilson,
};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Arguments of `guess`.
#[derive(Debug, Args)]
pub struct GuessArgs {
    /// Table of answers with the columns prediction and answer; may hold several seeds of one setting
    #[arg(required_unless_present = "correct", conflicts_with = "correct")]
    file: Option<PathBuf>,
    /// Numbers of right answers, if only these are known
    #[arg(long, value_delimiter = ',', requires = "questions")]
    correct: Vec<u64>,
    /// Number of questions that each number in --correct refers to
    #[arg(long)]
    questions: Option<u64>,
    /// Accuracy of guessing
    #[arg(long, default_value_t = GUESSING)]
    chance: f64,
    /// Use only rows whose COLUMN is VALUE; may be repeated; several values of one column are alternatives
    #[arg(long, value_name = "COLUMN=VALUE")]
    r#where: Vec<String>,
    #[command(flatten)]
    how: How,
}

/// Tests whether answers are better than guessing.
pub fn guess(args: &GuessArgs) -> Result<()> {
    args.how.check()?;
    ensure!(
        args.chance > 0.0 && args.chance < 1.0,
        "--chance {}: expected a number between 0 and 1",
        args.chance
    );
    match (&args.file, args.questions) {
        (Some(file), _) => of_answers(file, args),
        (None, Some(questions)) => of_counts(questions, args),
        (None, None) => bail!("--questions: expected the number of questions"),
    }
}

/// Returns the verdict of a p-value at the significance level.
fn verdict(p: f64, is_above: bool, how: &How) -> &'static str {
    match (p <= how.alpha(), is_above) {
        (true, true) => "better than guessing",
        (true, false) => "worse than guessing",
        (false, _) => "not distinguishable from guessing",
    }
}

fn of_counts(questions: u64, args: &GuessArgs) -> Result<()> {
    let how = &args.how;
    let p: Vec<f64> =
        args.correct.iter().map(|&correct| binomial_p(correct, questions, args.chance)).collect();
    let corrected = holm(&p);
    let mut found: Vec<Value> = vec![];
    for ((&correct, p), p_holm) in args.correct.iter().zip(&p).zip(&corrected) {
        let shares = wilson(correct, questions, how.level)?;
        let exact = clopper_pearson(correct, questions, how.level)?;
        let verdict = verdict(*p_holm, shares.value > args.chance, how);
        let test = TestResult { statistic: correct as f64, df: None, p: *p, n: questions as usize };
        if how.json {
            found.push(json!({
                "correct": correct, "questions": questions, "wilson": shares, "clopper_pearson": exact,
                "binomial": test, "p_holm": p_holm, "verdict": verdict,
            }));
            continue;
        }
        let percent = |x: f64| format!("{:.2}", 100.0 * x);
        say(format!(
            "{correct} of {questions}: {} % [{}, {}] (Wilson), p = {}{} (exact binomial): {verdict} ({} %)",
            percent(shares.value),
            percent(shares.low),
            percent(shares.high),
            number(*p),
            if p_holm == p { String::new() } else { format!(", by Holm {}", number(*p_holm)) },
            percent(args.chance),
        ))?;
    }
    if how.json { say(serde_json::to_string_pretty(&found)?) } else { Ok(()) }
}

/// Tests the answers of one setting against keys shuffled within subjects.
fn of_answers(file: &std::path::Path, args: &GuessArgs) -> Result<()> {
    let how = &args.how;
    let mut table = Table::read(file)?;
    table.keep(&wanted(&args.r#where)?)?;
    let [prediction, answer] = ["prediction", "answer"].map(|name| table.column(name));
    let (prediction, answer) = (prediction?, answer?);
    let question = table.first_of(&["id", "doc_id", "question"]);
    let question = question.map_or_else(|| table.column("id"), Ok)?;
    let [subject, stage] = ["subject", "stage"].map(|name| table.find(name));
    let seed = table.first_of(&["seed", "trial"]);
    let mut strata: BTreeMap<&str, usize> = BTreeMap::new();
    let mut asked: BTreeMap<(usize, &str), Answered> = BTreeMap::new();
    let mut models: BTreeMap<(&str, &str), [u64; 2]> = BTreeMap::new();
    for (line, row) in table.rows() {
        let place = |what: &str, text: &str| {
            let mut letters = text.chars();
            let letter = letters.next().filter(|_| letters.next().is_none()).map(place_of);
            let letter = letter.filter(|place| *place < OPTIONS);
            letter.with_context(|| {
                format!("{}:{line}: {what}: expected a letter from A to Z, found {text:?}", table.file)
            })
        };
        let (right, chosen) = (place("answer", &row[answer])?, place("prediction", &row[prediction])?);
        let text = |column: Option<usize>| column.map_or("", |column| row[column].as_str());
        let next = strata.len();
        let stratum = *strata.entry(text(subject)).or_insert(next);
        let new = Answered { stratum, right, chosen: [0; OPTIONS] };
        let known = asked.entry((stratum, &row[question])).or_insert(new);
        ensure!(
            known.right == right,
            "{}:{line}: question {:?} has a different answer than in an earlier row",
            table.file,
            row[question]
        );
        known.chosen[chosen] += 1;
        let model = models.entry((text(seed), text(stage))).or_default();
        model[0] += u64::from(chosen == right);
        model[1] += 1;
    }
    let questions: Vec<Answered> = asked.into_values().collect();
    let found = guessing(&questions, PERMUTATIONS, 1).context("no answers")?;
    let answers: u64 = models.values().map(|model| model[1]).sum();
    let (share, shuffled) = (found.statistic as f64 / answers as f64, found.expected / answers as f64);
    let verdict = verdict(found.p, share > shuffled, how);
    let single = match models.values().collect::<Vec<_>>().as_slice() {
        // Answers of several seeds that no column distinguishes are not independent.
        [[correct, n]] if *n == questions.len() as u64 => {
            let interval = wilson(*correct, *n, how.level)?;
            Some((interval, binomial_p(*correct, *n, args.chance)))
        }
        _ => None,
    };
    if how.json {
        return say(serde_json::to_string_pretty(&json!({
            "models": models.len(), "questions": questions.len(), "answers": answers, "accuracy": share,
            "shuffled_accuracy": shuffled, "p": found.p, "p_is_bound": found.is_bound, "shuffles": found.n,
            "wilson": single.map(|s| s.0), "p_binomial": single.map(|s| s.1), "verdict": verdict,
        }))?);
    }
    let bound = if found.is_bound && found.p < 1.0 { "<" } else { "=" };
    say(format!(
        "models: {}, questions: {}: {:.2} % right, {:.2} % by shuffled keys, p {bound} {} (Fisher's randomisation, {} keys): {verdict}",
        models.len(),
        questions.len(),
        100.0 * share,
        100.0 * shuffled,
        number(found.p),
        found.n
    ))?;
    if let Some((interval, p)) = single {
        let [low, high] = [interval.low, interval.high].map(|x| 100.0 * x);
        say(format!(
            "Wilson [{low:.2}, {high:.2}] %; exact binomial against {} p = {}",
            args.chance,
            number(p)
        ))?;
    }
    Ok(())
}

/// Arguments of `one-sample`.
#[derive(Debug, Args)]
pub struct OneSampleArgs {
    /// Table with one row per value, such as per seed
    file: PathBuf,
    /// Column of the values
    #[arg(long, value_name = "COLUMN")]
    value: String,
    /// Number that the mean is compared with
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    null: f64,
    /// Use only rows whose COLUMN is VALUE; may be repeated; several values of one column are alternatives
    #[arg(long, value_name = "COLUMN=VALUE")]
    r#where: Vec<String>,
    #[command(flatten)]
    how: How,
}

/// Tests whether the mean of a sample differs from a number.
pub fn one_sample(args: &OneSampleArgs) -> Result<()> {
    let how = &args.how;
    how.check()?;
    ensure!(args.null.is_finite(), "--null {}: expected a number", args.null);
    let mut table = Table::read(&args.file)?;
    table.keep(&wanted(&args.r#where)?)?;
    let values = table.numbers(&args.value)?;
    let above: Vec<f64> = values.iter().map(|value| value - args.null).collect();
    let mean = Mean::of(&values);
    let mut t = Finding::new("t", "the mean of other values");
    // The margin is centred on the number that the mean is compared with.
    t = t.mean(mean.clone(), args.null, &How { margin: None, ..*how })?;
    if let (Some(margin), Ok(mean)) = (how.margin, mean) {
        let around = Mean { value: mean.value - args.null, ..mean };
        t.p_equivalence = Some(around.equivalence(margin, how.alpha())?.p);
    }
    let findings = [
        t,
        Finding::new("sign-flip", "values as likely below as above").test(sign_flip(&above, how.alpha())),
        Finding::new("Hedges' g", "in standard deviations").estimate(hedges_g_of_pairs(&above, how.level)),
    ];
    if how.json {
        let found = json!({ "n": values.len(), "null": args.null, "level": how.level, "findings": findings });
        return say(serde_json::to_string_pretty(&found)?);
    }
    say(format!("{} values of {}, against {}", values.len(), args.value, number(args.null)))?;
    say_findings(&findings)
}
