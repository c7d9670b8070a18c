//! Figures checked by their coordinates: positions, clipping, and that no texts overlap.
#![allow(clippy::unwrap_used)]

use super::scene::{Scene, Shape, Text};
use super::*;
use crate::report::figure::layout::{Layout, TEXT};
use crate::report::figure::legend::Names;

fn curve(label: &str, colour: usize, ys: &[f64]) -> Series {
    let points = ys.iter().enumerate().map(|(x, y)| Point { x: 1.0 + x as f64, y: *y, ..Point::default() });
    Series { label: label.into(), mark: Mark::Joined, colour, points: points.collect(), ..Series::default() }
}

fn of(series: Vec<Series>) -> Figure {
    Figure {
        name: "f".into(),
        title: "Loss by depth".into(),
        x: Axis { label: "depth (layers)".into(), ..Axis::default() },
        y: Axis { label: "loss (nats)".into(), ..Axis::default() },
        content: Content::Series(series),
        notes: vec!["band: 95 % t, 3 seeds".into(), "pale lines: single seeds".into()],
        ..Figure::default()
    }
}

fn column(figure: Figure) -> Figure {
    Figure { frame: Frame { size: Size::Column, ..figure.frame }, ..figure }
}

fn texts(scene: &Scene) -> Vec<&Text> {
    let mut found = vec![];
    for shape in &scene.shapes {
        if let Shape::Text(text) = shape {
            found.push(text);
        }
    }
    found
}

/// Left, top, right and bottom of a text, from the baseline to the top of capitals.
fn bounds(text: &Text) -> (f64, f64, f64, f64) {
    let ((x, y), width, height) = (text.start(), font::width(&text.text, text.size), 0.73 * text.size);
    if text.is_upwards { (x - height, y - width, x, y) } else { (x, y - height, x + width, y) }
}

/// Fails if a text leaves the figure or overlaps another.
fn assert_readable(figure: &Figure) {
    let scene = paint::scene(figure);
    let found: Vec<_> = texts(&scene).into_iter().map(|text| (text, bounds(text))).collect();
    for (i, (text, (left, top, right, bottom))) in found.iter().enumerate() {
        let is_inside = *left >= 0.0 && *top >= 0.0 && *right <= scene.width && *bottom <= scene.height;
        assert!(is_inside, "{:?} leaves the paper of {} by {}", text, scene.width, scene.height);
        for (other, (l, t, r, b)) in &found[i + 1..] {
            let is_over = left < r && l < right && top < b && t < bottom;
            assert!(!is_over, "{:?} and {:?} lie over each other", text.text, other.text);
        }
    }
}

#[test]
fn points_stand_at_their_numbers() {
    let figure = of(vec![curve("", 0, &[1.0, 2.0, 4.0])]);
    let scene = paint::scene(&figure);
    let plot = Layout::of(&figure).plot;
    let disc = |shape: &Shape| if let Shape::Disc { at, .. } = shape { Some(*at) } else { None };
    let discs: Vec<_> = scene.shapes.iter().filter_map(disc).collect();
    // x from 1 to 3 with a margin of 5 % at both ends; y from 1 to 4, likewise.
    let across = |x: f64| plot.left + (x - 0.9) / 2.2 * (plot.right - plot.left);
    let up = |y: f64| plot.bottom - (y - 0.85) / 3.3 * (plot.bottom - plot.top);
    for ((x, y), at) in [(1.0, 1.0), (2.0, 2.0), (3.0, 4.0)].into_iter().zip(&discs) {
        assert!((at.0 - across(x)).abs() < 1e-9 && (at.1 - up(y)).abs() < 1e-9, "{x} {y}: {at:?}");
    }
    assert_eq!(discs.len(), 3);
}

#[test]
fn sizes_are_those_of_a_paper() {
    let figure = of(vec![curve("", 0, &[1.0, 2.0])]);
    assert_eq!(paint::scene(&figure).width, 486.0);
    assert_eq!(paint::scene(&column(figure.clone())).width, 234.0);
    let frame = Frame { width: Some(5.0), height: Some(2.5), ..Frame::default() };
    let scene = paint::scene(&Figure { frame, ..figure });
    assert_eq!((scene.width, scene.height), (360.0, 180.0));
}

#[test]
fn curves_are_named_at_their_ends_where_there_is_room() {
    let figure = of(vec![curve("deep", 0, &[3.0, 2.0, 1.0]), curve("wide", 1, &[3.0, 2.5, 1.01])]);
    let layout = Layout::of(&figure);
    let Names::Ends(labels) = &layout.names else { panic!("a list") };
    for label in labels {
        assert!(label.at.0 > layout.plot.right && (label.end.0 - layout.across(3.0)).abs() < 1e-9);
    }
    // The curves end less than a line height apart; their names do not overlap.
    assert!((labels[0].end.1 - labels[1].end.1).abs() < 2.0);
    assert!(labels[0].at.1 - labels[1].at.1 >= TEXT, "{labels:?}");
    // Twenty curves that end at the same place do not fit, and a curve that ends early cannot be named at the edge.
    let many = (0..20).map(|i| curve(&format!("setting {i}"), i, &[3.0, 2.0])).collect();
    let early = vec![curve("a", 0, &[3.0, 2.0]), curve("b", 1, &[3.0, 2.0, 1.0, 1.0, 1.0, 1.0])];
    for series in [many, early] {
        assert!(matches!(Layout::of(&of(series)).names, Names::List(..)));
    }
    let chosen = |legend| {
        let frame = Frame { legend, ..Frame::default() };
        Figure { frame, ..figure.clone() }
    };
    assert!(matches!(Layout::of(&chosen(Legend::None)).names, Names::None));
    assert!(matches!(Layout::of(&chosen(Legend::Right)).names, Names::List(..)));
}

#[test]
fn what_lies_beyond_the_limits_is_cut_off() {
    let mut wide = curve("", 0, &[90.0, 2.0, 1.0]);
    wide.points.iter_mut().for_each(|p| p.interval = Some((p.y - 0.5, p.y + 0.5)));
    let mut figure = of(vec![wide]);
    figure.y.explicit_range = Some((0.0, 3.0));
    let (scene, plot) = (paint::scene(&figure), Layout::of(&figure).plot);
    let curves = scene.shapes.iter().filter_map(|shape| match shape {
        Shape::Line { points, width, .. } if *width == 1.2 => Some(points),
        Shape::Area { points, ink } if ink.alpha < 1.0 => Some(points),
        _ => None,
    });
    let curves: Vec<_> = curves.collect();
    assert_eq!(curves.len(), 2);
    assert!(curves.iter().all(|points| points.iter().all(|at| plot.holds(*at))), "{curves:?}");
    assert!(curves.iter().all(|points| points.iter().any(|at| (at.1 - plot.top).abs() < 1e-6)));
}

#[test]
fn no_text_leaves_the_paper_or_lies_over_another() {
    let names = ["n_layers=2 d_model=96", "n_layers=4 d_model=64", "n_layers=8 d_model=48"];
    let curves: Vec<Series> =
        names.iter().enumerate().map(|(i, name)| curve(name, i, &[4.0, 2.0 + 0.01 * i as f64])).collect();
    let mut level = of(curves.clone());
    level.level = Some((2.5, "guessing"));
    let many: Vec<Series> =
        (0..16).map(|i| curve(&format!("{} {i}", names[i % 3]), i, &[3.0, 2.0])).collect();
    let mut places = of(vec![curve("a", 0, &[1.0, 2.0]), curve("b", 1, &[2.0, 1.0])]);
    places.x.categories = (0..12).map(|i| format!("a subject with a name {i}")).collect();
    let subjects: Vec<String> =
        (0..52).map(|i| format!("environmental_impact_assessment_engineer_{i}")).collect();
    let dots = |label: &str, colour| Series {
        label: label.into(),
        colour,
        points: (0..52).map(|i| Point { x: f64::from(i), y: f64::from(i), ..Point::default() }).collect(),
        ..Series::default()
    };
    let mut rows = of(vec![dots("dense", 0), dots("4 experts", 1)]);
    (rows.is_sideways, rows.y.categories, rows.level) = (true, subjects, Some((25.0, "guessing")));
    let mut claims = of(vec![]);
    (claims.is_sideways, claims.y.categories) =
        (true, vec!["at equal active parameters experts answer more questions than a dense model".into(); 3]);
    let cells = (0..3).map(|y| (0..4).map(|x| Some((f64::from(x * y), format!("{}.000", x * y)))).collect());
    let mut heat = of(vec![]);
    heat.content = Content::Cells { label: "validation bits per byte".into(), cells: cells.collect() };
    (heat.x.categories, heat.y.categories) =
        (["2", "4", "8", "16"].map(String::from).into(), ["0", "4", "8"].map(String::from).into());
    let mut wordy = heat.clone();
    let label = "SFT validation loss (nats per token) of the held-out conversations of several turns";
    wordy.content = match wordy.content {
        Content::Cells { cells, .. } => Content::Cells { label: label.into(), cells },
        content => content,
    };
    (wordy.x.label, wordy.y.label) = (format!("x: {label}"), format!("y: {label}"));
    // Nothing of a label is cut.
    for figure in [wordy.clone(), column(wordy.clone())] {
        let scene = paint::scene(&figure);
        let lines: Vec<&str> = texts(&scene).iter().map(|text| text.text.as_str()).collect();
        let upwards: Vec<&str> =
            texts(&scene).iter().filter(|text| text.is_upwards).map(|text| text.text.as_str()).collect();
        assert!(lines.iter().all(|line| !line.contains('…')), "{lines:?}");
        assert!(upwards.join(" ").contains(&format!("y: {label}")), "{upwards:?}");
    }
    let empty = Figure { notes: vec!["no finished trial has these values".into()], ..of(vec![]) };
    for figure in [of(curves), level, of(many), places, rows, claims, heat, wordy, empty] {
        assert_readable(&figure);
        assert_readable(&column(figure));
    }
}

#[test]
fn a_mean_without_an_interval_has_a_hollow_marker() {
    let point = |x: f64, interval| Point { x, y: 1.0, interval, seeds: 2, ..Point::default() };
    let sized = point(1.0, Some((0.5, 1.5)));
    let discs = |points: Vec<Point>| {
        let scene = paint::scene(&of(vec![Series { points, ..Series::default() }]));
        let notes = texts(&scene).iter().filter(|text| text.text.contains("hollow: a single seed")).count();
        let is_white = |shape: &&Shape| matches!(shape, Shape::Disc { ink, .. } if ink.rgb == [255; 3]);
        (scene.shapes.iter().filter(is_white).count(), notes)
    };
    // Two seeds of equal values, and a single seed.
    assert_eq!(discs(vec![sized, point(2.0, Some((1.0, 1.0))), point(3.0, None)]), (2, 1));
    // Where no point has an interval, none stands out.
    assert_eq!(discs(vec![point(1.0, None), point(2.0, None)]), (0, 0));
    assert_eq!(discs(vec![sized]), (0, 0));
}

#[test]
fn many_curves_are_thin_and_the_name_of_the_level_lies_over_them() {
    let drawn = |n: usize| {
        let curves = (0..n).map(|i| Series { mark: Mark::Line, ..curve("", i, &[1.0 + i as f64, 2.0]) });
        let mut figure = of(curves.collect());
        figure.level = Some((2.0, "even"));
        paint::scene(&figure)
    };
    let (few, many) = (drawn(12), drawn(48));
    let wide = |scene: &Scene| {
        scene.shapes.iter().filter(|s| matches!(s, Shape::Line { width, .. } if *width == 1.2)).count()
    };
    assert_eq!((wide(&few), wide(&many)), (12, 0));
    assert!(texts(&many).iter().any(|text| text.text.contains("48 curves")));
    let coloured = |shape: &Shape| matches!(shape, Shape::Line { ink, .. } if ink.rgb[0] != ink.rgb[1]);
    let last = many.shapes.iter().rposition(coloured).unwrap();
    let name =
        many.shapes.iter().position(|s| matches!(s, Shape::Text(text) if text.text == "even")).unwrap();
    assert!(name > last, "{name} {last}");
}

#[test]
fn every_subject_of_c_eval_has_a_row_that_can_be_read() {
    let points: Vec<Point> =
        (0..52).map(|i| Point { x: 25.0, y: f64::from(i), ..Point::default() }).collect();
    let models = (0..3).map(|colour| Series { colour, points: points.clone(), ..Series::default() });
    let mut figure = of(models.collect());
    (figure.is_sideways, figure.y.categories) = (true, (0..52).map(|i| format!("subject {i}")).collect());
    let scene = paint::scene(&figure);
    let rows: Vec<_> = texts(&scene).into_iter().filter(|text| text.text.starts_with("subject ")).collect();
    assert_eq!(rows.len(), 52);
    // The first on top, each at least as high as its text.
    assert!(rows.windows(2).all(|pair| pair[1].at.1 - pair[0].at.1 >= TEXT), "{}", scene.height);
    // They fit a page of A4 with margins of an inch.
    assert!(scene.height < 9.69 * 72.0, "{}", scene.height);
}

#[test]
fn curves_of_seeds_are_in_the_csv_with_the_name_of_their_colour() {
    let mut mean = curve("deep", 0, &[2.0]);
    mean.points[0] = Point { interval: Some((1.5, 2.5)), seeds: 2, ..mean.points[0] };
    let faint = Series { mark: Mark::SeedLine, seed: Some(7), ..curve("", 0, &[1.75]) };
    let csv = String::from_utf8(of(vec![faint, mean]).csv().unwrap()).unwrap();
    assert_eq!(csv, "series,x,y,low,high,seeds,seed,n\ndeep,1,1.75,,,,7,\ndeep,1,2,1.5,2.5,2,,\n");
}

#[test]
fn names_that_no_font_has_get_numbers() {
    let series = |label: &str| Series { label: label.into(), ..Series::default() };
    let figure = Figure {
        x: Axis { categories: vec!["数学".into(), "law".into()], ..Axis::default() },
        ..of(vec![series("法律"), series("数学"), series("wide")])
    };
    let (numbered, notice) = figure.with_numbered_names(str::is_ascii);
    let numbered = numbered.unwrap();
    let Content::Series(found) = numbered.content else { panic!() };
    assert_eq!(found.iter().map(|s| s.label.as_str()).collect::<Vec<_>>(), ["#1", "#2", "wide"]);
    assert_eq!(numbered.x.categories, ["#2", "law"]);
    assert!(notice.contains("#1 = 法律, #2 = 数学;"), "{notice}");
    assert_eq!(figure.with_numbered_names(|_| true), (None, String::new()));
    let cells = vec![vec![Some((0.5, "五".to_string())), None]];
    let content = Content::Cells { label: "準確率".into(), cells };
    let heatmap = Figure { legend_title: "深度".into(), content, ..of(vec![]) };
    let numbered = heatmap.with_numbered_names(str::is_ascii).0.unwrap();
    let cells = vec![vec![Some((0.5, "#2".to_string())), None]];
    assert_eq!(numbered.content, Content::Cells { label: "#1".into(), cells });
    assert_eq!(numbered.legend_title, "#3");
}
