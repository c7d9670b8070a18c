//! The tables and comparisons that an experiment file requests, read and validated.

use super::condition::Condition;
use super::fields::Fields;
use crate::report::analysis::answers;
use crate::report::columns::{Better, Column, tell_apart};
use crate::report::tables::typeset::Width;

/// A requested table.
#[derive(Debug, Clone, PartialEq)]
pub struct TableSpec {
    /// File name without extension.
    pub name: String,
    /// Title above; empty if the file has none.
    pub title: String,
    /// What its cells contain.
    pub layout: Layout,
    /// Columns whose combinations are the rows; in MiniMind's layout, the models, or empty for settings.
    pub rows: Vec<Column>,
    /// Column for each of whose values every metric has a column; `None` for one column per metric.
    pub across: Option<Column>,
    /// The metrics; empty in MiniMind's layout.
    pub columns: Vec<Column>,
    /// The cells among which the best is marked.
    pub best: Among,
    /// Maximum width on paper.
    pub width: Width,
    /// Condition that observations must meet; `None` for all.
    pub filter: Option<Condition>,
}

/// What the cells of a table contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Means over seeds.
    Means,
    /// Counts of correct answers, as MiniMind reports them.
    Minimind,
}

/// The cells among which the best is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among {
    /// Those of a column: all rows.
    Column,
    /// Those of a row: all values of `across`.
    Row,
}

/// A requested comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct CompareSpec {
    /// The claim, as text.
    pub claim: String,
    /// The metric that is compared.
    pub metric: Column,
    /// Whether the claim says that `a` is higher or that it is lower.
    pub better: Better,
    /// Condition of the side that the claim favours.
    pub a: Condition,
    /// Condition of the other side.
    pub b: Condition,
    /// Columns whose equal values make two results a pair; empty for independent samples.
    pub paired_by: Vec<Column>,
    /// Equivalence margin: the largest difference that would not matter, above 0, in the unit of trials.csv.
    pub margin: Option<f64>,
    /// Family of claims over which p-values are corrected together; all claims without one form one family.
    pub family: Option<String>,
}

/// Values of `better`.
pub const BETTER: [(&str, Better); 2] = [("higher", Better::Higher), ("lower", Better::Lower)];

/// The keys of a `[[table]]`.
pub const TABLE_KEYS: [&str; 8] = ["rows", "across", "columns", "best", "width", "name", "title", "where"];

/// The keys of a `[[table]]` with a named layout.
pub const LAYOUT_KEYS: [&str; 6] = ["layout", "rows", "width", "name", "title", "where"];

/// Values of `layout`.
pub const LAYOUTS: [(&str, Layout); 1] = [("minimind", Layout::Minimind)];

/// Values of `best`.
pub const BEST: [(&str, Among); 2] = [("column", Among::Column), ("row", Among::Row)];

/// Values of `width`.
pub const WIDTHS: [(&str, Width); 2] = [("column", Width::Column), ("page", Width::Page)];

/// The keys of a `[[compare]]`.
pub const COMPARE_KEYS: [&str; 8] = ["claim", "metric", "a", "b", "paired_by", "better", "margin", "family"];

impl TableSpec {
    /// Reads a `[[table]]`; `None` if it has no valid rows or columns.
    pub fn read(fields: &mut Fields, default_name: String) -> Option<Self> {
        let layout = fields.choice("layout", &LAYOUTS).unwrap_or(Layout::Means);
        let is_named = fields.entries.iter().any(|entry| entry.key == "layout");
        let mut known = TABLE_KEYS.to_vec();
        match is_named {
            true => fields.only(&LAYOUT_KEYS, &TABLE_KEYS, "a layout by name"),
            false => {
                known.push("layout");
                fields.only(&known, &[], "");
            }
        }
        let (name, title) = (fields.file_name("name"), fields.text("title"));
        let width = fields.choice("width", &WIDTHS).unwrap_or_default();
        let filter = fields.condition("where");
        let name = name.unwrap_or(default_name);
        if ["summary", "comparisons", "tuning", "fits"].contains(&name.as_str())
            || answers::NAMES.contains(&name.as_str())
        {
            fields.problem(
                "name",
                format!("is {name:?}, a name that the report uses itself, expected another"),
            );
        }
        let title = title.unwrap_or_default();
        if is_named {
            let (rows, columns) = (fields.columns("rows"), vec![]);
            no_seed(fields, "rows", &rows);
            return Some(Self {
                name,
                title,
                layout,
                rows,
                across: None,
                columns,
                best: Among::Column,
                width,
                filter,
            });
        }
        let mut rows = fields.required_columns("rows", "[\"model.n_layers\"]");
        let across = fields.column("across");
        let mut columns = fields.required_columns("columns", "[\"val.bpb\", \"exam.accuracy\"]");
        tell_apart(&mut rows.iter_mut().chain(&mut columns).collect::<Vec<_>>());
        let best = fields.choice("best", &BEST);
        for column in columns.iter().filter(|column| !column.is_number()) {
            let problem = format!("names {:?}, which holds text, expected it among rows", column.name());
            fields.problem("columns", problem);
        }
        no_seed(fields, "rows", &rows);
        no_seed(fields, "across", across.as_slice());
        if let Some(twice) = across.filter(|column| rows.contains(column)) {
            fields.problem("across", format!("names {:?}, as rows do, expected another", twice.name()));
        }
        if best == Some(Among::Row) && across.is_none() {
            fields.problem("best", "is \"row\", which needs across: it compares the values of a row");
        }
        let best = best.unwrap_or(if across.is_some() { Among::Row } else { Among::Column });
        if rows.is_empty() || columns.is_empty() {
            return None;
        }
        Some(Self { name, title, layout, rows, across, columns, best, width, filter })
    }
}

fn no_seed(fields: &mut Fields, key: &str, columns: &[Column]) {
    if columns.iter().any(|column| column.name() == "seed") {
        fields.problem(key, "names \"seed\", but tables are means over seeds; remove it");
    }
}

impl CompareSpec {
    /// Reads a `[[compare]]`; `None` if a required key is missing or invalid.
    pub fn read(fields: &mut Fields) -> Option<Self> {
        fields.only(&COMPARE_KEYS, &[], "");
        let claim = fields.required_text("claim", "\"deep models beat wide ones\"");
        let metric = fields.required_number("metric", "\"exam.accuracy\"");
        let a = fields.required_condition("a", "\"model.n_layers >= 8\"");
        let b = fields.required_condition("b", "\"model.n_layers <= 4\"");
        let better = fields.choice("better", &BETTER);
        let paired_by = fields.columns("paired_by");
        let (margin, family) = (fields.positive("margin"), fields.text("family"));
        let (claim, metric, a, b) = (claim?, metric?, a?, b?);
        let Some(better) = better.or(metric.better()) else {
            let problem = format!(
                "is missing, expected \"higher\" or \"lower\": for {} neither is better by default",
                metric.name()
            );
            fields.problem("better", problem);
            return None;
        };
        Some(Self { claim, metric, better, a, b, paired_by, margin, family })
    }

    /// The columns that it names.
    pub fn columns(&self) -> Vec<Column> {
        let named = [self.metric].into_iter().chain(self.paired_by.iter().copied());
        named.chain(self.a.columns()).chain(self.b.columns()).collect()
    }
}
