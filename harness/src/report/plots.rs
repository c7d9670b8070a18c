//! From the figures that an experiment asks for to figures that can be drawn.

use super::columns::{Better, Column, Format};
use super::curves;
use super::figure::{Axis, Content, Figure, Mark, Point, Series};
use super::number::{cell, digits3, equation, number};
use super::observation::{Cell, Observation, Pooled, Results, distinct, grouped, over_seeds};
use super::wanted::{ErrorBar, FigureSpec, Over, Plot, Style};
use super::words::unit_apart;
use crate::stats::fit;
use uuid::Uuid;

/// Points of a fitted curve.
const FIT_POINTS: usize = 60;

/// The figure that is asked for.
pub fn figure(spec: &FigureSpec, results: &Results) -> Figure {
    let observations = results.observations(&spec.columns());
    let counted: Vec<&Observation> =
        observations.iter().filter(|o| spec.filter.as_ref().is_none_or(|f| f.holds(o))).collect();
    let mut figure = match &spec.plot {
        Plot::Over(over) => over_figure(over, &counted),
        Plot::Heatmap { x, y, value } => heatmap(*x, *y, *value, &counted),
        Plot::Loss(loss) => curves::figure(loss, &counted),
    };
    (figure.name, figure.title) = (spec.name.clone(), spec.title.clone());
    if figure.is_empty() {
        figure.notes = vec!["no finished trial has these values".into()];
    }
    figure
}

impl Figure {
    fn is_empty(&self) -> bool {
        match &self.content {
            Content::Series(series) => series.iter().all(|s| s.points.is_empty()),
            Content::Cells { cells, .. } => cells.iter().flatten().all(Option::is_none),
        }
    }
}

/// What a legend calls a group.
pub fn group_label(column: &Column, value: &Option<Cell>) -> String {
    let text = cell(value, column);
    if !column.is_number() && !column.is_key() {
        return text;
    }
    let (label, unit) = unit_apart(column.label());
    format!("{label} {text}{}", unit.map_or(String::new(), |unit| format!(" {unit}")))
}

/// A mean with its interval, in the units of the axis.
fn point(x: f64, observations: &[&Observation], over: &Over) -> Option<Point> {
    let spread = over_seeds(observations, &over.y)?;
    let around = |half: f64| (spread.mean - half, spread.mean + half);
    let interval = match over.error {
        ErrorBar::T95 => spread.t95.map(around),
        ErrorBar::Sd => spread.sd.map(around),
        ErrorBar::Wilson => Pooled::of(observations).map(|answers| answers.wilson()),
        ErrorBar::None => None,
    };
    let scale = over.y.scale();
    Some(Point {
        x,
        y: scale * spread.mean,
        interval: interval.map(|(low, high)| (scale * low, scale * high)),
        seeds: spread.n,
    })
}

fn over_figure(over: &Over, observations: &[&Observation]) -> Figure {
    let has_values = |o: &&Observation| over.x.read(o).is_some() && over.y.number(o).is_some();
    let counted: Vec<&Observation> = observations.iter().copied().filter(has_values).collect();
    let groups: Vec<(String, Vec<&Observation>)> = match &over.group {
        None => vec![(String::new(), counted.clone())],
        Some(column) => grouped(&counted, &[*column])
            .into_iter()
            .map(|(key, group)| (group_label(column, &key[0]), group))
            .collect(),
    };
    let mut figure = Figure {
        x: Axis { label: over.x.label().into(), log: over.log[0], ..Axis::default() },
        y: Axis { label: over.y.label().into(), log: over.log[1].or(Some(false)), ..Axis::default() },
        level: super::charts::guessing(Pooled::of(&counted).into_iter())
            .filter(|_| over.y.name() == "exam_accuracy"),
        ..Figure::default()
    };
    let mut names: Vec<Vec<String>> = vec![];
    let mut series: Vec<Series> = vec![];
    if over.style == Style::Bar || !over.x.is_number() {
        let places: Vec<Option<Cell>> =
            grouped(&counted, &[over.x]).into_iter().map(|(mut key, _)| key.swap_remove(0)).collect();
        figure.x.places = places.iter().map(|place| cell(place, &over.x)).collect();
        for (colour, (label, group)) in groups.into_iter().enumerate() {
            let place = |key: &[Option<Cell>]| places.iter().position(|p| *p == key[0]).map(|p| p as f64);
            let points = grouped(&group, &[over.x]).into_iter();
            let points = points.filter_map(|(key, group)| point(place(&key)?, &group, over)).collect();
            series.push(Series { label, colour, points, ..Series::default() });
        }
    } else if over.style == Style::Line {
        for (colour, (label, group)) in groups.into_iter().enumerate() {
            let points = grouped(&group, &[over.x]).into_iter().filter_map(|(key, group)| match key[0] {
                Some(Cell::Number(x)) => point(over.x.scale() * x, &group, over),
                _ => None,
            });
            series.push(Series { label, colour, points: points.collect(), ..Series::default() });
        }
    } else {
        for (colour, (label, group)) in groups.into_iter().enumerate() {
            let (mut points, mut named) = (vec![], vec![]);
            for (name, setting) in by_setting(&group) {
                let x = over_seeds(&setting, &over.x).map(|x| over.x.scale() * x.mean);
                if let Some(found) = x.and_then(|x| point(x, &setting, over)) {
                    points.push(found);
                    named.push(name);
                }
            }
            names.push(named);
            series.push(Series { label, colour, points, ..Series::default() });
        }
    }
    let mark = match over.style {
        Style::Line => Mark::Joined,
        Style::Bar => Mark::Bars,
        Style::Scatter | Style::Pareto => Mark::Points,
    };
    series.iter_mut().for_each(|s| s.mark = mark);
    figure.y.include = (over.style == Style::Bar).then_some(0.0);
    figure.notes = notes(over, &series);
    if over.y.format() == Format::Percent {
        figure.y.limits = Some((0.0, 100.0));
        let beyond = |p: &Point| p.interval.is_some_and(|(low, high)| low < 0.0 || high > 100.0);
        if series.iter().flat_map(|s| &s.points).any(beyond) {
            figure.notes.push("no cap: the interval goes on beyond 0 or 100 %".into());
        }
    }
    add_fits(over, &mut series, &mut figure.notes);
    if over.style == Style::Pareto {
        add_front(over, &names, &mut series);
        figure.notes.push("front: no other setting is as good in one and better in the other".into());
    }
    figure.content = Content::Series(series);
    figure
}

/// Observations by setting, with what it is called.
fn by_setting<'o, 'a>(observations: &[&'o Observation<'a>]) -> Vec<(String, Vec<&'o Observation<'a>>)> {
    let mut settings: Vec<(Uuid, Vec<&Observation>)> = vec![];
    for observation in distinct(observations) {
        match settings.iter_mut().find(|(known, _)| *known == observation.trial.setting) {
            Some((_, group)) => group.push(observation),
            None => settings.push((observation.trial.setting, vec![observation])),
        }
    }
    settings.into_iter().map(|(_, group)| (group[0].label.to_string(), group)).collect()
}

/// What error bars mean, and of how many seeds.
fn notes(over: &Over, series: &[Series]) -> Vec<String> {
    let seeds = || series.iter().flat_map(|s| &s.points).map(|p| p.seeds);
    let (Some(fewest), Some(most)) = (seeds().min(), seeds().max()) else { return vec![] };
    let count = match (fewest, most) {
        (a, b) if a == b => crate::track::counted(a, "seed"),
        (a, b) => format!("{a} to {b} seeds"),
    };
    let note = match over.error {
        ErrorBar::T95 | ErrorBar::Sd if most < 2 => format!("{count}: no interval is known"),
        ErrorBar::T95 => format!("intervals: 95 % t, {count}"),
        ErrorBar::Sd => format!("intervals: ± 1 sd, {count}"),
        ErrorBar::Wilson => format!("intervals: Wilson 95 % over the questions, {count}"),
        ErrorBar::None => format!("means of {count}"),
    };
    let mut notes = vec![note];
    if fewest == 1 && most > 1 && matches!(over.error, ErrorBar::T95 | ErrorBar::Sd) {
        notes.push("without an interval: 1 seed".into());
    }
    notes
}

fn add_fits(over: &Over, series: &mut Vec<Series>, notes: &mut Vec<String>) {
    let Some(kind) = over.fit else { return };
    let mut curves = vec![];
    for Series { label, colour, points, .. } in series.iter() {
        let numbers: Vec<(f64, f64)> = points.iter().map(|p| (p.x, p.y)).collect();
        let fit = match fit(kind, &numbers, 0.95) {
            Ok(fit) => fit,
            Err(error) => {
                let of = if label.is_empty() { String::new() } else { format!(" for {label}") };
                notes.push(format!("no fit{of}: {error}"));
                continue;
            }
        };
        let (low, high) =
            numbers.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), p| (l.min(p.0), h.max(p.0)));
        let at = |i: usize| {
            let share = i as f64 / (FIT_POINTS - 1) as f64;
            let x = if low > 0.0 { low * (high / low).powf(share) } else { low + share * (high - low) };
            Point { x, y: fit.at(x), ..Point::default() }
        };
        let name = match kind {
            crate::stats::FitKind::Power => "exponent",
            _ => "slope",
        };
        curves.push(Series {
            label: format!(
                "{} ({name} ± {} at 95 %, R²={:.3}, n={})",
                equation(&fit),
                digits3(fit.b.high - fit.b.value),
                fit.r2,
                fit.n
            ),
            mark: Mark::Dashed,
            colour: *colour,
            points: (0..FIT_POINTS).map(at).collect(),
        });
    }
    series.extend(curves);
}

/// The settings that no other is as good as in one and better in the other, joined and numbered.
fn add_front(over: &Over, names: &[Vec<String>], series: &mut Vec<Series>) {
    let sign = |column: &Column| if column.better() == Some(Better::Lower) { 1.0 } else { -1.0 };
    let (sx, sy) = (sign(&over.x), sign(&over.y));
    let all: Vec<(Point, &String, usize)> = series
        .iter()
        .zip(names)
        .flat_map(|(s, names)| s.points.iter().zip(names).map(|(p, n)| (*p, n, s.colour)))
        .collect();
    let costs: Vec<(f64, f64)> = all.iter().map(|(p, _, _)| (sx * p.x, sy * p.y)).collect();
    let mut front: Vec<usize> = pareto_front(&costs);
    front.sort_by(|&a, &b| all[a].0.x.total_cmp(&all[b].0.x));
    let bare = |p: Point| Point { interval: None, ..p };
    let line = front.iter().map(|&i| bare(all[i].0)).collect();
    let numbered: Vec<Series> = front
        .iter()
        .map(|&i| Series {
            label: all[i].1.clone(),
            mark: Mark::Numbers,
            colour: all[i].2,
            points: vec![bare(all[i].0)],
        })
        .collect();
    series.push(Series { label: "front".into(), mark: Mark::Dashed, colour: 6, points: line });
    series.extend(numbered);
}

/// Which points no other dominates: lower is better in both.
fn pareto_front(points: &[(f64, f64)]) -> Vec<usize> {
    let dominates = |q: &(f64, f64), p: &(f64, f64)| q.0 <= p.0 && q.1 <= p.1 && q != p;
    (0..points.len()).filter(|&i| !points.iter().any(|q| dominates(q, &points[i]))).collect()
}

fn heatmap(x: Column, y: Column, value: Column, observations: &[&Observation]) -> Figure {
    let has_values =
        |o: &&Observation| x.read(o).is_some() && y.read(o).is_some() && value.number(o).is_some();
    let counted: Vec<&Observation> = observations.iter().copied().filter(has_values).collect();
    let places = |column: Column| -> Vec<Option<Cell>> {
        grouped(&counted, &[column]).into_iter().map(|(mut key, _)| key.swap_remove(0)).collect()
    };
    let (xs, ys) = (places(x), places(y));
    let mut cells = vec![vec![None; xs.len()]; ys.len()];
    let mut seeds: Vec<usize> = vec![];
    for (key, group) in grouped(&counted, &[x, y]) {
        let at = |places: &[Option<Cell>], cell: &Option<Cell>| places.iter().position(|p| p == cell);
        let (Some(column), Some(row)) = (at(&xs, &key[0]), at(&ys, &key[1])) else { continue };
        if let Some(spread) = over_seeds(&group, &value) {
            seeds.push(spread.n);
            cells[row][column] = Some((value.scale() * spread.mean, number(spread.mean, &value)));
        }
    }
    let names = |places: &[Option<Cell>], column: Column| places.iter().map(|p| cell(p, &column)).collect();
    let axis = |column: Column, places: &[Option<Cell>]| Axis {
        label: column.label().into(),
        places: names(places, column),
        ..Axis::default()
    };
    let count = match (seeds.iter().min(), seeds.iter().max()) {
        (Some(1), Some(1)) => vec!["1 seed".into()],
        (Some(a), Some(b)) if a == b => vec![format!("means of {a} seeds")],
        (Some(a), Some(b)) => vec![format!("means of {a} to {b} seeds")],
        _ => vec![],
    };
    Figure {
        x: axis(x, &xs),
        y: axis(y, &ys),
        content: Content::Cells { label: value.label().into(), cells },
        notes: count,
        ..Figure::default()
    }
}

#[cfg(test)]
mod tests {
    use super::pareto_front;

    #[test]
    fn the_front_holds_what_nothing_dominates() {
        let points = [(1.0, 5.0), (2.0, 3.0), (2.0, 4.0), (3.0, 3.0), (4.0, 1.0), (4.0, 1.0)];
        assert_eq!(pareto_front(&points), [0, 1, 4, 5]);
    }
}
