//! A metric over another column: the common part of lines, scatters, bars and dots.

use super::defaults::guessing;
use super::key::{Key, ValueType, words_of};
use super::{PlotData, plain_label, sentence};
use crate::report::columns::key_label::with_value;
use crate::report::columns::{Column, Format, tell_apart};
use crate::report::experiment::fields::Fields;
use crate::report::figure::{Axis, Figure, Point, Series};
use crate::report::number::cell;
use crate::report::results::observation::{Cell, Observation, Pooled, grouped, over_seeds};
use crate::track::counted;

/// What intervals show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorBar {
    /// 95 % interval of the mean over seeds by Student's t.
    T95,
    /// Standard deviation over seeds.
    Sd,
    /// Wilson's 95 % interval of the pooled answers.
    Wilson,
    /// No interval.
    None,
}

const ERRORS: [(&str, ErrorBar); 4] =
    [("t95", ErrorBar::T95), ("sd", ErrorBar::Sd), ("wilson", ErrorBar::Wilson), ("none", ErrorBar::None)];

/// The column that distinguishes series.
pub const GROUP: Key = Key::optional("group", ValueType::Column);

/// The kind of interval.
pub const ERROR: Key = Key::optional("error", ValueType::Words(|| words_of(&ERRORS)));

/// A metric over another column.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricPlot {
    /// The independent column.
    pub by: Column,
    /// The dependent column.
    pub metric: Column,
    /// The column that distinguishes series.
    pub group: Option<Column>,
    /// The kind of interval.
    pub error: ErrorBar,
}

/// The label of a series and its observations.
pub type Group<'o, 'a> = (String, Vec<&'o Observation<'a>>);

impl MetricPlot {
    /// Parses `group` and `error` for columns that are already parsed; `None` if a column is missing.
    pub fn read(fields: &mut Fields, by: Option<Column>, metric: Option<Column>) -> Option<Self> {
        let group = fields.column("group");
        let error = fields.choice("error", &ERRORS).unwrap_or(ErrorBar::T95);
        let (mut by, mut metric) = (by?, metric?);
        tell_apart(&mut [&mut by, &mut metric]);
        if error == ErrorBar::Wilson && metric.name() != "exam_accuracy" {
            let problem = "is \"wilson\", expected it with \"exam.accuracy\" only; use t95 or sd";
            fields.problem("error", problem);
        }
        Some(Self { by, metric, group, error })
    }

    /// The columns that it uses.
    pub fn columns(&self) -> Vec<Column> {
        [self.by, self.metric].into_iter().chain(self.group).collect()
    }

    /// The columns that distinguish its means.
    pub fn distinguishes(&self) -> Vec<Column> {
        [self.by].into_iter().chain(self.group).collect()
    }

    /// The name of files and the title.
    pub fn default_names(&self, kind: &str) -> (String, String) {
        let Self { by, metric, group, .. } = self;
        let per = group.map_or(String::new(), |group| format!("_per_{}", group.name()));
        let and = group.map_or(String::new(), |group| format!(" and {}", plain_label(&group)));
        (
            format!("{kind}_{}_by_{}{per}", metric.name(), by.name()),
            sentence(&format!("{} by {}{and}", plain_label(metric), plain_label(by))),
        )
    }

    /// The observations that have both values.
    pub fn observations<'o, 'a>(&self, data: &'o PlotData<'a>) -> Vec<&'o Observation<'a>> {
        let has_values =
            |o: &&Observation| self.by.read(o).is_some() && self.metric.number(o).is_some_and(f64::is_finite);
        data.observations.iter().copied().filter(has_values).collect()
    }

    /// Observations by group, with the labels of groups.
    pub fn groups<'o, 'a>(&self, counted: &[&'o Observation<'a>]) -> Vec<Group<'o, 'a>> {
        match &self.group {
            None => vec![(String::new(), counted.to_vec())],
            Some(column) => grouped(counted, &[*column])
                .into_iter()
                .map(|(key, group)| (group_label(column, &key[0]), group))
                .collect(),
        }
    }

    /// The mean over seeds with its interval, in the unit of the axis; `None` if no observation has a value.
    pub fn point(&self, x: f64, observations: &[&Observation]) -> Option<Point> {
        let spread = over_seeds(observations, &self.metric)?;
        let around = |half: f64| (spread.mean - half, spread.mean + half);
        let interval = match self.error {
            ErrorBar::T95 => spread.t95.map(around),
            ErrorBar::Sd => spread.sd.map(around),
            ErrorBar::Wilson => Pooled::of(observations).map(|answers| answers.wilson()),
            ErrorBar::None => None,
        };
        let scale = self.metric.scale();
        Some(Point {
            x,
            y: scale * spread.mean,
            interval: interval.map(|(low, high)| (scale * low, scale * high)),
            seeds: spread.n,
            ..Point::default()
        })
    }

    /// The axis of the metric.
    pub fn metric_axis(&self) -> Axis {
        let is_share = self.metric.format() == Format::Percent;
        Axis {
            label: self.metric.label().to_string(),
            bounds: is_share.then_some((0.0, 100.0)),
            ..Axis::default()
        }
    }

    /// A figure with both axes and, for the accuracy of an exam, the level of guessing, but no series yet.
    pub fn empty_figure(&self, counted: &[&Observation]) -> Figure {
        let level = guessing(Pooled::of(counted).into_iter());
        Figure {
            x: Axis { label: self.by.label().to_string(), ..Axis::default() },
            y: self.metric_axis(),
            level: level.filter(|_| self.metric.name() == "exam_accuracy"),
            ..Figure::default()
        }
    }

    /// One series per group, with points at the numbers of `by`.
    pub fn at_numbers(&self, counted: &[&Observation]) -> Vec<Series> {
        let series = |(colour, (label, group)): (usize, Group)| {
            let points = grouped(&group, &[self.by]).into_iter().filter_map(|(key, group)| match key[0] {
                Some(Cell::Number(x)) => self.point(self.by.scale() * x, &group),
                _ => None,
            });
            Series { label, colour, points: points.collect(), ..Series::default() }
        };
        self.groups(counted).into_iter().enumerate().map(series).collect()
    }

    /// The category names of the values of `by`, and one series per group with points at these categories.
    pub fn at_categories(&self, counted: &[&Observation]) -> (Vec<String>, Vec<Series>) {
        let places: Vec<Option<Cell>> =
            grouped(counted, &[self.by]).into_iter().map(|(mut key, _)| key.swap_remove(0)).collect();
        let place = |key: &Option<Cell>| places.iter().position(|p| p == key).map(|p| p as f64);
        let series = |(colour, (label, group)): (usize, Group)| {
            let points = grouped(&group, &[self.by]).into_iter();
            let points = points.filter_map(|(key, group)| self.point(place(&key[0])?, &group));
            Series { label, colour, points: points.collect(), ..Series::default() }
        };
        let series = self.groups(counted).into_iter().enumerate().map(series).collect();
        (places.iter().map(|place| cell(place, &self.by)).collect(), series)
    }

    /// Notes on what intervals mean and on how many seeds; `what` names their appearance, such as "band".
    pub fn notes(&self, what: &str, series: &[Series]) -> Vec<String> {
        let seeds = || series.iter().filter(|s| s.seed.is_none()).flat_map(|s| &s.points).map(|p| p.seeds);
        let (Some(fewest), Some(most)) = (seeds().min(), seeds().max()) else { return vec![] };
        let count = match (fewest, most) {
            (a, b) if a == b => counted(a, "seed"),
            (a, b) => format!("{a} to {b} seeds"),
        };
        let note = match self.error {
            ErrorBar::T95 | ErrorBar::Sd if most < 2 => format!("{count}: no interval"),
            ErrorBar::T95 => format!("{what}: 95 % t, {count}"),
            ErrorBar::Sd => format!("{what}: ± 1 sd, {count}"),
            ErrorBar::Wilson => format!("{what}: Wilson 95 % over the questions, {count}"),
            ErrorBar::None => format!("means of {count}"),
        };
        let mut notes = vec![note];
        let beyond = |p: &Point| p.interval.is_some_and(|(low, high)| low < 0.0 || high > 100.0);
        let is_share = self.metric.format() == Format::Percent;
        if is_share && series.iter().flat_map(|s| &s.points).any(beyond) {
            notes.push(format!("{what} cut at 0 and 100 %"));
        }
        notes
    }
}

/// The label of a group in a legend.
pub fn group_label(column: &Column, value: &Option<Cell>) -> String {
    let text = cell(value, column);
    if !column.is_number() && !column.is_key() {
        return text;
    }
    with_value(column.label(), &text)
}
