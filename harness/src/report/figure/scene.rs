//! A picture as shapes in points, of which 72 are an inch, from the upper left.

use super::font;
use super::ink::Ink;

/// A place: across and down.
pub type At = (f64, f64);

/// A picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Scene {
    /// Across.
    pub width: f64,
    /// Down.
    pub height: f64,
    /// Its shapes, each over those before it.
    pub shapes: Vec<Shape>,
}

/// A part of a picture.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// A line through some places, its corners and ends round.
    Line {
        /// The places.
        points: Vec<At>,
        /// Its colour.
        ink: Ink,
        /// Its width.
        width: f64,
    },
    /// A filled polygon.
    Area {
        /// Its corners.
        points: Vec<At>,
        /// Its colour.
        ink: Ink,
    },
    /// A filled circle.
    Disc {
        /// Its middle.
        at: At,
        /// Its radius.
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
    /// What it says.
    pub text: String,
    /// The place on its baseline that `anchor` names.
    pub at: At,
    /// Points of an em.
    pub size: f64,
    /// Its colour.
    pub ink: Ink,
    /// Which of its places is at `at`.
    pub anchor: Anchor,
    /// Whether it is read upwards.
    pub is_upwards: bool,
}

/// A place of a line of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// Where it begins.
    Start,
    /// Half way.
    Middle,
    /// Where it ends.
    End,
}

/// From a baseline to the middle of capitals and digits, in ems.
const MIDDLE: f64 = 0.365;

impl Text {
    /// Where the text begins: its left end, or its lower one where it is read upwards.
    pub fn start(&self) -> At {
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
    /// White paper.
    pub fn new(width: f64, height: f64) -> Self {
        Self { width, height, shapes: vec![] }
    }

    /// Draws a line through some places.
    pub fn line(&mut self, points: Vec<At>, ink: Ink, width: f64) {
        if points.len() > 1 {
            self.shapes.push(Shape::Line { points, ink, width });
        }
    }

    /// Draws a dashed line: so many points of ink, so many of nothing.
    pub fn dashed(&mut self, points: &[At], ink: Ink, width: f64) {
        for dash in dashes(points, 3.2, 2.2) {
            self.line(dash, ink, width);
        }
    }

    /// Fills a polygon.
    pub fn area(&mut self, points: Vec<At>, ink: Ink) {
        if points.len() > 2 {
            self.shapes.push(Shape::Area { points, ink });
        }
    }

    /// Fills a rectangle between two corners.
    pub fn rectangle(&mut self, from: At, to: At, ink: Ink) {
        self.area(vec![from, (to.0, from.1), to, (from.0, to.1)], ink);
    }

    /// Fills a circle.
    pub fn disc(&mut self, at: At, radius: f64, ink: Ink) {
        self.shapes.push(Shape::Disc { at, radius, ink });
    }

    /// Draws a closed line about a place: a circle of many corners, a square of four.
    pub fn ring(&mut self, at: At, radius: f64, corners: usize, ink: Ink, width: f64) {
        let turn = std::f64::consts::TAU / corners as f64;
        let corner = |i: usize| {
            let angle = (i as f64 + 0.5) * turn;
            (at.0 + radius * angle.cos(), at.1 + radius * angle.sin())
        };
        self.line((0..=corners).map(corner).collect(), ink, width);
    }

    /// Writes a text whose baseline goes through a place.
    pub fn text(&mut self, text: &str, at: At, size: f64, ink: Ink, anchor: Anchor) {
        self.write(text, at, size, ink, anchor, false);
    }

    /// Writes a text whose middle, seen from above to below, is at a place.
    pub fn text_beside(&mut self, text: &str, at: At, size: f64, ink: Ink, anchor: Anchor) {
        self.write(text, (at.0, at.1 + MIDDLE * size), size, ink, anchor, false);
    }

    /// Writes a text that is read upwards, its middle across at a place.
    pub fn text_upwards(&mut self, text: &str, at: At, size: f64, ink: Ink, anchor: Anchor) {
        self.write(text, (at.0 + MIDDLE * size, at.1), size, ink, anchor, true);
    }

    fn write(&mut self, text: &str, at: At, size: f64, ink: Ink, anchor: Anchor, is_upwards: bool) {
        if !text.is_empty() {
            self.shapes.push(Shape::Text(Text { text: text.into(), at, size, ink, anchor, is_upwards }));
        }
    }
}

/// The inked parts of a dashed line.
fn dashes(points: &[At], inked: f64, bare: f64) -> Vec<Vec<At>> {
    let period = inked + bare;
    let (mut gone, mut found) = (0.0, vec![]);
    let mut dash: Vec<At> = vec![];
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

/// A rectangle: left, top, right, bottom.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rect {
    /// Left.
    pub left: f64,
    /// Top.
    pub top: f64,
    /// Right.
    pub right: f64,
    /// Bottom.
    pub bottom: f64,
}

impl Rect {
    /// Whether it holds a place.
    pub fn holds(&self, (x, y): At) -> bool {
        const SLACK: f64 = 1e-6;
        x >= self.left - SLACK && x <= self.right + SLACK && y >= self.top - SLACK && y <= self.bottom + SLACK
    }

    /// The parts of a line that lie inside.
    pub fn cut_line(&self, points: &[At]) -> Vec<Vec<At>> {
        let (mut found, mut part): (Vec<Vec<At>>, Vec<At>) = (vec![], vec![]);
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

    /// Liang and Barsky's clipping.
    fn cut_segment(&self, from: At, to: At) -> Option<(At, At)> {
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

    /// The part of a polygon that lies inside (Sutherland and Hodgman).
    pub fn cut_area(&self, points: &[At]) -> Vec<At> {
        type Side = (fn(At) -> f64, f64, f64);
        let sides: [Side; 4] = [
            (|p| p.0, 1.0, self.left),
            (|p| p.0, -1.0, self.right),
            (|p| p.1, 1.0, self.top),
            (|p| p.1, -1.0, self.bottom),
        ];
        sides.iter().fold(points.to_vec(), |points, (of, sign, edge)| {
            let inside = |p: At| sign * (of(p) - edge);
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
        // 2 inked, 1 bare, over 5 points and a corner after 3.
        let found = dashes(&[(0.0, 0.0), (3.0, 0.0), (3.0, 2.0)], 2.0, 1.0);
        assert_eq!(found, [vec![(0.0, 0.0), (2.0, 0.0)], vec![(3.0, 0.0), (3.0, 2.0)]]);
        let found = dashes(&[(0.0, 0.0), (1.0, 0.0), (1.0, 4.0)], 2.0, 1.0);
        assert_eq!(found[0], [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)]);
    }
}
