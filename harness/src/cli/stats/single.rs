//! `stats guess` and `stats one-sample`: test one model, or one setting, against chance or a number.

use super::scores::{Asked, Rows};
use super::table::{Table, wanted};
use super::{Finding, How, number, say, say_findings, with_rows};
use crate::records::{GUESSING, letter, place_of};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use stats::{
    Answered, Mean, OPTIONS, PERMUTATIONS, StatsError, TestResult, benjamini_hochberg, binomial_equivalence,
    binomial_p, clopper_pearson, guessing, hedges_g_of_pairs, holm, sign_flip, wilson,
};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Arguments of `guess`.
#[derive(Debug, Args)]
pub struct GuessArgs {
    /// Table of answers with the columns prediction and answer; may hold several seeds of one setting, each with one answer
    /// to a question
    #[arg(required_unless_present = "correct", conflicts_with = "correct")]
    file: Option<PathBuf>,
    /// Numbers of right answers, if only these are known
    #[arg(long, value_delimiter = ',', requires = "questions")]
    correct: Vec<u64>,
    /// Number of questions that each number in --correct refers to
    #[arg(long)]
    questions: Option<u64>,
    /// Accuracy of guessing; unset: by the number of options, if the table has probabilities p_a, p_b, ..., otherwise 0.25
    #[arg(long)]
    chance: Option<f64>,
    /// Use only rows whose COLUMN is VALUE; may be repeated; several values of one column are alternatives
    #[arg(long, value_name = "COLUMN=VALUE")]
    r#where: Vec<String>,
    #[command(flatten)]
    how: How,
}

/// Tests whether answers are better than guessing.
pub fn guess(args: &GuessArgs) -> Result<()> {
    args.how.check()?;
    if let Some(chance) = args.chance {
        ensure!(chance > 0.0 && chance < 1.0, "--chance {chance}: expected a number between 0 and 1");
    }
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
    let chance = args.chance.map_or(Chance::Assumed, Chance::Given);
    let all: Vec<f64> =
        args.correct.iter().map(|&correct| binomial_p(correct, questions, chance.accuracy())).collect();
    let (by_holm, by_bh) = (holm(&all), benjamini_hochberg(&all));
    let mut found: Vec<Value> = vec![];
    for (((&correct, p), p_holm), p_bh) in args.correct.iter().zip(&all).zip(&by_holm).zip(&by_bh) {
        let shares = wilson(correct, questions, how.level)?;
        let exact = clopper_pearson(correct, questions, how.level)?;
        let verdict = verdict(*p_holm, shares.value > chance.accuracy(), how);
        let equivalence =
            how.margin.map(|margin| binomial_equivalence(correct, questions, chance.accuracy(), margin));
        let equivalence = equivalence.transpose()?;
        let test = TestResult { statistic: correct as f64, df: None, p: *p, n: questions as usize };
        if how.json {
            found.push(json!({
                "correct": correct, "questions": questions, "wilson": shares, "clopper_pearson": exact,
                "binomial": test, "p_holm": p_holm, "p_benjamini_hochberg": p_bh, "verdict": verdict,
                "chance": chance.accuracy(), "chance_from": chance.source(), "p_equivalence": equivalence,
            }));
            continue;
        }
        let percent = |x: f64| format!("{:.2}", 100.0 * x);
        say(format!(
            "{correct} of {questions}: {} % [{}, {}] (Wilson), p = {}{} (exact binomial): {verdict}, {} %{}{}",
            percent(shares.value),
            percent(shares.low),
            percent(shares.high),
            number(*p),
            match all.len() {
                1 => String::new(),
                _ => format!(", by Holm {}, by Benjamini-Hochberg {}", number(*p_holm), number(*p_bh)),
            },
            percent(chance.accuracy()),
            chance.note(),
            equivalence.map_or(String::new(), |p| format!("; p of no equivalence = {}", number(p))),
        ))?;
    }
    if how.json { say(serde_json::to_string_pretty(&found)?) } else { Ok(()) }
}

/// Where the accuracy of guessing comes from.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Chance {
    /// The option `--chance`.
    Given(f64),
    /// The mean over the questions of 1 / number of options, which the probabilities of a table show.
    Options(f64),
    /// Four options, as nothing shows another number.
    Assumed,
}

impl Chance {
    fn accuracy(self) -> f64 {
        match self {
            Self::Given(chance) | Self::Options(chance) => chance,
            Self::Assumed => GUESSING,
        }
    }

    /// Its source, for JSON.
    fn source(self) -> &'static str {
        match self {
            Self::Given(_) => "given",
            Self::Options(_) => "options",
            Self::Assumed => "assumed",
        }
    }

    fn note(self) -> &'static str {
        match self {
            Self::Given(_) => "",
            Self::Options(_) => " (1 / number of options)",
            Self::Assumed => " (assumed: four options; --chance sets it)",
        }
    }
}

/// Answers of the seeds of one setting to the questions of an exam.
struct Answers {
    questions: Vec<Answered>,
    /// Number of seeds that were asked each question.
    asked: Vec<u32>,
    /// Right answers and questions of each seed.
    models: Vec<[u64; 2]>,
    /// Mean over the questions of 1 / number of options; `None` unless the table shows the number for all.
    chance: Option<f64>,
    /// Rows that are counted and reported.
    rows: Rows,
}

impl Answers {
    /// Reads the answers of a table, each question once per seed; without a prediction it is wrong.
    fn of(table: &Table) -> Result<Self> {
        let [prediction, answer] = ["prediction", "answer"].map(|name| table.column(name));
        let (prediction, answer) = (prediction?, answer?);
        let question = table.first_of(&["id", "doc_id", "question"]);
        let question = question.map_or_else(|| table.column("id"), Ok)?;
        let subject = table.find("subject");
        let seed = table.first_of(&["seed", "trial"]);
        let probabilities: Vec<(usize, usize)> = (0..OPTIONS)
            .filter_map(|i| Some((i, table.find(&format!("p_{}", letter(i).to_ascii_lowercase()))?)))
            .collect();
        let mut counts = Rows::default();
        let mut strata: BTreeMap<(&str, usize), usize> = BTreeMap::new();
        let mut asked: BTreeMap<(usize, &str), (Answered, usize, u32)> = BTreeMap::new();
        let mut models: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
        let mut rows = BTreeMap::new();
        for (line, row) in table.rows() {
            if row[answer].is_empty() {
                counts.without_score += 1;
                continue;
            }
            let options: Vec<usize> = probabilities
                .iter()
                .filter(|(_, column)| !row[*column].is_empty())
                .map(|(i, _)| *i)
                .collect();
            let place = |what: &str, text: &str| -> Result<usize> {
                let mut letters = text.chars();
                let found = letters.next().filter(|_| letters.next().is_none());
                let found = found.map(|found| place_of(found.to_ascii_uppercase()));
                let found = found.filter(|place| *place < OPTIONS).with_context(|| {
                    format!("{}:{line}: {what}: expected a letter from A to Z, found {text:?}", table.file)
                })?;
                ensure!(
                    options.is_empty() || options.contains(&found),
                    "{}:{line}: {what}: expected an option that has a probability, {}, found {text:?}",
                    table.file,
                    options.iter().map(|&i| letter(i).to_string()).collect::<Vec<_>>().join(", ")
                );
                Ok(found)
            };
            let right = place("answer", &row[answer])?;
            let chosen = match row[prediction].as_str() {
                "" => None,
                letter => Some(place("prediction", letter)?),
            };
            let is_right = counts.count(&row[prediction], &row[answer]);
            let text = |column: Option<usize>| column.map_or("", |column| row[column].as_str());
            // Correct letters are exchanged only between questions with the same number of options.
            let options = options.len();
            let next = strata.len();
            let stratum = *strata.entry((text(subject), options)).or_insert(next);
            let key = (stratum, row[question].as_str());
            if let Some(earlier) = rows.insert((text(seed), key), (line, row)) {
                let asked = Asked { question, subject, scores: vec![prediction, answer] };
                let otherwise =
                    "; expected one answer of each seed or trial, named by a column seed or trial";
                bail!("{}", asked.twice(table, earlier, (line, row), otherwise));
            }
            let new = (Answered { stratum, right, chosen: [0; OPTIONS] }, options, 0);
            let (known, _, times) = asked.entry(key).or_insert(new);
            ensure!(
                known.right == right,
                "{}:{line}: question {:?} has a different answer than in an earlier row",
                table.file,
                row[question]
            );
            if let Some(chosen) = chosen {
                known.chosen[chosen] += 1;
            }
            *times += 1;
            let model = models.entry(text(seed)).or_default();
            model[0] += u64::from(is_right);
            model[1] += 1;
        }
        ensure!(!asked.is_empty(), "{}: no row has an answer", table.file);
        let options: Vec<usize> = asked.values().map(|(_, options, _)| *options).collect();
        let (questions, asked): (Vec<_>, Vec<_>) =
            asked.into_values().map(|(question, _, times)| (question, times)).unzip();
        let chances: f64 = options.iter().map(|options| 1.0 / *options as f64).sum();
        let is_known = options.iter().all(|options| *options > 1);
        let chance = is_known.then(|| chances / options.len() as f64);
        Ok(Self { questions, asked, models: models.into_values().collect(), chance, rows: counts })
    }

    /// Returns p of no equivalence: that the accuracy differs from chance by the margin or more. Answers of several seeds to
    /// one question are not independent, so their means by question are.
    fn equivalence(&self, chance: f64, margin: f64, alpha: f64) -> Result<f64, StatsError> {
        if let [[correct, n]] = self.models[..] {
            return binomial_equivalence(correct, n, chance, margin);
        }
        let share = |(question, asked): (&Answered, &u32)| {
            f64::from(question.chosen[question.right]) / f64::from(*asked)
        };
        let mean = Mean::of(&self.questions.iter().zip(&self.asked).map(share).collect::<Vec<_>>())?;
        Ok(Mean { value: mean.value - chance, ..mean }.equivalence(margin, alpha)?.p)
    }
}

/// Tests the answers of one setting against keys shuffled within subjects.
fn of_answers(file: &std::path::Path, args: &GuessArgs) -> Result<()> {
    let how = &args.how;
    let mut table = Table::read(file)?;
    table.keep(&wanted(&args.r#where)?)?;
    let answers = Answers::of(&table)?;
    let Answers { questions, models, .. } = &answers;
    let chance = match (args.chance, answers.chance) {
        (Some(chance), _) => Chance::Given(chance),
        (None, Some(chance)) => Chance::Options(chance),
        (None, None) => Chance::Assumed,
    };
    let found = guessing(questions, PERMUTATIONS, 1);
    let found = found.with_context(|| format!("{}: no row has a prediction", table.file))?;
    let given: u64 = models.iter().map(|model| model[1]).sum();
    let (share, shuffled) = (found.statistic as f64 / given as f64, found.expected / given as f64);
    let verdict = verdict(found.p, share > shuffled, how);
    let single = match models[..] {
        [[correct, n]] => Some((wilson(correct, n, how.level)?, binomial_p(correct, n, chance.accuracy()))),
        _ => None,
    };
    let equivalence = how.margin.map(|margin| answers.equivalence(chance.accuracy(), margin, how.alpha()));
    if how.json {
        let all = json!({
            "models": models.len(), "questions": questions.len(), "answers": given, "accuracy": share,
            "shuffled_accuracy": shuffled, "p": found.p, "p_is_bound": found.is_bound, "shuffles": found.n,
            "wilson": single.map(|s| s.0), "p_binomial": single.map(|s| s.1), "verdict": verdict,
            "chance": chance.accuracy(), "chance_from": chance.source(),
        });
        let mut all = with_rows(all, &answers.rows);
        match equivalence {
            None => {}
            Some(Ok(p)) => all["p_equivalence"] = p.into(),
            Some(Err(reason)) => all["equivalence_refused"] = reason.to_string().into(),
        }
        return say(serde_json::to_string_pretty(&all)?);
    }
    let bound = if found.is_bound && found.p < 1.0 { "<" } else { "=" };
    say(format!(
        "models: {}, questions: {}{}: {:.2} % right, {:.2} % by shuffled keys, p {bound} {} (Fisher's randomisation, {} keys): {verdict}",
        models.len(),
        questions.len(),
        answers.rows.note(),
        100.0 * share,
        100.0 * shuffled,
        number(found.p),
        found.n
    ))?;
    let against = format!("{}{}", number(chance.accuracy()), chance.note());
    if let Some((interval, p)) = single {
        let [low, high] = [interval.low, interval.high].map(|x| 100.0 * x);
        say(format!("Wilson [{low:.2}, {high:.2}] %; exact binomial against {against} p = {}", number(p)))?;
    }
    let method = if single.is_some() { "exact binomial" } else { "t over questions" };
    match equivalence {
        None => Ok(()),
        Some(Ok(p)) => {
            say(format!("{method}, within the margin of {against}: p of no equivalence = {}", number(p)))
        }
        Some(Err(reason)) => say(format!("no test of equivalence to {against}: {reason}")),
    }
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
