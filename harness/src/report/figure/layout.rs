//! Where everything stands: margins, scales, names of series.

use super::axis::{Room, Scale};
use super::legend::{Names, end_labels, listed};
use super::scene::{At, Rect};
use super::{Content, Figure, Legend, Mark, Point, Series, Size, font};
use std::collections::BTreeMap;

/// Points of an em of ticks, labels and names.
pub const TEXT: f64 = 8.0;

/// Of the title.
pub const TITLE: f64 = 9.0;

/// Of notes below.
pub const NOTE: f64 = 6.5;

/// From one line of text to the next, in ems.
pub const LINE: f64 = 1.25;

/// Points of an inch.
const INCH: f64 = 72.0;

/// Space at the edge of the paper.
const EDGE: f64 = 4.0;

/// From this width on a list of names stands beside what is drawn, else below it.
const WIDE: f64 = 300.0;

/// A figure with its places.
pub struct Layout<'a> {
    /// What is drawn.
    pub figure: &'a Figure,
    /// Across.
    pub x: Scale,
    /// Up.
    pub y: Scale,
    /// Width and height of the paper.
    pub size: (f64, f64),
    /// What is drawn stands in here.
    pub plot: Rect,
    /// Lines of the title.
    pub title: Vec<String>,
    /// Lines of the notes.
    pub notes: Vec<String>,
    /// The labels of the ticks of `y`, each in lines.
    pub rows: Vec<Vec<String>>,
    /// Whether names of places across are written upwards for want of room.
    pub is_upright: bool,
    /// Where the label of `x` stands.
    pub x_label: f64,
    /// Names of series.
    pub names: Names,
}

/// Where names of series may stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    Nowhere,
    Ends,
    Right,
    Below,
}

impl<'a> Layout<'a> {
    /// The layout of a figure: names at the ends of curves if they fit there, else in a list.
    pub fn of(figure: &'a Figure) -> Self {
        let width = width(figure);
        let list = if width >= WIDE { Where::Right } else { Where::Below };
        match figure.frame.legend {
            Legend::None => Self::new(figure, Where::Nowhere),
            Legend::Right => Self::new(figure, Where::Right),
            Legend::Auto if named(figure).next().is_none() => Self::new(figure, Where::Nowhere),
            Legend::Auto => {
                let may_stand = !figure.is_sideways && named(figure).all(|s| is_sole(figure, s));
                let at_ends = may_stand.then(|| Self::new(figure, Where::Ends));
                at_ends
                    .filter(|l| matches!(l.names, Names::Ends(_)))
                    .unwrap_or_else(|| Self::new(figure, list))
            }
        }
    }

    fn new(figure: &'a Figure, place: Where) -> Self {
        let width = width(figure);
        let is_colours = matches!(figure.content, Content::Cells { .. });
        let title = font::wrapped(&figure.title, TITLE, width - 2.0 * EDGE);
        let title: Vec<String> = title.into_iter().filter(|line| !line.is_empty()).collect();
        let notes = font::wrapped(&figure.notes.join("; "), NOTE, width - 2.0 * EDGE);
        let notes: Vec<String> = notes.into_iter().filter(|line| !line.is_empty()).collect();
        let list = match place {
            Where::Right => Some(listed(figure, 0.34 * width, false)),
            Where::Below => Some(listed(figure, width - 2.0 * EDGE, true)),
            _ => None,
        };
        let top = EDGE + TITLE * LINE * title.len() as f64 + if title.is_empty() { 2.0 } else { 5.0 };
        // The level's name stands above what is drawn.
        let top = top + if figure.is_sideways && figure.level.is_some() { TEXT } else { 0.0 };
        let right = width
            - match (&list, place) {
                (Some(list), Where::Right) => list.width + 12.0 + EDGE,
                (_, Where::Ends) => {
                    let widths = named(figure).map(|s| font::width(&s.label, TEXT));
                    widths.fold(0.0, f64::max) + 14.0 + EDGE
                }
                _ if is_colours => 62.0,
                _ => 10.0,
            };
        let (xs, ys, are_settings) = numbers(figure);
        let rows_room = 0.4 * width;
        let rows: Vec<Vec<String>> = match figure.is_sideways || is_colours {
            true => figure.y.places.iter().map(|name| row(name, rows_room)).collect(),
            false => vec![],
        };
        let wanted = wanted_height(figure, &rows);
        // Ticks of y say how much room there is across, and the other way round by the height alone.
        let scale_y = |height: f64| {
            let room = Room { length: height, size: TEXT, is_across: false };
            Scale::new(&figure.y, &ys, figure.is_sideways && are_settings, room)
        };
        let label_room = if figure.y.label.is_empty() { 0.0 } else { TEXT * LINE + 3.0 };
        let left_of = |y: &Scale, rows: &[Vec<String>]| {
            let ticks = y.ticks.iter().map(|(_, label)| label).filter(|_| rows.is_empty());
            let widths = rows.iter().flatten().chain(ticks).map(|text| font::width(text, TEXT));
            EDGE + label_room + widths.fold(0.0, f64::max) + 6.0
        };
        let left = left_of(&scale_y(wanted), &rows);
        let room_across = (right - left).max(20.0);
        let room = Room { length: room_across, size: TEXT, is_across: true };
        let x = Scale::new(&figure.x, &xs, !figure.is_sideways && are_settings, room);
        let widest = x.ticks.iter().map(|(_, label)| font::width(label, TEXT)).fold(0.0, f64::max);
        let is_upright =
            !figure.x.places.is_empty() && widest + 0.6 * TEXT > room_across / x.ticks.len().max(1) as f64;
        let ticks = if is_upright { widest.min(110.0) } else { TEXT };
        let x_label = 6.0 + ticks + if figure.x.label.is_empty() { 0.0 } else { TEXT * LINE };
        let below = match (&list, place) {
            (Some(list), Where::Below) => list.height + 5.0,
            _ => 0.0,
        };
        let bottom = x_label + 5.0 + below + NOTE * LINE * notes.len() as f64 + EDGE;
        let beside = match (&list, place) {
            (Some(list), Where::Right) => list.height,
            _ => 0.0,
        };
        let (height, plot_height) = match figure.frame.height {
            Some(inches) => (inches * INCH, (inches * INCH - top - bottom).max(30.0)),
            None => {
                let plot = wanted.max(beside);
                (top + plot + bottom, plot)
            }
        };
        let plot = Rect { left, top, right: left + room_across, bottom: top + plot_height };
        let mut layout = Self {
            figure,
            x,
            y: scale_y(plot_height),
            size: (width, height),
            plot,
            title,
            notes,
            rows,
            is_upright,
            x_label: top + plot_height + x_label,
            names: Names::None,
        };
        layout.names = match (list, place) {
            (Some(list), Where::Right) => Names::List(list, (plot.right + 12.0, plot.top)),
            (Some(list), _) => Names::List(list, (EDGE, layout.x_label + 6.0)),
            (None, Where::Ends) => end_labels(&layout).map_or(Names::None, Names::Ends),
            (None, _) => Names::None,
        };
        layout
    }

    /// The place of a point.
    pub fn at(&self, x: f64, y: f64) -> At {
        (self.across(x), self.up(y))
    }

    /// The place of a number across.
    pub fn across(&self, x: f64) -> f64 {
        self.plot.left + self.x.place(x) * (self.plot.right - self.plot.left)
    }

    /// The place of a number up; names down the side begin above.
    pub fn up(&self, y: f64) -> f64 {
        let share = self.y.place(y);
        let height = self.plot.bottom - self.plot.top;
        if self.figure.is_sideways {
            self.plot.top + share * height
        } else {
            self.plot.bottom - share * height
        }
    }
}

/// Whether a series is a curve, and the only one of its colour: else a name at its end would be that of one of several.
fn is_sole(figure: &Figure, series: &Series) -> bool {
    let Content::Series(all) = &figure.content else { return false };
    let is_curve = |s: &Series| matches!(s.mark, Mark::Line | Mark::Joined);
    let alike = all.iter().filter(|s| s.colour == series.colour && is_curve(s)).count();
    series.mark.is_curve() && alike < 2
}

/// Series with a name.
pub fn named(figure: &Figure) -> impl Iterator<Item = &Series> {
    let series = match &figure.content {
        Content::Series(series) => series.as_slice(),
        Content::Cells { .. } => &[],
    };
    series.iter().filter(|s| !s.label.is_empty())
}

fn width(figure: &Figure) -> f64 {
    let inches = figure.frame.width.unwrap_or(match figure.frame.size {
        Size::Column => 3.25,
        Size::Page => 6.75,
    });
    inches * INCH
}

/// The name of a row, in at most three lines.
fn row(name: &str, room: f64) -> Vec<String> {
    let mut lines = font::wrapped(name, TEXT, room);
    if lines.len() > 3 {
        let rest = lines.split_off(2).join(" ");
        lines.push(font::shortened(&rest, TEXT, room));
    }
    lines
}

/// How high what is drawn would be, where no height is asked for.
fn wanted_height(figure: &Figure, rows: &[Vec<String>]) -> f64 {
    let lines = rows.iter().map(Vec::len).max().unwrap_or(1) as f64;
    match &figure.content {
        Content::Series(series) if figure.is_sideways => {
            let pitch = (5.0 + 5.0 * lanes(series) as f64).max(lines * TEXT * LINE + 2.0).max(11.0);
            (pitch * rows.len() as f64).max(40.0)
        }
        Content::Cells { .. } => ((lines * TEXT * LINE + 6.0) * rows.len() as f64).max(90.0),
        Content::Series(_) if figure.frame.size == Size::Column => 130.0,
        Content::Series(_) => 200.0,
    }
}

/// How many series stand side by side at a place.
pub fn lanes(series: &[Series]) -> usize {
    let mut at: BTreeMap<u64, usize> = BTreeMap::new();
    let stand = |s: &&Series| s.mark == Mark::Points && !s.points.is_empty();
    for point in series.iter().filter(stand).flat_map(|s| &s.points) {
        *at.entry(point.y.to_bits()).or_default() += 1;
    }
    match at.values().any(|n| *n > 1) {
        true => series.iter().filter(stand).count(),
        false => 1,
    }
}

/// The numbers across and up, and whether those without intervals are settings, which may get a tick each: so they are
/// where no line goes beyond the markers.
fn numbers(figure: &Figure) -> (Vec<f64>, Vec<f64>, bool) {
    let Content::Series(series) = &figure.content else { return (vec![], vec![], false) };
    let is_line = |s: &Series| matches!(s.mark, Mark::Line | Mark::Dashed | Mark::Faint);
    let key = |p: &Point| if figure.is_sideways { p.y } else { p.x };
    let value = |p: &Point| if figure.is_sideways { p.x } else { p.y };
    let keys = |lines: bool| -> Vec<f64> {
        let chosen = series.iter().filter(|s| is_line(s) == lines).flat_map(|s| &s.points);
        chosen.map(key).filter(|x| x.is_finite()).collect()
    };
    let (marked, drawn) = (keys(false), keys(true));
    let low = marked.iter().copied().fold(f64::INFINITY, f64::min);
    let high = marked.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // The ends of a fitted curve are those of its points but for rounding.
    let slack = 1e-6 * (high - low);
    let are_settings = drawn.iter().all(|x| *x >= low - slack && *x <= high + slack);
    let keys = if are_settings { marked } else { marked.into_iter().chain(drawn).collect() };
    // Only what is in sight says how far the other axis goes.
    let (key_axis, value_axis) =
        if figure.is_sideways { (&figure.y, &figure.x) } else { (&figure.x, &figure.y) };
    let is_seen = |p: &&Point| key_axis.view.is_none_or(|(low, high)| key(p) >= low && key(p) <= high);
    let values = series.iter().flat_map(|s| s.points.iter().map(move |p| (s.mark, p)));
    let values = values.filter(|(_, p)| is_seen(p)).flat_map(|(mark, p)| match p.interval {
        // The band of a fit may be as wide as it likes; its curve may not.
        Some((low, high)) if mark != Mark::Dashed => [value(p), low, high],
        _ => [value(p); 3],
    });
    let level = figure.level.map(|(level, _)| level);
    let is_log = value_axis.log == Some(true);
    let values = values.chain(level).filter(|y| y.is_finite() && (!is_log || *y > 0.0)).collect();
    if figure.is_sideways { (values, keys, are_settings) } else { (keys, values, are_settings) }
}
