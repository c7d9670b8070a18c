//! The font of figures: DejaVu Sans, which is part of the program, or one of the system's where text needs more.

use ab_glyph::{Font, FontRef};
use plotters::style::{FontStyle, register_font};
use std::path::PathBuf;
use std::sync::OnceLock;

/// The family of the embedded font.
const PLAIN: &str = "sans-serif";

/// The family of the system's font; also what an SVG asks its reader for.
const EAST_ASIAN: &str =
    "Noto Sans CJK SC, Source Han Sans SC, WenQuanYi Micro Hei, PingFang SC, Microsoft YaHei, sans-serif";

static DEJAVU: &[u8] = include_bytes!("../../../assets/fonts/DejaVuSans.ttf");

/// Where systems keep a font with Chinese glyphs; the first that can be read serves.
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

/// A font to draw with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// Its family.
    pub family: &'static str,
    /// Whether it has every glyph.
    pub is_whole: bool,
}

/// The font that shows these texts: the embedded one if it can, else the system's.
pub fn for_texts(texts: &[&str]) -> Chosen {
    let family = if texts.iter().all(|text| shows(embedded(), text)) { PLAIN } else { EAST_ASIAN };
    Chosen { family, is_whole: texts.iter().all(|text| can_show(text)) }
}

/// Whether a font here has every glyph of a text.
pub fn can_show(text: &str) -> bool {
    shows(embedded(), text) || shows(system(), text)
}

fn shows(font: Option<&FontRef>, text: &str) -> bool {
    font.is_some_and(|font| text.chars().all(|c| c.is_control() || font.glyph_id(c).0 != 0))
}

fn embedded() -> Option<&'static FontRef<'static>> {
    static FONT: OnceLock<Option<FontRef>> = OnceLock::new();
    FONT.get_or_init(|| registered(PLAIN, DEJAVU)).as_ref()
}

/// The system's font; the embedded one stands in where there is none.
fn system() -> Option<&'static FontRef<'static>> {
    static FONT: OnceLock<Option<FontRef>> = OnceLock::new();
    let find = || {
        let named = std::env::var_os("MINDSCALE_FONT").map(PathBuf::from);
        let places = named.into_iter().chain(PLACES.map(PathBuf::from));
        let mut read = places.filter_map(|place| std::fs::read(place).ok());
        // Read once and kept for the life of the program, as plotters asks.
        read.find_map(|bytes| registered(EAST_ASIAN, bytes.leak())).or_else(|| registered(EAST_ASIAN, DEJAVU))
    };
    FONT.get_or_init(find).as_ref()
}

fn registered(family: &str, bytes: &'static [u8]) -> Option<FontRef<'static>> {
    register_font(family, FontStyle::Normal, bytes).ok()?;
    FontRef::try_from_slice(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_font_serves_what_it_can_show() {
        assert_eq!(for_texts(&["d_model ± 3 %", "Größe"]), Chosen { family: PLAIN, is_whole: true });
        assert_eq!(for_texts(&["law", "数学"]).family, EAST_ASIAN);
        assert!(!shows(embedded(), "数学"));
    }
}
