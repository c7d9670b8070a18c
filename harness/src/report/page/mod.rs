//! The page: a self-contained HTML file with all results of an experiment.
//!
//! This module provides the values; the `*.html` partials in this folder, one per section in the order of [`SECTIONS`],
//! render them. A section that renders empty is left out, along with its entry in the table of contents.

mod answers;
mod claims;
mod markdown;
mod origin;
mod subjects;
mod trials;

pub use origin::Origin;

use super::Experiment;
use super::analysis::compare::Comparison;
use super::analysis::headline::{headline, test_of_guessing};
use super::figure::Drawn;
use super::number::p_text;
use super::results::observation::Results;
use super::results::summary::{Row, Setting};
use super::tables::grid::{CLOSE, Grid, GridCell};
use crate::records::{TrialRecord, notices};
use crate::track::counted;
use anyhow::{Context, Result};
use minijinja::{Environment, Value, context};
use std::io::ErrorKind;

/// The sections in order: anchor, title, template.
const SECTIONS: [(&str, &str, &str); 15] = [
    ("claims", "Claims", include_str!("claims.html")),
    ("protocol", "Protocol", include_str!("protocol.html")),
    ("findings", "Findings", include_str!("findings.html")),
    ("figures", "Figures", include_str!("figures.html")),
    ("tables", "Tables", include_str!("tables.html")),
    ("subjects", "Subjects", include_str!("subjects.html")),
    ("analysis", "Answer analysis", include_str!("analysis.html")),
    ("answers", "Sample answers", include_str!("answers.html")),
    ("curves", "Loss curves", include_str!("curves.html")),
    ("fits", "Fits", include_str!("fits.html")),
    ("tuning", "Tuning", include_str!("tuning.html")),
    ("trials", "Trials", include_str!("trials.html")),
    ("notices", "Omitted and truncated data", include_str!("notices.html")),
    ("reproduce", "Reproducing this report", include_str!("reproduce.html")),
    ("reading", "Reading this report", include_str!("reading.html")),
];

/// Number of letters that fit beside each other in a table on a printed page.
const ACROSS: usize = 112;

/// Room beside a column of a table, in letters.
const MARGIN: usize = 2;

/// Macros shared by the sections.
const MACROS: &str = include_str!("macros.html");

/// The content of the page.
pub struct Page<'a> {
    /// The experiment: its question, claims, figures and tables.
    pub experiment: &'a Experiment,
    /// Provenance of the report.
    pub origin: &'a Origin,
    /// The results of all trials.
    pub results: &'a Results<'a>,
    /// All trials, finished or not.
    pub trials: &'a [TrialRecord],
    /// The exams of these trials, one row each.
    pub rows: &'a [Row<'a>],
    /// Results of each setting over its seeds.
    pub settings: &'a [Setting<'a>],
    /// The summary table.
    pub summary: &'a Grid,
    /// Tables that analyse answers beyond right and wrong, each with the name of its file.
    pub analysis: &'a [(&'static str, Grid)],
    /// The tables that the experiment requests.
    pub tables: &'a [Grid],
    /// The tested claims.
    pub compared: &'a [Comparison<'a>],
    /// The rendered figures.
    pub figures: &'a [Drawn],
    /// Loss curves.
    pub curves: &'a [Drawn],
    /// The fitted laws and their curves; `None` if there are none.
    pub fits: Option<(&'a Grid, &'a [Drawn])>,
    /// What was tuned, its cost, and the loss curves; `None` if nothing was tuned.
    pub tuning: Option<(&'a Grid, String, &'a [Drawn])>,
}

impl Page<'_> {
    /// Renders the page as HTML.
    pub fn html(&self) -> Result<String> {
        let Self { experiment, results, settings, .. } = *self;
        let values = context! {
            title => experiment.title,
            question => experiment.question,
            protocol => experiment.protocol.as_ref().map(|protocol| {
                let name = protocol.path.file_name().map(|name| name.to_string_lossy());
                let read = std::fs::read_to_string(&protocol.path);
                let problem = read.as_ref().err().map(|error| match error.kind() {
                    ErrorKind::NotFound => "was not found",
                    ErrorKind::InvalidData => "is not UTF-8 text",
                    _ => "cannot be read",
                });
                let is_markdown = protocol.path.extension().is_some_and(|end| end == "md");
                let html = read.as_ref().ok().filter(|_| is_markdown).map(|text| markdown::html(text));
                context! { name, html, text => read.ok(), problem }
            }),
            has_exams => settings.iter().any(|setting| setting.answers.is_some()),
            claims => claims::values(self.compared),
            is_at_chance => claims::is_at_chance(self.compared, settings),
            headline => headline(settings),
            test_of_guessing => test_of_guessing(settings),
            figures => self.figures.iter().map(figure).collect::<Vec<_>>(),
            curves => self.curves.iter().map(figure).collect::<Vec<_>>(),
            summary => table(self.summary),
            tables => self.tables.iter().map(table).collect::<Vec<_>>(),
            exams => self.exams(),
            fits => self.fits.map(|(grid, drawn)| {
                context! { table => table(grid), figures => drawn.iter().map(figure).collect::<Vec<_>>() }
            }),
            tuning => self.tuning.as_ref().map(|(grid, cost, drawn)| {
                context! { table => table(grid), cost, figures => drawn.iter().map(figure).collect::<Vec<_>>() }
            }),
            subjects => subjects::values(settings),
            analysis => self.analysis.iter().map(|(_, grid)| table(grid)).collect::<Vec<_>>(),
            answers => answers::values(self.trials, results),
            settings => trials::settings(self.trials, results, self.origin),
            stopped => trials::unfinished(self.trials, results),
            trials => table(&trials::overview(self.trials, results)),
            notices => notices(self.trials)
                .into_iter()
                .map(|(text, n)| context! { text, trials => counted(n, "trial") })
                .collect::<Vec<_>>(),
            origin => self.origin,
            machines => origin::machines(self.trials),
        };
        render(&values).context("the page")
    }

    /// The table of single exams; `None` if there are none.
    fn exams(&self) -> Option<Value> {
        let percent = |share: f64| format!("{:.1}", 100.0 * share);
        let row = |row: &Row| {
            let exam = row.exam?;
            let (tally, (low, high)) = (exam.tally, exam.tally.interval());
            let cells = [
                self.results.label(row.trial).into(),
                row.trial.seed.to_string(),
                exam.after(),
                format!("{} of {}", tally.correct, tally.questions),
                percent(tally.accuracy()),
                format!("{} – {}", percent(low), percent(high)),
                p_text(tally.p_guess()),
            ];
            Some(cells.map(Into::into).to_vec())
        };
        let rows: Vec<_> = self.rows.iter().filter_map(row).collect();
        let heads = ["setting", "seed", "after", "correct", "accuracy (%)", "interval (%)", "p"];
        let (title, heads) = ("Individual exams".into(), heads.map(String::from).to_vec());
        let grid = Grid { title, heads, text_columns: 1, rows, ..Grid::default() };
        (!grid.rows.is_empty()).then(|| table(&grid))
    }
}

/// Renders every section, then the page around them.
fn render(values: &Value) -> Result<String> {
    let mut environment = Environment::new();
    environment.add_template("macros.html", MACROS)?;
    environment.add_template("report.html", include_str!("report.html"))?;
    let mut sections = vec![];
    for (id, title, template) in SECTIONS {
        let html = environment.render_named_str(&format!("{id}.html"), template, values)?;
        if !html.trim().is_empty() {
            sections.push(context! { id, title, html => html.trim() });
        }
    }
    let (style, script) = (include_str!("style.css"), include_str!("script.js"));
    let page = environment.get_template("report.html")?;
    let html = page.render(context! { sections, style, script, ..values.clone() })?;
    // Text generated by a model may contain control characters that HTML does not allow.
    Ok(html.replace(|c: char| c.is_control() && c != '\n' && c != '\t', "\u{fffd}"))
}

/// Converts a table to the values that templates take.
fn table(grid: &Grid) -> Value {
    let cell = |cell: &GridCell| {
        let mark = if cell.is_not_worse && !cell.is_best { format!(" {CLOSE}") } else { String::new() };
        context! { text => format!("{}{mark}", cell.text), is_best => cell.is_best }
    };
    let rows: Vec<Vec<Value>> = grid.rows.iter().map(|row| row.iter().map(cell).collect()).collect();
    let is_narrow = letters_across(grid) <= ACROSS;
    context! { is_narrow, caption => grid.title, note => grid.note, spans => grid.spans, heads => grid.heads, text_columns => grid.text_columns, rows }
}

/// Number of letters across a table whose heads and text columns are broken into lines between words.
fn letters_across(grid: &Grid) -> usize {
    let of_column = |(column, head): (usize, &String)| {
        let cells = grid.rows.iter().filter_map(|row| Some(row.get(column)?.text.as_str()));
        let cells =
            cells.map(|text| if column < grid.text_columns { longest_word(text) } else { letters(text) });
        cells.chain([longest_word(head)]).max().unwrap_or(0) + MARGIN
    };
    grid.heads.iter().enumerate().map(of_column).sum()
}

fn letters(text: &str) -> usize {
    text.chars().count()
}

/// Number of letters of the longest word of a text.
fn longest_word(text: &str) -> usize {
    text.split(' ').map(letters).max().unwrap_or(0)
}

fn figure(drawn: &Drawn) -> Value {
    context! { name => drawn.name, title => drawn.title, svg => drawn.svg, font_notice => drawn.font_notice, formats => super::figure::FORMATS }
}
