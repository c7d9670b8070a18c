//! The tables that an experiment requests: means over seeds, with a row for each combination of `rows` and, if `across`
//! is set, a column for each of its values. The best value and those not significantly worse are marked.

use super::grid::{Grid, GridCell};
use super::minimind;
use crate::report::columns::{Better, Column};
use crate::report::experiment::table_spec::{Among, Layout, TableSpec};
use crate::report::kind::group_label;
use crate::report::number::{Digits, NOTHING, cell, shuffled_p, with_error};
use crate::report::results::observation::{
    Cell, Observation, Pooled, Results, grouped, over_seeds, p_of_guessing, per_seed,
};
use crate::track::{counted, number};
use stats::{Mean, Spread, StatsError, holm};
use std::collections::{BTreeMap, BTreeSet};

/// Minimum number of seeds that two cells must share to be tested.
const FEWEST: usize = 3;

/// Significance level: a value is worse than the best if its corrected p is below this.
const ALPHA: f64 = 0.05;

/// Builds the requested table; in MiniMind's layout, a summary of all models and one table for each of them.
pub fn tables(spec: &TableSpec, results: &Results) -> Vec<Grid> {
    let columns = spec.rows.iter().chain(&spec.columns).chain(&spec.across).copied();
    let columns: Vec<Column> = columns.chain(spec.filter.iter().flat_map(|f| f.columns())).collect();
    let observations = results.observations(&columns);
    let counted: Vec<&Observation> =
        observations.iter().filter(|o| spec.filter.as_ref().is_none_or(|f| f.holds(o))).collect();
    match spec.layout {
        Layout::Means => vec![means(spec, &counted, results)],
        Layout::Minimind => minimind::tables(spec, &counted),
    }
}

/// A metric's cell for one row and one value of `across`.
struct Slot<'o, 'a> {
    observations: Vec<&'o Observation<'a>>,
    spread: Option<Spread>,
    cell: GridCell,
}

fn means(spec: &TableSpec, observations: &[&Observation], results: &Results) -> Grid {
    // Without any exam, exam metrics are left out.
    let has_exams = observations.iter().any(|o| o.score.is_some());
    let metrics: Vec<Column> =
        spec.columns.iter().copied().filter(|c| has_exams || !c.is_of_exam()).collect();
    let values: Vec<Option<Option<Cell>>> = match &spec.across {
        Some(across) => grouped(observations, &[*across]).into_iter().map(|(mut key, _)| key.pop()).collect(),
        None => vec![None],
    };
    // Metric by metric, so that the columns of one metric are adjacent.
    let places: Vec<(Column, &Option<Option<Cell>>)> =
        metrics.iter().flat_map(|metric| values.iter().map(move |value| (*metric, value))).collect();
    let rows = grouped(observations, &spec.rows);
    let seeds: Vec<usize> = rows.iter().map(|(_, group)| seeds_of(group)).collect();
    let mut slots: Vec<Vec<Slot>> = rows
        .iter()
        .map(|(_, group)| places.iter().map(|(metric, value)| slot(spec, group, metric, value)).collect())
        .collect();
    for (m, metric) in metrics.iter().enumerate() {
        let columns = m * values.len()..(m + 1) * values.len();
        let means =
            slots.iter().flat_map(|row| &row[columns.clone()]).filter_map(|slot| Some(slot.spread?.mean));
        let digits = Digits::of_column(metric, means);
        for (row, seeds) in slots.iter_mut().zip(&seeds) {
            row[columns.clone()]
                .iter_mut()
                .for_each(|slot| slot.cell.text = text(slot, metric, digits, *seeds));
        }
    }
    let compared = compare(spec, &metrics, values.len(), &mut slots);
    let questions: Vec<Option<u64>> =
        rows.iter().map(|(_, group)| Some(Pooled::of(group)?.questions)).collect();
    let has_questions = metrics.iter().any(Column::is_of_exam);
    let (common_seeds, common_questions) = (common(&seeds), common(&questions));
    let mut heads: Vec<String> = spec.rows.iter().map(|column| column.label().into()).collect();
    heads.extend(common_seeds.is_none().then(|| "seeds".to_string()));
    heads.extend((has_questions && common_questions.is_none()).then(|| "questions".to_string()));
    let before = heads.len();
    heads.extend(places.iter().map(|(metric, value)| match (&spec.across, value) {
        (Some(across), Some(value)) => group_label(across, value),
        _ => metric.label().into(),
    }));
    let spans = match spec.across {
        None => vec![],
        Some(_) => {
            let of_metrics = metrics.iter().map(|metric| (metric.label().to_string(), values.len()));
            [(String::new(), before)].into_iter().chain(of_metrics).collect()
        }
    };
    let has_intervals = slots.iter().flatten().any(|slot| slot.cell.text.contains('±'));
    let mut notes = vec![seeds_note(common_seeds, has_intervals)];
    let distinguishing: Vec<Column> = spec.rows.iter().chain(&spec.across).copied().collect();
    notes.extend(results.also_over(observations, &distinguishing).map(|note| format!("The {note}.")));
    notes.extend(
        common_questions.flatten().filter(|_| has_questions).map(|n| format!("{} questions.", number(n))),
    );
    notes.extend(compared);
    if metrics.iter().any(Column::is_p_of_guessing) {
        notes.push("p of guessing: Fisher's randomisation test of all seeds together.".into());
    }
    let rows = rows.iter().zip(slots).zip(seeds.iter().zip(&questions));
    let rows = rows.map(|(((key, _), slots), (seeds, questions))| {
        let mut row: Vec<GridCell> =
            key.iter().zip(&spec.rows).map(|(value, column)| cell(value, column).into()).collect();
        row.extend(common_seeds.is_none().then(|| GridCell::from(seeds.to_string())));
        let count = questions.map_or(NOTHING.into(), number);
        row.extend((has_questions && common_questions.is_none()).then(|| GridCell::from(count)));
        row.extend(slots.into_iter().map(|slot| slot.cell));
        row
    });
    Grid {
        title: spec.title.clone(),
        note: notes.join(" "),
        spans,
        heads,
        text_columns: spec.rows.len(),
        rows: rows.collect(),
    }
}

fn slot<'o, 'a>(
    spec: &TableSpec,
    group: &[&'o Observation<'a>],
    metric: &Column,
    value: &Option<Option<Cell>>,
) -> Slot<'o, 'a> {
    let is_here = |o: &&&Observation| match (&spec.across, value) {
        (Some(across), Some(value)) => across.read(o) == *value,
        _ => true,
    };
    let observations: Vec<&Observation> = group.iter().filter(is_here).copied().collect();
    let spread = if metric.is_p_of_guessing() { None } else { over_seeds(&observations, metric) };
    Slot { observations, spread, cell: GridCell::default() }
}

/// The text of a cell; states n if some of the row's `seeds` lack the metric.
fn text(slot: &Slot, metric: &Column, digits: Digits, seeds: usize) -> String {
    match slot.spread {
        None if metric.is_p_of_guessing() => {
            let test = p_of_guessing(&slot.observations);
            test.map_or(NOTHING.into(), |test| shuffled_p(test.p, test.is_bound))
        }
        Some(s) if s.n < seeds => format!("{} (n={})", with_error(slot.spread, metric, digits), s.n),
        _ => with_error(slot.spread, metric, digits),
    }
}

fn seeds_of(observations: &[&Observation]) -> usize {
    observations.iter().map(|o| o.trial.seed).collect::<BTreeSet<u64>>().len()
}

/// Returns the value that all elements share; `None` if they differ or there are none.
fn common<T: PartialEq + Copy>(values: &[T]) -> Option<T> {
    let first = *values.first()?;
    values.iter().all(|value| *value == first).then_some(first)
}

/// Describes the numbers of the table; `seeds` is `None` if rows differ in their number of seeds.
fn seeds_note(seeds: Option<usize>, has_intervals: bool) -> String {
    let interval = if has_intervals { " ± 95 % interval (Student's t)" } else { "" };
    match seeds {
        Some(1) => "One seed.".into(),
        Some(n) => format!("Means over {}{interval}.", counted(n, "seed")),
        None => format!("Means over seeds{interval}."),
    }
}

/// Marks the best scores and those not significantly worse; returns the note that explains the marks.
fn compare(spec: &TableSpec, metrics: &[Column], values: usize, slots: &mut [Vec<Slot>]) -> Option<String> {
    let (mut has_best, mut has_test) = (false, false);
    for (m, metric) in metrics.iter().enumerate() {
        let Some(better) = metric.better().filter(|_| metric.is_score()) else { continue };
        let columns = m * values..(m + 1) * values;
        let families: Vec<Vec<(usize, usize)>> = match spec.best {
            Among::Row => (0..slots.len()).map(|row| columns.clone().map(|c| (row, c)).collect()).collect(),
            Among::Column => columns.map(|c| (0..slots.len()).map(|row| (row, c)).collect()).collect(),
        };
        for family in families {
            let (best, test) = mark(slots, &family, metric, better);
            (has_best, has_test) = (has_best || best, has_test || test);
        }
    }
    let among = if spec.best == Among::Row { "row" } else { "column" };
    has_best.then(|| match has_test {
        true => format!(
            "Best of each {among} in bold; † marks values that are not significantly worse: paired t-test over seeds against the \
             best, p ≥ {ALPHA} after Holm's correction within the {among}."
        ),
        false => format!("Best of each {among} in bold, not tested: a test needs {FEWEST} seeds with some variation."),
    })
}

/// Marks the cells of one family, given as (row, column); returns whether there is a best one, and whether any other
/// could be tested against it.
fn mark(slots: &mut [Vec<Slot>], family: &[(usize, usize)], metric: &Column, better: Better) -> (bool, bool) {
    let means: Vec<(usize, f64)> =
        family.iter().enumerate().filter_map(|(i, &(r, c))| Some((i, slots[r][c].spread?.mean))).collect();
    let is_better = |a: f64, b: f64| if better == Better::Higher { a > b } else { a < b };
    let Some(&(best, top)) = means.iter().reduce(|a, b| if is_better(b.1, a.1) { b } else { a }) else {
        return (false, false);
    };
    if means.iter().all(|(_, mean)| *mean == top) {
        return (false, false);
    }
    let seeds = |i: usize| {
        let (row, column) = family[i];
        per_seed(&slots[row][column].observations, metric)
    };
    let of_best = seeds(best);
    let others = means.iter().filter(|(_, mean)| *mean != top);
    let tested: Vec<(usize, f64)> =
        others.filter_map(|(i, _)| Some((*i, p_of_difference(&of_best, &seeds(*i))?))).collect();
    let p = holm(&tested.iter().map(|(_, p)| *p).collect::<Vec<_>>());
    for ((i, _), p) in tested.iter().zip(p) {
        let (row, column) = family[*i];
        slots[row][column].cell.is_not_worse = p >= ALPHA;
    }
    for (i, _) in means.iter().filter(|(_, mean)| *mean == top) {
        let (row, column) = family[*i];
        slots[row][column].cell.is_best = true;
    }
    (true, !tested.is_empty())
}

/// Two-sided p of the paired t-test over the seeds that both have; 1 if all pairs are equal. `None` if there are too few
/// seeds, or if every seed has the same nonzero difference, which leaves no variance to test with.
fn p_of_difference(a: &BTreeMap<u64, f64>, b: &BTreeMap<u64, f64>) -> Option<f64> {
    let pairs: Vec<(f64, f64)> = a.iter().filter_map(|(seed, a)| Some((*a, *b.get(seed)?))).collect();
    if pairs.len() < FEWEST {
        return None;
    }
    let (a, b): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    match Mean::of_pairs(&a, &b) {
        Ok(difference) => Some(difference.test(0.0).p),
        Err(StatsError::NoVariance) if a == b => Some(1.0),
        Err(_) => None,
    }
}
