//! `stats compare`: two models, or two settings across seeds, on the questions that both answered.

use super::scores::{Columns, Question, Scores};
use super::table::wanted;
use super::{Finding, How, number, say, say_findings, with_rows};
use crate::track::counted;
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;
use stats::{
    Components, Draws, Mean, StatsError, bootstrap, cluster_bootstrap, cohens_h, crossed_difference,
    difference_of_paired_shares, difference_of_shares, differences, hedges_g, hedges_g_of_pairs, mcnemar,
    mean, permutation, pigeonhole_bootstrap, sign_flip,
};
use std::path::PathBuf;

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Table of scores of the first side
    a: PathBuf,
    /// Table of scores of the second side
    b: PathBuf,
    #[command(flatten)]
    columns: Columns,
    /// Use only rows whose COLUMN is VALUE; may be repeated; several values of one column are alternatives
    #[arg(long, value_name = "COLUMN=VALUE")]
    r#where: Vec<String>,
    /// As --where, for the first table only
    #[arg(long, value_name = "COLUMN=VALUE")]
    where_a: Vec<String>,
    /// As --where, for the second table only
    #[arg(long, value_name = "COLUMN=VALUE")]
    where_b: Vec<String>,
    /// Compare the shares of right answers to different questions, of one model on each side
    #[arg(long, conflicts_with = "margin")]
    independent: bool,
    #[command(flatten)]
    how: How,
}

/// Scores of both sides on their common questions: `a[seed][question]`, `b[seed][question]`.
struct Sides {
    questions: Vec<Question>,
    a: Vec<Vec<f64>>,
    b: Vec<Vec<f64>>,
    /// Whether both sides have several seeds, with the same names.
    is_paired: bool,
    /// Whether all scores lie between 0 and 1.
    are_shares: bool,
}

/// Compares two sides and prints the findings.
pub fn compare(args: &CompareArgs) -> Result<()> {
    args.how.check()?;
    let read = |path: &PathBuf, own: &[String]| {
        Scores::read(path, &args.columns, &wanted(&[&args.r#where, own].concat())?)
    };
    let (a, b) = (read(&args.a, &args.where_a)?, read(&args.b, &args.where_b)?);
    let questions = a.common(&b)?;
    if args.independent {
        return independent(&a, &b, questions.len(), &args.how);
    }
    ensure!(
        !questions.is_empty(),
        "{} and {} have no question in common; name the column of questions with --question, or compare different \
         questions with --independent",
        a.file,
        b.file
    );
    let is_paired = a.seeds.len() > 1 && a.seeds.keys().eq(b.seeds.keys());
    let (of_a, of_b) = (a.table(&questions), b.table(&questions));
    let are_shares = of_a.iter().chain(&of_b).flatten().all(|score| (0.0..=1.0).contains(score));
    let sides = Sides { a: of_a, b: of_b, questions, is_paired, are_shares };
    let findings = sides.findings(&args.how)?;
    let components = sides.components().filter(|parts| parts.iter().sum::<f64>() > 0.0);
    let means = [&sides.a, &sides.b].map(|side| mean(&of_seeds(side)));
    let left_out = a.answered().union(&b.answered()).count() - sides.questions.len();
    if args.how.json {
        let side = |scores: &Scores, seeds: &[Vec<f64>], mean: f64| {
            with_rows(json!({ "file": scores.file, "seeds": seeds.len(), "mean": mean }), &scores.rows)
        };
        return say(serde_json::to_string_pretty(&json!({
            "a": side(&a, &sides.a, means[0]), "b": side(&b, &sides.b, means[1]),
            "questions": sides.questions.len(), "questions_left_out": left_out,
            "paired_seeds": sides.is_paired, "difference": means[0] - means[1], "level": args.how.level,
            "findings": findings, "variance_of_difference": components,
        }))?);
    }
    for (name, scores, side, mean) in [("a", &a, &sides.a, means[0]), ("b", &b, &sides.b, means[1])] {
        let by = scores.seeds_by.as_ref().map_or(String::new(), |by| format!(" by {by}"));
        let rows = scores.rows.note();
        say(format!("{name}  {}: mean {}, seeds: {}{by}{rows}", scores.file, number(mean), side.len()))?;
    }
    let note =
        if left_out > 0 { format!(", {left_out} left out (not answered by all)") } else { String::new() };
    let equal = if sides.a == sides.b { ", all scores are equal" } else { "" };
    let (questions, difference) = (sides.questions.len(), number(means[0] - means[1]));
    say(format!("{questions} questions{note}; a - b = {difference}{equal}"))?;
    say_findings(&findings)?;
    if let Some(parts) = components {
        let total: f64 = parts.iter().sum();
        let [seed, question, rest] = parts.map(|part| 100.0 * part / total);
        say(format!(
            "variance of the difference: {seed:.0} % by seeds, {question:.0} % by questions, {rest:.0} % by single answers"
        ))?;
    }
    Ok(())
}

/// Compares the shares of right answers of two models that answered different questions.
fn independent(a: &Scores, b: &Scores, common: usize, how: &How) -> Result<()> {
    ensure!(
        common == 0,
        "--independent: {} and {} have {} in common, which are compared in pairs without it",
        a.file,
        b.file,
        counted(common, "question")
    );
    let count = |scores: &Scores| -> Result<(u64, u64)> {
        let only = scores.seeds.values().next().filter(|_| scores.seeds.len() == 1);
        let answers = only.with_context(|| {
            format!("--independent: {} has {} seeds, expected one model", scores.file, scores.seeds.len())
        })?;
        ensure!(
            answers.values().all(|score| *score == 0.0 || *score == 1.0),
            "--independent: {} has scores other than 0 and 1, expected right and wrong answers",
            scores.file
        );
        Ok((answers.values().filter(|score| **score == 1.0).count() as u64, answers.len() as u64))
    };
    let counts = [count(a)?, count(b)?];
    let of = "these models, other questions";
    let findings = [
        Finding::new("interval of Newcombe", of)
            .estimate(difference_of_shares(counts[0], counts[1], how.level)),
        Finding::new("Cohen's h", of).estimate(cohens_h(counts[0], counts[1], how.level)),
    ];
    let share = |(right, n): (u64, u64)| right as f64 / n as f64;
    let difference = share(counts[0]) - share(counts[1]);
    if how.json {
        let side = |scores: &Scores, (right, n): (u64, u64)| {
            let found =
                json!({ "file": scores.file, "right": right, "questions": n, "mean": share((right, n)) });
            with_rows(found, &scores.rows)
        };
        return say(serde_json::to_string_pretty(&json!({
            "a": side(a, counts[0]), "b": side(b, counts[1]), "difference": difference, "level": how.level,
            "findings": findings,
        }))?);
    }
    for (name, scores, (right, n)) in [("a", a, counts[0]), ("b", b, counts[1])] {
        let rows = scores.rows.note();
        say(format!("{name}  {}: {right} of {n} right, {}{rows}", scores.file, number(share((right, n)))))?;
    }
    say(format!("different questions; a - b = {}", number(difference)))?;
    say_findings(&findings)
}

impl Sides {
    fn findings(&self, how: &How) -> Result<Vec<Finding>> {
        let (a, b) = (self.a.len(), self.b.len());
        let mut findings = if a == 1 && b == 1 { self.of_models(how) } else { vec![] };
        findings
            .extend(self.by_questions(how, if a == 1 && b == 1 { "these models" } else { "these seeds" })?);
        if a.min(b) > 1 {
            findings.extend(self.by_seeds(how)?);
        }
        Ok(findings)
    }

    /// Returns the score of each question, averaged over the seeds.
    fn of_questions(side: &[Vec<f64>]) -> Vec<f64> {
        (0..side[0].len()).map(|q| mean(&side.iter().map(|row| row[q]).collect::<Vec<_>>())).collect()
    }

    /// Compares two single models whose answers are right or wrong.
    fn of_models(&self, how: &How) -> Vec<Finding> {
        let (a, b) = (&self.a[0], &self.b[0]);
        let is_binary = a.iter().chain(b).all(|score| *score == 0.0 || *score == 1.0);
        if !is_binary {
            return vec![];
        }
        let only = |x: &[f64], y: &[f64]| x.iter().zip(y).filter(|(x, y)| x > y).count() as u64;
        let (only_a, only_b) = (only(a, b), only(b, a));
        let share = difference_of_paired_shares(only_a, only_b, a.len() as u64, how.level);
        let found =
            Finding::new("McNemar, exact; interval of Bonett & Price", "these models, other questions");
        vec![found.estimate(share).test(Ok(mcnemar(only_a, only_b)))]
    }

    /// Adds the mean of the differences of pairs, such as questions, or that none of them differs.
    fn paired(
        &self,
        finding: Finding,
        found: Result<Mean, StatsError>,
        pairs: &[f64],
        units: &str,
        how: &How,
    ) -> Result<Finding> {
        let are_equal = pairs.len() > 1 && pairs.iter().all(|difference| *difference == 0.0);
        match are_equal {
            true => Ok(finding.equal(pairs.len(), units, self.are_shares, how)),
            false => finding.mean(found, 0.0, how),
        }
    }

    fn by_questions(&self, how: &How, who: &str) -> Result<Vec<Finding>> {
        let (a, b) = (Self::of_questions(&self.a), Self::of_questions(&self.b));
        let of = format!("{who}, other questions");
        let difference: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
        let draws = Draws::default();
        let mut findings = vec![
            self.paired(
                Finding::new("paired t over questions", &of),
                Mean::of_pairs(&a, &b),
                &difference,
                "questions",
                how,
            )?,
            Finding::new("paired bootstrap", &of).estimate(bootstrap(&difference, how.level, draws)),
        ];
        let subjects = self.subjects();
        if subjects.iter().any(|subject| *subject > 0) {
            let of = format!("{who}, other subjects");
            let t = Mean::of_clusters(&difference, &subjects);
            findings.push(Finding::new("t over subjects", &of).mean(t, 0.0, how)?);
            let drawn = cluster_bootstrap(&difference, &subjects, how.level, draws);
            findings.push(Finding::new("cluster bootstrap", &of).estimate(drawn));
        }
        Ok(findings)
    }

    /// Returns a number for each question's subject.
    fn subjects(&self) -> Vec<usize> {
        let mut names: Vec<&str> = self.questions.iter().map(|(subject, _)| subject.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let place = |(subject, _): &Question| names.binary_search(&subject.as_str()).unwrap_or(0);
        self.questions.iter().map(place).collect()
    }

    fn by_seeds(&self, how: &How) -> Result<Vec<Finding>> {
        let (a, b) = (of_seeds(&self.a), of_seeds(&self.b));
        let these = "other seeds, these questions";
        let (both, alpha) = ("other seeds, other questions", how.alpha());
        if !self.is_paired {
            let crossed = crossed_difference(&self.a, &self.b);
            return Ok(vec![
                Finding::new("Welch's t over seeds", these).mean(Mean::of_difference(&a, &b), 0.0, how)?,
                Finding::new("permutation of seeds", these).test(permutation(&a, &b, alpha)),
                Finding::new("Hedges' g over seeds", these).estimate(hedges_g(&a, &b, how.level)),
                Finding::new("variance components, Satterthwaite", both).mean(crossed, 0.0, how)?,
                Finding {
                    refused: Some("the seeds of both sides have different names, expected pairs".into()),
                    ..Finding::new("pigeonhole bootstrap", both)
                },
            ]);
        }
        let pairs: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
        let table = differences(&self.a, &self.b)?;
        let crossed = Components::of(&table).and_then(|components| components.mean());
        let drawn = pigeonhole_bootstrap(&table, how.level, Draws::default());
        Ok(vec![
            self.paired(
                Finding::new("paired t over seeds", these),
                Mean::of_pairs(&a, &b),
                &pairs,
                "seeds",
                how,
            )?,
            Finding::new("sign-flip of seeds", these).test(sign_flip(&pairs, alpha)),
            Finding::new("Hedges' g of pairs", these).estimate(hedges_g_of_pairs(&pairs, how.level)),
            Finding::new("variance components, Satterthwaite", both).mean(crossed, 0.0, how)?,
            Finding::new("pigeonhole bootstrap", both).estimate(drawn),
        ])
    }

    /// Returns the parts of the variance of the difference that are due to seeds, questions and single answers.
    fn components(&self) -> Option<[f64; 3]> {
        if self.a.len().min(self.b.len()) < 2 {
            return None;
        }
        if self.is_paired {
            let found = Components::of(&differences(&self.a, &self.b).ok()?).ok()?;
            return Some(found.variance_of_mean());
        }
        let [a, b] =
            [&self.a, &self.b].map(|side| Components::of(side).map(|found| found.variance_of_mean()));
        let ([seed_a, _, rest_a], [seed_b, _, rest_b]) = (a.ok()?, b.ok()?);
        let rest = rest_a + rest_b;
        let (of_a, of_b) = (Self::of_questions(&self.a), Self::of_questions(&self.b));
        let question = Mean::of_pairs(&of_a, &of_b).map_or(0.0, |mean| mean.error.powi(2));
        Some([seed_a + seed_b, (question - rest).max(0.0), rest])
    }
}

fn of_seeds(side: &[Vec<f64>]) -> Vec<f64> {
    side.iter().map(|row| mean(row)).collect()
}
