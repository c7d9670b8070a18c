//! Figures as data, and their rendering to SVG, PNG, PDF and CSV.
//!
//! [`Figure`] describes what is drawn; `layout` and `paint` turn it into a `Scene` of lines, areas and text in points;
//! `svg_png` and `pdf` write the scene.

mod axis;
mod font;
mod ink;
mod layout;
mod legend;
mod paint;
mod pdf;
mod scene;
mod svg_png;

pub use ink::COLOURS;

use super::output::Output;
use crate::track::csv_number;
use anyhow::{Context, Result};

/// A figure.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figure {
    /// File name without extension.
    pub name: String,
    /// Title above the plot.
    pub title: String,
    /// Horizontal axis.
    pub x: Axis,
    /// Vertical axis; it runs downwards if `is_sideways`.
    pub y: Axis,
    /// Whether categories go down the side and values, with their intervals, across.
    pub is_sideways: bool,
    /// The plotted series or cells.
    pub content: Content,
    /// Reference value, drawn as a dashed line, and its name.
    pub level: Option<(f64, &'static str)>,
    /// Heading of the legend.
    pub legend_title: String,
    /// Whether joined points have error bars instead of a band.
    pub has_error_bars: bool,
    /// Notes below the plot: what intervals mean, the number of seeds.
    pub notes: Vec<String>,
    /// Size of the figure and position of its legend.
    pub frame: Frame,
}

/// The size of a figure and the position of its legend.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Frame {
    /// Standard width, used if `width` is `None`.
    pub size: Size,
    /// Width in inches, if the file sets one.
    pub width: Option<f64>,
    /// Height in inches; `None` to derive it from the content.
    pub height: Option<f64>,
    /// Where series are named.
    pub legend: Legend,
}

/// Standard widths of a figure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Size {
    /// The width of one column of two: 3.25 inches.
    Column,
    /// The width of both columns: 6.75 inches.
    #[default]
    Page,
}

/// Where series are named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Legend {
    /// At the ends of curves if there is room for all names, else in a list beside or below the plot.
    #[default]
    Auto,
    /// Nowhere.
    None,
    /// In a list to the right of the plot.
    Right,
}

/// An axis.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Axis {
    /// Label, with the unit.
    pub label: String,
    /// Whether the axis is logarithmic; `None` to decide by the range of the data.
    pub log: Option<bool>,
    /// Category names at positions 0, 1, 2, ...; empty for a numeric axis.
    pub categories: Vec<String>,
    /// A number that the range must include: 0 for bars.
    pub must_include: Option<f64>,
    /// Bounds that the automatic range stays within: 0 and 100 for a share in percent.
    pub bounds: Option<(f64, f64)>,
    /// Explicit ends of the axis; whatever lies outside is clipped.
    pub explicit_range: Option<(f64, f64)>,
}

/// The content of a figure.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// Points, lines and bars.
    Series(Vec<Series>),
    /// Coloured cells at the categories of both axes.
    Cells {
        /// Label of the colour bar, with the unit.
        label: String,
        /// `cells[y][x]`: the value and its text; `None` if there is no value.
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
    /// Name in the legend and the CSV; empty for none of its own.
    pub label: String,
    /// How the points are drawn.
    pub mark: Mark,
    /// Index of colour and marker shape; series with the same index belong together.
    pub colour: usize,
    /// The seed, if the series is the curve of a single one.
    pub seed: Option<u64>,
    /// The points in drawing order.
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
    /// A dashed line without markers, with the band of its intervals.
    Dashed,
    /// A thin pale line: one seed, drawn behind the mean over several.
    SeedLine,
    /// A number next to each point, which the legend explains.
    Numbered,
    /// Intervals as shaded areas.
    IntervalArea,
    /// A ring around the best point of a curve.
    Best,
    /// A square around a best point that lies at the end of its curve.
    Edge,
}

/// Number of curves above which they are drawn thin and pale.
const MANY_CURVES: usize = 12;

impl Mark {
    /// Whether its points have markers, or bars, with intervals of their own.
    fn has_intervals(self) -> bool {
        matches!(self, Self::Points | Self::Joined | Self::Bars)
    }

    /// Whether it is a curve, whose name can be written at its end.
    fn is_curve(self) -> bool {
        matches!(self, Self::Joined | Self::Line | Self::Dashed)
    }
}

/// A point with its interval.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Point {
    /// Horizontal position, in the unit of the axis or as the index of a category.
    pub x: f64,
    /// Vertical position, likewise.
    pub y: f64,
    /// Interval of the value: of `y`, or of `x` in a sideways figure; `None` if unknown.
    pub interval: Option<(f64, f64)>,
    /// Number of seeds that a mean is taken over; 0 if it is not a mean.
    pub seeds: usize,
    /// Number of answers that the point summarizes; the marker grows with it.
    pub n: Option<u64>,
}

impl Point {
    /// Whether it has an interval that can be seen; that of seeds with equal values has no length.
    fn has_interval(&self) -> bool {
        self.interval.is_some_and(|(low, high)| high > low)
    }
}

impl Series {
    /// Returns the series with `x` and `y` exchanged.
    pub fn transposed(mut self) -> Self {
        self.points.iter_mut().for_each(|p| (p.x, p.y) = (p.y, p.x));
        self
    }
}

/// The file formats of a figure, by extension.
pub const FORMATS: [&str; 4] = ["svg", "pdf", "png", "csv"];

/// A rendered figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn {
    /// File name without extension.
    pub name: String,
    /// Title of the figure.
    pub title: String,
    /// The SVG document.
    pub svg: String,
    /// Names that PNG and PDF show as numbers because no font here has their glyphs; usually empty.
    pub font_notice: String,
}

impl Figure {
    fn series(&self) -> &[Series] {
        match &self.content {
            Content::Series(series) => series,
            Content::Cells { .. } => &[],
        }
    }

    /// The number of curves if there are too many to be drawn in full.
    fn many_curves(&self) -> Option<usize> {
        let curves = self.series().iter().filter(|s| s.mark.is_curve() && s.points.len() > 1).count();
        (curves > MANY_CURVES).then_some(curves)
    }

    /// Whether a mean has no interval, while others of the figure have one: its marker is hollow.
    fn lacks_interval(&self, series: &Series, point: &Point) -> bool {
        let mut others = self.series().iter().filter(|s| s.mark.has_intervals()).flat_map(|s| &s.points);
        series.mark.has_intervals()
            && point.seeds > 0
            && !point.has_interval()
            && others.any(|p| p.has_interval())
    }

    /// The notes, with those on how marks are drawn.
    fn all_notes(&self) -> Vec<String> {
        let mut notes = self.notes.clone();
        let points = || self.series().iter().flat_map(|s| s.points.iter().map(move |p| (s, p)));
        if points().any(|(s, p)| self.lacks_interval(s, p)) {
            let has_bars = self.series().iter().any(|s| s.mark == Mark::Bars);
            let which = if has_bars { "no interval" } else { "hollow" };
            notes.push(format!("{which}: a single seed, or seeds that agree exactly"));
        }
        notes.extend(self.many_curves().map(|curves| format!("{curves} curves")));
        notes
    }

    /// Writes `figures/<name>.svg`, `.png`, `.pdf` and `.csv`.
    pub fn write(&self, out: &mut Output) -> Result<Drawn> {
        self.write_all(out).with_context(|| format!("figure {}", self.name))
    }

    fn write_all(&self, out: &mut Output) -> Result<Drawn> {
        let name = |extension: &str| format!("figures/{}.{extension}", self.name);
        let svg = svg_png::svg(&paint::scene(self))?;
        out.write(&name("svg"), svg.as_bytes())?;
        // The SVG uses the reader's fonts; the other formats replace names that no font here can show by numbers.
        let (numbered, font_notice) = self.with_numbered_names(font::can_show);
        let scene = paint::scene(numbered.as_ref().unwrap_or(self));
        // A temporary file next to the final one, named after this process; its extension must be .png.
        let temporary = out.dir().join(format!("figures/.{}.{}.png", self.name, std::process::id()));
        let png = svg_png::png(&scene, &temporary)?;
        out.write(&name("png"), &png)?;
        out.write(&name("pdf"), &pdf::pdf(&scene, &self.title)?)?;
        out.write(&name("csv"), &self.csv()?)?;
        Ok(Drawn { name: self.name.clone(), title: self.title.clone(), svg, font_notice })
    }

    /// Returns the plotted data as CSV: `series`, `x`, `y`, `low`, `high`, `seeds`, then the `seed` of a single-seed
    /// curve, and `n`, the answers that a point summarizes.
    fn csv(&self) -> Result<Vec<u8>> {
        let mut csv = csv::Writer::from_writer(vec![]);
        csv.write_record(["series", "x", "y", "low", "high", "seeds", "seed", "n"])?;
        let place = |axis: &Axis, value: f64| match axis.categories.get(value.round() as usize) {
            Some(name) => name.clone(),
            None => csv_number(value),
        };
        match &self.content {
            Content::Series(series) => {
                // A curve without a name takes the name of its colour.
                let named = |s: &Series| {
                    let of_colour = || {
                        series
                            .iter()
                            .find(|o| o.colour == s.colour && !o.label.is_empty() && o.mark != Mark::Numbered)
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

    /// Returns the figure with a number in place of each name that no font can show, and a sentence that maps numbers
    /// to names; `None` and an empty sentence if every name can be shown.
    fn with_numbered_names(&self, can_show: impl Fn(&str) -> bool) -> (Option<Self>, String) {
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
        match &mut figure.content {
            Content::Series(series) => series.iter_mut().for_each(|series| code(&mut series.label)),
            Content::Cells { label, cells } => {
                code(label);
                cells.iter_mut().flatten().flatten().for_each(|(_, text)| code(text));
            }
        }
        let (x, y) = (&mut figure.x, &mut figure.y);
        let others = figure.notes.iter_mut().chain(&mut x.categories).chain(&mut y.categories);
        others.for_each(&mut code);
        let titles = [&mut figure.title, &mut figure.legend_title, &mut x.label, &mut y.label];
        titles.into_iter().for_each(&mut code);
        if names.is_empty() {
            return (None, String::new());
        }
        let named = names.iter().enumerate().map(|(i, name)| format!("#{} = {name}", i + 1));
        let named = named.collect::<Vec<_>>().join(", ");
        let font_notice = format!(
            "{}.png and .pdf show numbers for names that no installed font can display: {named}; set MINDSCALE_FONT=file.ttf to another font.",
            self.name
        );
        figure.notes.push("numbered names: see report.html".into());
        (Some(figure), font_notice)
    }
}

#[cfg(test)]
mod tests;
