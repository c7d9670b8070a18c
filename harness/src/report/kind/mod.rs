//! The kinds of figures: one file each, and one table from which messages, the schema and the manual derive.

mod bar;
pub mod defaults;
mod dots;
mod experts;
mod forest;
mod heatmap;
mod isoflop;
mod key;
mod line;
mod loss;
mod metric_plot;
mod metrics;
mod pareto;
mod reliability;
mod scatter;
mod sensitivity;
mod spec;

pub use key::{FRAME, Key};
pub use loss::Loss;
pub use metric_plot::group_label;
pub use spec::{FigureSpec, draw};

use super::analysis::compare::Comparison;
use super::columns::Column;
use super::columns::key_label::unit_apart;
use super::experiment::fields::Fields;
use super::figure::Figure;
use super::results::observation::Observation;
use std::fmt;
use std::sync::Arc;

/// A kind of figure.
pub struct Kind {
    /// Its name: the value of `kind` in a file.
    pub name: &'static str,
    /// What it shows, for the manual.
    pub shows: &'static str,
    /// Its keys, in addition to [`FRAME`].
    pub keys: &'static [Key],
    /// Parses the keys of the kind; `None` if one of them is invalid.
    pub read: fn(&mut Fields) -> Option<Arc<dyn Plot>>,
}

/// All kinds, in the order of the manual.
pub const KINDS: [Kind; 12] = [
    line::KIND,
    scatter::KIND,
    pareto::KIND,
    sensitivity::KIND,
    isoflop::KIND,
    dots::KIND,
    bar::KIND,
    heatmap::KIND,
    loss::KIND,
    experts::KIND,
    reliability::KIND,
    forest::KIND,
];

impl Kind {
    /// All keys of a figure of this kind, in the order in which messages list them.
    pub fn key_names(&self) -> Vec<&'static str> {
        std::iter::once("kind").chain(self.keys.iter().chain(&FRAME).map(|key| key.name)).collect()
    }

    /// The keys of all kinds, each once.
    pub fn all_key_names() -> Vec<&'static str> {
        let mut names: Vec<&str> = vec![];
        for name in KINDS.iter().flat_map(Self::key_names) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

/// The content of a figure, as parsed from a file.
pub trait Plot: fmt::Debug + Send + Sync {
    /// The columns that it uses.
    fn columns(&self) -> Vec<Column>;

    /// The default name of its files and its default title.
    fn default_names(&self) -> (String, String);

    /// Builds the figure from results.
    fn figure(&self, data: &PlotData) -> Figure;

    /// The columns that distinguish its means; `None` if it shows no means, or those of settings.
    fn distinguishes(&self) -> Option<Vec<Column>> {
        None
    }

    /// Whether it shows losses over training, which have their own section of the page.
    fn is_curve(&self) -> bool {
        false
    }
}

/// The results that a figure can draw.
pub struct PlotData<'a> {
    /// The observations that satisfy its `where`.
    pub observations: &'a [&'a Observation<'a>],
    /// The tested claims of the experiment.
    pub compared: &'a [Comparison<'a>],
}

/// The label of a column without its unit.
fn plain_label(column: &Column) -> String {
    unit_apart(column.label()).0.to_string()
}

/// Capitalizes a title, unless it begins with a key.
fn sentence(title: &str) -> String {
    let is_key = title.split(' ').next().is_some_and(|word| word.contains('.'));
    let mut letters = title.chars();
    match letters.next() {
        Some(first) if !is_key => first.to_uppercase().chain(letters).collect(),
        _ => title.into(),
    }
}
