//! The kinds of figures: a file each, and one table of them, from which messages, the schema and the manual derive.

mod bar;
mod dots;
mod experts;
mod forest;
mod heatmap;
mod isoflop;
mod key;
mod line;
mod loss;
mod metrics;
mod over;
mod pareto;
mod reliability;
mod scatter;
mod sensitivity;
mod spec;

pub use key::{FRAME, Key};
pub use loss::Loss;
pub use over::group_label;
pub use spec::{FigureSpec, draw};

use super::columns::Column;
use super::compare::Compared;
use super::fields::Fields;
use super::figure::Figure;
use super::observation::Observation;
use super::words::unit_apart;
use std::fmt;
use std::sync::Arc;

/// A kind of figures.
pub struct Kind {
    /// As a file names it.
    pub name: &'static str,
    /// What it shows, for the manual.
    pub shows: &'static str,
    /// Its keys beside those of every figure.
    pub keys: &'static [Key],
    /// Reads what it draws; `None` where something is wrong with it.
    pub read: fn(&mut Fields) -> Option<Arc<dyn Plot>>,
}

/// The kinds.
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
    /// All keys of a figure of this kind, as messages list them.
    pub fn key_names(&self) -> Vec<&'static str> {
        std::iter::once("kind").chain(self.keys.iter().chain(&FRAME).map(|key| key.name)).collect()
    }

    /// The keys that some kind has.
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

/// What a figure draws, as it was read from a file.
pub trait Plot: fmt::Debug + Send + Sync {
    /// The columns that it speaks of.
    fn columns(&self) -> Vec<Column>;

    /// The name of its files and its title, where the file has none.
    fn names(&self) -> (String, String);

    /// What is drawn of some results.
    fn figure(&self, found: &Found) -> Figure;

    /// Whether it shows losses on the way of a training, which have a part of the page for themselves.
    fn is_curve(&self) -> bool {
        false
    }
}

/// What a figure may draw.
pub struct Found<'a> {
    /// The observations that count.
    pub observations: &'a [&'a Observation<'a>],
    /// The claims of the experiment, tested.
    pub compared: &'a [Compared<'a>],
}

/// What a column is called, without its unit.
fn plain_label(column: &Column) -> String {
    unit_apart(column.label()).0.to_string()
}

/// A title: its first letter large, unless it is a key, which stays as it is written.
fn sentence(title: &str) -> String {
    let is_key = title.split(' ').next().is_some_and(|word| word.contains('.'));
    let mut letters = title.chars();
    match letters.next() {
        Some(first) if !is_key => first.to_uppercase().chain(letters).collect(),
        _ => title.into(),
    }
}
