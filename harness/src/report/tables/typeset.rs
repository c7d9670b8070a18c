//! Typesets a table so that it fits a page: font size, space between columns, lines of headings, columns whose text wraps.

use super::glyphs::{is_chinese, width};
use super::grid::{Grid, GridCell};
use std::ops::Range;

/// Maximum width of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Width {
    /// One column of a two-column page: 8 cm.
    Column,
    /// The text width of an A4 page: 16 cm.
    #[default]
    Page,
}

impl Width {
    /// The width in centimetres.
    pub fn centimetres(self) -> f64 {
        match self {
            Self::Column => 8.0,
            Self::Page => 16.0,
        }
    }

    /// The width in points, less 1.5 % because widths of text are estimates.
    fn points(self) -> f64 {
        self.centimetres() * 72.27 / 2.54 * 0.985
    }
}

/// A font size, with the space on each side of a column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Size {
    /// Font size in points.
    pub points: f64,
    /// Space on each side of a column, in points.
    pub side: f64,
    /// Ratio of the widths of letters designed for this size to those of ten points scaled to it.
    wider: f64,
}

/// Sizes, from the largest to the smallest that is legible.
const SIZES: [Size; 5] = [
    Size { points: 10.0, side: 6.0, wider: 1.0 },
    Size { points: 9.0, side: 5.0, wider: 1.028 },
    Size { points: 8.0, side: 4.0, wider: 1.063 },
    Size { points: 8.0, side: 2.5, wider: 1.063 },
    Size { points: 7.0, side: 2.5, wider: 1.14 },
];

/// The number of leading [`SIZES`] by which a table is split into parts.
const READABLE: usize = 3;

/// Ratio of the width of bold letters to that of regular ones.
const BOLD: f64 = 1.16;

/// Width in em above which a cell is text rather than a number.
const SENTENCE: f64 = 16.0;

/// Preferred minimum width of a column whose text wraps, in em.
const COMFORTABLE: f64 = 11.0;

/// The typesetting of some columns of a table. Widths are in em: multiples of the font size.
#[derive(Debug, Clone, PartialEq)]
pub struct TableLayout {
    /// Font size and column spacing.
    pub size: Size,
    /// The columns, from the left.
    pub columns: Vec<FitColumn>,
}

/// The typesetting of one column.
#[derive(Debug, Clone, PartialEq)]
pub struct FitColumn {
    /// Index of the column in the table.
    pub index: usize,
    /// Width in em.
    pub width: f64,
    /// Whether it holds text rather than numbers.
    pub is_text: bool,
    /// Whether its text wraps at this width.
    pub wraps: bool,
    /// The lines of its heading.
    pub head: Vec<String>,
}

impl TableLayout {
    /// Converts a width from em to points.
    pub fn points(&self, width: f64) -> f64 {
        width * self.size.points * self.size.wider
    }
}

/// The space that a column needs; widths in em.
struct Needs {
    index: usize,
    is_text: bool,
    /// Width of its cells: of the widest text, or of numbers aligned by their parts.
    body: f64,
    /// Width of the longest word of its cells and heading; `None` unless its text can wrap.
    word: Option<f64>,
    head: String,
}

/// Fits a table to a width; if all columns together are too wide, splits it into parts that each repeat the text columns.
pub fn layout(grid: &Grid, width: Width) -> Vec<TableLayout> {
    let needs: Vec<Needs> = (0..grid.heads.len()).map(|index| needs(grid, index)).collect();
    let room = width.points();
    if let Some(fit) = best(&needs.iter().collect::<Vec<_>>(), room, &SIZES) {
        return vec![fit];
    }
    let parts = parts(grid, &needs, room);
    // A part that does not fit on its own gets the smallest size.
    let set = |sizes: &[Size]| -> Vec<TableLayout> {
        parts.iter().map(|part| best(part, room, sizes).unwrap_or_else(|| smallest(part))).collect()
    };
    // The same font size in all parts.
    let size = |fit: &TableLayout| SIZES.iter().position(|size| *size == fit.size);
    let smallest = set(&SIZES).iter().filter_map(size).max().unwrap_or(0);
    set(&SIZES[smallest..])
}

/// Splits the columns into parts that fit, each with the text columns; columns below one spanning heading stay together
/// if possible.
fn parts<'n>(grid: &Grid, needs: &'n [Needs], room: f64) -> Vec<Vec<&'n Needs>> {
    let texts: Vec<&Needs> = needs[..grid.text_columns.min(needs.len())].iter().collect();
    let fits = |part: &[&Needs]| best(&[&texts[..], part].concat(), room, &SIZES[..READABLE]).is_some();
    let mut parts: Vec<Vec<&Needs>> = vec![];
    for group in groups(grid) {
        let whole: Vec<&Needs> = needs[group].iter().collect();
        let pieces: Vec<Vec<&Needs>> =
            if fits(&whole) { vec![whole] } else { whole.into_iter().map(|one| vec![one]).collect() };
        for piece in pieces {
            match parts.last_mut() {
                Some(last) if fits(&[&last[..], &piece[..]].concat()) => last.extend(piece),
                _ => parts.push(piece),
            }
        }
    }
    if parts.is_empty() {
        parts.push(vec![]);
    }
    parts.into_iter().map(|part| [texts.clone(), part].concat()).collect()
}

/// Groups the number columns that share a spanning heading; a column without one is a group of its own.
fn groups(grid: &Grid) -> Vec<Range<usize>> {
    let (first, end) = (grid.text_columns, grid.heads.len());
    let (mut begin, mut groups) = (0, vec![]);
    for (text, columns) in &grid.spans {
        let span = begin.max(first)..(begin + columns).min(end);
        begin += columns;
        match text.as_str() {
            "" => groups.extend(span.map(|column| column..column + 1)),
            _ if span.is_empty() => {}
            _ => groups.push(span),
        }
    }
    groups.extend((begin.max(first)..end).map(|column| column..column + 1));
    groups
}

fn needs(grid: &Grid, index: usize) -> Needs {
    let cells: Vec<&GridCell> = grid.rows.iter().filter_map(|row| row.get(index)).collect();
    // A column with a sentence among its numbers is text.
    let is_text = index < grid.text_columns || cells.iter().any(|cell| width(&cell.text) > SENTENCE);
    let own = |cell: &GridCell| width(&cell.text) * if cell.is_best { BOLD } else { 1.0 };
    let body = if is_text {
        cells.iter().map(|cell| own(cell)).fold(0.0, f64::max)
    } else {
        let parts = || cells.iter().map(|cell| Parts::of(&cell.text));
        let most = |of: &dyn Fn(&Parts) -> f64| parts().map(|part| of(&part)).fold(0.0, f64::max);
        let bold = if cells.iter().any(|cell| cell.is_best) { BOLD } else { 1.0 };
        let mark = if cells.iter().any(|cell| cell.is_not_worse) { 0.5 } else { 0.0 };
        let [mean, half, rest] =
            [most(&|p| width(p.mean)), most(&|p| p.half.map_or(0.0, width)), most(&|p| width(p.rest))];
        (mean + half + if half > 0.0 { width(" ± ") } else { 0.0 }) * bold + rest + mark
    };
    let texts = || cells.iter().map(|cell| cell.text.as_str());
    let has_words = is_text && texts().any(|text| text.contains(' ') || text.contains(is_chinese));
    let word = has_words.then(|| texts().map(longest_word).fold(longest_word(&grid.heads[index]), f64::max));
    Needs { index, is_text, body, word, head: grid.heads[index].clone() }
}

/// The parts of a formatted number: `41.2`, ` ± 1.3`, ` (n=2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts<'a> {
    /// The number; the whole text if it has no interval.
    pub mean: &'a str,
    /// Half-width of its interval, if it has one.
    pub half: Option<&'a str>,
    /// What follows the interval, such as ` (n=2)`; may be empty.
    pub rest: &'a str,
}

impl<'a> Parts<'a> {
    /// Splits the text of a cell.
    pub fn of(text: &'a str) -> Self {
        let Some((mean, behind)) = text.split_once(" ± ") else {
            return Self { mean: text, half: None, rest: "" };
        };
        let end = behind.find(" (").unwrap_or(behind.len());
        Self { mean, half: Some(&behind[..end]), rest: &behind[end..] }
    }
}

/// Width of the longest word in em; Chinese text breaks anywhere and counts as 2.
fn longest_word(text: &str) -> f64 {
    let of = |word: &str| if word.contains(is_chinese) { 2.0 } else { width(word) };
    text.split(' ').map(of).fold(0.0, f64::max)
}

/// Breaks text into lines of at most `most` em; a longer word has a line of its own.
pub fn wrapped(text: &str, most: f64) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if width(line) + width(" ") + width(word) <= most + 1e-9 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

/// The smallest width at which a text takes at most `lines` lines and no word overflows.
fn narrowest(text: &str, lines: usize) -> f64 {
    let words: Vec<&str> = text.split(' ').collect();
    let runs = (0..words.len()).flat_map(|from| (from..words.len()).map(move |to| (from, to)));
    let mut widths: Vec<f64> = runs.map(|(from, to)| width(&words[from..=to].join(" "))).collect();
    widths.sort_by(f64::total_cmp);
    let word = words.iter().map(|word| width(word)).fold(0.0, f64::max);
    widths.into_iter().find(|width| *width >= word && wrapped(text, *width).len() <= lines).unwrap_or(word)
}

/// The first of `sizes` at which the columns fit: with headings of few lines, else of more, else with text that wraps.
/// `None` if none fits.
fn best(needs: &[&Needs], room: f64, sizes: &[Size]) -> Option<TableLayout> {
    let ways = |size: Size| {
        let whole = [1, 2, 3, 9].map(|lines| (size, lines, f64::INFINITY));
        whole.into_iter().chain([2, 9].map(|lines| (size, lines, COMFORTABLE)))
    };
    let last = sizes.iter().filter(|size| size.points <= 8.0).map(|size| (*size, 9, 0.0));
    let mut all = sizes.iter().flat_map(|size| ways(*size)).chain(last);
    all.find_map(|(size, lines, least)| try_layout(needs, room, size, lines, least))
}

fn smallest(needs: &[&Needs]) -> TableLayout {
    let columns = needs
        .iter()
        .map(|of| column(of, of.word.unwrap_or(of.body).max(narrowest(&of.head, 9)), of.word.is_some()));
    TableLayout { size: SIZES[SIZES.len() - 1], columns: columns.collect() }
}

/// Sets the columns with headings of at most `lines` lines and text that may wrap down to a width of `least`; `None` if
/// they do not fit.
fn try_layout(needs: &[&Needs], room: f64, size: Size, lines: usize, least: f64) -> Option<TableLayout> {
    let gaps = 2.0 * size.side * needs.len().saturating_sub(1) as f64;
    let room = (room - gaps) / (size.points * size.wider);
    let whole: Vec<f64> = needs.iter().map(|of| of.body.max(narrowest(&of.head, lines))).collect();
    let narrow: Vec<f64> = needs
        .iter()
        .zip(&whole)
        .map(|(of, whole)| {
            of.word.map_or(*whole, |word| whole.min(word.max(least).max(narrowest(&of.head, lines))))
        })
        .collect();
    let (most, fewest): (f64, f64) = (whole.iter().sum(), narrow.iter().sum());
    if fewest > room {
        return None;
    }
    // The remaining space goes to the columns that wrap, in proportion to what each lacks.
    let share = if most > room { (room - fewest) / (most - fewest) } else { 1.0 };
    let columns = needs.iter().zip(whole.iter().zip(&narrow)).map(|(of, (whole, narrow))| {
        let width = narrow + share * (whole - narrow);
        column(of, width, width + 1e-6 < of.body)
    });
    Some(TableLayout { size, columns: columns.collect() })
}

fn column(of: &Needs, width: f64, wraps: bool) -> FitColumn {
    FitColumn { index: of.index, width, is_text: of.is_text, wraps, head: wrapped(&of.head, width) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(heads: &[&str], text_columns: usize, rows: &[&[&str]]) -> Grid {
        let row = |cells: &&[&str]| cells.iter().map(|cell| cell.to_string().into()).collect();
        Grid {
            heads: heads.iter().map(ToString::to_string).collect(),
            text_columns,
            rows: rows.iter().map(row).collect(),
            ..Grid::default()
        }
    }

    fn total(fit: &TableLayout) -> f64 {
        let gaps = 2.0 * fit.size.side * (fit.columns.len() - 1) as f64;
        gaps + fit.columns.iter().map(|column| fit.points(column.width)).sum::<f64>()
    }

    #[test]
    fn heads_wrap_before_letters_become_small() {
        let small = grid(&["layers", "loss"], 1, &[&["2", "1.25"]]);
        let fits = layout(&small, Width::Page);
        assert_eq!((fits.len(), fits[0].size.points), (1, 10.0));
        assert!(fits[0].columns.iter().all(|column| column.head.len() == 1 && !column.wraps));
        let head = "validation loss (nats per token)";
        let wide = grid(
            &["layers", head, head, head, head, head],
            1,
            &[&["2", "1.25", "1.25", "1.25", "1.25", "1.25"]],
        );
        let fits = layout(&wide, Width::Page);
        assert_eq!((fits.len(), fits[0].size.points), (1, 10.0));
        assert!(fits[0].columns[1].head.len() > 1 && total(&fits[0]) <= Width::Page.points());
    }

    #[test]
    fn long_text_wraps_and_too_many_columns_become_parts() {
        let claim = "eight layers or more answer more questions than four or fewer do at equal parameters and data of one kind";
        let fits = layout(&grid(&["claim", "p"], 1, &[&[claim, "0.03"]]), Width::Column);
        assert_eq!(fits.len(), 1);
        assert!(
            fits[0].columns[0].wraps
                && !fits[0].columns[1].wraps
                && total(&fits[0]) <= Width::Column.points()
        );
        let heads: Vec<String> = (0..40).map(|i| format!("subject {i}")).collect();
        let heads: Vec<&str> = ["layers"].into_iter().chain(heads.iter().map(String::as_str)).collect();
        let cells: Vec<&str> = ["2"].into_iter().chain(std::iter::repeat_n("41.2 ± 12.7", 40)).collect();
        let fits = layout(&grid(&heads, 1, &[&cells]), Width::Page);
        assert!(fits.len() > 1);
        let mut seen = vec![];
        for part in &fits {
            assert!(part.columns[0].index == 0 && total(part) <= Width::Page.points());
            seen.extend(part.columns[1..].iter().map(|column| column.index));
        }
        assert_eq!(seen, (1..41).collect::<Vec<_>>());
        // Columns below one spanning heading stay together, and all parts have one size.
        let spans = [(String::new(), 1)].into_iter().chain((0..10).map(|i| (format!("metric {i}"), 4)));
        let below = Grid { spans: spans.collect(), ..grid(&heads, 1, &[&cells]) };
        let fits = layout(&below, Width::Page);
        assert!(fits.iter().all(|part| part.columns.len() % 4 == 1 && part.size == fits[0].size));
    }

    #[test]
    fn a_text_has_no_more_lines_than_asked_for_where_it_is_narrowest() {
        let text = "validation loss (nats per token)";
        for lines in 1..6 {
            assert!(wrapped(text, narrowest(text, lines)).len() <= lines);
        }
        assert_eq!(wrapped(text, narrowest(text, 2)), ["validation loss", "(nats per token)"]);
        assert_eq!(narrowest("learning rate", 2), width("learning"));
        assert_eq!(Parts::of("41.2 ± 1.3 (n=2)"), Parts { mean: "41.2", half: Some("1.3"), rest: " (n=2)" });
        assert_eq!(Parts::of("–"), Parts { mean: "–", half: None, rest: "" });
    }
}
