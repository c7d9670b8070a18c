//! Rendering of a scene as SVG and PNG with plotters.

use super::font;
use super::scene::{Anchor, Position, Scene, Shape, Text};
use ab_glyph::{Font, PxScale, point};
use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontTransform, TextStyle};
use std::path::Path;

/// SVG units per point, since plotters has integer coordinates.
const SVG_UNITS_PER_POINT: f64 = 20.0;

/// PNG pixels per inch.
const DPI: f64 = 300.0;

/// Font size that plotters needs for an em of 1.
const PLOTTERS_EM: f64 = 1.24;

/// Half the x-height in ems: plotters centres text vertically there.
const HALF_X: f64 = 0.2735;

/// A drawing area of plotters, with `scale` of its units per point.
struct Area<B: DrawingBackend> {
    area: DrawingArea<B, Shift>,
    scale: f64,
    /// Whether lines are drawn segment by segment: thick lines of plotters have no round joins.
    by_segments: bool,
}

impl<B: DrawingBackend> Area<B>
where
    B::ErrorType: 'static,
{
    fn at(&self, (x, y): Position) -> (i32, i32) {
        ((x * self.scale).round() as i32, (y * self.scale).round() as i32)
    }

    fn length(&self, length: f64) -> u32 {
        (length * self.scale).round().max(1.0) as u32
    }

    /// Draws a shape; `write` draws text.
    fn draw(&self, shape: &Shape, write: &dyn Fn(&Text) -> Result<()>) -> Result<()> {
        let checked =
            |drawn: Result<(), DrawingAreaErrorKind<B::ErrorType>>| drawn.map_err(|e| anyhow!("{e}"));
        match shape {
            Shape::Text(text) => write(text),
            Shape::Area { points, ink } => {
                let points: Vec<_> = points.iter().map(|p| self.at(*p)).collect();
                checked(self.area.draw(&Polygon::new(points, RGBAColor::from(*ink).filled())))
            }
            Shape::Disc { at, radius, ink } => {
                let circle = Circle::new(self.at(*at), self.length(*radius), RGBAColor::from(*ink).filled());
                checked(self.area.draw(&circle))
            }
            Shape::Line { points, ink, width } => {
                let (width, ink) = (self.length(*width), RGBAColor::from(*ink));
                let points: Vec<_> = points.iter().map(|p| self.at(*p)).collect();
                if !self.by_segments {
                    return checked(self.area.draw(&PathElement::new(points, ink.stroke_width(width))));
                }
                for pair in points.windows(2) {
                    checked(self.area.draw(&PathElement::new(pair.to_vec(), ink.stroke_width(width))))?;
                }
                if width > 2 {
                    for corner in points.iter().skip(1).take(points.len().saturating_sub(2)) {
                        checked(self.area.draw(&Circle::new(*corner, width / 2, ink.filled())))?;
                    }
                }
                Ok(())
            }
        }
    }
}

fn size(scene: &Scene, scale: f64) -> (u32, u32) {
    ((scene.width * scale).round() as u32, (scene.height * scale).round() as u32)
}

/// Returns the scene as SVG, with text elements that use the fonts of the reader.
pub fn svg(scene: &Scene) -> Result<String> {
    let mut svg = String::new();
    let (width, height) = size(scene, SVG_UNITS_PER_POINT);
    {
        let area = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
        area.fill(&WHITE).map_err(|e| anyhow!("{e}"))?;
        let area = Area { area, scale: SVG_UNITS_PER_POINT, by_segments: false };
        let write = |text: &Text| {
            let h = match text.anchor {
                Anchor::Start => HPos::Left,
                Anchor::Middle => HPos::Center,
                Anchor::End => HPos::Right,
            };
            // The baseline is half the x-height below the middle.
            let (x, y) = text.at;
            let back = HALF_X * text.size;
            let at = if text.is_upwards { (x - back, y) } else { (x, y - back) };
            let font = (font::family(&text.text), text.size * SVG_UNITS_PER_POINT * PLOTTERS_EM);
            let transform = if text.is_upwards { FontTransform::Rotate270 } else { FontTransform::None };
            let mut style =
                TextStyle::from(font.into_font()).pos(Pos::new(h, VPos::Center)).transform(transform);
            style.color = RGBAColor::from(text.ink).to_backend_color();
            area.area.draw_text(&text.text, &style, area.at(at)).map_err(|e| anyhow!("{e}"))
        };
        scene.shapes.iter().try_for_each(|shape| area.draw(shape, &write))?;
        area.area.present().map_err(|e| anyhow!("{e}"))?;
    }
    let (_, rest) = svg.split_once('>').context("an SVG without a head")?;
    // On a page a narrow figure stays narrow, except on a phone screen; enlarged, it takes its width from `--width`.
    let most = scene.width / 486.0 * 100.0;
    let head = format!(
        "<svg width=\"{:.3}in\" height=\"{:.3}in\" viewBox=\"0 0 {width} {height}\" style=\"--width:{:.3}in;max-width:max({most:.0}%,20em)\" \
         stroke-linejoin=\"round\" stroke-linecap=\"round\" \
         xmlns=\"http://www.w3.org/2000/svg\">",
        scene.width / 72.0,
        scene.height / 72.0,
        scene.width / 72.0
    );
    Ok(head + rest)
}

/// Returns the scene as PNG at 300 dots per inch, drawn by way of the file `temporary`, which is removed again.
pub fn png(scene: &Scene, temporary: &Path) -> Result<Vec<u8>> {
    let scale = DPI / 72.0;
    {
        let area = BitMapBackend::new(temporary, size(scene, scale)).into_drawing_area();
        area.fill(&WHITE).map_err(|e| anyhow!("{e}"))?;
        let area = Area { area, scale, by_segments: true };
        let write = |text: &Text| {
            draw_text(text, scale, &|at, ink| area.area.draw_pixel(at, &ink).map_err(|e| anyhow!("{e}")))
        };
        scene.shapes.iter().try_for_each(|shape| area.draw(shape, &write))?;
        area.area.present().map_err(|e| anyhow!("{e}"))?;
    }
    let drawn = || -> std::io::Result<Vec<u8>> {
        let bytes = std::fs::read(temporary)?;
        std::fs::remove_file(temporary)?;
        Ok(bytes)
    };
    Ok(with_resolution(drawn().with_context(|| format!("{}: cannot be drawn", temporary.display()))?))
}

/// Draws a line of text pixel by pixel: glyphs are placed at fractional positions along the line, by the metrics of the
/// font.
fn draw_text(text: &Text, scale: f64, dot: &dyn Fn((i32, i32), RGBAColor) -> Result<()>) -> Result<()> {
    let Some(face) = font::face(&text.text) else { return Ok(()) };
    let em = text.size * scale;
    let height = f64::from(face.font.height_unscaled()) / face.units();
    let (x, y) = text.start();
    let (x, y) = (x * scale, y * scale);
    let ink = RGBAColor::from(text.ink);
    for placed in face.set(&text.text).0 {
        // Position along the line: to the right, or upwards.
        let along = placed.at * em + if text.is_upwards { -y } else { x };
        let glyph = placed.glyph.with_scale_and_position(
            PxScale::from((em * height) as f32),
            point((along - along.floor()) as f32, 0.0),
        );
        let Some(outline) = face.font.outline_glyph(glyph) else { continue };
        let corner = outline.px_bounds().min;
        let mut dots = vec![];
        outline.draw(|dx, dy, share| dots.push((dx, dy, share)));
        for (dx, dy, share) in dots.into_iter().filter(|(.., share)| *share > 0.0) {
            let along = along.floor() as i32 + corner.x as i32 + dx as i32;
            let below = corner.y as i32 + dy as i32;
            let at = match text.is_upwards {
                true => (x.round() as i32 + below, -along - 1),
                false => (along, y.round() as i32 + below),
            };
            dot(at, ink.mix(f64::from(share.min(1.0))))?;
        }
    }
    Ok(())
}

/// Inserts the resolution into a PNG: the pHYs chunk after the header, which has 33 bytes.
fn with_resolution(png: Vec<u8>) -> Vec<u8> {
    const HEAD: usize = 33;
    let per_metre = ((DPI / 0.0254).round() as u32).to_be_bytes();
    let chunk = [b"pHYs".as_slice(), &per_metre, &per_metre, &[1]].concat();
    let mut crc = flate2::Crc::new();
    crc.update(&chunk);
    let (head, rest) = png.split_at(HEAD.min(png.len()));
    [head, &9u32.to_be_bytes(), &chunk, &crc.sum().to_be_bytes(), rest].concat()
}
