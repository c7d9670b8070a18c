//! From recorded runs to tables, figures and a page. *Invariant:* this folder never touches a tensor.

mod charts;
mod experiment;
mod figures;
mod page;
mod summary;
mod tables;

pub use experiment::Experiment;

use crate::records::{QuestionRecord, TrialRecord};
use crate::run::files::{create_dir, write_atomic};
use anyhow::Result;
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
    write_atomic(&out.join("tables/summary.md"), tables::summary_md(&settings).as_bytes())?;
    write_atomic(&out.join("tables/summary.tex"), tables::summary_tex(&settings).as_bytes())?;
    let mut drawn = vec![];
    for figure in charts::charts(trials, &settings, questions) {
        drawn.push((figure.title.clone(), figure.write(&out.join("figures"))?));
    }
    let page = page::html(experiment, trials, &rows, &settings, questions, &drawn)?;
    write_atomic(&out.join("report.html"), page.as_bytes())
}

#[cfg(test)]
mod tests;
