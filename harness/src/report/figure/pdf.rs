//! A scene as PDF: vector graphics and selectable text, with fonts reduced to the glyphs used.

use super::font::{self, Face};
use super::ink::Ink;
use super::scene::{Position, Scene, Shape, Text};
use ab_glyph::Font;
use anyhow::{Context, Result};
use flate2::{Compression, write::ZlibEncoder};
use pdf_writer::types::{CidFontType, FontFlags, LineCapStyle, LineJoinStyle, SystemInfo, UnicodeCmap};
use pdf_writer::{Content, Filter, Finish, Name, Pdf, Rect, Ref, Str, TextStr};
use std::collections::BTreeMap;
use std::io::Write;
use subsetter::{GlyphRemapper, subset};

/// Distance of the Bezier handles of a quarter circle from its ends, in radii.
const HANDLE: f64 = 0.552_284_75;

const ADOBE_IDENTITY: SystemInfo =
    SystemInfo { registry: Str(b"Adobe"), ordering: Str(b"Identity"), supplement: 0 };

/// A font, its glyphs that occur, and for each glyph id in the subset the original id and character.
struct Used {
    face: &'static Face,
    glyphs: GlyphRemapper,
    letters: BTreeMap<u16, (u16, char)>,
}

/// Returns the scene as a PDF with one page of the size of the scene.
pub fn pdf(scene: &Scene, title: &str) -> Result<Vec<u8>> {
    let mut writer = Writer { height: scene.height, content: Content::new(), fonts: vec![], alphas: vec![] };
    writer.content.set_line_cap(LineCapStyle::RoundCap).set_line_join(LineJoinStyle::RoundJoin);
    scene.shapes.iter().for_each(|shape| writer.draw(shape));
    let Writer { content, fonts, alphas, .. } = writer;

    let mut next = 0;
    let mut new = || {
        next += 1;
        Ref::new(next)
    };
    let mut pdf = Pdf::new();
    let (catalog, pages, page_id, content_id, info) = (new(), new(), new(), new(), new());
    pdf.catalog(catalog).pages(pages);
    pdf.pages(pages).kids([page_id]).count(1);
    pdf.document_info(info).title(TextStr(title)).producer(TextStr("Mindscale"));
    let font_ids: Vec<Ref> = fonts.iter().map(|_| new()).collect();
    let alpha_ids: Vec<Ref> = alphas.iter().map(|_| new()).collect();
    let mut page = pdf.page(page_id);
    page.parent(pages).contents(content_id);
    page.media_box(Rect::new(0.0, 0.0, scene.width as f32, scene.height as f32));
    let mut resources = page.resources();
    let mut named = resources.fonts();
    for (i, id) in font_ids.iter().enumerate() {
        named.pair(Name(format!("F{i}").as_bytes()), *id);
    }
    named.finish();
    let mut named = resources.ext_g_states();
    for (i, id) in alpha_ids.iter().enumerate() {
        named.pair(Name(format!("A{i}").as_bytes()), *id);
    }
    named.finish();
    resources.finish();
    page.finish();
    for (id, alpha) in alpha_ids.iter().zip(alphas) {
        pdf.ext_graphics(*id).non_stroking_alpha(alpha as f32);
    }
    for (id, used) in font_ids.into_iter().zip(&fonts) {
        write_font(&mut pdf, id, used, &mut new)?;
    }
    let content = packed(&content.finish())?;
    pdf.stream(content_id, &content).filter(Filter::FlateDecode);
    Ok(pdf.finish())
}

fn packed(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut packer = ZlibEncoder::new(vec![], Compression::default());
    packer.write_all(bytes)?;
    Ok(packer.finish()?)
}

/// The page content so far, and the resources that it needs.
struct Writer {
    height: f64,
    content: Content,
    fonts: Vec<Used>,
    /// Distinct opacities of areas; opaque ones need no entry.
    alphas: Vec<f64>,
}

impl Writer {
    /// Converts a position: PDF coordinates start at the bottom.
    fn at(&self, (x, y): Position) -> (f32, f32) {
        (x as f32, (self.height - y) as f32)
    }

    fn draw(&mut self, shape: &Shape) {
        match shape {
            Shape::Line { points, ink, width } => {
                let [r, g, b] = parts(*ink);
                self.content.set_stroke_rgb(r, g, b).set_line_width(*width as f32);
                self.path(points);
                self.content.stroke();
            }
            Shape::Area { points, ink } => self.filled(*ink, |writer| {
                writer.path(points);
                writer.content.close_path();
            }),
            Shape::Disc { at, radius, ink } => self.filled(*ink, |writer| writer.circle(*at, *radius)),
            Shape::Text(text) => self.text(text),
        }
    }

    fn path(&mut self, points: &[Position]) {
        for (i, point) in points.iter().enumerate() {
            let (x, y) = self.at(*point);
            if i == 0 {
                self.content.move_to(x, y)
            } else {
                self.content.line_to(x, y)
            };
        }
    }

    fn circle(&mut self, (x, y): Position, r: f64) {
        let h = r * HANDLE;
        let (from_x, from_y) = self.at((x + r, y));
        self.content.move_to(from_x, from_y);
        let quarters = [
            [(r, h), (h, r), (0.0, r)],
            [(-h, r), (-r, h), (-r, 0.0)],
            [(-r, -h), (-h, -r), (0.0, -r)],
            [(h, -r), (r, -h), (r, 0.0)],
        ];
        for quarter in quarters {
            let [a, b, c] = quarter.map(|(dx, dy)| self.at((x + dx, y + dy)));
            self.content.cubic_to(a.0, a.1, b.0, b.1, c.0, c.1);
        }
        self.content.close_path();
    }

    fn filled(&mut self, ink: Ink, outline: impl FnOnce(&mut Self)) {
        let [r, g, b] = parts(ink);
        let is_clear = ink.alpha < 1.0;
        if is_clear {
            let known = self.alphas.iter().position(|alpha| *alpha == ink.alpha);
            let place = known.unwrap_or_else(|| {
                self.alphas.push(ink.alpha);
                self.alphas.len() - 1
            });
            self.content.save_state().set_parameters(Name(format!("A{place}").as_bytes()));
        }
        self.content.set_fill_rgb(r, g, b);
        outline(self);
        self.content.fill_nonzero();
        if is_clear {
            self.content.restore_state();
        }
    }

    fn text(&mut self, text: &Text) {
        let Some(face) = font::face(&text.text) else { return };
        let known = self.fonts.iter().position(|used| used.face.family == face.family);
        let place = known.unwrap_or_else(|| {
            self.fonts.push(Used { face, glyphs: GlyphRemapper::new(), letters: BTreeMap::new() });
            self.fonts.len() - 1
        });
        let [r, g, b] = parts(text.ink);
        let (x, y) = self.at(text.start());
        let turn = if text.is_upwards { [0.0, 1.0, -1.0, 0.0] } else { [1.0, 0.0, 0.0, 1.0] };
        let content = &mut self.content;
        content.set_fill_rgb(r, g, b).begin_text();
        content.set_font(Name(format!("F{place}").as_bytes()), text.size as f32);
        content.set_text_matrix([turn[0], turn[1], turn[2], turn[3], x, y]);
        let used = &mut self.fonts[place];
        let mut shown = content.show_positioned();
        let mut items = shown.items();
        let mut end = 0.0;
        for placed in face.set(&text.text).0 {
            // Kerning: the deviation from the advances, in thousandths of an em.
            if (placed.at - end).abs() > 1e-6 {
                items.adjust(((end - placed.at) * 1000.0) as f32);
            }
            end = placed.at + face.advance(placed.glyph);
            let glyph = used.glyphs.remap(placed.glyph.0);
            used.letters.insert(glyph, (placed.glyph.0, placed.letter));
            items.show(Str(&glyph.to_be_bytes()));
        }
        items.finish();
        shown.finish();
        content.end_text();
    }
}

fn parts(ink: Ink) -> [f32; 3] {
    ink.rgb.map(|part| f32::from(part) / 255.0)
}

/// Writes the subset of a font with the glyphs that occur.
fn write_font(pdf: &mut Pdf, id: Ref, used: &Used, new: &mut impl FnMut() -> Ref) -> Result<()> {
    let Used { face, glyphs, letters } = used;
    let (cid, descriptor, cmap, file) = (new(), new(), new(), new());
    let font =
        subset(face.bytes, 0, glyphs).ok().context("the font cannot be cut to the glyphs that occur")?;
    // Cubic outlines are in a table of their own, and PDF embeds only that table.
    let cubic = table(&font, b"CFF ");
    let name = if cubic.is_some() { "MINDSC+SystemFont" } else { "MINDSC+Sans" };
    let name = Name(name.as_bytes());
    pdf.type0_font(id)
        .base_font(name)
        .encoding_predefined(Name(b"Identity-H"))
        .descendant_font(cid)
        .to_unicode(cmap);
    let mut cid_font = pdf.cid_font(cid);
    cid_font.subtype(if cubic.is_some() { CidFontType::Type0 } else { CidFontType::Type2 });
    cid_font.base_font(name).system_info(ADOBE_IDENTITY).font_descriptor(descriptor).default_width(0.0);
    if cubic.is_none() {
        cid_font.cid_to_gid_map_predefined(Name(b"Identity"));
    }
    let mut widths = cid_font.widths();
    for (glyph, (original, _)) in letters {
        widths.consecutive(*glyph, [(1000.0 * face.advance(ab_glyph::GlyphId(*original))) as f32]);
    }
    widths.finish();
    cid_font.finish();
    let thousandths = |units: f32| 1000.0 * units / face.units() as f32;
    let (ascent, descent) =
        (thousandths(face.font.ascent_unscaled()), thousandths(face.font.descent_unscaled()));
    let mut described = pdf.font_descriptor(descriptor);
    described
        .name(name)
        .flags(FontFlags::NON_SYMBOLIC)
        .bbox(Rect::new(-1000.0, descent, 2000.0, ascent))
        .italic_angle(0.0)
        .ascent(ascent)
        .descent(descent)
        .cap_height(729.0)
        .stem_v(80.0);
    if cubic.is_some() {
        described.font_file3(file)
    } else {
        described.font_file2(file)
    };
    described.finish();
    let mut map = UnicodeCmap::new(Name(b"Letters"), ADOBE_IDENTITY);
    letters.iter().for_each(|(glyph, (_, letter))| map.pair(*glyph, *letter));
    pdf.cmap(cmap, &map.finish());
    let bytes = cubic.unwrap_or(&font);
    let packed = packed(bytes)?;
    let mut stream = pdf.stream(file, &packed);
    stream.filter(Filter::FlateDecode);
    match cubic {
        Some(_) => stream.pair(Name(b"Subtype"), Name(b"CIDFontType0C")),
        None => stream.pair(Name(b"Length1"), bytes.len() as i32),
    };
    Ok(())
}

/// Returns a table of an OpenType file.
fn table<'a>(font: &'a [u8], tag: &[u8; 4]) -> Option<&'a [u8]> {
    let number = |at: usize| Some(u32::from_be_bytes(font.get(at..at + 4)?.try_into().ok()?) as usize);
    let tables = usize::from(u16::from_be_bytes(font.get(4..6)?.try_into().ok()?));
    let records = (0..tables).map(|i| 12 + 16 * i);
    let record = records.into_iter().find(|at| font.get(*at..at + 4) == Some(tag))?;
    let (from, length) = (number(record + 8)?, number(record + 12)?);
    font.get(from..from + length)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::report::figure::ink::{BLACK, colour};
    use crate::report::figure::scene::Anchor;
    use std::io::Read;

    fn find(bytes: &[u8], what: &[u8], from: usize) -> Option<usize> {
        bytes[from..].windows(what.len()).position(|window| window == what).map(|at| from + at)
    }

    /// The offsets in the cross-reference table, by object number.
    fn offsets(pdf: &[u8]) -> Vec<usize> {
        let start = find(pdf, b"startxref", 0).unwrap();
        let text = String::from_utf8_lossy(&pdf[start..]).to_string();
        let at: usize = text.lines().nth(1).unwrap().trim().parse().unwrap();
        let table = String::from_utf8_lossy(&pdf[at..start]).to_string();
        let mut lines = table.lines();
        assert_eq!(lines.next(), Some("xref"));
        let count: usize = lines.next().unwrap().split(' ').nth(1).unwrap().trim().parse().unwrap();
        let entries: Vec<&str> = lines.take(count).collect();
        assert!(entries[0].starts_with("0000000000 65535 f"), "{}", entries[0]);
        entries[1..].iter().map(|entry| entry[..10].parse().unwrap()).collect()
    }

    /// Every compressed stream, decompressed.
    fn streams(pdf: &[u8]) -> Vec<Vec<u8>> {
        let mut found = vec![];
        let mut from = 0;
        while let Some(at) = find(pdf, b"stream\n", from) {
            let end = find(pdf, b"\nendstream", at).unwrap();
            let mut bytes = vec![];
            if flate2::read::ZlibDecoder::new(&pdf[at + 7..end]).read_to_end(&mut bytes).is_ok() {
                found.push(bytes);
            }
            from = end + 10;
        }
        found
    }

    fn scene() -> Scene {
        let mut scene = Scene::new(200.0, 100.0);
        scene.line(vec![(10.0, 10.0), (20.0, 30.0)], BLACK, 1.2);
        scene.rectangle((0.0, 0.0), (5.0, 5.0), colour(0).with_alpha(0.17));
        scene.disc((50.0, 50.0), 2.0, colour(1));
        scene.text("AV loss", (20.0, 80.0), 8.0, BLACK, Anchor::Start);
        scene.text_upwards("loss", (5.0, 50.0), 8.0, BLACK, Anchor::Middle);
        scene
    }

    #[test]
    fn a_pdf_has_a_table_of_its_objects_and_one_page_of_its_size() {
        let pdf = pdf(&scene(), "Loss").unwrap();
        assert!(pdf.starts_with(b"%PDF-1.7") && pdf.ends_with(b"%%EOF"));
        let offsets = offsets(&pdf);
        for (i, offset) in offsets.iter().enumerate() {
            assert!(pdf[*offset..].starts_with(format!("{} 0 obj", i + 1).as_bytes()), "{i}");
        }
        for part in ["/MediaBox [0 0 200 100]", "/Count 1", "/FontFile2", "/ca 0.17", "/Identity-H"] {
            assert!(find(&pdf, part.as_bytes(), 0).is_some(), "{part}");
        }
        assert_eq!(pdf, super::pdf(&scene(), "Loss").unwrap());
    }

    #[test]
    fn its_text_is_text_of_an_embedded_font_with_close_pairs() {
        let pdf = pdf(&scene(), "Loss").unwrap();
        // The map from glyphs to characters is not compressed.
        for letter in "AVlos ".chars() {
            let code = format!("<{:04X}>", letter as u32);
            assert!(find(&pdf, code.as_bytes(), 0).is_some(), "{letter}");
        }
        let streams = streams(&pdf);
        let content = String::from_utf8_lossy(&streams[streams.len() - 1]).to_string();
        // The line, measured from the bottom: 100 - 10 and 100 - 30. Kerning of AV: 131/2048 em, 63.96 thousandths.
        assert!(content.contains("10 90 m\n20 70 l\nS"), "{content}");
        assert!(content.contains("63.96") && content.contains("TJ"), "{content}");
        let font = &streams[0];
        assert!(font.starts_with(&[0, 1, 0, 0]) && font.len() < 20_000, "{}", font.len());
    }
}
