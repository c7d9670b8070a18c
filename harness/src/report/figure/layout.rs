//! The layout of a figure: margins, scales, positions of series names.

use super::axis::{Scale, TickSpace};
use super::legend::{Names, end_labels, legend_list};
use super::scene::{Position, Rect};
use super::{Axis, Content, Figure, Legend, Mark, Point, Series, Size, font};
use std::collections::BTreeMap;

/// Font size of ticks, labels and names, in points.
pub const TEXT: f64 = 8.0;

/// Font size of the title, in points.
pub const TITLE: f64 = 9.0;

/// Font size of the notes below, in points.
pub const NOTE: f64 = 6.5;

/// Line height in ems.
pub const LINE: f64 = 1.25;

/// Points per inch.
const INCH: f64 = 72.0;

/// Height of a plot area in points that fits a page with its title, labels and notes.
const PAGE: f64 = 600.0;

/// Margin at the edge of the figure, in points.
const EDGE: f64 = 4.0;

/// Width in points from which a legend stands to the right of the plot instead of below it.
const WIDE: f64 = 300.0;

/// A figure with the positions of its parts.
pub struct Layout<'a> {
    /// The figure.
    pub figure: &'a Figure,
    /// Horizontal scale.
    pub x: Scale,
    /// Vertical scale.
    pub y: Scale,
    /// Width and height of the whole figure, in points.
    pub size: (f64, f64),
    /// The plot area inside the axes.
    pub plot: Rect,
    /// The title, broken into lines.
    pub title: Vec<String>,
    /// The notes, broken into lines.
    pub notes: Vec<String>,
    /// Row labels of `y`, each broken into lines; empty unless the figure is sideways or has cells.
    pub rows: Vec<Vec<String>>,
    /// Whether category names on the horizontal axis are rotated for lack of room.
    pub is_upright: bool,
    /// The label of `x`, broken into lines.
    pub x_label: Vec<String>,
    /// Vertical position of its first line.
    pub x_label_at: f64,
    /// The label of `y`, broken into lines.
    pub y_label: Vec<String>,
    /// The label of the colour bar, broken into lines.
    pub bar_label: Vec<String>,
    /// The names of series, positioned.
    pub names: Names,
}

/// Where the names of series can go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LegendPlace {
    Nowhere,
    Ends,
    Right,
    Below,
}

impl<'a> Layout<'a> {
    /// Lays out a figure, with series named at the ends of their curves if that fits, else in a list.
    pub fn of(figure: &'a Figure) -> Self {
        let width = width(figure);
        let list = if width >= WIDE { LegendPlace::Right } else { LegendPlace::Below };
        match figure.frame.legend {
            Legend::None => Self::new(figure, LegendPlace::Nowhere),
            Legend::Right => Self::new(figure, LegendPlace::Right),
            Legend::Auto if named(figure).next().is_none() => Self::new(figure, LegendPlace::Nowhere),
            Legend::Auto => {
                let may_stand = !figure.is_sideways && named(figure).all(|s| is_sole(figure, s));
                let at_ends = may_stand.then(|| Self::new(figure, LegendPlace::Ends));
                at_ends
                    .filter(|l| matches!(l.names, Names::Ends(_)))
                    .unwrap_or_else(|| Self::new(figure, list))
            }
        }
    }

    fn new(figure: &'a Figure, place: LegendPlace) -> Self {
        let width = width(figure);
        let is_colours = matches!(figure.content, Content::Cells { .. });
        let title = lines(&figure.title, TITLE, width - 2.0 * EDGE);
        let notes = lines(&figure.all_notes().join("; "), NOTE, width - 2.0 * EDGE);
        let list = match place {
            LegendPlace::Right => Some(legend_list(figure, 0.34 * width, false)),
            LegendPlace::Below => Some(legend_list(figure, width - 2.0 * EDGE, true)),
            _ => None,
        };
        let top = EDGE + TITLE * LINE * title.len() as f64 + if title.is_empty() { 2.0 } else { 5.0 };
        // The name of the reference level goes above the plot area.
        let top = top + if figure.is_sideways && figure.level.is_some() { TEXT } else { 0.0 };
        let rows: Vec<Vec<String>> = match figure.is_sideways || is_colours {
            true => figure.y.categories.iter().map(|name| row(name, 0.4 * width)).collect(),
            false => vec![],
        };
        let wanted = wanted_height(figure, &rows);
        // Height for labels that read upwards, from the top of the plot to its ticks, which are at least 15 points below it.
        let upwards = match figure.frame.height {
            Some(inches) => (inches * INCH - top - 45.0).max(60.0),
            None => wanted + 15.0,
        };
        let bar_label = match &figure.content {
            Content::Cells { label, .. } => lines(label, TEXT, upwards),
            Content::Series(_) => vec![],
        };
        let right = width
            - match (&list, place) {
                (Some(list), LegendPlace::Right) => list.width + 12.0 + EDGE,
                (_, LegendPlace::Ends) => {
                    let widths = named(figure).map(|s| font::width(&s.label, TEXT));
                    widths.fold(0.0, f64::max) + 14.0 + EDGE
                }
                _ if is_colours => 52.0 + TEXT * LINE * bar_label.len() as f64,
                _ => 10.0,
            };
        let (xs, ys, are_settings) = axis_values(figure);
        // The tick labels of y limit the width of the plot area; in turn, the ticks of y depend on its height alone.
        let scale_y = |height: f64| {
            let room = TickSpace { length: height, size: TEXT, is_across: false };
            Scale::new(&figure.y, &ys, figure.is_sideways && are_settings, room)
        };
        let y_label = lines(&axis_label(&figure.y, scale_y(wanted).log), TEXT, upwards);
        let label_room = if y_label.is_empty() { 0.0 } else { TEXT * LINE * y_label.len() as f64 + 3.0 };
        let left_of = |y: &Scale, rows: &[Vec<String>]| {
            let ticks = y.ticks.iter().map(|(_, label)| label).filter(|_| rows.is_empty());
            let widths = rows.iter().flatten().chain(ticks).map(|text| font::width(text, TEXT));
            EDGE + label_room + widths.fold(0.0, f64::max) + 6.0
        };
        let left = left_of(&scale_y(wanted), &rows);
        let room_across = (right - left).max(20.0);
        let room = TickSpace { length: room_across, size: TEXT, is_across: true };
        let x = Scale::new(&figure.x, &xs, !figure.is_sideways && are_settings, room);
        let widest = x.ticks.iter().map(|(_, label)| font::width(label, TEXT)).fold(0.0, f64::max);
        let is_upright = !figure.x.categories.is_empty()
            && widest + 0.6 * TEXT > room_across / x.ticks.len().max(1) as f64;
        let ticks = if is_upright { widest.min(110.0) } else { TEXT };
        let x_label = lines(&axis_label(&figure.x, x.log), TEXT, width - 2.0 * EDGE);
        // Baselines of its first and last lines, below the plot.
        let first = 6.0 + ticks + if x_label.is_empty() { 0.0 } else { TEXT * LINE };
        let last = first + TEXT * LINE * x_label.len().saturating_sub(1) as f64;
        let below = match (&list, place) {
            (Some(list), LegendPlace::Below) => list.height + 5.0,
            _ => 0.0,
        };
        let bottom = last + 5.0 + below + NOTE * LINE * notes.len() as f64 + EDGE;
        let beside = match (&list, place) {
            (Some(list), LegendPlace::Right) => list.height,
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
            x_label,
            x_label_at: top + plot_height + first,
            y_label,
            bar_label,
            names: Names::None,
        };
        layout.names = match (list, place) {
            (Some(list), LegendPlace::Right) => Names::List(list, (plot.right + 12.0, plot.top)),
            (Some(list), _) => Names::List(list, (EDGE, top + plot_height + last + 6.0)),
            (None, LegendPlace::Ends) => end_labels(&layout).map_or(Names::None, Names::Ends),
            (None, _) => Names::None,
        };
        layout
    }

    /// Position of a point in the scene.
    pub fn at(&self, x: f64, y: f64) -> Position {
        (self.across(x), self.up(y))
    }

    /// Horizontal position of a number.
    pub fn across(&self, x: f64) -> f64 {
        self.plot.left + self.x.place(x) * (self.plot.right - self.plot.left)
    }

    /// Vertical position of a number; in a sideways figure rows start at the top.
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

/// Whether a series is a curve in a colour with at most one solid curve; otherwise a name at its end would seem to be
/// that of one curve among several.
fn is_sole(figure: &Figure, series: &Series) -> bool {
    let Content::Series(all) = &figure.content else { return false };
    let is_curve = |s: &Series| matches!(s.mark, Mark::Line | Mark::Joined);
    let alike = all.iter().filter(|s| s.colour == series.colour && is_curve(s)).count();
    series.mark.is_curve() && alike < 2
}

/// The series that have a name.
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

/// Breaks a text into lines; none for an empty text.
fn lines(text: &str, size: f64, room: f64) -> Vec<String> {
    font::wrapped(text, size, room).into_iter().filter(|line| !line.is_empty()).collect()
}

/// The label of an axis, which says whether its scale is logarithmic.
fn axis_label(axis: &Axis, is_log: bool) -> String {
    match axis.label.strip_suffix(')') {
        Some(start) if is_log => format!("{start}, log scale)"),
        None if is_log && !axis.label.is_empty() => format!("{} (log scale)", axis.label),
        _ => axis.label.clone(),
    }
}

/// Breaks the label of a row into at most three lines, cutting the last one if necessary.
fn row(name: &str, room: f64) -> Vec<String> {
    let mut lines = font::wrapped(name, TEXT, room);
    if lines.len() > 3 {
        let rest = lines.split_off(2).join(" ");
        lines.push(font::shortened(&rest, TEXT, room));
    }
    lines
}

/// Height of the plot area in points if the figure sets none.
fn wanted_height(figure: &Figure, rows: &[Vec<String>]) -> f64 {
    let lines = rows.iter().map(Vec::len).max().unwrap_or(1) as f64;
    match &figure.content {
        Content::Series(series) if figure.is_sideways => {
            let (count, text) = (rows.len() as f64, lines * TEXT * LINE);
            let points = points_per_row(series) as f64;
            let (wide, narrow) = ((5.0 + 5.0 * points).max(text + 2.0), (2.0 + 3.2 * points).max(text + 1.0));
            // Many rows stand closer, so that all of them fit a page.
            (wide * count).min((narrow * count).max(PAGE)).max(40.0)
        }
        Content::Cells { .. } => ((lines * TEXT * LINE + 6.0) * rows.len() as f64).max(90.0),
        Content::Series(_) if figure.frame.size == Size::Column => 130.0,
        Content::Series(_) => 200.0,
    }
}

/// Number of point series drawn next to each other within a row: all of them if any two share a row, else 1.
pub fn points_per_row(series: &[Series]) -> usize {
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

/// Returns the numbers for the horizontal and the vertical scale, and whether those on the axis without intervals are
/// settings, which may get a tick each: they are unless a line extends beyond the markers.
fn axis_values(figure: &Figure) -> (Vec<f64>, Vec<f64>, bool) {
    let Content::Series(series) = &figure.content else { return (vec![], vec![], false) };
    let is_line = |s: &Series| matches!(s.mark, Mark::Line | Mark::Dashed | Mark::SeedLine);
    let key = |p: &Point| if figure.is_sideways { p.y } else { p.x };
    let value = |p: &Point| if figure.is_sideways { p.x } else { p.y };
    let keys = |lines: bool| -> Vec<f64> {
        let chosen = series.iter().filter(|s| is_line(s) == lines).flat_map(|s| &s.points);
        chosen.map(key).filter(|x| x.is_finite()).collect()
    };
    let (marked, drawn) = (keys(false), keys(true));
    let low = marked.iter().copied().fold(f64::INFINITY, f64::min);
    let high = marked.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // A fitted curve ends where its points do, up to rounding.
    let slack = 1e-6 * (high - low);
    let are_settings = drawn.iter().all(|x| *x >= low - slack && *x <= high + slack);
    let keys = if are_settings { marked } else { marked.into_iter().chain(drawn).collect() };
    // Only points within the explicit range of this axis count for the range of the other.
    let (key_axis, value_axis) =
        if figure.is_sideways { (&figure.y, &figure.x) } else { (&figure.x, &figure.y) };
    let is_seen =
        |p: &&Point| key_axis.explicit_range.is_none_or(|(low, high)| key(p) >= low && key(p) <= high);
    let values = series.iter().flat_map(|s| s.points.iter().map(move |p| (s.mark, p)));
    let values = values.filter(|(_, p)| is_seen(p)).flat_map(|(mark, p)| match p.interval {
        // The curve of a fit counts for the range; its band, which may be very wide, does not.
        Some((low, high)) if mark != Mark::Dashed => [value(p), low, high],
        _ => [value(p); 3],
    });
    let level = figure.level.map(|(level, _)| level);
    let is_log = value_axis.log == Some(true);
    let values = values.chain(level).filter(|y| y.is_finite() && (!is_log || *y > 0.0)).collect();
    if figure.is_sideways { (values, keys, are_settings) } else { (keys, values, are_settings) }
}
