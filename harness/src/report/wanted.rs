//! What an experiment file asks for beside figures: tables and comparisons, read and checked.

use super::beyond;
use super::columns::{Better, Column};
use super::condition::Condition;
use super::fields::Fields;
use super::fit::Width;

/// A table that is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct TableSpec {
    /// File name without extension.
    pub name: String,
    /// Title above; empty where the file names none.
    pub title: String,
    /// What its cells are.
    pub layout: Layout,
    /// What sets rows apart; of MiniMind's layout models, none for settings.
    pub rows: Vec<Column>,
    /// What sets columns apart, beside the metrics.
    pub across: Option<Column>,
    /// The metrics; none in MiniMind's layout.
    pub columns: Vec<Column>,
    /// What the best is the best of.
    pub best: Among,
    /// How wide it may be on paper.
    pub width: Width,
    /// Which observations count.
    pub filter: Option<Condition>,
}

/// What the cells of a table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Means over seeds.
    Means,
    /// Right answers, as MiniMind counts them.
    Minimind,
}

/// What the best is the best of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among {
    /// Its column: all rows.
    Column,
    /// Its row: all values of `across`.
    Row,
}

/// A comparison that is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct CompareSpec {
    /// What is claimed.
    pub claim: String,
    /// The metric.
    pub metric: Column,
    /// Whether the claim is that `a` is higher or that it is lower.
    pub better: Better,
    /// The side that the claim speaks for.
    pub a: Condition,
    /// The other side.
    pub b: Condition,
    /// What makes two values a pair; nothing for independent samples.
    pub paired_by: Vec<Column>,
    /// The largest difference that would not matter, above 0.
    pub margin: Option<f64>,
    /// The claims that p-values are corrected over together; all that name none are one family.
    pub family: Option<String>,
}

/// Which values a claim calls better.
pub(super) const BETTER: [(&str, Better); 2] = [("higher", Better::Higher), ("lower", Better::Lower)];

/// The keys of a `[[table]]`.
pub(super) const TABLE_KEYS: [&str; 8] =
    ["rows", "across", "columns", "best", "width", "name", "title", "where"];

/// The keys of a `[[table]]` in a layout by name.
pub(super) const LAYOUT_KEYS: [&str; 6] = ["layout", "rows", "width", "name", "title", "where"];

/// Layouts by name.
pub(super) const LAYOUTS: [(&str, Layout); 1] = [("minimind", Layout::Minimind)];

/// What the best is the best of.
pub(super) const BEST: [(&str, Among); 2] = [("column", Among::Column), ("row", Among::Row)];

/// How wide tables may be.
pub(super) const WIDTHS: [(&str, Width); 2] = [("column", Width::Column), ("page", Width::Page)];

/// The keys of a `[[compare]]`.
pub(super) const COMPARE_KEYS: [&str; 8] =
    ["claim", "metric", "a", "b", "paired_by", "better", "margin", "family"];

impl TableSpec {
    /// Reads a `[[table]]`; `None` where something is wrong with it.
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
            || beyond::NAMES.contains(&name.as_str())
        {
            fields.problem("name", format!("is {name:?}, which every report writes, expected another"));
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
        let rows = fields.need_columns("rows", "[\"model.n_layers\"]");
        let across = fields.column("across");
        let columns = fields.need_columns("columns", "[\"val.bpb\", \"exam.accuracy\"]");
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
            fields.problem("best", "is \"row\", expected it with across only, whose values are compared");
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
        fields.problem(key, "names \"seed\", over which means are taken; leave it out");
    }
}

impl CompareSpec {
    /// Reads a `[[compare]]`; `None` where something is wrong with it.
    pub fn read(fields: &mut Fields) -> Option<Self> {
        fields.only(&COMPARE_KEYS, &[], "");
        let claim = fields.need_text("claim", "\"deep models beat wide ones\"");
        let metric = fields.need_number("metric", "\"exam.accuracy\"");
        let a = fields.need_condition("a", "\"model.n_layers >= 8\"");
        let b = fields.need_condition("b", "\"model.n_layers <= 4\"");
        let better = fields.choice("better", &BETTER);
        let paired_by = fields.columns("paired_by");
        let (margin, family) = (fields.positive("margin"), fields.text("family"));
        let (claim, metric, a, b) = (claim?, metric?, a?, b?);
        let Some(better) = better.or(metric.better()) else {
            let problem = format!(
                "is missing, expected \"higher\" or \"lower\": of {} neither is better by itself",
                metric.name()
            );
            fields.problem("better", problem);
            return None;
        };
        Some(Self { claim, metric, better, a, b, paired_by, margin, family })
    }

    /// The columns that it speaks of.
    pub fn columns(&self) -> Vec<Column> {
        let named = [self.metric].into_iter().chain(self.paired_by.iter().copied());
        named.chain(self.a.columns()).chain(self.b.columns()).collect()
    }
}
