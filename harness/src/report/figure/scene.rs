//! A picture as shapes, in points (1/72 inch) from the upper left corner.

use super::font;
use super::ink::Ink;

/// A position: horizontal, and downwards.
pub type Position = (f64, f64);

/// A picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// Width in points.
    pub width: f64,
    /// Height in points.
    pub height: f64,
    /// Its shapes, from back to front.
    pub shapes: Vec<Shape>,
}

/// A shape in a scene.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// A polyline with round joins and caps.
    Line {
        /// Its vertices.
        points: Vec<Position>,
        /// Its colour.
        ink: Ink,
        /// Its width in points.
        width: f64,
    },
    /// A filled polygon.
    Area {
        /// Its corners.
        points: Vec<Position>,
        /// Its colour.
        ink: Ink,
    },
    /// A filled circle.
    Disc {
        /// Its centre.
        at: Position,
        /// Its radius in points.
        radius: f64,
        /// Its colour.
        ink: Ink,
    },
    /// A line of text.
    Text(Text),
}

/// A line of text.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    /// The text.
    pub text: String,
    /// Position of the `anchor` on the baseline.
    pub at: Position,
    /// Font size in points.
    pub size: f64,
    /// Its colour.
    pub ink: Ink,
    /// Which point of the text is at `at`.
    pub anchor: Anchor,
    /// Whether the text is rotated to read upwards.
    pub is_upwards: bool,
}

/// A point on the baseline of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// The start of the text.
    Start,
    /// The middle of the text.
    Middle,
    /// The end of the text.
    End,
}

/// Height of the middle of capitals and digits above the baseline, in ems.
const MIDDLE: f64 = 0.365;

impl Text {
    /// Start of the text: its left end, or its lower end if it reads upwards.
    pub fn start(&self) -> Position {
        let back = font::width(&self.text, self.size)
            * match self.anchor {
                Anchor::Start => 0.0,
                Anchor::Middle => 0.5,
                Anchor::End => 1.0,
            };
        if self.is_upwards { (self.at.0, self.at.1 + back) } else { (self.at.0 - back, self.at.1) }
    }
}

impl Scene {
    /// Creates an empty scene of this size in points.
    pub fn new(width: f64, height: f64) -> Self {
        Self { width, height, shapes: vec![] }
    }

    /// Draws a line through some points; nothing for fewer than two.
    pub fn line(&mut self, points: Vec<Position>, ink: Ink, width: f64) {
        if points.len() > 1 {
            self.shapes.push(Shape::Line { points, ink, width });
        }
    }

    /// Draws a dashed line, with dashes of 3.2 points and gaps of 2.2.
    pub fn dashed(&mut self, points: &[Position], ink: Ink, width: f64) {
        for dash in dashes(points, 3.2, 2.2) {
            self.line(dash, ink, width);
        }
    }

    /// Fills a polygon; nothing for fewer than three corners.
    pub fn area(&mut self, points: Vec<Position>, ink: Ink) {
        if points.len() > 2 {
            self.shapes.push(Shape::Area { points, ink });
        }
    }

    /// Fills the rectangle between two opposite corners.
    pub fn rectangle(&mut self, from: Position, to: Position, ink: Ink) {
        self.area(vec![from, (to.0, from.1), to, (from.0, to.1)], ink);
    }

    /// Fills a circle.
    pub fn disc(&mut self, at: Position, radius: f64, ink: Ink) {
        self.shapes.push(Shape::Disc { at, radius, ink });
    }

    /// Draws a regular polygon around a position: many corners for a circle, four for a square.
    pub fn ring(&mut self, at: Position, radius: f64, corners: usize, ink: Ink, width: f64) {
        let turn = std::f64::consts::TAU / corners as f64;
        let corner = |i: usize| {
            let angle = (i as f64 + 0.5) * turn;
            (at.0 + radius * angle.cos(), at.1 + radius * angle.sin())
        };
        self.line((0..=corners).map(corner).collect(), ink, width);
    }

    /// Writes a text with its baseline at a position.
    pub fn text(&mut self, text: &str, at: Position, size: f64, ink: Ink, anchor: Anchor) {
        self.write(text, at, size, ink, anchor, false);
    }

    /// Writes a text vertically centred at a position.
    pub fn text_centred(&mut self, text: &str, at: Position, size: f64, ink: Ink, anchor: Anchor) {
        self.write(text, (at.0, at.1 + MIDDLE * size), size, ink, anchor, false);
    }

    /// Writes a text that reads upwards, centred horizontally at a position.
    pub fn text_upwards(&mut self, text: &str, at: Position, size: f64, ink: Ink, anchor: Anchor) {
        self.write(text, (at.0 + MIDDLE * size, at.1), size, ink, anchor, true);
    }

    fn write(&mut self, text: &str, at: Position, size: f64, ink: Ink, anchor: Anchor, is_upwards: bool) {
        if !text.is_empty() {
            self.shapes.push(Shape::Text(Text { text: text.into(), at, size, ink, anchor, is_upwards }));
        }
    }
}

/// Returns the dashes of a line, `inked` long and `bare` apart.
fn dashes(points: &[Position], inked: f64, bare: f64) -> Vec<Vec<Position>> {
    let period = inked + bare;
    let (mut gone, mut found) = (0.0, vec![]);
    let mut dash: Vec<Position> = vec![];
    for pair in points.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let length = (to.0 - from.0).hypot(to.1 - from.1);
        let at =
            |way: f64| (from.0 + way / length * (to.0 - from.0), from.1 + way / length * (to.1 - from.1));
        let mut way = 0.0;
        while way < length {
            let phase: f64 = (gone + way) % period;
            let left = if phase < inked { inked - phase } else { period - phase };
            let next = (way + left.max(1e-3)).min(length);
            if phase < inked {
                if dash.is_empty() {
                    dash.push(at(way));
                }
                dash.push(at(next));
            } else if !dash.is_empty() {
                found.push(std::mem::take(&mut dash));
            }
            way = next;
        }
        gone += length;
    }
    found.extend((dash.len() > 1).then_some(dash));
    found
}

/// A rectangle.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rect {
    /// Left edge.
    pub left: f64,
    /// Top edge.
    pub top: f64,
    /// Right edge.
    pub right: f64,
    /// Bottom edge.
    pub bottom: f64,
}

impl Rect {
    /// Whether a position is inside or on the edge.
    pub fn holds(&self, (x, y): Position) -> bool {
        const SLACK: f64 = 1e-6;
        x >= self.left - SLACK && x <= self.right + SLACK && y >= self.top - SLACK && y <= self.bottom + SLACK
    }

    /// Returns the parts of a polyline that lie inside.
    pub fn cut_line(&self, points: &[Position]) -> Vec<Vec<Position>> {
        let (mut found, mut part): (Vec<Vec<Position>>, Vec<Position>) = (vec![], vec![]);
        for pair in points.windows(2) {
            match self.cut_segment(pair[0], pair[1]) {
                Some((from, to)) => {
                    if part.last() != Some(&from) {
                        found.push(std::mem::take(&mut part));
                        part.push(from);
                    }
                    part.push(to);
                }
                None => found.push(std::mem::take(&mut part)),
            }
        }
        found.push(part);
        found.retain(|part| part.len() > 1);
        found
    }

    /// Clips a segment (Liang and Barsky).
    fn cut_segment(&self, from: Position, to: Position) -> Option<(Position, Position)> {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let (mut first, mut last) = (0.0f64, 1.0f64);
        let sides = [
            (-dx, from.0 - self.left),
            (dx, self.right - from.0),
            (-dy, from.1 - self.top),
            (dy, self.bottom - from.1),
        ];
        for (along, room) in sides {
            if along == 0.0 {
                if room < 0.0 {
                    return None;
                }
            } else if along < 0.0 {
                first = first.max(room / along);
            } else {
                last = last.min(room / along);
            }
        }
        let at = |share: f64| match share {
            0.0 => from,
            1.0 => to,
            _ => (from.0 + share * dx, from.1 + share * dy),
        };
        (first <= last).then(|| (at(first), at(last)))
    }

    /// Clips a polygon to the rectangle (Sutherland and Hodgman).
    pub fn cut_area(&self, points: &[Position]) -> Vec<Position> {
        type Side = (fn(Position) -> f64, f64, f64);
        let sides: [Side; 4] = [
            (|p| p.0, 1.0, self.left),
            (|p| p.0, -1.0, self.right),
            (|p| p.1, 1.0, self.top),
            (|p| p.1, -1.0, self.bottom),
        ];
        sides.iter().fold(points.to_vec(), |points, (of, sign, edge)| {
            let inside = |p: Position| sign * (of(p) - edge);
            let mut kept = vec![];
            for (i, &to) in points.iter().enumerate() {
                let from = points[(i + points.len() - 1) % points.len()];
                let (a, b) = (inside(from), inside(to));
                if (a < 0.0) != (b < 0.0) {
                    let share = a / (a - b);
                    kept.push((from.0 + share * (to.0 - from.0), from.1 + share * (to.1 - from.1)));
                }
                if b >= 0.0 {
                    kept.push(to);
                }
            }
            kept
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECT: Rect = Rect { left: 0.0, top: 0.0, right: 10.0, bottom: 10.0 };

    #[test]
    fn lines_are_cut_at_the_edge() {
        let parts = RECT.cut_line(&[(-5.0, 5.0), (5.0, 5.0), (5.0, 15.0), (8.0, 15.0), (8.0, 8.0)]);
        assert_eq!(parts, [vec![(0.0, 5.0), (5.0, 5.0), (5.0, 10.0)], vec![(8.0, 10.0), (8.0, 8.0)]]);
        assert!(RECT.cut_line(&[(-1.0, 0.0), (-1.0, 9.0)]).is_empty());
        assert_eq!(RECT.cut_line(&[(1.0, 1.0), (2.0, 2.0)]), [vec![(1.0, 1.0), (2.0, 2.0)]]);
    }

    #[test]
    fn areas_are_cut_at_the_edge() {
        let cut = RECT.cut_area(&[(5.0, -5.0), (15.0, -5.0), (15.0, 5.0), (5.0, 5.0)]);
        let mut corners: Vec<(i64, i64)> = cut.iter().map(|p| (p.0 as i64, p.1 as i64)).collect();
        corners.sort_unstable();
        assert_eq!(corners, [(5, 0), (5, 5), (10, 0), (10, 5)]);
        assert!(RECT.cut_area(&[(20.0, 0.0), (30.0, 0.0), (30.0, 5.0)]).is_empty());
    }

    #[test]
    fn dashes_go_on_around_corners() {
        // Dashes of 2, gaps of 1, over a length of 5 with a corner at 3.
        let found = dashes(&[(0.0, 0.0), (3.0, 0.0), (3.0, 2.0)], 2.0, 1.0);
        assert_eq!(found, [vec![(0.0, 0.0), (2.0, 0.0)], vec![(3.0, 0.0), (3.0, 2.0)]]);
        let found = dashes(&[(0.0, 0.0), (1.0, 0.0), (1.0, 4.0)], 2.0, 1.0);
        assert_eq!(found[0], [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)]);
    }
}
