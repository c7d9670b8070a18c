//! What a figure is painted with: lines, text and markers, in pixels.

use super::axis::short;
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontTransform, TextStyle};

/// A point in pixels from the upper left.
pub type Pixel = (i32, i32);

/// Ink of text, axes and intervals.
pub const INK: RGBColor = RGBColor(40, 40, 40);

/// Lines of the grid.
pub const GRID: RGBColor = RGBColor(226, 226, 226);

/// Okabe and Ito's colours, which colour-blind people can tell apart; yellow is left out on white paper.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(90, 90, 90),
];

/// The colour of a series.
pub fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// Where text stands of its point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// To the right, its top at the point.
    RightBelow,
    /// To the right, in the middle.
    Right,
    /// To the left, in the middle.
    Left,
    /// Below, centred.
    Below,
    /// Centred on the point.
    Centre,
    /// Read upwards, ending at the point.
    Upwards,
    /// Read upwards, centred on the point.
    UpwardsCentre,
}

/// An area to paint on.
pub struct Canvas<B: DrawingBackend> {
    area: DrawingArea<B, Shift>,
    family: &'static str,
}

impl<B: DrawingBackend> Canvas<B>
where
    B::ErrorType: 'static,
{
    /// White paper.
    pub fn new(area: DrawingArea<B, Shift>, family: &'static str) -> Result<Self> {
        area.fill(&WHITE).map_err(|e| anyhow!("{e}"))?;
        Ok(Self { area, family })
    }

    /// Ends the painting.
    pub fn finish(&self) -> Result<()> {
        self.area.present().map_err(|e| anyhow!("{e}"))
    }

    fn style(&self, size: i32) -> TextStyle<'static> {
        (self.family, size).into_text_style(&self.area)
    }

    /// Width of a text in pixels, about.
    pub fn width(&self, text: &str, size: i32) -> i32 {
        self.area.estimate_text_size(text, &self.style(size)).map_or(0, |(width, _)| width as i32)
    }

    /// Writes a text.
    pub fn text(&self, text: &str, at: Pixel, size: i32, ink: RGBColor, side: Side) -> Result<()> {
        let (h, v, transform) = match side {
            Side::RightBelow => (HPos::Left, VPos::Top, FontTransform::None),
            Side::Right => (HPos::Left, VPos::Center, FontTransform::None),
            Side::Left => (HPos::Right, VPos::Center, FontTransform::None),
            Side::Below => (HPos::Center, VPos::Top, FontTransform::None),
            Side::Centre => (HPos::Center, VPos::Center, FontTransform::None),
            Side::Upwards => (HPos::Right, VPos::Center, FontTransform::Rotate270),
            Side::UpwardsCentre => (HPos::Center, VPos::Center, FontTransform::Rotate270),
        };
        let mut style = self.style(size).pos(Pos::new(h, v)).transform(transform);
        style.color = ink.to_backend_color();
        self.area.draw_text(text, &style, at).map_err(|e| anyhow!("{e}"))
    }

    /// Draws a line through some points.
    pub fn line(&self, points: Vec<Pixel>, ink: RGBColor, width: u32) -> Result<()> {
        let line = PathElement::new(points, ink.stroke_width(width));
        self.area.draw(&line).map_err(|e| anyhow!("{e}"))
    }

    /// Draws a dashed line through some points: 7 pixels of ink, 5 of nothing.
    pub fn dashed(&self, points: &[Pixel], ink: RGBColor, width: u32) -> Result<()> {
        const PERIOD: f64 = 12.0;
        const INKED: f64 = 7.0;
        let mut gone = 0.0;
        for pair in points.windows(2) {
            let (from, to) =
                ((f64::from(pair[0].0), f64::from(pair[0].1)), (f64::from(pair[1].0), f64::from(pair[1].1)));
            let length = (to.0 - from.0).hypot(to.1 - from.1);
            let at = |way: f64| {
                let share = if length > 0.0 { way / length } else { 0.0 };
                (
                    (from.0 + share * (to.0 - from.0)).round() as i32,
                    (from.1 + share * (to.1 - from.1)).round() as i32,
                )
            };
            let mut way = 0.0;
            while way < length {
                let phase = (gone + way) % PERIOD;
                let is_inked = phase < INKED;
                let next = (way + if is_inked { INKED - phase } else { PERIOD - phase }.max(0.5)).min(length);
                if is_inked {
                    self.line(vec![at(way), at(next)], ink, width)?;
                }
                way = next;
            }
            gone = (gone + length) % PERIOD;
        }
        Ok(())
    }

    /// Fills a rectangle.
    pub fn fill(&self, from: Pixel, to: Pixel, ink: RGBColor) -> Result<()> {
        self.area.draw(&Rectangle::new([from, to], ink.filled())).map_err(|e| anyhow!("{e}"))
    }

    /// Draws the marker of a series: its shape tells what its colour may not.
    pub fn marker(&self, index: usize, at: Pixel) -> Result<()> {
        let ink = colour(index);
        match index % 4 {
            0 => self.area.draw(&Circle::new(at, 6, ink.filled())),
            1 => self.area.draw(&TriangleMarker::new(at, 8, ink.filled())),
            2 => self.area.draw(&Rectangle::new([(at.0 - 5, at.1 - 5), (at.0 + 5, at.1 + 5)], ink.filled())),
            _ => self.area.draw(&Cross::new(at, 6, ink.stroke_width(3))),
        }
        .map_err(|e| anyhow!("{e}"))
    }

    /// Draws an interval between two heights, each with a cap where it ends there.
    pub fn interval(&self, x: i32, ends: [(i32, bool); 2], ink: RGBColor) -> Result<()> {
        self.line(vec![(x, ends[0].0), (x, ends[1].0)], ink, 2)?;
        for (y, _) in ends.into_iter().filter(|(_, is_end)| *is_end) {
            self.line(vec![(x - 5, y), (x + 5, y)], ink, 2)?;
        }
        Ok(())
    }

    /// Draws a bar of colours from `low` below to `high` above, with both numbers and the middle.
    pub fn colour_bar(&self, at: Pixel, height: i32, low: f64, high: f64) -> Result<()> {
        for row in 0..height {
            let share = 1.0 - f64::from(row) / f64::from(height);
            self.fill((at.0, at.1 + row), (at.0 + 22, at.1 + row + 1), shade(share))?;
        }
        for (share, value) in [(1.0, high), (0.5, (low + high) / 2.0), (0.0, low)] {
            let y = at.1 + ((1.0 - share) * f64::from(height)) as i32;
            self.text(&short(value), (at.0 + 30, y), 15, INK, Side::Right)?;
        }
        Ok(())
    }
}

/// Viridis, from 0 dark to 1 bright.
pub fn shade(share: f64) -> RGBColor {
    ViridisRGB::get_color(share.clamp(0.0, 1.0))
}
