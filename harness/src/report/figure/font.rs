//! The font of figures: the embedded DejaVu Sans, or a system font for text that needs other glyphs.

use ab_glyph::{Font, FontRef, GlyphId};
use std::path::PathBuf;
use std::sync::OnceLock;

/// Font families that an SVG requests: the embedded font, or one of similar width.
const PLAIN: &str = "DejaVu Sans, Verdana, sans-serif";

/// Font families for text that the embedded font cannot show.
const EAST_ASIAN: &str =
    "Noto Sans CJK SC, Source Han Sans SC, WenQuanYi Micro Hei, PingFang SC, Microsoft YaHei, sans-serif";

static DEJAVU: &[u8] = include_bytes!("../../../assets/fonts/DejaVuSans.ttf");

/// Where systems keep a font with Chinese glyphs; the first that can be read is used.
const PLACES: [&str; 16] = [
    "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-cjk/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/google-noto-sans-cjk-fonts/NotoSansCJK-Regular.ttc",
    "/usr/share/fonts/truetype/noto/NotoSansSC-Regular.ttf",
    "/usr/share/fonts/opentype/source-han-sans/SourceHanSansSC-Regular.otf",
    "/usr/share/fonts/adobe-source-han-sans/SourceHanSansSC-Regular.otf",
    "/usr/share/fonts/truetype/wqy/wqy-microhei.ttc",
    "/usr/share/fonts/truetype/wqy/wqy-zenhei.ttc",
    "/usr/share/fonts/wenquanyi/wqy-microhei/wqy-microhei.ttc",
    "/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf",
    "/System/Library/Fonts/PingFang.ttc",
    "/System/Library/Fonts/Hiragino Sans GB.ttc",
    "/System/Library/Fonts/STHeiti Light.ttc",
    "C:/Windows/Fonts/msyh.ttc",
    "C:/Windows/Fonts/simhei.ttf",
];

/// A loaded font.
pub struct Face {
    /// The families that an SVG requests for it.
    pub family: &'static str,
    /// The font file.
    pub bytes: &'static [u8],
    /// The parsed font: outlines and metrics.
    pub font: FontRef<'static>,
}

/// A positioned glyph in a line of text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placed {
    /// The glyph.
    pub glyph: GlyphId,
    /// The character that it shows.
    pub letter: char,
    /// Left edge, in ems from the start of the line.
    pub at: f64,
}

impl Face {
    /// Whether the font has every glyph of a text.
    fn shows(&self, text: &str) -> bool {
        text.chars().all(|c| c.is_control() || self.font.glyph_id(c).0 != 0)
    }

    /// Font units per em.
    pub fn units(&self) -> f64 {
        self.font.units_per_em().map_or(1000.0, f64::from)
    }

    /// The advance of a glyph in ems.
    pub fn advance(&self, glyph: GlyphId) -> f64 {
        f64::from(self.font.h_advance_unscaled(glyph)) / self.units()
    }

    /// Returns the kerned glyphs of a line of text and its width in ems.
    pub fn set(&self, text: &str) -> (Vec<Placed>, f64) {
        let (mut placed, mut at): (Vec<Placed>, f64) = (vec![], 0.0);
        for letter in text.chars().filter(|c| !c.is_control()) {
            let glyph = self.font.glyph_id(letter);
            if let Some(before) = placed.last() {
                at += f64::from(self.font.kern_unscaled(before.glyph, glyph)) / self.units();
            }
            placed.push(Placed { glyph, letter, at });
            at += self.advance(glyph);
        }
        (placed, at)
    }
}

/// Returns the font for a text: the embedded one if it has all glyphs, else the system font; the embedded one again if
/// neither has.
pub fn face(text: &str) -> Option<&'static Face> {
    let faces = [embedded, system];
    let can = faces.iter().filter_map(|face| face()).find(|face| face.shows(text));
    can.or_else(embedded)
}

/// Whether an available font has every glyph of a text.
pub fn can_show(text: &str) -> bool {
    face(text).is_some_and(|face| face.shows(text))
}

/// The families that an SVG requests for a text.
pub fn family(text: &str) -> &'static str {
    if embedded().is_some_and(|face| face.shows(text)) { PLAIN } else { EAST_ASIAN }
}

/// Width in points of a line of text at a font size of `size` points.
pub fn width(text: &str, size: f64) -> f64 {
    face(text).map_or(0.0, |face| size * face.set(text).1)
}

/// Breaks a text into lines at most `room` points wide, at spaces where possible.
pub fn wrapped(text: &str, size: f64, room: f64) -> Vec<String> {
    let fits = |line: &str| width(line, size) <= room;
    let mut lines: Vec<String> = vec![];
    for word in text.split(' ') {
        if let Some(line) = lines.last_mut() {
            let longer = format!("{line} {word}");
            if fits(&longer) {
                *line = longer;
                continue;
            }
        }
        let mut line = String::new();
        for letter in word.chars() {
            let longer = format!("{line}{letter}");
            if !line.is_empty() && !fits(&longer) {
                lines.push(std::mem::take(&mut line));
            }
            line.push(letter);
        }
        lines.push(line);
    }
    lines
}

/// Cuts a text with an ellipsis so that it is at most `room` points wide.
pub fn shortened(text: &str, size: f64, room: f64) -> String {
    if width(text, size) <= room {
        return text.into();
    }
    let mut cut: String = text.into();
    while cut.pop().is_some() && width(&format!("{}…", cut.trim_end()), size) > room {}
    format!("{}…", cut.trim_end())
}

fn embedded() -> Option<&'static Face> {
    static FACE: OnceLock<Option<Face>> = OnceLock::new();
    FACE.get_or_init(|| read(PLAIN, DEJAVU)).as_ref()
}

fn system() -> Option<&'static Face> {
    static FACE: OnceLock<Option<Face>> = OnceLock::new();
    let find = || {
        let named = std::env::var_os("MINDSCALE_FONT").map(PathBuf::from);
        let places = named.into_iter().chain(PLACES.map(PathBuf::from));
        let mut files = places.filter_map(|place| std::fs::read(place).ok());
        // Loaded once and leaked on purpose: it lives as long as the program.
        files.find_map(|bytes| read(EAST_ASIAN, bytes.leak()))
    };
    FACE.get_or_init(find).as_ref()
}

fn read(family: &'static str, bytes: &'static [u8]) -> Option<Face> {
    Some(Face { family, bytes, font: FontRef::try_from_slice(bytes).ok()? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_embedded_font_serves_what_it_can_show() {
        assert_eq!([family("d_model ± 3 %"), family("Größe"), family("数学")], [PLAIN, PLAIN, EAST_ASIAN]);
        assert!(!embedded().unwrap().shows("数学"));
    }

    #[test]
    fn text_is_as_wide_as_its_glyphs_and_pairs_stand_close() {
        // From DejaVuSans.ttf, in units of 1/2048 em: advances A 1401, V 1401, n 1298; kerning of AV -131.
        let ems = |text: &str| embedded().unwrap().set(text).1 * 2048.0;
        assert_eq!([ems("A"), ems("n"), ems("nn"), ems("AV")], [1401.0, 1298.0, 2596.0, 2671.0]);
        let (glyphs, _) = embedded().unwrap().set("AV");
        assert_eq!(glyphs[1].at, 1270.0 / 2048.0);
        assert!((width("n", 8.0) - 8.0 * 1298.0 / 2048.0).abs() < 1e-9);
    }

    #[test]
    fn text_is_broken_at_blanks_and_where_it_must() {
        let room = width("n_layers=2 d_model=64", 8.0) + 0.01;
        assert_eq!(wrapped("n_layers=2 d_model=64 top_k=1", 8.0, room), ["n_layers=2 d_model=64", "top_k=1"]);
        assert_eq!(wrapped("aaaaabb dd", 8.0, width("aaaaa", 8.0) + 0.01), ["aaaaa", "bb dd"]);
        assert_eq!(wrapped("", 8.0, 6.0), [""]);
        assert_eq!(shortened("a long name", 8.0, width("a long…", 8.0) + 0.01), "a long…");
        assert_eq!(shortened("short", 8.0, 100.0), "short");
    }
}
