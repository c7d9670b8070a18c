//! The colours of figures.

use plotters::prelude::ViridisRGB;
use plotters::style::{Color, RGBColor};

/// A colour with its opacity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ink {
    /// Red, green and blue, from 0 to 255.
    pub rgb: [u8; 3],
    /// Opacity from 0, transparent, to 1, opaque.
    pub alpha: f64,
}

const fn solid(r: u8, g: u8, b: u8) -> Ink {
    Ink { rgb: [r, g, b], alpha: 1.0 }
}

/// Colour of text, axes and intervals.
pub const BLACK: Ink = solid(38, 38, 38);

/// Colour of notes and reference levels.
pub const GREY: Ink = solid(100, 100, 100);

/// Colour of grid lines.
pub const GRID: Ink = solid(228, 228, 228);

/// Colour of the background.
pub const WHITE: Ink = solid(255, 255, 255);

/// Okabe and Ito's palette, which colour-blind people can distinguish; without yellow, which is hard to see on white.
pub const COLOURS: [Ink; 7] = [
    solid(0, 114, 178),
    solid(213, 94, 0),
    solid(0, 158, 115),
    solid(204, 121, 167),
    solid(86, 180, 233),
    solid(230, 159, 0),
    solid(90, 90, 90),
];

/// The colour of a series by its index; the palette repeats.
pub fn colour(index: usize) -> Ink {
    COLOURS[index % COLOURS.len()]
}

impl Ink {
    /// Returns the colour with another opacity.
    pub fn with_alpha(self, alpha: f64) -> Self {
        Self { alpha, ..self }
    }

    /// Returns a paler colour, for the curve of a single seed.
    pub fn pale(self) -> Self {
        self.mixed(255.0, 0.6)
    }

    /// Returns a somewhat paler colour, for one of many curves.
    pub fn faint(self) -> Self {
        self.mixed(255.0, 0.35)
    }

    /// Returns a darker colour, for legible text.
    pub fn dark(self) -> Self {
        self.mixed(0.0, 0.25)
    }

    fn mixed(self, with: f64, share: f64) -> Self {
        let mix = |value: u8| (f64::from(value) * (1.0 - share) + with * share).round() as u8;
        Self { rgb: self.rgb.map(mix), ..self }
    }
}

/// Maps a share from 0 (dark) to 1 (bright) to the Viridis colour map.
pub fn shade(share: f64) -> Ink {
    let RGBColor(r, g, b) = ViridisRGB::get_color(share.clamp(0.0, 1.0));
    solid(r, g, b)
}

impl From<Ink> for plotters::style::RGBAColor {
    fn from(ink: Ink) -> Self {
        let [r, g, b] = ink.rgb;
        RGBColor(r, g, b).mix(ink.alpha)
    }
}
