//! Paints a figure: axes, what is drawn, and the legend beside it, never over the data.

use super::axis::Scale;
use super::canvas::{Canvas, GRID, INK, Pixel, Side, colour, shade};
use super::{Content, Figure, Mark, Point, Series};
use anyhow::{Context, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::collections::BTreeMap;

const WIDTH: i32 = 1000;
const LEAST_HEIGHT: i32 = 560;
const LEGEND: i32 = 290;
/// Characters of a line of the legend, and of the title.
const LEGEND_CHARS: usize = 30;
const TITLE_CHARS: usize = 74;
/// Longest name of a place, in characters.
const PLACE_CHARS: usize = 24;
const TEXT: i32 = 15;
/// Curves in one figure from which on they are thin.
const MANY: usize = 8;
const LINE: i32 = 19;

/// Paints a figure with a font of this family.
pub fn paint<B: DrawingBackend>(
    figure: &Figure,
    family: &'static str,
    area: DrawingArea<B, Shift>,
) -> Result<()>
where
    B::ErrorType: 'static,
{
    let painted = || {
        let canvas = Canvas::new(area, family)?;
        let plot = Plot::new(figure, &canvas);
        plot.axes(&canvas)?;
        match &figure.content {
            Content::Series(series) => plot.series(&canvas, series)?,
            Content::Cells { cells, .. } => plot.cells(&canvas, cells)?,
        }
        legend(figure, &canvas, plot.top)?;
        canvas.finish()
    };
    painted().with_context(|| format!("figure {}", figure.name))
}

impl Figure {
    /// Width and height in pixels: as high as the legend needs.
    pub(super) fn size(&self) -> (u32, u32) {
        let lines = |text: &str| wrapped(text, LEGEND_CHARS).len() as i32;
        let notes: i32 = self.notes.iter().map(|note| LINE * lines(note) + 7).sum();
        let legend = match &self.content {
            Content::Series(series) => {
                let named = series.iter().filter(|s| !s.label.is_empty());
                named.map(|s| LINE * lines(&s.label) + 7).sum()
            }
            Content::Cells { label, .. } => LINE * lines(label) + 260,
        };
        let level = if self.level.is_some() { LINE + 7 } else { 0 };
        (WIDTH as u32, (60 + legend + level + notes + 40).max(LEAST_HEIGHT) as u32)
    }
}

/// The place of the data on the canvas.
struct Plot<'a> {
    figure: &'a Figure,
    x: Scale,
    y: Scale,
    left: i32,
    right: i32,
    top: i32,
    bottom: i32,
    /// Whether names of places across are written upwards for want of room.
    is_upright: bool,
}

impl<'a> Plot<'a> {
    fn new<B: DrawingBackend>(figure: &'a Figure, canvas: &Canvas<B>) -> Self
    where
        B::ErrorType: 'static,
    {
        let (xs, ys, are_settings) = numbers(figure);
        let (x, y) = (Scale::new(&figure.x, &xs, are_settings), Scale::new(&figure.y, &ys, false));
        let widest = |scale: &Scale| {
            scale.ticks.iter().map(|(_, label)| canvas.width(&shortened(label), TEXT)).max().unwrap_or(0)
        };
        let left = 52 + widest(&y);
        let right = WIDTH - LEGEND - 24;
        let room = (right - left) / x.ticks.len().max(1) as i32;
        let is_upright = !figure.x.places.is_empty() && widest(&x) + 8 > room;
        let below = if is_upright { widest(&x) } else { LINE };
        let height = figure.size().1 as i32;
        let top = 24 + 27 * wrapped(&figure.title, TITLE_CHARS).len() as i32;
        Self { figure, x, y, left, right, top, bottom: height - 52 - below, is_upright }
    }

    fn x_pixel(&self, x: f64) -> i32 {
        self.left + (self.x.place(x) * f64::from(self.right - self.left)).round() as i32
    }

    fn y_pixel(&self, y: f64) -> i32 {
        self.bottom - (self.y.place(y) * f64::from(self.bottom - self.top)).round() as i32
    }

    fn axes<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        for (i, line) in wrapped(&self.figure.title, TITLE_CHARS).iter().enumerate() {
            canvas.text(line, (self.left, 14 + 27 * i as i32), 22, INK, Side::RightBelow)?;
        }
        let has_grid = matches!(self.figure.content, Content::Series(_));
        for (place, label) in &self.x.ticks {
            let x = self.left + (place * f64::from(self.right - self.left)).round() as i32;
            if has_grid && self.figure.x.places.is_empty() {
                canvas.line(vec![(x, self.top), (x, self.bottom)], GRID, 1)?;
            }
            canvas.line(vec![(x, self.bottom), (x, self.bottom + 5)], INK, 1)?;
            let side = if self.is_upright { Side::Upwards } else { Side::Below };
            canvas.text(&shortened(label), (x, self.bottom + 9), TEXT, INK, side)?;
        }
        for (place, label) in &self.y.ticks {
            let y = self.bottom - (place * f64::from(self.bottom - self.top)).round() as i32;
            if has_grid {
                canvas.line(vec![(self.left, y), (self.right, y)], GRID, 1)?;
            }
            canvas.line(vec![(self.left - 5, y), (self.left, y)], INK, 1)?;
            canvas.text(&shortened(label), (self.left - 9, y), TEXT, INK, Side::Left)?;
        }
        let corner = vec![(self.left, self.top), (self.left, self.bottom), (self.right, self.bottom)];
        canvas.line(corner, INK, 1)?;
        let named = |label: &str, log: bool| match label.strip_suffix(')') {
            Some(start) if log => format!("{start}, log scale)"),
            None if log => format!("{label} (log scale)"),
            _ => label.into(),
        };
        let height = self.figure.size().1 as i32;
        let middle = ((self.left + self.right) / 2, (self.top + self.bottom) / 2);
        let (x, y) = (&self.figure.x.label, &self.figure.y.label);
        canvas.text(&named(x, self.x.log), (middle.0, height - 30), 17, INK, Side::Below)?;
        canvas.text(&named(y, self.y.log), (20, middle.1), 17, INK, Side::UpwardsCentre)
    }

    fn series<B: DrawingBackend>(&self, canvas: &Canvas<B>, series: &[Series]) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        let shifts = self.shifts(series);
        for (series, shift) in series.iter().zip(&shifts).filter(|(s, _)| s.mark == Mark::Bars) {
            for point in series.points.iter().filter(|p| p.y.is_finite()) {
                let x = self.x_pixel(point.x) + shift.0;
                let base = self.y_pixel(self.figure.y.include.unwrap_or(0.0));
                canvas.fill(
                    (x - shift.1, self.y_pixel(point.y)),
                    (x + shift.1, base),
                    colour(series.colour),
                )?;
                self.interval(canvas, point, x, INK)?;
            }
        }
        if let Some((level, _)) = self.figure.level {
            let y = self.y_pixel(level);
            canvas.dashed(&[(self.left, y), (self.right, y)], INK, 1)?;
        }
        let thin = if series.len() > MANY { 1 } else { 2 };
        let mut number = 0;
        for (series, shift) in series.iter().zip(&shifts) {
            let ink = colour(series.colour);
            let at = |p: &Point| (self.x_pixel(p.x) + shift.0, self.y_pixel(p.y));
            let points = || series.points.iter().filter(|p| p.x.is_finite() && p.y.is_finite());
            match series.mark {
                Mark::Bars => {}
                Mark::Line => canvas.line(points().map(at).collect(), ink, thin)?,
                Mark::Dashed => canvas.dashed(&points().map(at).collect::<Vec<Pixel>>(), ink, thin)?,
                Mark::Points | Mark::Joined => {
                    if series.mark == Mark::Joined {
                        canvas.line(points().map(at).collect(), ink, 2)?;
                    }
                    for point in points() {
                        self.interval(canvas, point, at(point).0, ink)?;
                        canvas.marker(series.colour, at(point))?;
                    }
                }
                Mark::Numbers => {
                    number += 1;
                    for point in points() {
                        let (x, y) = at(point);
                        canvas.text(&number.to_string(), (x + 9, y - 12), TEXT, INK, Side::Right)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn interval<B: DrawingBackend>(
        &self,
        canvas: &Canvas<B>,
        point: &Point,
        x: i32,
        ink: RGBColor,
    ) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        let Some((low, high)) = point.interval else { return Ok(()) };
        // Where an interval leaves the axis it has no cap.
        let end = |value: f64| match self.y.place(value) {
            place if place < -1e-9 || place.is_nan() => (self.bottom, false),
            place if place > 1.0 + 1e-9 => (self.top, false),
            _ => (self.y_pixel(value), true),
        };
        canvas.interval(x, [end(low), end(high)], ink)
    }

    /// How far each series stands aside, in pixels, so that intervals at one place are seen; and half a bar's width.
    fn shifts(&self, series: &[Series]) -> Vec<(i32, i32)> {
        let bars = series.iter().filter(|s| s.mark == Mark::Bars).count() as i32;
        // Points of a scatter stand where they are: only means at the places that lines share step aside.
        let marked = |s: &&Series| s.mark == Mark::Joined;
        let count = series.iter().filter(marked).count() as i32;
        let mut at: BTreeMap<u64, usize> = BTreeMap::new();
        for point in series.iter().filter(marked).flat_map(|s| &s.points).filter(|p| p.interval.is_some()) {
            *at.entry(point.x.to_bits()).or_default() += 1;
        }
        let apart = if at.values().any(|n| *n > 1) { (30 / count.max(1)).clamp(3, 8) } else { 0 };
        let room = (self.right - self.left) / self.figure.x.places.len().max(1) as i32 * 4 / 5;
        let bar = (room / bars.max(1)).clamp(2, 90);
        let (mut bars_before, mut marked_before) = (0, 0);
        let shift = |s: &Series| match s.mark {
            Mark::Bars => {
                bars_before += 1;
                ((2 * bars_before - 1 - bars) * bar / 2, (bar / 2 - 1).max(1))
            }
            Mark::Joined => {
                marked_before += 1;
                ((2 * marked_before - 1 - count) * apart / 2, 0)
            }
            _ => (0, 0),
        };
        series.iter().map(shift).collect()
    }

    fn cells<B: DrawingBackend>(&self, canvas: &Canvas<B>, cells: &[Vec<Option<(f64, String)>>]) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        let (low, high) = ends(cells);
        for (y, row) in cells.iter().enumerate() {
            for (x, cell) in row.iter().enumerate() {
                let (x, y) = (x as f64, y as f64);
                let from = (self.x_pixel(x - 0.5), self.y_pixel(y + 0.5));
                let to = (self.x_pixel(x + 0.5), self.y_pixel(y - 0.5));
                let Some((value, text)) = cell else {
                    canvas.line(vec![(from.0, to.1), (to.0, from.1)], GRID, 1)?;
                    continue;
                };
                let share = if high > low { (value - low) / (high - low) } else { 0.5 };
                canvas.fill((from.0 + 1, from.1 + 1), (to.0 - 1, to.1 - 1), shade(share))?;
                if canvas.width(text, TEXT) < to.0 - from.0 - 4 {
                    let ink = if share > 0.55 { INK } else { WHITE };
                    canvas.text(text, ((from.0 + to.0) / 2, (from.1 + to.1) / 2), TEXT, ink, Side::Centre)?;
                }
            }
        }
        Ok(())
    }
}

fn legend<B: DrawingBackend>(figure: &Figure, canvas: &Canvas<B>, top: i32) -> Result<()>
where
    B::ErrorType: 'static,
{
    let left = WIDTH - LEGEND;
    let mut y = top;
    let lines = |text: &str, at: i32, mut y: i32| -> Result<i32> {
        for line in wrapped(text, LEGEND_CHARS) {
            canvas.text(&line, (at, y), TEXT, INK, Side::RightBelow)?;
            y += LINE;
        }
        Ok(y + 7)
    };
    match &figure.content {
        Content::Series(series) => {
            let mut number = 0;
            for series in series {
                number += usize::from(series.mark == Mark::Numbers);
                if series.label.is_empty() {
                    continue;
                }
                let (ink, middle) = (colour(series.colour), y + 7);
                match series.mark {
                    Mark::Points => canvas.marker(series.colour, (left + 14, middle))?,
                    Mark::Joined => {
                        canvas.line(vec![(left, middle), (left + 28, middle)], ink, 2)?;
                        canvas.marker(series.colour, (left + 14, middle))?;
                    }
                    Mark::Bars => canvas.fill((left + 4, middle - 7), (left + 24, middle + 7), ink)?,
                    Mark::Line => canvas.line(vec![(left, middle), (left + 28, middle)], ink, 2)?,
                    Mark::Dashed => canvas.dashed(&[(left, middle), (left + 28, middle)], ink, 2)?,
                    Mark::Numbers => {
                        canvas.text(&number.to_string(), (left + 14, middle), TEXT, INK, Side::Centre)?;
                    }
                }
                y = lines(&series.label, left + 36, y)?;
            }
        }
        Content::Cells { label, cells } => {
            let (low, high) = ends(cells);
            y = lines(label, left, y)?;
            canvas.colour_bar((left + 4, y + 8), 220, low, high)?;
            y += 253;
        }
    }
    if let Some((_, name)) = figure.level {
        canvas.dashed(&[(left, y + 7), (left + 28, y + 7)], INK, 1)?;
        y = lines(name, left + 36, y)?;
    }
    for note in &figure.notes {
        y = lines(note, left, y)?;
    }
    Ok(())
}

/// The numbers across and up, and whether those across are settings, which may get a tick each: so they are where no
/// line goes beyond the markers.
fn numbers(figure: &Figure) -> (Vec<f64>, Vec<f64>, bool) {
    let Content::Series(series) = &figure.content else { return (vec![], vec![], false) };
    let is_line = |s: &Series| matches!(s.mark, Mark::Line | Mark::Dashed);
    let points = |s: &Series| s.points.clone();
    let across = |lines: bool| -> Vec<f64> {
        let chosen = series.iter().filter(|s| is_line(s) == lines).flat_map(points);
        chosen.map(|p| p.x).filter(|x| x.is_finite()).collect()
    };
    let (marked, drawn) = (across(false), across(true));
    let low = marked.iter().copied().fold(f64::INFINITY, f64::min);
    let high = marked.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // The ends of a fitted curve are those of its points but for rounding.
    let slack = 1e-6 * (high - low);
    let are_settings = drawn.iter().all(|x| *x >= low - slack && *x <= high + slack);
    let xs = if are_settings { marked } else { marked.into_iter().chain(drawn).collect() };
    let up = series.iter().flat_map(points).flat_map(|p| match p.interval {
        Some((low, high)) => [p.y, low, high],
        None => [p.y; 3],
    });
    let level = figure.level.map(|(level, _)| level);
    let is_log = figure.y.log == Some(true);
    let ys = up.chain(level).filter(|y| y.is_finite() && (!is_log || *y > 0.0)).collect();
    (xs, ys, are_settings)
}

fn ends(cells: &[Vec<Option<(f64, String)>>]) -> (f64, f64) {
    let values = cells.iter().flatten().flatten().map(|(value, _)| *value);
    let ends = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if ends.0 <= ends.1 { ends } else { (0.0, 1.0) }
}

/// Places of a line that a character takes: two for the glyphs of East Asia.
fn room(c: char) -> usize {
    if matches!(c as u32, 0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xff00..=0xff60)
    {
        2
    } else {
        1
    }
}

fn rooms(text: &str) -> usize {
    text.chars().map(room).sum()
}

/// Lines of at most `width` characters, broken at blanks where there are any.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if rooms(line) + rooms(word) < width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(String::new()),
        }
        let Some(line) = lines.last_mut().filter(|line| line.is_empty()) else { continue };
        let mut rest = String::new();
        for c in word.chars() {
            if rooms(line) + room(c) > width || !rest.is_empty() { rest.push(c) } else { line.push(c) }
        }
        if !rest.is_empty() {
            lines.extend(wrapped(&rest, width));
        }
    }
    lines
}

/// A name of a place, cut to what an axis has room for.
fn shortened(text: &str) -> String {
    if rooms(text) <= PLACE_CHARS {
        return text.into();
    }
    let mut cut = String::new();
    for c in text.chars() {
        if rooms(&cut) + room(c) >= PLACE_CHARS {
            break;
        }
        cut.push(c);
    }
    cut + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_at_blanks_and_where_it_must() {
        assert_eq!(wrapped("n_layers=2 d_model=64 top_k=1", 22), ["n_layers=2 d_model=64", "top_k=1"]);
        assert_eq!(wrapped("aaaaabbbbbcc dd", 5), ["aaaaa", "bbbbb", "cc dd"]);
        assert_eq!(wrapped("数学物理", 6), ["数学物", "理"]);
        assert_eq!(wrapped("", 6), [""]);
        assert_eq!(shortened("a_very_long_name_of_a_subject"), "a_very_long_name_of_a_s…");
    }
}
