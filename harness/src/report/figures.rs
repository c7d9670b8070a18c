//! Figures as SVG and PNG: points with error bars or lines, the legend beside the data.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};
use std::path::Path;
use std::sync::Once;

/// A point with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Across.
    pub x: f64,
    /// Up.
    pub y: f64,
    /// The interval of `y`, where there is one.
    pub interval: Option<(f64, f64)>,
}

/// Points that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub label: String,
    /// Its points.
    pub points: Vec<Point>,
}

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// File name without extension.
    pub name: String,
    /// Title above.
    pub title: String,
    /// Label and unit across.
    pub x_label: String,
    /// Label and unit up.
    pub y_label: String,
    /// Names of the places 0, 1, 2, ... across, where `x` is no number.
    pub categories: Vec<String>,
    /// Whether points are joined.
    pub lines: bool,
    /// A level to compare with, and its name.
    pub level: Option<(f64, &'static str)>,
    /// The points.
    pub series: Vec<Series>,
}

/// Okabe and Ito's colours, which colour-blind people can tell apart.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(60, 60, 60),
];

const WIDTH: u32 = 1000;
const LEAST_HEIGHT: u32 = 560;
const LEGEND: u32 = 290;
/// Characters of a line of the legend.
const LEGEND_CHARS: usize = 30;
const FONT: &str = "sans-serif";

/// Makes the embedded font the one of all figures.
fn fonts() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let bytes = include_bytes!("../../assets/fonts/DejaVuSans.ttf");
        // The font is part of the program; a figure without it says so itself.
        let _ = register_font(FONT, FontStyle::Normal, bytes);
    });
}

impl Figure {
    /// Writes `<name>.svg` and `<name>.png` into a folder; returns the SVG text.
    pub fn write(&self, dir: &Path) -> Result<String> {
        fonts();
        let mut svg = String::new();
        self.draw(SVGBackend::with_string(&mut svg, self.size()).into_drawing_area())?;
        crate::run::files::write_atomic(&dir.join(format!("{}.svg", self.name)), svg.as_bytes())?;
        let png = dir.join(format!("{}.png", self.name));
        // Drawn beside its place under a name that still ends in .png.
        let beside = dir.join(format!(".{}.png", self.name));
        self.draw(BitMapBackend::new(&beside, self.size()).into_drawing_area())?;
        std::fs::rename(&beside, &png)?;
        Ok(svg)
    }

    fn draw<B: DrawingBackend>(&self, root: DrawingArea<B, Shift>) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| anyhow!("figure {}: {e}", self.name);
        root.fill(&WHITE).map_err(|e| failed(&e))?;
        let (left, right) = root.split_horizontally(WIDTH - LEGEND);
        let log = self.is_log();
        let place = |x: f64| if log { x.log10() } else { x };
        let (x_range, y_range) = (self.x_range(place), self.y_range());
        let mut chart = ChartBuilder::on(&left)
            .caption(&self.title, (FONT, 22))
            .margin(14)
            .x_label_area_size(if self.categories.is_empty() { 52 } else { 64 })
            .y_label_area_size(74)
            .build_cartesian_2d(x_range.0..x_range.1, y_range.0..y_range.1)
            .map_err(|e| failed(&e))?;
        let tick = |x: &f64| self.x_tick(*x, log);
        let x_label = if log { format!("{} (log scale)", self.x_label) } else { self.x_label.clone() };
        let ticks = if self.categories.is_empty() { 6 } else { 2 * self.categories.len() + 1 };
        chart
            .configure_mesh()
            .x_labels(ticks)
            .y_labels(8)
            .x_label_formatter(&tick)
            .y_label_formatter(&|y| short(*y))
            .x_desc(x_label)
            .y_desc(&self.y_label)
            .label_style((FONT, 15))
            .axis_desc_style((FONT, 17))
            .light_line_style(WHITE)
            .bold_line_style(RGBColor(225, 225, 225))
            .draw()
            .map_err(|e| failed(&e))?;
        if let Some((level, _)) = self.level {
            let line =
                DashedLineSeries::new([(x_range.0, level), (x_range.1, level)], 6, 5, BLACK.stroke_width(1));
            chart.draw_series(line).map_err(|e| failed(&e))?;
        }
        for (i, series) in self.series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            let points = series.points.iter().filter(|p| p.y.is_finite());
            if self.lines {
                let line = LineSeries::new(points.clone().map(|p| (place(p.x), p.y)), colour.stroke_width(2));
                chart.draw_series(line).map_err(|e| failed(&e))?;
                continue;
            }
            for point in points {
                let x = place(point.x);
                if let Some((low, high)) = point.interval {
                    let bar = PathElement::new(vec![(x, low), (x, high)], colour.stroke_width(2));
                    chart.draw_series([bar]).map_err(|e| failed(&e))?;
                }
                self.marker(&mut chart, i, (x, point.y), colour).map_err(|e| failed(&e))?;
            }
        }
        self.legend(&right).map_err(|e| failed(&e))?;
        root.present().map_err(|e| failed(&e))
    }

    fn marker<B: DrawingBackend>(
        &self,
        chart: &mut ChartContext<
            B,
            Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
        >,
        series: usize,
        at: (f64, f64),
        colour: RGBColor,
    ) -> std::result::Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        match series % 3 {
            0 => chart.draw_series([Circle::new(at, 6, colour.filled())])?,
            1 => chart.draw_series([TriangleMarker::new(at, 8, colour.filled())])?,
            _ => chart.draw_series([Cross::new(at, 6, colour.stroke_width(3))])?,
        };
        Ok(())
    }

    fn legend<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
    ) -> std::result::Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let style = (FONT, 15).into_text_style(area);
        let mut y = 60;
        for (i, series) in self.series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            if self.lines {
                area.draw(&PathElement::new(vec![(4, y + 8), (24, y + 8)], colour.stroke_width(3)))?;
            } else {
                match i % 3 {
                    0 => area.draw(&Circle::new((14, y + 8), 6, colour.filled()))?,
                    1 => area.draw(&TriangleMarker::new((14, y + 8), 8, colour.filled()))?,
                    _ => area.draw(&Cross::new((14, y + 8), 6, colour.stroke_width(3)))?,
                }
            }
            for line in wrapped(&series.label, LEGEND_CHARS) {
                area.draw(&Text::new(line, (32, y), style.clone()))?;
                y += 19;
            }
            y += 7;
        }
        if let Some((_, name)) = self.level {
            let dash = |x| PathElement::new(vec![(x, y + 8), (x + 7, y + 8)], BLACK.stroke_width(1));
            area.draw(&dash(4))?;
            area.draw(&dash(16))?;
            area.draw(&Text::new(name, (32, y), style))?;
        }
        Ok(())
    }

    /// As high as the legend needs.
    fn size(&self) -> (u32, u32) {
        let lines: usize = self.series.iter().map(|s| wrapped(&s.label, LEGEND_CHARS).len()).sum();
        let legend = 60 + 19 * lines as u32 + 7 * self.series.len() as u32 + 40;
        (WIDTH, legend.max(LEAST_HEIGHT))
    }

    fn xs(&self) -> impl Iterator<Item = f64> + '_ {
        self.series.iter().flat_map(|s| s.points.iter().map(|p| p.x))
    }

    /// A logarithmic axis where the data span more than a factor of 20.
    fn is_log(&self) -> bool {
        let (low, high) = bounds(self.xs());
        self.categories.is_empty() && !self.lines && low > 0.0 && high / low > 20.0
    }

    fn x_range(&self, place: impl Fn(f64) -> f64) -> (f64, f64) {
        if !self.categories.is_empty() {
            return (-0.5, self.categories.len() as f64 - 0.5);
        }
        let (low, high) = bounds(self.xs().map(place));
        widened(low, high)
    }

    fn y_range(&self) -> (f64, f64) {
        let points = self.series.iter().flat_map(|s| &s.points);
        let ys = points.flat_map(|p| [p.y, p.interval.map_or(p.y, |i| i.0), p.interval.map_or(p.y, |i| i.1)]);
        let (low, high) = bounds(ys.chain(self.level.map(|l| l.0)).filter(|y| y.is_finite()));
        widened(low, high)
    }

    fn x_tick(&self, x: f64, log: bool) -> String {
        if !self.categories.is_empty() {
            let index = x.round();
            let on_place = (x - index).abs() < 0.05 && index >= 0.0;
            return if on_place {
                self.categories.get(index as usize).cloned().unwrap_or_default()
            } else {
                String::new()
            };
        }
        short(if log { 10f64.powf(x) } else { x })
    }
}

fn bounds(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
}

fn widened(low: f64, high: f64) -> (f64, f64) {
    if !low.is_finite() || !high.is_finite() {
        return (0.0, 1.0);
    }
    let margin = if high > low { 0.08 * (high - low) } else { 0.05 * low.abs().max(1.0) };
    (low - margin, high + margin)
}

/// A number for an axis: `850k`, `1.2M`.
fn short(x: f64) -> String {
    let scaled = |scale: f64, unit: &str| {
        let text = format!("{:.2}", x / scale);
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        format!("{text}{unit}")
    };
    match x.abs() {
        a if a >= 1e12 => format!("{x:.1e}"),
        a if a >= 1e9 => scaled(1e9, "G"),
        a if a >= 1e6 => scaled(1e6, "M"),
        a if a >= 1e3 => scaled(1e3, "k"),
        _ => scaled(1.0, ""),
    }
}

/// Lines of at most `width` characters, broken at blanks.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_on_axes_are_short() {
        assert_eq!([0.25, 64.0, 1500.0, 2_250_000.0, 3e9].map(short), ["0.25", "64", "1.5k", "2.25M", "3G"]);
        assert_eq!(wrapped("n_layers=2 d_model=64 top_k=1", 22), ["n_layers=2 d_model=64", "top_k=1"]);
    }
}
