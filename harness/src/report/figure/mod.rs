//! Figures as data, and their way into SVG, PNG and CSV.

mod axis;
mod canvas;
mod font;
mod paint;

use super::output::Output;
use crate::track::csv_number;
use anyhow::{Context, Result};
use plotters::prelude::*;

/// One figure.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figure {
    /// File name without extension.
    pub name: String,
    /// Title above.
    pub title: String,
    /// Across.
    pub x: Axis,
    /// Up.
    pub y: Axis,
    /// What is drawn.
    pub content: Content,
    /// A level to compare with, and its name.
    pub level: Option<(f64, &'static str)>,
    /// Lines below the legend: what bars mean, how many seeds.
    pub notes: Vec<String>,
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
    /// Its name in the legend; empty for none.
    pub label: String,
    /// How it is drawn.
    pub mark: Mark,
    /// Which colour and marker: series of one colour belong together.
    pub colour: usize,
    /// Its points.
    pub points: Vec<Point>,
}

/// How points are drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mark {
    /// Markers with error bars.
    #[default]
    Points,
    /// Markers with error bars, joined.
    Joined,
    /// Bars from 0 with error bars.
    Bars,
    /// A line without markers.
    Line,
    /// A dashed line without markers.
    Dashed,
    /// Numbers beside points, for the legend to name.
    Numbers,
}

/// A point with its interval.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Point {
    /// Across.
    pub x: f64,
    /// Up.
    pub y: f64,
    /// The interval of `y`, where there is one.
    pub interval: Option<(f64, f64)>,
    /// Seeds behind it, where it is a mean.
    pub seeds: usize,
}

/// A figure as it was drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn {
    /// The SVG.
    pub svg: String,
    /// What the PNG could not show as written, for want of a font; empty as a rule.
    pub remark: String,
}

impl Figure {
    /// Writes `figures/<name>.svg`, `.png` and `.csv`.
    pub fn write(&self, out: &mut Output) -> Result<Drawn> {
        let name = |extension: &str| format!("figures/{}.{extension}", self.name);
        let texts = self.texts();
        let font = font::for_texts(&texts);
        let mut svg = String::new();
        let size = self.size();
        paint::paint(self, font.family, SVGBackend::with_string(&mut svg, size).into_drawing_area())?;
        out.write(&name("svg"), svg.as_bytes())?;
        // The SVG is drawn with the reader's fonts; in the PNG what no font has goes under a number.
        let (coded, remark) = if font.is_whole { (None, String::new()) } else { self.coded(font::can_show) };
        // Drawn beside its place under a name that still ends in .png.
        let beside = out.dir().join(format!("figures/.{}.png", self.name));
        let root = BitMapBackend::new(&beside, size).into_drawing_area();
        paint::paint(coded.as_ref().unwrap_or(self), font.family, root)?;
        let drawn = || -> std::io::Result<Vec<u8>> {
            let bytes = std::fs::read(&beside)?;
            std::fs::remove_file(&beside)?;
            Ok(bytes)
        };
        let png = drawn().with_context(|| format!("{}: cannot be drawn", beside.display()))?;
        out.write(&name("png"), &png)?;
        out.write(&name("csv"), &self.csv()?)?;
        Ok(Drawn { svg, remark })
    }

    /// The points as drawn: `series`, `x`, `y`, `low`, `high`, `seeds`.
    fn csv(&self) -> Result<Vec<u8>> {
        let mut csv = csv::Writer::from_writer(vec![]);
        csv.write_record(["series", "x", "y", "low", "high", "seeds"])?;
        let place = |axis: &Axis, value: f64| match axis.places.get(value.round() as usize) {
            Some(name) => name.clone(),
            None => csv_number(value),
        };
        match &self.content {
            Content::Series(series) => {
                for (series, point) in series.iter().flat_map(|s| s.points.iter().map(move |p| (s, p))) {
                    let bound =
                        |f: fn((f64, f64)) -> f64| point.interval.map(f).map_or(String::new(), csv_number);
                    let seeds = if point.seeds > 0 { point.seeds.to_string() } else { String::new() };
                    csv.write_record([
                        series.label.clone(),
                        place(&self.x, point.x),
                        csv_number(point.y),
                        bound(|i| i.0),
                        bound(|i| i.1),
                        seeds,
                    ])?;
                }
            }
            Content::Cells { cells, .. } => {
                for (y, row) in cells.iter().enumerate() {
                    for (x, cell) in row.iter().enumerate() {
                        let Some((value, _)) = cell else { continue };
                        let (x, y) = (place(&self.x, x as f64), place(&self.y, y as f64));
                        csv.write_record([
                            y,
                            x,
                            csv_number(*value),
                            String::new(),
                            String::new(),
                            String::new(),
                        ])?;
                    }
                }
            }
        }
        Ok(csv.into_inner()?)
    }

    /// All text of the figure.
    fn texts(&self) -> Vec<&str> {
        let mut texts: Vec<&str> = vec![&self.title, &self.x.label, &self.y.label];
        texts.extend(self.notes.iter().chain(&self.x.places).chain(&self.y.places).map(String::as_str));
        match &self.content {
            Content::Series(series) => texts.extend(series.iter().map(|s| s.label.as_str())),
            Content::Cells { label, .. } => texts.push(label),
        }
        texts
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
        let named = names.iter().enumerate().map(|(i, name)| format!("#{} = {name}", i + 1));
        let named = named.collect::<Vec<_>>().join(", ");
        let remark = format!(
            "{}.png has numbers for names that no font here can show: {named}. MINDSCALE_FONT=file.ttf names a font.",
            self.name
        );
        figure.notes.push("names by number: see report.html".into());
        (Some(figure), remark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_font_has_get_numbers() {
        let series = |label: &str| Series { label: label.into(), ..Series::default() };
        let figure = Figure {
            name: "f".into(),
            x: Axis { places: vec!["数学".into(), "law".into()], ..Axis::default() },
            content: Content::Series(vec![series("法律"), series("数学"), series("wide")]),
            ..Figure::default()
        };
        let (coded, remark) = figure.coded(str::is_ascii);
        let labels = coded.map(|f| match f.content {
            Content::Series(series) => (series.into_iter().map(|s| s.label).collect(), f.x.places),
            Content::Cells { .. } => (vec![], vec![]),
        });
        let text = |words: &[&str]| words.iter().map(|w| w.to_string()).collect::<Vec<_>>();
        assert_eq!(labels, Some((text(&["#1", "#2", "wide"]), text(&["#2", "law"]))));
        assert!(remark.contains("#1 = 法律, #2 = 数学."), "{remark}");
    }
}
