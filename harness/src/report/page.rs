//! The page: everything of an experiment in one file that needs no other.

use super::Experiment;
use super::TrialQuestion;
use super::figure::Drawn;
use super::grid::Grid;
use super::number::p_text;
use super::summary::{Row, Setting, subjects};
use crate::records::{Status, TrialRecord};
use anyhow::{Context, Result};
use minijinja::{Environment, context};

/// The sentence that says what may be believed.
fn headline(settings: &[Setting]) -> Vec<String> {
    let examined: Vec<&Setting> = settings.iter().filter(|s| s.pooled.1 > 0).collect();
    if examined.is_empty() {
        return vec!["No trial has sat an exam.".into()];
    }
    let share = |s: &Setting| 100.0 * s.pooled.0 as f64 / s.pooled.1 as f64;
    let told = |s: &&Setting| format!("{} ({:.1} %, p = {})", s.label, share(s), p_text(s.p_holm));
    let (differ, same): (Vec<&Setting>, Vec<&Setting>) = examined.iter().partition(|s| s.p_holm < 0.05);
    let (above, below): (Vec<&Setting>, Vec<&Setting>) = differ.into_iter().partition(|s| share(s) > 25.0);
    let list = |settings: &[&Setting]| settings.iter().map(told).collect::<Vec<_>>().join("; ");
    let mut lines = vec![];
    if !above.is_empty() {
        lines.push(format!("Better than guessing: {}.", list(&above)));
    }
    if !below.is_empty() {
        lines.push(format!("Worse than guessing: {}.", list(&below)));
    }
    if !same.is_empty() {
        lines.push(format!("Not distinguishable from guessing: {}.", list(&same)));
    }
    lines.push("Exact two-sided binomial tests against 25 %, corrected by Holm over all settings.".into());
    if settings.iter().any(|s| s.trials.len() < 2) {
        lines.push(
            "Some settings have a single seed: their intervals cover the questions drawn, not the luck of training.".into(),
        );
    }
    lines
}

/// What stages dropped, cut, skipped or reduced: each once, with the number of trials that it happened to.
fn notices(trials: &[TrialRecord]) -> Vec<minijinja::Value> {
    let mut found: Vec<(String, usize)> = vec![];
    for text in trials.iter().flat_map(|trial| trial.notices.iter().map(ToString::to_string)) {
        match found.iter_mut().find(|(known, _)| *known == text) {
            Some((_, trials)) => *trials += 1,
            None => found.push((text, 1)),
        }
    }
    let of = |n: usize| if n == 1 { "1 trial".into() } else { format!("{n} trials") };
    found.into_iter().map(|(text, n)| context! { text, trials => of(n) }).collect()
}

/// Everything that goes onto the page.
pub struct Page<'a> {
    /// What was asked.
    pub experiment: &'a Experiment,
    /// All trials, finished or not.
    pub trials: &'a [TrialRecord],
    /// Their exams.
    pub rows: &'a [Row<'a>],
    /// Settings over their seeds.
    pub settings: &'a [Setting<'a>],
    /// All answers.
    pub questions: &'a [TrialQuestion],
    /// The summary.
    pub summary: &'a Grid,
    /// The tables that were asked for.
    pub tables: &'a [Grid],
    /// The comparisons, where some were asked for.
    pub comparisons: Option<&'a Grid>,
    /// The figures.
    pub figures: &'a [Drawn],
}

impl Page<'_> {
    /// The page as HTML.
    pub fn html(&self) -> Result<String> {
        let Self { experiment, trials, rows, settings, questions, .. } = *self;
        let failed: Vec<_> = trials
        .iter()
        .filter(|t| t.status != Status::Done)
        .map(|t| context! { label => super::summary::label(t), seed => t.seed, status => format!("{:?}", t.status).to_lowercase(), reason => t.reason.clone().unwrap_or_default() })
        .collect();
        let exams: Vec<Vec<String>> = rows
            .iter()
            .filter_map(|row| {
                let exam = row.exam?;
                let percent = |v: f64| format!("{:.1}", 100.0 * v);
                Some(vec![
                    super::summary::label(row.trial),
                    row.trial.seed.to_string(),
                    exam.stage.clone(),
                    format!("{} of {}", exam.correct, exam.questions),
                    percent(row.accuracy()?),
                    format!("{} – {}", percent(row.interval.0), percent(row.interval.1)),
                    p_text(row.p_guess),
                ])
            })
            .collect();
        let by_subject: Vec<_> = settings
            .iter()
            .map(|s| {
                let cells = subjects(s, questions).into_iter().map(|(subject, correct, asked)| {
                    format!("{subject} {:.0} % ({correct}/{asked})", 100.0 * correct as f64 / asked as f64)
                });
                context! { label => s.label.clone(), cells => cells.collect::<Vec<_>>() }
            })
            .collect();
        let configurations: Vec<_> = trials
        .iter()
        .map(|t| context! { trial => t.trial.to_string(), label => super::summary::label(t), seed => t.seed, config => t.config.clone() })
        .collect();
        let figures: Vec<_> =
            self.figures.iter().map(|f| context! { svg => f.svg, remark => f.remark }).collect();
        let tables: Vec<_> =
            self.tables.iter().map(|t| context! { title => t.title, html => t.html() }).collect();
        let mut environment = Environment::new();
        environment
            .add_template("report.html", include_str!("report.html"))
            .context("the page's template")?;
        let page = environment.get_template("report.html")?.render(context! {
        title => experiment.title, question => experiment.question, headline => headline(settings),
        summary => self.summary.html(), tables, comparisons => self.comparisons.map(Grid::html), exams, by_subject, failed, notices => notices(trials), figures, configurations,
    });
        page.context("the page")
    }
}
