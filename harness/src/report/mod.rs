//! From recorded runs to tables, figures and a page. *Invariant:* this folder never touches a tensor.

mod charts;
mod columns;
mod compare;
mod condition;
mod curves;
mod experiment;
mod fields;
mod figure;
mod grid;
mod number;
mod observation;
mod page;
mod plots;
mod summary;
mod tables;
mod wanted;

pub use experiment::Experiment;

use crate::records::{QuestionRecord, TrialRecord};
use crate::run::files::{create_dir, write_atomic};
use anyhow::Result;
use grid::Grid;
use observation::Results;
use page::Page;
use std::path::Path;
use uuid::Uuid;

/// One exam question as the model of one trial answered it.
#[derive(Debug, Clone, PartialEq)]
pub struct TrialQuestion {
    /// The trial.
    pub trial: Uuid,
    /// The stage whose model sat the exam.
    pub stage: String,
    /// The answer.
    pub record: QuestionRecord,
}

/// Writes tables, figures and the page of an experiment into `out`.
pub fn write(
    experiment: &Experiment,
    trials: &[TrialRecord],
    questions: &[TrialQuestion],
    out: &Path,
) -> Result<()> {
    let (rows, settings) = (summary::rows(trials), summary::settings(trials));
    for folder in ["figures", "tables"] {
        create_dir(&out.join(folder))?;
    }
    write_atomic(&out.join("trials.csv"), &tables::trials_csv(&rows)?)?;
    write_atomic(&out.join("summary.csv"), &tables::summary_csv(&settings)?)?;
    write_atomic(&out.join("questions.csv"), &tables::questions_csv(questions)?)?;
    let results = Results::new(trials, questions);
    let summary = tables::summary(&settings);
    write_grid(&summary, "summary", out)?;
    let mut wanted = vec![];
    for spec in &experiment.tables {
        let grid = grid::table(spec, &results);
        write_grid(&grid, &spec.name, out)?;
        wanted.push(grid);
    }
    let compared = compare::compare(&experiment.comparisons, &results);
    let comparisons = tables::comparisons(&compared);
    if !compared.is_empty() {
        write_atomic(&out.join("comparisons.csv"), &tables::comparisons_csv(&compared)?)?;
        write_grid(&comparisons, "comparisons", out)?;
    }
    let figures = match experiment.figures.as_slice() {
        [] => charts::charts(trials, &settings, questions, &results),
        asked => asked.iter().map(|spec| plots::figure(spec, &results)).collect(),
    };
    let mut drawn = vec![];
    for figure in figures {
        drawn.push(figure.write(&out.join("figures"))?);
    }
    let page = Page {
        experiment,
        trials,
        rows: &rows,
        settings: &settings,
        questions,
        summary: &summary,
        tables: &wanted,
        comparisons: (!compared.is_empty()).then_some(&comparisons),
        figures: &drawn,
    };
    write_atomic(&out.join("report.html"), page.html()?.as_bytes())
}

fn write_grid(grid: &Grid, name: &str, out: &Path) -> Result<()> {
    let tables = out.join("tables");
    write_atomic(&tables.join(format!("{name}.md")), grid.markdown().as_bytes())?;
    write_atomic(&tables.join(format!("{name}.tex")), grid.latex().as_bytes())
}

#[cfg(test)]
mod tests;
