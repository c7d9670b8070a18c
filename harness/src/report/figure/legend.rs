//! Names of series: at the ends of their curves, or in a list.

use super::ink::{BLACK, GREY, Ink, colour};
use super::layout::{LINE, Layout, TEXT, named};
use super::paint::{marker, stroke};
use super::scene::{Anchor, Position, Scene};
use super::{Figure, Mark, Series, font};

/// Width of the line sample of an entry, in points.
const SAMPLE: f64 = 16.0;

/// Distance from a sample to its name, in points.
const GAP: f64 = 5.0;

/// Maximum distance of a name from the end of its curve, in label heights.
const FARTHEST: f64 = 4.0;

/// The names of series with their positions.
pub enum Names {
    /// No names.
    None,
    /// At the ends of curves.
    Ends(Vec<EndLabel>),
    /// In a list with its upper left corner at this position.
    List(LegendList, Position),
}

/// A name at the end of its curve.
#[derive(Debug, Clone, PartialEq)]
pub struct EndLabel {
    /// The name.
    pub text: String,
    /// Its colour, darker than that of the curve.
    pub ink: Ink,
    /// The end of the curve.
    pub end: Position,
    /// Left end of the name, vertically centred.
    pub at: Position,
}

/// A legend: a list of names with samples.
pub struct LegendList {
    entries: Vec<Entry>,
    /// Heading, broken into lines.
    title: Vec<String>,
    /// Width in points.
    pub width: f64,
    /// Height in points.
    pub height: f64,
}

/// A name in the list.
struct Entry {
    /// The series that it names.
    series: Series,
    /// The number shown as its sample, for [`Mark::Numbered`].
    number: usize,
    lines: Vec<String>,
    /// Position relative to the upper left corner of the list.
    at: Position,
}

/// Lays out the names of the series of a figure as a list at most `room` points wide: one per line, or side by side as
/// far as they fit if `is_flowing`.
pub fn legend_list(figure: &Figure, room: f64, is_flowing: bool) -> LegendList {
    let title = match figure.legend_title.as_str() {
        "" => vec![],
        title => font::wrapped(title, TEXT, room),
    };
    let (mut at, mut widest) = ((0.0, TEXT * LINE * title.len() as f64), 0.0f64);
    for line in &title {
        widest = widest.max(font::width(line, TEXT));
    }
    let (mut entries, mut number, mut low): (Vec<Entry>, usize, f64) = (vec![], 0, at.1);
    for series in named(figure) {
        number += usize::from(series.mark == Mark::Numbered);
        let lines = font::wrapped(&series.label, TEXT, room - SAMPLE - GAP);
        let width = SAMPLE + GAP + lines.iter().map(|line| font::width(line, TEXT)).fold(0.0, f64::max);
        let height = TEXT * LINE * lines.len() as f64 + 2.0;
        if is_flowing && at.0 > 0.0 && at.0 + width > room {
            at = (0.0, low);
        }
        widest = widest.max(at.0 + width);
        entries.push(Entry { series: series.clone(), number, lines, at });
        low = low.max(at.1 + height);
        at = if is_flowing { (at.0 + width + 12.0, at.1) } else { (0.0, at.1 + height) };
    }
    LegendList { entries, title, width: widest, height: low }
}

/// Positions a name at the end of each named curve without overlaps; `None` if they do not fit or would be too far from
/// their curves.
pub fn end_labels(layout: &Layout) -> Option<Vec<EndLabel>> {
    let plot = layout.plot;
    let wide = plot.right - plot.left;
    let mut labels = vec![];
    for series in named(layout.figure) {
        let places = series.points.iter().filter(|p| p.x.is_finite() && p.y.is_finite());
        let places: Vec<Position> = places.map(|p| layout.at(p.x, p.y)).collect();
        let end = match places.as_slice() {
            [] => continue,
            [only] => *only,
            several => *plot.cut_line(several).last()?.last()?,
        };
        // The curve ends too far from the right edge for a name there to be recognized as its own.
        if end.0 < plot.left + 0.6 * wide || !plot.holds(end) {
            return None;
        }
        let at = (plot.right + 6.0, end.1);
        labels.push(EndLabel { text: series.label.clone(), ink: colour(series.colour).dark(), end, at });
    }
    let widest = labels.iter().map(|label| font::width(&label.text, TEXT)).fold(0.0, f64::max);
    if widest > 0.32 * layout.size.0 {
        return None;
    }
    let wanted: Vec<f64> = labels.iter().map(|label| label.end.1).collect();
    let height = TEXT * 1.15;
    let found = spread_labels(&wanted, height, plot.top - height / 2.0, plot.bottom + height / 2.0)?;
    for (label, y) in labels.iter_mut().zip(found) {
        if (y - label.end.1).abs() > FARTHEST * height {
            return None;
        }
        label.at.1 = y;
    }
    Some(labels)
}

/// Returns centres at least `height` apart, each label between `low` and `high`, as close to the wanted positions as
/// possible by least squares; `None` if there is not enough room.
pub fn spread_labels(wanted: &[f64], height: f64, low: f64, high: f64) -> Option<Vec<f64>> {
    let n = wanted.len();
    if n as f64 * height > high - low {
        return None;
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| wanted[a].total_cmp(&wanted[b]));
    // Blocks of touching labels: the sum of their wanted centres, and their number (pool adjacent violators).
    let first_of = |sum: f64, count: usize| {
        let free = sum / count as f64 - (count - 1) as f64 * height / 2.0;
        free.clamp(low + height / 2.0, high - height / 2.0 - (count - 1) as f64 * height)
    };
    let mut blocks: Vec<(f64, usize)> = vec![];
    for &i in &order {
        blocks.push((wanted[i], 1));
        while let [.., before, last] = blocks.as_slice() {
            if first_of(before.0, before.1) + before.1 as f64 * height <= first_of(last.0, last.1) + 1e-9 {
                break;
            }
            let merged = (before.0 + last.0, before.1 + last.1);
            blocks.truncate(blocks.len() - 2);
            blocks.push(merged);
        }
    }
    let mut found = vec![0.0; n];
    let places = blocks.iter().flat_map(|&(sum, count)| {
        let first = first_of(sum, count);
        (0..count).map(move |i| first + i as f64 * height)
    });
    order.iter().zip(places).for_each(|(&i, place)| found[i] = place);
    Some(found)
}

/// Draws the names.
pub fn draw(scene: &mut Scene, names: &Names) {
    match names {
        Names::None => {}
        Names::Ends(labels) => {
            for label in labels {
                let is_near =
                    (label.at.1 - label.end.1).abs() < 0.4 * TEXT && label.at.0 - label.end.0 < 14.0;
                if !is_near {
                    let to = (label.at.0 - 1.5, label.at.1);
                    scene.line(vec![(label.end.0 + 3.0, label.end.1), to], label.ink.pale(), 0.5);
                }
                scene.text_centred(&label.text, label.at, TEXT, label.ink, Anchor::Start);
            }
        }
        Names::List(list, at) => list.draw(scene, *at),
    }
}

impl LegendList {
    fn draw(&self, scene: &mut Scene, corner: Position) {
        let line = TEXT * LINE;
        for (i, text) in self.title.iter().enumerate() {
            scene.text(text, (corner.0, corner.1 + TEXT + i as f64 * line), TEXT, GREY, Anchor::Start);
        }
        for Entry { series, number, lines, at } in &self.entries {
            let (left, middle) = (corner.0 + at.0, corner.1 + at.1 + line / 2.0);
            let (ink, right) = (colour(series.colour), left + SAMPLE);
            let (line_points, centre) = ([(left, middle), (right, middle)], (left + SAMPLE / 2.0, middle));
            match series.mark {
                Mark::Points => marker(scene, series.colour, centre, 1.0),
                Mark::Joined => {
                    stroke(scene, &line_points, ink);
                    marker(scene, series.colour, centre, 1.0);
                }
                Mark::Line => stroke(scene, &line_points, ink),
                Mark::Dashed => scene.dashed(&line_points, ink, 1.0),
                Mark::SeedLine => scene.line(line_points.into(), ink.pale(), 0.5),
                Mark::Bars => scene.rectangle((left + 3.0, middle - 3.0), (right - 3.0, middle + 3.0), ink),
                Mark::IntervalArea => {
                    scene.rectangle(
                        (left + 1.0, middle - 3.5),
                        (right - 1.0, middle + 3.5),
                        GREY.with_alpha(0.2),
                    );
                }
                Mark::Best => scene.ring(centre, 4.0, 24, BLACK, 0.8),
                Mark::Edge => scene.ring(centre, 5.0, 4, BLACK, 0.8),
                Mark::Numbered => {
                    scene.text_centred(&number.to_string(), centre, TEXT, BLACK, Anchor::Middle)
                }
            }
            for (i, text) in lines.iter().enumerate() {
                let at = (right + GAP, middle + i as f64 * line);
                scene.text_centred(text, at, TEXT, BLACK, Anchor::Start);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_apart_and_near_their_curves() {
        assert_eq!(spread_labels(&[50.0, 20.0], 10.0, 0.0, 100.0), Some(vec![50.0, 20.0]));
        // Three that want the same place are centred on it.
        assert_eq!(spread_labels(&[50.0, 50.0, 50.0], 10.0, 0.0, 100.0), Some(vec![40.0, 50.0, 60.0]));
        // A label pushed in from an end pushes others.
        assert_eq!(spread_labels(&[0.0, 2.0, 12.0], 10.0, 0.0, 100.0), Some(vec![5.0, 15.0, 25.0]));
        assert_eq!(spread_labels(&[100.0, 97.0], 10.0, 0.0, 100.0), Some(vec![95.0, 85.0]));
        assert_eq!(spread_labels(&[1.0, 2.0, 3.0], 10.0, 0.0, 29.0), None);
        assert_eq!(spread_labels(&[], 10.0, 0.0, 29.0), Some(vec![]));
        let found = spread_labels(&[30.0, 31.0, 33.0, 80.0, 29.0], 10.0, 0.0, 100.0).unwrap_or_default();
        let mut sorted = found.clone();
        sorted.sort_by(f64::total_cmp);
        assert!(sorted.windows(2).all(|pair| pair[1] - pair[0] >= 10.0 - 1e-9), "{found:?}");
        assert!(found[4] < found[0] && found[0] < found[1] && found[1] < found[2] && found[2] < found[3]);
    }
}
