//! The figure of perplexity against context length.

use super::figure::{Axis, Content, Figure, Mark, Point, Series};
use super::output::Output;
use crate::exam::LengthLoss;
use anyhow::Result;
use std::path::Path;

/// Writes `figures/perplexity_by_length.svg`, `.png`, `.pdf` and `.csv` into a folder; `trained` is the context length of training.
///
/// # Errors
/// Returns an error if a file cannot be written or the figure cannot be drawn.
pub fn write_length_figure(found: &[LengthLoss], trained: usize, out: &Path) -> Result<()> {
    figure(found, trained).write(&mut Output::open(out, &["figures"])?)?;
    Ok(())
}

fn figure(found: &[LengthLoss], trained: usize) -> Figure {
    let mut series: Vec<Series> = vec![];
    for one in found {
        if series.last().is_none_or(|last| last.label != one.scaling) {
            let colour = series.len();
            let label = one.scaling.clone();
            series.push(Series { label, mark: Mark::Joined, colour, ..Series::default() });
        }
        let interval = one.interval.map(|(low, high)| (low.exp(), high.exp()));
        let point = Point { x: one.length as f64, y: one.perplexity(), interval, ..Point::default() };
        if let Some(last) = series.last_mut() {
            last.points.push(point);
        }
    }
    let (windows, tokens) = found.first().map_or((0, 0), |one| (one.windows, one.tokens));
    Figure {
        name: "perplexity_by_length".into(),
        title: "Perplexity by length of context".into(),
        x: Axis { label: "context (tokens)".into(), log: Some(true), ..Axis::default() },
        y: Axis { label: "perplexity".into(), ..Axis::default() },
        content: Content::Series(series),
        notes: vec![
            format!("trained with {trained} positions; the same {tokens} tokens at every length"),
            format!("bands: 95 % intervals over {windows} windows"),
        ],
        ..Figure::default()
    }
}
