//! A table of text in Markdown, LaTeX (for `booktabs`) and HTML; the tables that an experiment asks for.

use super::columns::{Better, Column};
use super::number::{NOTHING, cell, shuffled_p, with_error};
use super::observation::{Observation, Pooled, Results, grouped, over_seeds, p_of_guessing};
use super::wanted::TableSpec;
use crate::stats::Spread;
use minijinja::HtmlEscape;

/// A table of text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grid {
    /// Title above; may be empty.
    pub title: String,
    /// Heads of columns.
    pub heads: Vec<String>,
    /// Columns, from the left, that hold text and stand to the left; the others stand to the right.
    pub text_columns: usize,
    /// Rows of cells.
    pub rows: Vec<Vec<GridCell>>,
}

/// A cell of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GridCell {
    /// What it says.
    pub text: String,
    /// Whether it is the best of its column.
    pub is_best: bool,
}

impl From<String> for GridCell {
    fn from(text: String) -> Self {
        Self { text, is_best: false }
    }
}

impl Grid {
    /// In Markdown.
    pub fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let escape = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|").replace(['\n', '\r'], " ");
        let mut table =
            if self.title.is_empty() { String::new() } else { format!("**{}**\n\n", escape(&self.title)) };
        table += &line(self.heads.iter().map(|head| escape(head)).collect());
        let side = |column| if column < self.text_columns { "---" } else { "---:" };
        table += &line((0..self.heads.len()).map(|column| side(column).to_string()).collect());
        for row in &self.rows {
            let text = |cell: &GridCell| match cell.is_best {
                true => format!("**{}**", escape(&cell.text)),
                false => escape(&cell.text),
            };
            table += &line(row.iter().map(text).collect());
        }
        table
    }

    /// In LaTeX; needs `\usepackage{booktabs}`.
    pub fn latex(&self) -> String {
        let line = |cells: Vec<String>| cells.join(" & ") + " \\\\\n";
        let numbers = "r".repeat(self.heads.len() - self.text_columns.min(self.heads.len()));
        let mut table = match self.title.lines().next() {
            Some(title) => format!("% {title}\n"),
            None => String::new(),
        };
        table += &format!("\\begin{{tabular}}{{{}{numbers}}}\n\\toprule\n", "l".repeat(self.text_columns));
        table += &line(self.heads.iter().map(|head| escape_tex(head)).collect());
        table += "\\midrule\n";
        for row in &self.rows {
            let text = |cell: &GridCell| match cell.is_best {
                true => format!("\\textbf{{{}}}", escape_tex(&cell.text)),
                false => escape_tex(&cell.text),
            };
            table += &line(row.iter().map(text).collect());
        }
        table + "\\bottomrule\n\\end{tabular}\n"
    }

    /// In HTML.
    pub fn html(&self) -> String {
        let side = |column| if column < self.text_columns { " class=\"text\"" } else { "" };
        let cells = |name: &str, cells: Vec<String>| -> String {
            let cell = |(column, text): (usize, String)| format!("<{name}{}>{text}</{name}>", side(column));
            cells.into_iter().enumerate().map(cell).collect()
        };
        let heads = cells("th", self.heads.iter().map(|head| HtmlEscape(head).to_string()).collect());
        let mut table = format!("<div class=\"scroll\"><table><thead><tr>{heads}</tr></thead><tbody>");
        for row in &self.rows {
            let text = |cell: &GridCell| match cell.is_best {
                true => format!("<b>{}</b>", HtmlEscape(&cell.text)),
                false => HtmlEscape(&cell.text).to_string(),
            };
            table += &format!("<tr>{}</tr>", cells("td", row.iter().map(text).collect()));
        }
        table + "</tbody></table></div>"
    }
}

/// Text as LaTeX prints it, outside of mathematics.
pub fn escape_tex(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', c]),
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '\\' => escaped.push_str("\\textbackslash{}"),
            '<' => escaped.push_str("\\textless{}"),
            '>' => escaped.push_str("\\textgreater{}"),
            '|' => escaped.push_str("\\textbar{}"),
            '±' => escaped.push_str("$\\pm$"),
            '−' => escaped.push_str("$-$"),
            '×' => escaped.push_str("$\\times$"),
            '–' => escaped.push_str("--"),
            '\n' | '\r' => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The table that an experiment asks for: a row for each combination of `rows`, means over seeds.
pub fn table(spec: &TableSpec, results: &Results) -> Grid {
    let columns = spec.rows.iter().chain(&spec.columns).copied();
    let columns: Vec<Column> = columns.chain(spec.filter.iter().flat_map(|f| f.columns())).collect();
    let observations = results.observations(&columns);
    let counted: Vec<&Observation> =
        observations.iter().filter(|o| spec.filter.as_ref().is_none_or(|f| f.holds(o))).collect();
    let groups = grouped(&counted, &spec.rows);
    // Where nobody sat an exam, there is nothing to say of one.
    let has_exams = counted.iter().any(|o| o.score.is_some());
    let metrics: Vec<Column> =
        spec.columns.iter().copied().filter(|c| has_exams || !c.is_of_exam()).collect();
    let has_questions = metrics.iter().any(Column::is_of_exam);
    let means: Vec<Vec<Option<Spread>>> = groups
        .iter()
        .map(|(_, group)| {
            let plain = metrics.iter().map(|column| match column.is_p_of_guessing() {
                true => None,
                false => over_seeds(group, column),
            });
            plain.collect()
        })
        .collect();
    let best: Vec<Option<f64>> = (0..metrics.len()).map(|c| best(&metrics[c], &means, c)).collect();
    let rows = groups.iter().zip(&means).map(|((key, group), means)| {
        let mut row: Vec<GridCell> =
            key.iter().zip(&spec.rows).map(|(value, column)| cell(value, column).into()).collect();
        let seeds: std::collections::BTreeSet<u64> = group.iter().map(|o| o.trial.seed).collect();
        row.push(seeds.len().to_string().into());
        if has_questions {
            row.push(questions(Pooled::of(group)).into());
        }
        row.extend(means.iter().zip(&metrics).zip(&best).map(|((spread, column), best)| GridCell {
            text: match spread {
                None if column.is_p_of_guessing() => {
                    p_of_guessing(group).map_or(NOTHING.into(), |test| shuffled_p(test.p, test.is_bound))
                }
                // A metric that some seeds lack says so.
                Some(s) if s.n < seeds.len() => format!("{} (n={})", with_error(*spread, column), s.n),
                Some(_) => with_error(*spread, column),
                None => NOTHING.into(),
            },
            is_best: best.is_some() && spread.map(|s| s.mean) == *best,
        }));
        row
    });
    let counts = ["seeds"].into_iter().chain(has_questions.then_some("questions"));
    let heads = spec.rows.iter().map(Column::label).chain(counts).chain(metrics.iter().map(Column::label));
    Grid {
        title: spec.title.clone(),
        heads: heads.map(String::from).collect(),
        text_columns: spec.rows.len(),
        rows: rows.collect(),
    }
}

/// Number of different questions behind a row.
pub fn questions(answers: Option<Pooled>) -> String {
    answers.map_or(NOTHING.into(), |answers| crate::track::number(answers.questions))
}

/// The best mean of a metric; `None` of a cost, and where none is better than another.
fn best(column: &Column, rows: &[Vec<Option<Spread>>], index: usize) -> Option<f64> {
    let better = column.better().filter(|_| column.is_score())?;
    let means: Vec<f64> = rows.iter().filter_map(|row| row[index].map(|s| s.mean)).collect();
    let (low, high) =
        means.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), m| (l.min(*m), h.max(*m)));
    (low < high).then_some(if better == Better::Higher { high } else { low })
}
