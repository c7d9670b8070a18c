//! What an experiment file asks for: figures, tables and comparisons, read and checked.

use super::beyond;
use super::columns::{Better, Column};
use super::condition::Condition;
use super::fields::Fields;
use super::fit::Width;
use super::words::unit_apart;
use crate::config::TrainStage;
use crate::stats::FitKind;

/// A figure that is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct FigureSpec {
    /// File name without extension.
    pub name: String,
    /// Title above; made from what is plotted where the file names none.
    pub title: String,
    /// What is drawn.
    pub plot: Plot,
    /// Which observations count.
    pub filter: Option<Condition>,
}

/// What a figure draws.
#[derive(Debug, Clone, PartialEq)]
pub enum Plot {
    /// A metric over another column.
    Over(Over),
    /// A metric as the colour of cells.
    Heatmap {
        /// Across.
        x: Column,
        /// Up.
        y: Column,
        /// The metric.
        value: Column,
    },
    /// Curves of a training stage.
    Loss(Loss),
}

/// A metric over another column.
#[derive(Debug, Clone, PartialEq)]
pub struct Over {
    /// How it is drawn.
    pub style: Style,
    /// Across.
    pub x: Column,
    /// Up.
    pub y: Column,
    /// What sets series apart.
    pub group: Option<Column>,
    /// What error bars show.
    pub error: ErrorBar,
    /// The curve fitted through the points.
    pub fit: Option<FitKind>,
    /// Whether `x` and `y` are logarithmic; `None` lets the data decide.
    pub log: [Option<bool>; 2],
}

/// How a metric over another column is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Means over everything else, joined.
    Line,
    /// A point for each setting.
    Scatter,
    /// Bars side by side.
    Bar,
    /// A point for each setting, with the front of those that no other beats in both.
    Pareto,
}

/// What error bars show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorBar {
    /// 95 % interval of the mean over seeds by Student's t.
    T95,
    /// Standard deviation over seeds.
    Sd,
    /// Wilson's 95 % interval of all answers together.
    Wilson,
    /// Nothing.
    None,
}

/// Curves of a training stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Loss {
    /// The stage.
    pub stage: TrainStage,
    /// `train`, `val` or both; or what the splits begin with that are drawn, [`SETS`] or [`SOURCES`].
    pub splits: &'static [&'static str],
    /// The column of metrics.csv across.
    pub x: &'static str,
    /// What sets colours apart; the setting where the file names nothing.
    pub group: Option<Column>,
    /// Whether `x` and `y` are logarithmic.
    pub log: [bool; 2],
}

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

const FIGURE_KEYS: [&str; 14] = [
    "kind", "name", "title", "where", "x", "y", "group", "error", "fit", "log_x", "log_y", "value", "stage",
    "split",
];

/// The keys of a figure of this kind.
pub(super) fn figure_keys(kind: &str) -> &'static [&'static str] {
    match kind {
        "scatter" => &["kind", "x", "y", "group", "error", "fit", "log_x", "log_y", "name", "title", "where"],
        "heatmap" => &["kind", "x", "y", "value", "name", "title", "where"],
        "bar" => &["kind", "x", "y", "group", "error", "name", "title", "where"],
        "loss" => &["kind", "stage", "split", "x", "group", "log_x", "log_y", "name", "title", "where"],
        _ => &["kind", "x", "y", "group", "error", "log_x", "log_y", "name", "title", "where"],
    }
}

/// The kinds of figures.
pub(super) const KINDS: [(&str, &str); 6] = [
    ("line", "line"),
    ("scatter", "scatter"),
    ("heatmap", "heatmap"),
    ("bar", "bar"),
    ("loss", "loss"),
    ("pareto", "pareto"),
];

/// What error bars show.
pub(super) const ERRORS: [(&str, ErrorBar); 4] =
    [("t95", ErrorBar::T95), ("sd", ErrorBar::Sd), ("wilson", ErrorBar::Wilson), ("none", ErrorBar::None)];

/// The curves that are fitted.
pub(super) const FITS: [(&str, FitKind); 3] =
    [("power", FitKind::Power), ("linear", FitKind::Linear), ("log", FitKind::Log)];

/// The losses of a stage.
pub(super) const SPLITS: [(&str, &[&str]); 5] = [
    ("train", &["train"]),
    ("val", &["val"]),
    ("both", &["train", "val"]),
    ("sets", SETS),
    ("sources", SOURCES),
];

/// Stands for every named validation set.
pub(super) const SETS: &[&str] = &["val:"];

/// Stands for every named source.
pub(super) const SOURCES: &[&str] = &["train:"];

/// What losses are drawn over.
pub(super) const LOSS_X: [(&str, &str); 3] =
    [("tokens", "tokens"), ("step", "step"), ("elapsed_seconds", "elapsed_seconds")];

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

impl FigureSpec {
    /// Reads a `[[figure]]`; `None` where something is wrong with it.
    pub fn read(fields: &mut Fields) -> Option<Self> {
        if !fields.entries.iter().any(|e| e.key == "kind") {
            fields.problem(
                "kind",
                "is missing, expected kind = \"line\", or scatter, heatmap, bar, loss, pareto",
            );
            fields.only(&FIGURE_KEYS, &[], "");
            return None;
        }
        let kind = fields.choice("kind", &KINDS)?;
        fields.only(figure_keys(kind), &FIGURE_KEYS, &format!("kind = {kind:?}"));
        let (name, title) = (fields.file_name("name"), fields.text("title"));
        let filter = fields.condition("where");
        let plot = match kind {
            "heatmap" => heatmap(fields)?,
            "loss" => Plot::Loss(loss(fields)?),
            "scatter" => Plot::Over(over(fields, Style::Scatter)?),
            "bar" => Plot::Over(over(fields, Style::Bar)?),
            "pareto" => Plot::Over(over(fields, Style::Pareto)?),
            _ => Plot::Over(over(fields, Style::Line)?),
        };
        Some(Self {
            name: name.unwrap_or_else(|| default_name(kind, &plot)),
            title: title.unwrap_or_else(|| default_title(&plot)),
            plot,
            filter,
        })
    }

    /// The columns that it speaks of.
    pub fn columns(&self) -> Vec<Column> {
        let mut columns: Vec<Column> = match &self.plot {
            Plot::Over(Over { x, y, group, .. }) => [*x, *y].into_iter().chain(*group).collect(),
            Plot::Heatmap { x, y, value } => vec![*x, *y, *value],
            Plot::Loss(loss) => loss.group.into_iter().collect(),
        };
        columns.extend(self.filter.iter().flat_map(Condition::columns));
        columns
    }
}

fn over(fields: &mut Fields, style: Style) -> Option<Over> {
    let x = match style {
        Style::Line | Style::Bar => fields.need_column("x", "\"model.n_layers\""),
        Style::Scatter | Style::Pareto => fields.need_number("x", "\"params\""),
    };
    let y = fields.need_number("y", "\"exam.accuracy\"");
    let group = fields.column("group");
    let error = fields.choice("error", &ERRORS).unwrap_or(ErrorBar::T95);
    let fit = fields.choice("fit", &FITS);
    let log = [fields.truth("log_x"), fields.truth("log_y")];
    let (x, y) = (x?, y?);
    if error == ErrorBar::Wilson && y.name() != "exam_accuracy" {
        fields.problem("error", "is \"wilson\", expected it with y = \"exam.accuracy\" only; use t95 or sd");
    }
    for (key, column) in [("x", x), ("y", y)] {
        if style == Style::Pareto && column.better().is_none() {
            let problem = format!(
                "is {:?}, of which neither more nor less is better, expected a cost such as params or a metric",
                column.name()
            );
            fields.problem(key, problem);
        }
    }
    if log[0] == Some(true) && !x.is_number() {
        fields.problem("log_x", format!("is true, but {} holds text", x.name()));
    }
    Some(Over { style, x, y, group, error, fit, log })
}

fn heatmap(fields: &mut Fields) -> Option<Plot> {
    let x = fields.need_column("x", "\"model.n_layers\"");
    let y = fields.need_column("y", "\"model.d_model\"");
    let value = fields.need_number("value", "\"val.bpb\"");
    Some(Plot::Heatmap { x: x?, y: y?, value: value? })
}

fn loss(fields: &mut Fields) -> Option<Loss> {
    let stages: Vec<_> = TrainStage::all().map(|stage| (stage.name(), stage)).collect();
    let stage = fields.choice("stage", &stages);
    let splits = fields.choice("split", &SPLITS).unwrap_or(&["train", "val"]);
    let x = fields.choice("x", &LOSS_X).unwrap_or("tokens");
    let group = fields.column("group");
    if group.is_some_and(|column| matches!(column.name(), "subject" | "stage")) {
        fields.problem("group", "belongs to an exam, expected a key or a column of a trial");
    }
    let log = [fields.truth("log_x").unwrap_or(false), fields.truth("log_y").unwrap_or(false)];
    Some(Loss { stage: stage.unwrap_or(TrainStage::Pretrain), splits, x, group, log })
}

fn default_name(kind: &str, plot: &Plot) -> String {
    let group = |group: &Option<Column>| group.map_or(String::new(), |g| format!("_per_{}", g.name()));
    let name = match plot {
        Plot::Over(o) => format!("{kind}_{}_by_{}{}", o.y.name(), o.x.name(), group(&o.group)),
        Plot::Heatmap { x, y, value } => format!("{kind}_{}_by_{}_{}", value.name(), x.name(), y.name()),
        Plot::Loss(loss) => format!("{kind}_{}{}", loss.stage.name(), group(&loss.group)),
    };
    name.replace('.', "_")
}

fn default_title(plot: &Plot) -> String {
    let plain = |column: &Column| unit_apart(column.label()).0.to_string();
    let title = match plot {
        Plot::Over(Over { style: Style::Pareto, x, y, .. }) => format!("{} against {}", plain(y), plain(x)),
        Plot::Over(o) => match &o.group {
            Some(group) => format!("{} by {} and {}", plain(&o.y), plain(&o.x), plain(group)),
            None => format!("{} by {}", plain(&o.y), plain(&o.x)),
        },
        Plot::Heatmap { x, y, value } => format!("{} by {} and {}", plain(value), plain(x), plain(y)),
        Plot::Loss(loss) => format!("loss of {}", loss.stage.name()),
    };
    let mut letters = title.chars();
    match letters.next() {
        // A key stays as it is written.
        Some(first) if !title.starts_with("model.") => first.to_uppercase().chain(letters).collect(),
        _ => title,
    }
}

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
