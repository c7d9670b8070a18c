//! The page: everything of an experiment in one file that needs no other.

use super::Experiment;
use super::figure::Drawn;
use super::grid::Grid;
use super::headline::headline;
use super::number::p_text;
use super::observation::{Pooled, Results};
use super::summary::{Row, Setting};
use crate::records::{Status, TrialRecord, notices};
use crate::track::counted;
use anyhow::{Context, Result};
use minijinja::{Environment, context};

/// Everything that goes onto the page.
pub struct Page<'a> {
    /// What was asked.
    pub experiment: &'a Experiment,
    /// All of it.
    pub results: &'a Results<'a>,
    /// All trials, finished or not.
    pub trials: &'a [TrialRecord],
    /// Their exams.
    pub rows: &'a [Row<'a>],
    /// Settings over their seeds.
    pub settings: &'a [Setting<'a>],
    /// The summary.
    pub summary: &'a Grid,
    /// What answers say beyond right and wrong, each table with its name.
    pub beyond: &'a [(&'static str, Grid)],
    /// The tables that were asked for.
    pub tables: &'a [Grid],
    /// The comparisons, where some were asked for.
    pub comparisons: Option<&'a Grid>,
    /// The figures.
    pub figures: &'a [Drawn],
    /// The laws that were fitted.
    pub fits: Option<&'a Grid>,
    /// What was tuned, and what that cost.
    pub tuning: Option<(&'a Grid, String)>,
}

impl Page<'_> {
    /// The page as HTML.
    pub fn html(&self) -> Result<String> {
        let Self { experiment, results, trials, rows, settings, .. } = *self;
        let failed: Vec<_> = trials
        .iter()
        .filter(|t| t.status != Status::Done)
        .map(|t| context! { label => results.label(t), seed => t.seed, status => format!("{:?}", t.status).to_lowercase(), reason => t.reason.clone().unwrap_or_default() })
        .collect();
        let exams: Vec<Vec<String>> = rows
            .iter()
            .filter_map(|row| {
                let exam = row.exam?;
                let (tally, (low, high)) = (exam.tally, exam.tally.interval());
                let percent = |v: f64| format!("{:.1}", 100.0 * v);
                Some(vec![
                    results.label(row.trial).into(),
                    row.trial.seed.to_string(),
                    exam.after(),
                    format!("{} of {}", tally.correct, tally.questions),
                    percent(tally.accuracy()),
                    format!("{} – {}", percent(low), percent(high)),
                    p_text(tally.p_guess()),
                ])
            })
            .collect();
        let by_subject: Vec<_> = settings
            .iter()
            .filter(|s| s.answers.is_some())
            .map(|s| {
                let cells = s.subjects().into_iter().map(|(subject, answers)| {
                    let Pooled { correct, asked, .. } = answers;
                    format!("{subject} {:.0} % ({correct}/{asked})", 100.0 * answers.share())
                });
                context! { label => s.label, cells => cells.collect::<Vec<_>>() }
            })
            .collect();
        let beyond: Vec<_> = self.beyond.iter().map(|(_, table)| table.html()).collect();
        let configurations: Vec<_> = trials
        .iter()
        .map(|t| context! { trial => t.trial.to_string(), label => results.label(t), seed => t.seed, config => t.config.clone(), folders => t.stages.iter().map(|s| s.dir.display().to_string()).collect::<Vec<_>>() })
        .collect();
        let figures: Vec<_> =
            self.figures.iter().map(|f| context! { svg => f.svg, remark => f.remark }).collect();
        let tables: Vec<_> =
            self.tables.iter().map(|t| context! { title => t.title, html => t.html_with_note() }).collect();
        let notices: Vec<_> = notices(trials)
            .into_iter()
            .map(|(text, n)| context! { text, trials => counted(n, "trial") })
            .collect();
        let mut environment = Environment::new();
        environment
            .add_template("report.html", include_str!("report.html"))
            .context("the page's template")?;
        let page = environment.get_template("report.html")?.render(context! {
        title => experiment.title, question => experiment.question, headline => headline(settings),
        summary => self.summary.html(), tables, comparisons => self.comparisons.map(Grid::html), exams, by_subject, beyond, failed, fits => self.fits.map(Grid::html), tuning => self.tuning.as_ref().map(|(grid, cost)| context! { html => grid.html(), cost }), notices, figures, configurations,
    });
        page.context("the page")
    }
}
