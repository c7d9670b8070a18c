//! Turns recorded runs into tables, figures and the report page. *Invariant:* this folder never touches a tensor.
//!
//! [`write()`] is the way through it: an `experiment` file names `columns`; the `results` of its trials are analysed (`analysis`)
//! and shown as `tables`, as figures (their `kind`s, drawn by `figure`) and on the `page`.

mod analysis;
mod columns;
mod context_length;
mod experiment;
mod figure;
mod kind;
mod number;
mod output;
mod page;
mod results;
mod tables;
mod tensorboard;

pub use columns::docs::columns_markdown;
pub use context_length::write_length_figure;
pub use experiment::{Experiment, choose::choose, schema::experiment_schema};
pub use page::Origin;
pub use tables::grid::Grid;
#[cfg(test)]
pub(crate) use {columns::Column, experiment::schema::NAMED};

use crate::records::{ExaminedWeights, QuestionRecord, TrialRecord, TuningRecord};
use analysis::{agreement, answers, compare, laws, tuning};
use anyhow::Result;
use figure::{Drawn, Figure};
use kind::FigureSpec;
use output::Output;
use page::Page;
use results::observation::Results;
use results::summary;
use std::path::Path;
use tables::{csv_files, experts_csv, latex, requested, standard, typeset::Width};
use uuid::Uuid;

/// One exam question as answered by the model of one trial.
#[derive(Debug, Clone, PartialEq)]
pub struct TrialQuestion {
    /// The trial's UUID.
    pub trial: Uuid,
    /// The training stage whose model took the exam.
    pub stage: String,
    /// The weights of that stage that took it.
    pub taken: ExaminedWeights,
    /// The question with its answer.
    pub record: QuestionRecord,
}

/// Writes the tables, figures and page of an experiment into `out`, and removes files left there by an earlier report.
///
/// `trials` and `questions` hold each trial of the study and each answer once, however many sweeps contain them;
/// `tunings` holds the values tried by `[tune]`; `origin` states how to reproduce the report.
///
/// # Errors
/// Returns an error if a file cannot be written or a figure cannot be drawn.
pub fn write(
    experiment: &Experiment,
    trials: &[TrialRecord],
    questions: &[TrialQuestion],
    tunings: &[TuningRecord],
    origin: &Origin,
    out: &Path,
) -> Result<()> {
    let results = Results::labelled(trials, questions, &experiment.names);
    let (rows, settings) = (summary::rows(trials), summary::settings(&results));
    let mut out = Output::open(out, &["figures", "tables"])?;
    out.write("trials.csv", &csv_files::trials_csv(&rows, &results)?)?;
    out.write("summary.csv", &csv_files::summary_csv(&settings)?)?;
    out.write("questions.csv", &csv_files::questions_csv(questions)?)?;
    if !questions.is_empty() {
        out.write("agreement.csv", &agreement::agreement_csv(&settings)?)?;
    }
    if let Some(experts) = experts_csv::experts_csv(&rows)? {
        out.write("experts.csv", &experts)?;
    }
    let summary = standard::summary(&settings);
    write_grid(&summary, "summary", &mut out)?;
    let analysis = answers::tables(&settings);
    analysis.iter().try_for_each(|(name, grid)| write_grid(grid, name, &mut out))?;
    let mut requested = vec![];
    for spec in &experiment.tables {
        let mut grids = requested::tables(spec, &results);
        let subjects = grids.split_off(1);
        write_grids(&grids, &spec.name, spec.width, &mut out)?;
        if !subjects.is_empty() {
            write_grids(&subjects, &format!("{}_subjects", spec.name), spec.width, &mut out)?;
        }
        requested.append(&mut grids);
    }
    let compared = compare::compare(&experiment.comparisons, &results);
    if !compared.is_empty() {
        out.write("comparisons.csv", &csv_files::comparisons_csv(&compared)?)?;
        write_grid(&standard::comparisons(&compared), "comparisons", &mut out)?;
    }
    let (curves, figures): (Vec<&FigureSpec>, Vec<&FigureSpec>) =
        experiment.figures.iter().partition(|spec| spec.is_curve());
    let draw = |requested: &[&FigureSpec], default: &dyn Fn() -> Vec<Figure>| match requested {
        [] => default(),
        requested => requested.iter().map(|spec| kind::draw(spec, &results, &compared)).collect(),
    };
    let fitted = laws::fit(&experiment.fits, &results);
    let fits = laws::table(&fitted);
    if !fitted.is_empty() {
        out.write("fits.csv", &laws::csv(&fitted)?)?;
        write_grid(&fits, "fits", &mut out)?;
    }
    let tuned = tuning::table(tunings, &experiment.names);
    if !tunings.is_empty() {
        out.write("tuning.csv", &tuning::csv(tunings)?)?;
        write_grid(&tuned, "tuning", &mut out)?;
    }
    let mut written = |figures: Vec<Figure>| -> Result<Vec<Drawn>> {
        figures.iter().map(|figure| figure.write(&mut out)).collect()
    };
    let figures =
        written(draw(&figures, &|| kind::defaults::figures(&settings, &results, &experiment.names)))?;
    let curves = written(draw(&curves, &|| kind::defaults::curves(&results)))?;
    let (of_fits, of_tuning) =
        (written(laws::figures(&fitted))?, written(tuning::figures(tunings, &experiment.names))?);
    tensorboard::write(&experiment.question, &results, &mut out)?;
    let page = Page {
        experiment,
        origin,
        results: &results,
        trials,
        rows: &rows,
        settings: &settings,
        summary: &summary,
        analysis: &analysis,
        tables: &requested,
        compared: &compared,
        figures: &figures,
        curves: &curves,
        fits: (!fitted.is_empty()).then_some((&fits, of_fits.as_slice())),
        tuning: (!tunings.is_empty()).then(|| (&tuned, tuning::cost(tunings), of_tuning.as_slice())),
    };
    out.write("report.html", page.html()?.as_bytes())?;
    out.finish()
}

/// Writes a single table at page width.
fn write_grid(grid: &Grid, name: &str, out: &mut Output) -> Result<()> {
    write_grids(std::slice::from_ref(grid), name, Width::Page, out)
}

/// Writes tables to one Markdown file and one LaTeX file.
fn write_grids(grids: &[Grid], name: &str, width: Width, out: &mut Output) -> Result<()> {
    let markdown: Vec<String> = grids.iter().map(Grid::markdown).collect();
    out.write(&format!("tables/{name}.md"), markdown.join("\n").as_bytes())?;
    out.write(&format!("tables/{name}.tex"), latex::latex(grids, name, width).as_bytes())
}

#[cfg(test)]
mod tests;
