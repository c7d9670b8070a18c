//! The sentences above everything: what may be believed.

use super::number::shuffled_p;
use super::summary::Setting;
use crate::stats::{PERMUTATIONS, Spread};

/// Most settings that a sentence without a test names.
const MOST_NAMED: usize = 8;

/// What an exam may tell of a setting.
const VERDICTS: [&str; 4] = [
    "Better than guessing",
    "Worse than guessing",
    "Not distinguishable from guessing",
    "Not tested, as no answers are recorded",
];

/// What may be believed of some settings: of guessing, where exams were sat; else of held-out text.
pub fn headline(settings: &[Setting]) -> Vec<String> {
    if settings.is_empty() {
        return vec!["No trial has finished.".into()];
    }
    let (examined, others): (Vec<&Setting>, Vec<&Setting>) =
        settings.iter().partition(|s| s.answers.is_some());
    let mut lines = if examined.is_empty() { vec![] } else { guessing(&examined) };
    lines.extend(if others.is_empty() { None } else { measured(&others, !examined.is_empty()) });
    if settings.iter().any(|s| s.trials.len() < 2) {
        let luck = match examined.is_empty() {
            true => "nothing tells the luck of their training.",
            false => "their intervals cover the questions drawn, not the luck of training.",
        };
        lines.push(format!("Some settings have a single seed: {luck}"));
    }
    lines
}

fn guessing(examined: &[&Setting]) -> Vec<String> {
    let told = |s: &Setting| {
        let share = s.answers.map_or(f64::NAN, |answers| 100.0 * answers.share());
        let p = s.guessing.map_or_else(
            || "untested".into(),
            |g| match shuffled_p(g.p_holm, g.test.is_bound) {
                bound if bound.starts_with('<') => format!("p {bound}"),
                p => format!("p = {p}"),
            },
        );
        format!("{} ({share:.1} %, {p})", s.label)
    };
    let verdict = |s: &Setting| match s.guessing.map(|guessing| guessing.is_better()) {
        Some(Some(true)) => 0,
        Some(Some(false)) => 1,
        Some(None) => 2,
        None => 3,
    };
    let line = |(index, start): (usize, &&str)| {
        let found: Vec<String> =
            examined.iter().filter(|s| verdict(s) == index).map(|setting| told(setting)).collect();
        (!found.is_empty()).then(|| format!("{start}: {}.", found.join("; ")))
    };
    let mut lines: Vec<String> = VERDICTS.iter().enumerate().filter_map(line).collect();
    let tested = examined.iter().filter(|s| s.guessing.is_some()).count();
    if tested > 0 {
        lines.push(format!(
            "Fisher's randomisation test, two-sided: the right letters are shuffled {} times within each subject, alike for all \
             seeds of a setting, so that a liking for a letter does not count and seeds that answer alike count once; where no \
             shuffle comes as far as the true key, p is a bound. Corrected by Holm over {}.",
            crate::track::number(u64::from(PERMUTATIONS)),
            crate::track::counted(tested, "setting")
        ));
    }
    lines
}

/// Bits per byte, or else the loss, of settings that sat no exam.
fn measured(settings: &[&Setting], is_part: bool) -> Option<String> {
    let found = |of: fn(&Setting) -> Option<Spread>| -> Vec<(&str, Spread)> {
        settings.iter().filter_map(|s| Some((s.label, of(s)?))).collect()
    };
    let (name, mut found) = match found(|s| s.bpb) {
        bpb if !bpb.is_empty() => ("bits per byte of held-out text", bpb),
        _ => ("validation loss (nats per token)", found(|s| s.val_loss)),
    };
    let highest = found.iter().map(|(_, spread)| spread.mean).max_by(f64::total_cmp)?;
    found.sort_by(|a, b| a.1.mean.total_cmp(&b.1.mean));
    let told: Vec<String> = found
        .iter()
        .take(MOST_NAMED)
        .map(|(label, Spread { n, mean, t95, .. })| {
            let half = t95.map_or(String::new(), |half| format!(" ± {half:.3}"));
            format!("{label} {mean:.3}{half} ({})", crate::track::counted(*n, "seed"))
        })
        .collect();
    let more = match found.len().saturating_sub(MOST_NAMED) {
        0 => String::new(),
        more => format!("; and {more} more up to {highest:.3}"),
    };
    let start = if is_part { "Without an exam, " } else { "No exam was sat. Measured, " };
    Some(format!(
        "{start}{name}, lowest first: {}{more}. ± is the 95 % interval over seeds.",
        told.join("; ")
    ))
}
