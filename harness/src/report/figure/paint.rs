//! Paints a figure: axes, content, names, notes.

use super::axis::short;
use super::ink::{BLACK, GREY, GRID, Ink, WHITE, colour, shade};
use super::layout::{LINE, Layout, NOTE, TEXT, TITLE, points_per_row};
use super::scene::{Anchor, Position, Rect, Scene};
use super::{Content, Figure, Mark, Point, Series, font, legend};

/// Line width of a curve, in points.
const CURVE: f64 = 1.2;

/// Line width of axes and intervals, in points.
const THIN: f64 = 0.7;

/// Radius of a marker, in points.
const MARKER: f64 = 2.1;

/// Half the width of the cap of an interval, in points.
const CAP: f64 = 1.8;

/// Paints a figure into a scene.
pub fn scene(figure: &Figure) -> Scene {
    let layout = Layout::of(figure);
    let mut scene = Scene::new(layout.size.0, layout.size.1);
    let painter = Painter { layout: &layout, plot: layout.plot };
    painter.grid(&mut scene);
    match &figure.content {
        Content::Series(series) => painter.series(&mut scene, series),
        Content::Cells { cells, .. } => {
            painter.cells(&mut scene, cells);
            painter.colour_bar(&mut scene, cells);
        }
    }
    painter.axes(&mut scene);
    legend::draw(&mut scene, &layout.names);
    painter.texts(&mut scene);
    scene
}

/// Draws a curve.
pub fn stroke(scene: &mut Scene, points: &[Position], ink: Ink) {
    scene.line(points.to_vec(), ink, CURVE);
}

/// Draws the marker of a series, `scale` times the usual size. Its shape also distinguishes series, for readers who
/// cannot tell the colours apart.
pub fn marker(scene: &mut Scene, index: usize, at: Position, scale: f64) {
    shape(scene, index, at, scale, colour(index));
}

fn shape(scene: &mut Scene, index: usize, at: Position, scale: f64, ink: Ink) {
    let r = MARKER * scale;
    let corner = |x: f64, y: f64| (at.0 + r * x, at.1 + r * y);
    match index % 7 {
        0 | 4 => scene.disc(at, r, ink),
        1 | 5 => scene.area(vec![corner(0.0, -1.25), corner(1.15, 0.85), corner(-1.15, 0.85)], ink),
        2 => scene.rectangle(corner(-0.9, -0.9), corner(0.9, 0.9), ink),
        _ => scene.area(vec![corner(0.0, -1.3), corner(1.3, 0.0), corner(0.0, 1.3), corner(-1.3, 0.0)], ink),
    }
}

struct Painter<'a> {
    layout: &'a Layout<'a>,
    plot: Rect,
}

impl Painter<'_> {
    fn figure(&self) -> &Figure {
        self.layout.figure
    }

    fn share_across(&self, share: f64) -> f64 {
        self.plot.left + share * (self.plot.right - self.plot.left)
    }

    fn share_up(&self, share: f64) -> f64 {
        let height = self.plot.bottom - self.plot.top;
        if self.figure().is_sideways {
            self.plot.top + share * height
        } else {
            self.plot.bottom - share * height
        }
    }

    fn grid(&self, scene: &mut Scene) {
        if !matches!(self.figure().content, Content::Series(_)) {
            return;
        }
        let Rect { left, top, right, bottom } = self.plot;
        if self.figure().x.categories.is_empty() {
            for (share, _) in &self.layout.x.ticks {
                let x = self.share_across(*share);
                scene.line(vec![(x, top), (x, bottom)], GRID, 0.5);
            }
        }
        for (share, _) in &self.layout.y.ticks {
            let y = self.share_up(*share);
            scene.line(vec![(left, y), (right, y)], GRID, 0.5);
        }
    }

    fn axes(&self, scene: &mut Scene) {
        let Rect { left, top, right, bottom } = self.plot;
        for (share, label) in &self.layout.x.ticks {
            let x = self.share_across(*share);
            scene.line(vec![(x, bottom), (x, bottom + 2.5)], BLACK, THIN);
            match self.layout.is_upright {
                true => {
                    let label = font::shortened(label, TEXT, 110.0);
                    scene.text_upwards(&label, (x, bottom + 5.0), TEXT, BLACK, Anchor::End);
                }
                false => scene.text(label, (x, bottom + 4.0 + 0.8 * TEXT), TEXT, BLACK, Anchor::Middle),
            }
        }
        for (i, (share, label)) in self.layout.y.ticks.iter().enumerate() {
            let y = self.share_up(*share);
            scene.line(vec![(left - 2.5, y), (left, y)], BLACK, THIN);
            let lines = self.layout.rows.get(i).cloned().unwrap_or_else(|| vec![label.clone()]);
            let first = y - (lines.len() - 1) as f64 * TEXT * LINE / 2.0;
            for (i, line) in lines.iter().enumerate() {
                let at = (left - 4.5, first + i as f64 * TEXT * LINE);
                scene.text_centred(line, at, TEXT, BLACK, Anchor::End);
            }
        }
        scene.line(vec![(left, top), (left, bottom), (right, bottom)], BLACK, THIN);
    }

    fn texts(&self, scene: &mut Scene) {
        let (layout, edge) = (self.layout, 4.0);
        for (i, line) in layout.title.iter().enumerate() {
            let y = edge + TITLE * (0.8 + LINE * i as f64);
            scene.text(line, (edge, y), TITLE, BLACK, Anchor::Start);
        }
        let middle = ((self.plot.left + self.plot.right) / 2.0, (self.plot.top + self.plot.bottom) / 2.0);
        // Shifted inwards if it would extend beyond the ends.
        let within = |at: f64, text: &str, (low, high): (f64, f64)| {
            let half = font::width(text, TEXT) / 2.0;
            at.min(high - half).max(low + half)
        };
        for (i, line) in layout.x_label.iter().enumerate() {
            let at = (
                within(middle.0, line, (edge, layout.size.0 - edge)),
                layout.x_label_at + TEXT * LINE * i as f64,
            );
            scene.text(line, at, TEXT, BLACK, Anchor::Middle);
        }
        for (i, line) in layout.y_label.iter().enumerate() {
            let at = (
                edge + TEXT * (0.5 + LINE * i as f64),
                within(middle.1, line, (self.plot.top, layout.size.1 - edge)),
            );
            scene.text_upwards(line, at, TEXT, BLACK, Anchor::Middle);
        }
        let first = layout.size.1 - edge - NOTE * LINE * layout.notes.len() as f64;
        for (i, line) in layout.notes.iter().enumerate() {
            let y = first + NOTE * (1.0 + LINE * i as f64);
            scene.text(line, (edge, y), NOTE, GREY, Anchor::Start);
        }
    }

    fn series(&self, scene: &mut Scene, series: &[Series]) {
        let shifts = self.shifts(series);
        for (series, shift) in series.iter().zip(&shifts).filter(|(s, _)| s.mark == Mark::IntervalArea) {
            self.shade(scene, series, *shift);
        }
        for (series, _) in series.iter().zip(&shifts).filter(|(s, _)| self.has_band(s)) {
            self.band(scene, series);
        }
        self.level(scene);
        for (series, shift) in series.iter().zip(&shifts) {
            if series.mark == Mark::Bars {
                self.bars(scene, series, *shift);
            }
        }
        let is_crowded = self.figure().many_curves().is_some();
        let mut number = 0;
        let most = series.iter().flat_map(|s| &s.points).filter_map(|p| p.n).max();
        // Lines before markers, so that no curve hides a marker.
        for (series, shift) in series.iter().zip(&shifts) {
            let line = self.line_of(series, *shift);
            let parts = self.plot.cut_line(&line);
            let ink = colour(series.colour);
            match series.mark {
                Mark::SeedLine => parts.into_iter().for_each(|part| scene.line(part, ink.pale(), 0.5)),
                Mark::Line | Mark::Joined if is_crowded => {
                    parts.into_iter().for_each(|part| scene.line(part, ink.faint(), THIN));
                }
                Mark::Line | Mark::Joined => parts.iter().for_each(|part| stroke(scene, part, ink)),
                Mark::Dashed if is_crowded => {
                    parts.iter().for_each(|part| scene.dashed(part, ink.faint(), THIN));
                }
                Mark::Dashed => parts.iter().for_each(|part| scene.dashed(part, ink, 1.0)),
                _ => {}
            }
        }
        for (series, shift) in series.iter().zip(&shifts) {
            let ink = colour(series.colour);
            let points: Vec<&Point> =
                series.points.iter().filter(|p| p.x.is_finite() && p.y.is_finite()).collect();
            let seen =
                points.into_iter().map(|p| (p, self.place(p, *shift))).filter(|(_, at)| self.plot.holds(*at));
            match series.mark {
                Mark::Points | Mark::Joined => {
                    for (point, at) in seen {
                        if !self.has_band(series) {
                            self.interval(scene, point, at, ink);
                        }
                        let share = point.n.zip(most).map(|(n, most)| n as f64 / most.max(1) as f64);
                        let is_small = series.mark == Mark::Joined && self.has_band(series);
                        let scale =
                            share.map_or(if is_small { 0.8 } else { 1.0 }, |share| 0.5 + 1.5 * share.sqrt());
                        marker(scene, series.colour, at, scale);
                        if self.figure().lacks_interval(series, point) {
                            shape(scene, series.colour, at, 0.6 * scale, WHITE);
                        }
                    }
                }
                Mark::Numbered => {
                    number += 1;
                    for (_, at) in seen {
                        let at = (at.0 + 3.0, at.1 - 5.0);
                        scene.text_centred(&number.to_string(), at, TEXT - 1.0, BLACK, Anchor::Start);
                    }
                }
                Mark::Best => seen.for_each(|(_, at)| scene.ring(at, 4.2, 32, BLACK, 0.9)),
                Mark::Edge => seen.for_each(|(_, at)| scene.ring(at, 5.2, 4, BLACK, 0.9)),
                _ => {}
            }
        }
        self.level_name(scene);
    }

    fn place(&self, point: &Point, shift: f64) -> Position {
        let (x, y) = self.layout.at(point.x, point.y);
        if self.figure().is_sideways { (x, y + shift) } else { (x + shift, y) }
    }

    fn line_of(&self, series: &Series, shift: f64) -> Vec<Position> {
        let is_seen = |at: &Position| at.0.is_finite() && at.1.is_finite();
        series.points.iter().map(|p| self.place(p, shift)).filter(is_seen).collect()
    }

    /// Whether a series has a band instead of error bars: a curve over numbers with more than one interval.
    fn has_band(&self, series: &Series) -> bool {
        matches!(series.mark, Mark::Joined | Mark::Line | Mark::Dashed)
            && !self.figure().has_error_bars
            && self.figure().x.categories.is_empty()
            && series.points.iter().filter(|p| p.interval.is_some()).count() > 1
    }

    fn band(&self, scene: &mut Scene, series: &Series) {
        // A bound at or below 0 on a logarithmic axis lies far below the plot.
        let far = |y: f64| if y.is_finite() { y.clamp(-1e5, 1e5) } else { 1e5 };
        for part in series.points.split(|p| p.interval.is_none()) {
            let side = |of: fn((f64, f64)) -> f64| {
                part.iter().filter_map(move |p| {
                    Some((self.layout.across(p.x), far(self.layout.up(of(p.interval?)))))
                })
            };
            let edge: Vec<Position> =
                side(|i| i.1).chain(side(|i| i.0).collect::<Vec<_>>().into_iter().rev()).collect();
            scene.area(self.plot.cut_area(&edge), colour(series.colour).with_alpha(0.17));
        }
    }

    fn shade(&self, scene: &mut Scene, series: &Series, shift: f64) {
        let half = 0.42 * (self.plot.bottom - self.plot.top) / self.figure().y.categories.len().max(1) as f64;
        for point in &series.points {
            let Some((low, high)) = point.interval else { continue };
            let y = self.place(point, shift).1;
            let clamped = |x: f64| self.layout.across(x).clamp(self.plot.left, self.plot.right);
            scene.rectangle((clamped(low), y - half), (clamped(high), y + half), GREY.with_alpha(0.2));
        }
    }

    fn bars(&self, scene: &mut Scene, series: &Series, shift: f64) {
        let half = self.bar_width() / 2.0 - 0.4;
        for point in series.points.iter().filter(|p| p.y.is_finite()) {
            let (x, y) = self.place(point, shift);
            let clamped = |y: f64| y.clamp(self.plot.top, self.plot.bottom);
            let base = clamped(self.layout.up(self.figure().y.must_include.unwrap_or(0.0)));
            scene.rectangle((x - half, clamped(y)), (x + half, base), colour(series.colour));
            self.interval(scene, point, (x, y), BLACK);
        }
    }

    /// The ends of the reference level, across or, in a sideways figure, upwards; `None` if there is none in the plot.
    fn level_line(&self) -> Option<[Position; 2]> {
        let (level, _) = self.figure().level?;
        let Rect { left, top, right, bottom } = self.plot;
        let (x, y) = (self.layout.across(level), self.layout.up(level));
        let line = if self.figure().is_sideways { [(x, top), (x, bottom)] } else { [(left, y), (right, y)] };
        self.plot.holds(line[0]).then_some(line)
    }

    /// Draws the reference level.
    fn level(&self, scene: &mut Scene) {
        if let Some(line) = self.level_line() {
            scene.dashed(&line, GREY, THIN);
        }
    }

    /// Draws the name of the reference level: above the plot of a sideways figure, else over the curves.
    fn level_name(&self, scene: &mut Scene) {
        let (Some((_, name)), Some([(x, y), _])) = (self.figure().level, self.level_line()) else { return };
        let size = TEXT - 1.0;
        let width = font::width(name, size);
        if self.figure().is_sideways {
            let at = x.min(self.layout.size.0 - 4.0 - width / 2.0).max(4.0 + width / 2.0);
            scene.text(name, (at, y - 2.0), size, GREY, Anchor::Middle);
            return;
        }
        let base = if y - 1.3 * size > self.plot.top { y - 2.5 } else { y + size };
        let (from, to) = ((x + 1.5, base - 0.85 * size), (x + 4.5 + width, base + 0.25 * size));
        scene.rectangle(from, to, WHITE.with_alpha(0.85));
        scene.text(name, (x + 3.0, base), size, GREY, Anchor::Start);
    }

    /// Draws an interval, with a cap at each end that lies within the axis.
    fn interval(&self, scene: &mut Scene, point: &Point, at: Position, ink: Ink) {
        let Some((low, high)) = point.interval else { return };
        let is_sideways = self.figure().is_sideways;
        let scale = if is_sideways { &self.layout.x } else { &self.layout.y };
        let end = |value: f64| {
            let share = scale.place(value);
            let is_inside = (-1e-9..=1.0 + 1e-9).contains(&share);
            let share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
            (if is_sideways { self.share_across(share) } else { self.share_up(share) }, is_inside)
        };
        let ends = [end(low), end(high)];
        let along = |place: f64| if is_sideways { (place, at.1) } else { (at.0, place) };
        scene.line(vec![along(ends[0].0), along(ends[1].0)], ink, THIN);
        for (place, _) in ends.into_iter().filter(|(_, is_inside)| *is_inside) {
            let (x, y) = along(place);
            let cap = if is_sideways { [(x, y - CAP), (x, y + CAP)] } else { [(x - CAP, y), (x + CAP, y)] };
            scene.line(cap.into(), ink, THIN);
        }
    }

    fn bar_width(&self) -> f64 {
        let bars = match &self.figure().content {
            Content::Series(series) => series.iter().filter(|s| s.mark == Mark::Bars).count(),
            Content::Cells { .. } => 1,
        };
        let room = (self.plot.right - self.plot.left) / self.figure().x.categories.len().max(1) as f64;
        (0.8 * room / bars.max(1) as f64).clamp(1.0, 40.0)
    }

    /// Offset of each series at a category, in points, so that intervals do not overlap; 0 on numeric axes.
    fn shifts(&self, series: &[Series]) -> Vec<f64> {
        let figure = self.figure();
        let stands = |s: &Series| match s.mark {
            Mark::Bars => true,
            Mark::Points | Mark::Joined => !s.points.is_empty(),
            _ => false,
        };
        let count = series.iter().filter(|s| stands(s)).count();
        let apart = if series.iter().any(|s| s.mark == Mark::Bars) {
            self.bar_width()
        } else if figure.is_sideways {
            let pitch = (self.plot.bottom - self.plot.top) / figure.y.categories.len().max(1) as f64;
            if points_per_row(series) > 1 { (0.75 * pitch / count.max(1) as f64).min(6.0) } else { 0.0 }
        } else if !figure.x.categories.is_empty() {
            (24.0 / count.max(1) as f64).clamp(2.0, 5.0)
        } else {
            0.0
        };
        let mut before = 0;
        let shift = |s: &Series| {
            if !stands(s) {
                return 0.0;
            }
            before += 1;
            (before as f64 - (count + 1) as f64 / 2.0) * apart
        };
        series.iter().map(shift).collect()
    }

    fn cells(&self, scene: &mut Scene, cells: &[Vec<Option<(f64, String)>>]) {
        let (low, high) = ends(cells);
        for (y, row) in cells.iter().enumerate() {
            for (x, cell) in row.iter().enumerate() {
                let (x, y) = (x as f64, y as f64);
                let (from, to) = (self.layout.at(x - 0.5, y + 0.5), self.layout.at(x + 0.5, y - 0.5));
                let Some((value, text)) = cell else {
                    scene.line(vec![(from.0, to.1), (to.0, from.1)], GRID, THIN);
                    continue;
                };
                let share = if high > low { (value - low) / (high - low) } else { 0.5 };
                scene.rectangle((from.0 + 0.4, from.1 + 0.4), (to.0 - 0.4, to.1 - 0.4), shade(share));
                let size = TEXT - 1.0;
                if font::width(text, size) < to.0 - from.0 - 2.0 && to.1 - from.1 > size {
                    let ink = if share > 0.55 { BLACK } else { WHITE };
                    let middle = ((from.0 + to.0) / 2.0, (from.1 + to.1) / 2.0);
                    scene.text_centred(text, middle, size, ink, Anchor::Middle);
                }
            }
        }
    }

    /// Draws the colour bar, labelled with the numbers at its ends and middle.
    fn colour_bar(&self, scene: &mut Scene, cells: &[Vec<Option<(f64, String)>>]) {
        const STEPS: usize = 64;
        let (low, high) = ends(cells);
        let (left, top) = (self.plot.right + 10.0, self.plot.top);
        let height = (self.plot.bottom - top).min(150.0);
        let step = height / STEPS as f64;
        for i in 0..STEPS {
            let y = top + i as f64 * step;
            // Slightly more than a step, so that no background shows between two.
            let end = (y + step + 0.2).min(top + height);
            scene.rectangle((left, y), (left + 9.0, end), shade(1.0 - (i as f64 + 0.5) / STEPS as f64));
        }
        for (share, value) in [(1.0, high), (0.5, (low + high) / 2.0), (0.0, low)] {
            let y = top + (1.0 - share) * (height - TEXT) + TEXT / 2.0;
            scene.text_centred(&short(value), (left + 12.0, y), TEXT - 1.0, BLACK, Anchor::Start);
        }
        for (i, line) in self.layout.bar_label.iter().rev().enumerate() {
            let half = font::width(line, TEXT) / 2.0;
            let middle = (top + height / 2.0).max(top + half).min(self.layout.size.1 - 4.0 - half);
            let across = self.layout.size.0 - 4.0 - TEXT * (0.5 + LINE * i as f64);
            scene.text_upwards(line, (across, middle), TEXT, BLACK, Anchor::Middle);
        }
    }
}

fn ends(cells: &[Vec<Option<(f64, String)>>]) -> (f64, f64) {
    let values = cells.iter().flatten().flatten().map(|(value, _)| *value);
    let ends = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if ends.0 <= ends.1 { ends } else { (0.0, 1.0) }
}
