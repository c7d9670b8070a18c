//! Figures as data, and their way into SVG, PNG, PDF and CSV.
//!
//! [`Figure`] says what is drawn, `layout` and `paint` make a `Scene` of lines, areas and text in points of it, and
//! `plotted` and `pdf` write that.

mod axis;
mod font;
mod ink;
mod layout;
mod legend;
mod paint;
mod pdf;
mod plotted;
mod scene;

use super::output::Output;
use crate::track::csv_number;
use anyhow::{Context, Result};

/// One figure.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figure {
    /// File name without extension.
    pub name: String,
    /// Title above.
    pub title: String,
    /// Across.
    pub x: Axis,
    /// Up; down where the figure is sideways.
    pub y: Axis,
    /// Whether names stand down the side and values go across, with their intervals.
    pub is_sideways: bool,
    /// What is drawn.
    pub content: Content,
    /// A level to compare values with, and its name.
    pub level: Option<(f64, &'static str)>,
    /// What series are called together, above a legend.
    pub legend_title: String,
    /// Whether joined points have an error bar each, and no band.
    pub has_error_bars: bool,
    /// Lines below: what bars mean, how many seeds.
    pub notes: Vec<String>,
    /// Its size, and where series are named.
    pub frame: Frame,
}

/// The size of a figure, and where its series are named.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Frame {
    /// How wide.
    pub size: Size,
    /// How wide in inches, where that is chosen.
    pub width: Option<f64>,
    /// How high in inches; made for what is drawn where it is not chosen.
    pub height: Option<f64>,
    /// Where series are named.
    pub legend: Legend,
}

/// Widths of a figure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Size {
    /// One column of two: 3.25 inches.
    Column,
    /// Both columns: 6.75 inches.
    #[default]
    Page,
}

/// Where series are named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Legend {
    /// At the ends of curves where there is room for all names, else in a list beside or below.
    #[default]
    Auto,
    /// Nowhere.
    None,
    /// In a list on the right.
    Right,
}

/// An axis.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Axis {
    /// Label with its unit.
    pub label: String,
    /// Whether it is logarithmic; `None` where the data decide.
    pub log: Option<bool>,
    /// Names of the places 0, 1, 2, ... where it holds no numbers.
    pub places: Vec<String>,
    /// A number that must be in sight: 0 for bars.
    pub include: Option<f64>,
    /// Numbers beyond which nothing is shown: 0 and 100 for a share.
    pub limits: Option<(f64, f64)>,
    /// Its ends; what lies outside is cut off.
    pub view: Option<(f64, f64)>,
}

/// What is drawn.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Points, lines and bars.
    Series(Vec<Series>),
    /// Colours of cells at the places of both axes.
    Cells {
        /// Label of the colours with its unit.
        label: String,
        /// `cells[y][x]`: value and its text.
        cells: Vec<Vec<Option<(f64, String)>>>,
    },
}

impl Default for Content {
    fn default() -> Self {
        Self::Series(vec![])
    }
}

/// Points that belong together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Series {
    /// What it is called; empty for nothing.
    pub label: String,
    /// How it is drawn.
    pub mark: Mark,
    /// Which colour and marker: series of one colour belong together.
    pub colour: usize,
    /// The seed, where it is of one.
    pub seed: Option<u64>,
    /// Its points.
    pub points: Vec<Point>,
}

/// How points are drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mark {
    /// Markers with error bars.
    #[default]
    Points,
    /// Markers, joined, with the band of their intervals.
    Joined,
    /// Bars from 0 with error bars.
    Bars,
    /// A line without markers, with the band of its intervals.
    Line,
    /// The same, dashed.
    Dashed,
    /// A thin pale line: one seed behind the mean of several.
    Faint,
    /// Numbers beside points, for the legend to name.
    Numbers,
    /// Intervals as shaded areas.
    Shade,
    /// A ring about the best point of a curve.
    Best,
    /// A square about one that lies at the curve's end.
    Edge,
}

impl Mark {
    /// Whether it is a curve, which may be named at its end.
    fn is_curve(self) -> bool {
        matches!(self, Self::Joined | Self::Line | Self::Dashed)
    }
}

/// A point with its interval.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Point {
    /// Across.
    pub x: f64,
    /// Up.
    pub y: f64,
    /// The interval of the value, where there is one: of `y`, or of `x` where the figure is sideways.
    pub interval: Option<(f64, f64)>,
    /// Seeds behind it, where it is a mean.
    pub seeds: usize,
    /// Answers behind it, where these are counted: its marker grows with them.
    pub n: Option<u64>,
}

impl Series {
    /// The same with `x` and `y` exchanged.
    pub fn turned(mut self) -> Self {
        self.points.iter_mut().for_each(|p| (p.x, p.y) = (p.y, p.x));
        self
    }
}

/// What a figure is written as, by the ends of its files' names.
pub const FORMATS: [&str; 4] = ["svg", "pdf", "png", "csv"];

/// A figure as it was drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn {
    /// Its files' name without extension.
    pub name: String,
    /// Its title.
    pub title: String,
    /// The SVG.
    pub svg: String,
    /// What PNG and PDF could not show as written, for want of a font; empty as a rule.
    pub remark: String,
}

impl Figure {
    /// Writes `figures/<name>.svg`, `.png`, `.pdf` and `.csv`.
    pub fn write(&self, out: &mut Output) -> Result<Drawn> {
        self.write_all(out).with_context(|| format!("figure {}", self.name))
    }

    fn write_all(&self, out: &mut Output) -> Result<Drawn> {
        let name = |extension: &str| format!("figures/{}.{extension}", self.name);
        let svg = plotted::svg(&paint::scene(self))?;
        out.write(&name("svg"), svg.as_bytes())?;
        // The SVG is drawn with the reader's fonts; elsewhere what no font has goes under a number.
        let (coded, remark) = self.coded(font::can_show);
        let scene = paint::scene(coded.as_ref().unwrap_or(self));
        // Drawn beside its place under a name that is this process's and still ends in .png.
        let beside = out.dir().join(format!("figures/.{}.{}.png", self.name, std::process::id()));
        let png = plotted::png(&scene, &beside)?;
        out.write(&name("png"), &png)?;
        out.write(&name("pdf"), &pdf::pdf(&scene, &self.title)?)?;
        out.write(&name("csv"), &self.csv()?)?;
        Ok(Drawn { name: self.name.clone(), title: self.title.clone(), svg, remark })
    }

    /// What is drawn: `series`, `x`, `y`, `low`, `high`, `seeds`, then the `seed` of a curve of one, and `n`, the answers
    /// behind a point.
    fn csv(&self) -> Result<Vec<u8>> {
        let mut csv = csv::Writer::from_writer(vec![]);
        csv.write_record(["series", "x", "y", "low", "high", "seeds", "seed", "n"])?;
        let place = |axis: &Axis, value: f64| match axis.places.get(value.round() as usize) {
            Some(name) => name.clone(),
            None => csv_number(value),
        };
        match &self.content {
            Content::Series(series) => {
                // A curve without a name of its own has that of its colour.
                let named = |s: &Series| {
                    let of_colour = || {
                        series
                            .iter()
                            .find(|o| o.colour == s.colour && !o.label.is_empty() && o.mark != Mark::Numbers)
                    };
                    if s.label.is_empty() { of_colour().map_or("", |o| &o.label) } else { &s.label }
                        .to_string()
                };
                for (series, point) in series.iter().flat_map(|s| s.points.iter().map(move |p| (s, p))) {
                    let bound =
                        |f: fn((f64, f64)) -> f64| point.interval.map(f).map_or(String::new(), csv_number);
                    let some = |n: Option<u64>| n.map_or(String::new(), |n| n.to_string());
                    csv.write_record([
                        named(series),
                        place(&self.x, point.x),
                        place(&self.y, point.y),
                        bound(|i| i.0),
                        bound(|i| i.1),
                        some(Some(point.seeds as u64).filter(|n| *n > 0)),
                        some(series.seed),
                        some(point.n),
                    ])?;
                }
            }
            Content::Cells { cells, .. } => {
                for (y, row) in cells.iter().enumerate() {
                    for (x, cell) in row.iter().enumerate() {
                        let Some((value, _)) = cell else { continue };
                        let (x, y) = (place(&self.x, x as f64), place(&self.y, y as f64));
                        let mut record = vec![y, x, csv_number(*value)];
                        record.resize(8, String::new());
                        csv.write_record(record)?;
                    }
                }
            }
        }
        Ok(csv.into_inner()?)
    }

    /// The figure with a number for each name that no font can show, and a sentence that says which is which.
    fn coded(&self, can_show: impl Fn(&str) -> bool) -> (Option<Self>, String) {
        let mut figure = self.clone();
        let mut names: Vec<String> = vec![];
        let mut code = |text: &mut String| {
            if can_show(text) || text.is_empty() {
                return;
            }
            let number = names.iter().position(|name| name == text).unwrap_or_else(|| {
                names.push(text.clone());
                names.len() - 1
            });
            *text = format!("#{}", number + 1);
        };
        if let Content::Series(series) = &mut figure.content {
            series.iter_mut().for_each(|series| code(&mut series.label));
        }
        let (x, y) = (&mut figure.x, &mut figure.y);
        let others = figure.notes.iter_mut().chain(&mut x.places).chain(&mut y.places);
        others.for_each(&mut code);
        [&mut figure.title, &mut x.label, &mut y.label].into_iter().for_each(&mut code);
        if names.is_empty() {
            return (None, String::new());
        }
        let named = names.iter().enumerate().map(|(i, name)| format!("#{} = {name}", i + 1));
        let named = named.collect::<Vec<_>>().join(", ");
        let remark = format!(
            "{}.png and .pdf have numbers for names that no font here can show: {named}. MINDSCALE_FONT=file.ttf names a font.",
            self.name
        );
        figure.notes.push("names by number: see report.html".into());
        (Some(figure), remark)
    }
}

#[cfg(test)]
mod tests;
