//! `[[fit]]`: scaling laws fitted to the settings of an experiment, and how well they predict the largest runs.

use crate::report::columns::Column;
use crate::report::experiment::condition::Condition;
use crate::report::experiment::fields::Fields;
use crate::report::figure::{Axis, Content, Figure, Mark, Point, Series};
use crate::report::number::{digits3, plain};
use crate::report::results::observation::{Observation, Results, over_seeds};
use crate::report::tables::grid::{Grid, GridCell};
use crate::track::{counted, csv_number};
use anyhow::Result;
use stats::{Draws, Estimate, IsoFlop, Law, LawFit, StatsError, fit_law, held_out, isoflop};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Confidence level of the intervals.
const LEVEL: f64 = 0.95;

/// Default share of settings, those with most compute, that are held out to test a law.
const HOLD_OUT: f64 = 0.2;

/// Segments of a drawn curve.
const CURVE: usize = 40;

/// Maximum number of curves that can be told apart in one figure.
const MAX_CURVES: usize = 6;

/// A requested fit.
#[derive(Debug, Clone, PartialEq)]
pub struct FitSpec {
    /// File name without extension.
    pub name: String,
    /// Title of its rows and of its figure.
    pub title: String,
    /// The law that is fitted, with its columns.
    pub form: Form,
    /// The column of the loss.
    pub loss: Column,
    /// The condition that observations must meet; `None` for all.
    pub filter: Option<Condition>,
}

/// The law that is fitted.
#[derive(Debug, Clone, PartialEq)]
pub enum Form {
    /// `L = E + A N^-alpha`, and with tokens `L = E + A N^-alpha + B D^-beta`.
    Law {
        /// Column of `N`: parameters.
        n: Column,
        /// Column of `D`: tokens; `None` for a law of `N` alone.
        d: Option<Column>,
        /// Share of settings, those with most compute, that a second fit leaves out and predicts; 0 for no such test.
        hold_out: f64,
    },
    /// The size with the lowest loss for each compute budget, and how it grows with the budget.
    IsoFlop {
        /// Column of the compute budget.
        flops: Column,
        /// Column of the size: parameters or tokens.
        n: Column,
    },
}

/// The keys of a `[[fit]]`.
pub const FIT_KEYS: [&str; 9] = ["kind", "name", "title", "where", "n", "d", "flops", "loss", "hold_out"];

/// The kinds of fits, each with its keys.
pub const FIT_KINDS: [(&str, &[&str]); 2] = [
    ("chinchilla", &["kind", "n", "d", "loss", "hold_out", "name", "title", "where"]),
    ("isoflop", &["kind", "n", "flops", "loss", "name", "title", "where"]),
];

impl FitSpec {
    /// Reads a `[[fit]]`; `None` if its kind or one of its required columns is invalid.
    pub fn read(fields: &mut Fields, default_name: String) -> Option<Self> {
        if !fields.entries.iter().any(|entry| entry.key == "kind") {
            fields.problem("kind", "is missing, expected kind = \"chinchilla\" or \"isoflop\"");
            fields.only(&FIT_KEYS, &[], "");
            return None;
        }
        let (kind, keys) = fields.choice("kind", &FIT_KINDS.map(|(kind, keys)| (kind, (kind, keys))))?;
        fields.only(keys, &FIT_KEYS, &format!("kind = {kind:?}"));
        let (name, title) = (fields.file_name("name"), fields.text("title"));
        let filter = fields.condition("where");
        let n = fields.number_or("n", "params");
        let loss = fields.number_or("loss", "val_loss");
        let form = if kind == "isoflop" {
            Form::IsoFlop { flops: fields.number_or("flops", "train_flops")?, n: n? }
        } else {
            let d = fields.number("d", "\"train_tokens\"");
            let hold_out = fields.share("hold_out").unwrap_or(HOLD_OUT);
            Form::Law { n: n?, d, hold_out }
        };
        let title = title.unwrap_or_else(|| {
            if kind == "isoflop" { "Best size for each budget" } else { "Law of loss" }.into()
        });
        Some(Self { name: name.unwrap_or(default_name), title, form, loss: loss?, filter })
    }

    /// File name of its figure, which laws have.
    pub fn figure_name(&self) -> String {
        format!("fit_{}", self.name)
    }

    /// The columns that it names.
    pub fn columns(&self) -> Vec<Column> {
        let mut columns = vec![self.loss];
        match &self.form {
            Form::Law { n, d, .. } => columns.extend([*n].into_iter().chain(*d)),
            Form::IsoFlop { flops, n } => columns.extend([*flops, *n]),
        }
        columns.extend(self.filter.iter().flat_map(Condition::columns));
        columns
    }
}

/// A setting: its sizes in the order in which the fit takes them, and its loss, all means over seeds.
struct Setting {
    sizes: Vec<f64>,
    loss: f64,
    seeds: usize,
    t95: Option<f64>,
}

/// The result of a fit.
pub struct Fitted<'a> {
    /// The fit as specified in the experiment file.
    pub spec: &'a FitSpec,
    settings: Vec<Setting>,
    outcome: Result<Found, StatsError>,
}

enum Found {
    Law(Box<LawFit>, Option<Result<stats::HeldOut, StatsError>>),
    IsoFlop(IsoFlop),
}

/// Performs all requested fits; each setting is one point, its mean over seeds.
pub fn fit<'a>(specs: &'a [FitSpec], results: &Results) -> Vec<Fitted<'a>> {
    specs.iter().map(|spec| fit_one(spec, results)).collect()
}

fn fit_one<'a>(spec: &'a FitSpec, results: &Results) -> Fitted<'a> {
    let observations = results.observations(&spec.columns());
    let mut by_setting: BTreeMap<Uuid, Vec<&Observation>> = BTreeMap::new();
    for observation in observations.iter().filter(|o| spec.filter.as_ref().is_none_or(|f| f.holds(o))) {
        by_setting.entry(observation.trial.setting).or_default().push(observation);
    }
    let sizes = sizes(&spec.form);
    let setting = |of: Vec<&Observation>| {
        let loss = over_seeds(&of, &spec.loss)?;
        let sizes = sizes.iter().map(|column| Some(over_seeds(&of, column)?.mean)).collect::<Option<_>>()?;
        Some(Setting { sizes, loss: loss.mean, seeds: loss.n, t95: loss.t95 })
    };
    let mut settings: Vec<Setting> = by_setting.into_values().filter_map(setting).collect();
    // Bootstrap draws depend on the order of the settings, which must not depend on their ids.
    let order = |a: &Setting, b: &Setting| {
        let both = a.sizes.iter().zip(&b.sizes).map(|(a, b)| a.total_cmp(b));
        both.chain([a.loss.total_cmp(&b.loss)]).fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
    };
    settings.sort_by(order);
    let column = |k: usize| settings.iter().map(|setting| setting.sizes[k]).collect::<Vec<f64>>();
    let loss: Vec<f64> = settings.iter().map(|setting| setting.loss).collect();
    let columns: Vec<Vec<f64>> = (0..sizes.len()).map(column).collect();
    let slices: Vec<&[f64]> = columns.iter().map(Vec::as_slice).collect();
    let outcome = match spec.form {
        Form::Law { hold_out, .. } => fit_law(&slices, &loss, LEVEL, Draws::default()).map(|law| {
            let held = (hold_out > 0.0).then(|| held_out(&slices, &loss, hold_out));
            Found::Law(Box::new(law), held)
        }),
        Form::IsoFlop { .. } => isoflop(slices[0], slices[1], &loss, LEVEL).map(Found::IsoFlop),
    };
    Fitted { spec, settings, outcome }
}

impl Fitted<'_> {
    /// The parameters with their intervals, named as in `mindscale stats fit`.
    fn parameters(&self) -> Vec<(String, Estimate)> {
        match &self.outcome {
            Err(_) => vec![],
            Ok(Found::Law(law, _)) => {
                let mut all = vec![("E".to_string(), law.e)];
                for ((a, alpha), [big, small]) in law.terms.iter().zip([["A", "alpha"], ["B", "beta"]]) {
                    all.extend([(big.to_string(), *a), (small.to_string(), *alpha)]);
                }
                all.extend(law.exponent.map(|exponent| ("n_exponent".to_string(), exponent)));
                all
            }
            Ok(Found::IsoFlop(found)) => {
                let optima = found.budgets.iter().filter_map(|budget| {
                    Some((
                        format!("optimum at {}", plain(budget.flops)),
                        budget.optimum.as_ref().ok()?.interval?,
                    ))
                });
                [("exponent".to_string(), found.law.b)].into_iter().chain(optima).collect()
            }
        }
    }

    /// Why there is no fit, with the names of its sizes.
    fn describe(&self, error: &StatsError) -> String {
        let names: Vec<&str> = sizes(&self.spec.form).iter().map(|column| column.name()).collect();
        error.naming(&names)
    }

    /// Note on the data behind the numbers and the accuracy of the fit, or why there is no fit.
    fn note(&self) -> String {
        let seeds = self.settings.iter().map(|setting| setting.seeds);
        let (least, most) = (seeds.clone().min().unwrap_or(0), seeds.max().unwrap_or(0));
        let seeds = if least == most { counted(least, "seed") } else { format!("{least} to {most} seeds") };
        let rests =
            format!("{}, means over {seeds}, 95 % intervals", counted(self.settings.len(), "setting"));
        match &self.outcome {
            Err(error) => format!("not fitted: {}", self.describe(error)),
            Ok(Found::Law(law, held)) => {
                let rising: String = law.rising().map(|k| rises(&self.spec.form, k)).collect();
                let fits = format!(
                    "{rests} by bootstrap over settings; residual {:.2} % (root mean square of ln L){rising}",
                    100.0 * law.rms
                );
                match held {
                    None => fits,
                    Some(Ok(held)) => format!(
                        "{fits}; the {} with most compute, predicted from the other {}: off by {:.2} %, on average {:+.2} %",
                        counted(held.held, "setting"),
                        held.fitted,
                        100.0 * held.rms,
                        100.0 * held.bias
                    ),
                    Some(Err(error)) => format!("{fits}; no test of extrapolation: {}", self.describe(error)),
                }
            }
            Ok(Found::IsoFlop(found)) => {
                let left_out = left_out(found);
                format!("{rests}; size = {} C^{}{left_out}", plain(found.law.a), digits3(found.law.b.value))
            }
        }
    }
}

/// The columns of the sizes of a fit.
fn sizes(form: &Form) -> Vec<Column> {
    match form {
        Form::Law { n, d, .. } => [*n].into_iter().chain(*d).collect(),
        Form::IsoFlop { flops, n } => vec![*flops, *n],
    }
}

/// The remark that the loss rises with a size of a law.
fn rises(form: &Form, size: usize) -> String {
    let column = sizes(form).into_iter().nth(size);
    column.map_or(String::new(), |column| {
        format!("; the loss rises with {}, so E is no limit of it", column.name())
    })
}

/// The numbers of budgets without an optimum, by reason; empty if all have one.
fn left_out(found: &IsoFlop) -> String {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for error in found.budgets.iter().filter_map(|budget| budget.optimum.as_ref().err()) {
        let reason = match error {
            StatsError::TooFew { least, .. } => format!("fewer than {least} runs"),
            StatsError::Undetermined(reason) => reason.clone(),
            other => other.to_string(),
        };
        *reasons.entry(reason).or_default() += 1;
    }
    let texts = reasons.iter().map(|(reason, n)| format!("; {} left out: {reason}", counted(*n, "budget")));
    texts.collect()
}

/// Returns fits.csv: one row for each parameter of each fit, and one row for a fit without any.
pub fn csv(fitted: &[Fitted]) -> Result<Vec<u8>> {
    let mut csv = csv::Writer::from_writer(vec![]);
    csv.write_record(["fit", "kind", "parameter", "value", "low", "high", "settings", "note"])?;
    for fit in fitted {
        let kind = if matches!(fit.spec.form, Form::Law { .. }) { "chinchilla" } else { "isoflop" };
        let (settings, note) = (fit.settings.len().to_string(), fit.note());
        let mut write = |parameter: &str, numbers: [String; 3]| {
            let [value, low, high] = numbers;
            csv.write_record([&fit.spec.name, kind, parameter, &value, &low, &high, &settings, &note])
        };
        let parameters = fit.parameters();
        if parameters.is_empty() {
            write("", [(); 3].map(|()| String::new()))?;
        }
        for (name, Estimate { value, low, high, .. }) in parameters {
            write(&name, [value, low, high].map(csv_number))?;
        }
    }
    Ok(csv.into_inner()?)
}

/// Builds one table of all fits, with their notes below it.
pub fn table(fitted: &[Fitted]) -> Grid {
    let mut rows: Vec<Vec<GridCell>> = vec![];
    for fit in fitted {
        for (index, (name, Estimate { value, low, high, .. })) in fit.parameters().into_iter().enumerate() {
            let title = if index == 0 { fit.spec.title.clone() } else { String::new() };
            let interval = format!("{} to {}", digits3(low), digits3(high));
            rows.push([title, name, digits3(value), interval].map(GridCell::from).into());
        }
    }
    let notes: Vec<String> =
        fitted.iter().map(|fit| format!("{}: {}.", fit.spec.title, fit.note())).collect();
    Grid {
        title: "Fits".into(),
        note: notes.join(" "),
        heads: ["fit", "parameter", "value", "95 % interval"].map(String::from).into(),
        text_columns: 2,
        rows,
        ..Grid::default()
    }
}

/// Builds a figure of each fitted law: the loss against the first size, with a curve of the law for each value of the second; or, if there are
/// more than `MAX_CURVES` of these, against the loss that the law predicts.
pub fn figures(fitted: &[Fitted]) -> Vec<Figure> {
    fitted.iter().filter_map(figure).collect()
}

fn figure(fit: &Fitted) -> Option<Figure> {
    let Form::Law { n, d, .. } = &fit.spec.form else { return None };
    let Ok(Found::Law(law, _)) = &fit.outcome else { return None };
    let of = |setting: &Setting| setting.sizes.get(1).copied();
    // Token counts within 5 % count as one value: they differ by a batch.
    let is_same = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) => (a / b - 1.0).abs() < 0.05,
        _ => true,
    };
    let mut groups: Vec<Vec<&Setting>> = vec![];
    for setting in &fit.settings {
        match groups.iter_mut().find(|group| is_same(of(group[0]), of(setting))) {
            Some(group) => group.push(setting),
            None => groups.push(vec![setting]),
        }
    }
    groups.sort_by(|a, b| of(a[0]).unwrap_or(0.0).total_cmp(&of(b[0]).unwrap_or(0.0)));
    if groups.len() > MAX_CURVES {
        return Some(predicted_vs_measured(fit, &law.law));
    }
    let sizes = || fit.settings.iter().map(|setting| setting.sizes[0]);
    let (low, high) = (sizes().fold(f64::INFINITY, f64::min), sizes().fold(0.0, f64::max));
    let mut series = vec![];
    for (colour, group) in groups.iter().enumerate() {
        let mean = group.iter().filter_map(|setting| of(setting)).sum::<f64>() / group.len() as f64;
        let label = d.map_or(String::new(), |d| format!("{} {}", d.label(), plain(mean)));
        let points = group.iter().map(|setting| measured(setting, setting.sizes[0])).collect();
        series.push(Series { label, colour, points, ..Series::default() });
        let curve = (0..=CURVE).map(|i| {
            let x = low * (high / low).powf(i as f64 / CURVE as f64);
            let sizes: Vec<f64> = [x].into_iter().chain(d.map(|_| mean)).collect();
            Point { x, y: law.law.at(&sizes), ..Point::default() }
        });
        series.push(Series { colour, points: curve.collect(), mark: Mark::Dashed, ..Series::default() });
    }
    Some(Figure {
        x: Axis { label: n.label().into(), log: Some(true), ..Axis::default() },
        y: Axis { label: fit.spec.loss.label().into(), log: Some(false), ..Axis::default() },
        content: Content::Series(series),
        notes: vec!["points: means over seeds, 95 % t interval; dashed: the fitted law".into()],
        ..empty_figure(fit)
    })
}

/// The loss of a setting, with its interval, as a point at `x`.
fn measured(setting: &Setting, x: f64) -> Point {
    let interval = setting.t95.map(|half| (setting.loss - half, setting.loss + half));
    Point { x, y: setting.loss, interval, seeds: setting.seeds, ..Point::default() }
}

/// The figure of a fit without its content.
fn empty_figure(fit: &Fitted) -> Figure {
    Figure { name: fit.spec.figure_name(), title: fit.spec.title.clone(), ..Figure::default() }
}

/// Figure of measured losses against those that a law predicts, with the line on which they are equal.
fn predicted_vs_measured(fit: &Fitted, law: &Law) -> Figure {
    let predicted = |setting: &Setting| measured(setting, law.at(&setting.sizes));
    let points: Vec<Point> = fit.settings.iter().map(predicted).collect();
    let low = points.iter().map(|point| point.x.min(point.y)).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|point| point.x.max(point.y)).fold(0.0, f64::max);
    let equal = [low, high].map(|loss| Point { x: loss, y: loss, ..Point::default() });
    let label = fit.spec.loss.label();
    let axis = |label: String| Axis { label, log: Some(false), ..Axis::default() };
    Figure {
        x: axis(format!("{label}, predicted by the law")),
        y: axis(label.into()),
        content: Content::Series(vec![
            Series { points, ..Series::default() },
            Series { points: equal.into(), mark: Mark::Dashed, ..Series::default() },
        ]),
        notes: vec![
            "points: settings, means over seeds, 95 % t interval; dashed: measured = predicted".into(),
        ],
        ..empty_figure(fit)
    }
}
