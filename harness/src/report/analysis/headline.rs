//! The headline of a report: sentences on what its results support.

use crate::report::number::{Digits, shuffled_p};
use crate::report::results::summary::Setting;
use stats::{PERMUTATIONS, Spread};

/// Maximum number of settings that a sentence names; the tables have all of them.
const MAX_NAMED: usize = 3;

/// The possible verdicts of an exam on a setting.
const VERDICTS: [&str; 4] = [
    "Better than guessing",
    "Worse than guessing",
    "Not distinguishable from guessing",
    "Not tested, as no answers are recorded",
];

/// Returns the headline: the test of guessing for settings with an exam, the loss on held-out text for the others.
pub fn headline(settings: &[Setting]) -> Vec<String> {
    if settings.is_empty() {
        return vec!["No trial has finished.".into()];
    }
    let (examined, others): (Vec<&Setting>, Vec<&Setting>) =
        settings.iter().partition(|s| s.answers.is_some());
    let mut lines = if examined.is_empty() { vec![] } else { guessing(&examined) };
    lines.extend(if others.is_empty() { None } else { measured(&others, !examined.is_empty()) });
    if settings.iter().any(|s| s.trials.len() < 2) {
        let caveat = match examined.is_empty() {
            true => "the variation between seeds is unknown.",
            false => "their intervals cover the sampling of questions, not the variation between seeds.",
        };
        lines.push(format!("Some settings have a single seed: {caveat}"));
    }
    lines
}

fn guessing(examined: &[&Setting]) -> Vec<String> {
    let share = |s: &Setting| s.answers.map_or(f64::NAN, |answers| 100.0 * answers.share());
    let described = |s: &Setting| {
        let p = s.guessing.map_or_else(
            || "untested".into(),
            |g| match shuffled_p(g.p_holm, g.test.is_bound) {
                bound if bound.starts_with('<') => format!("p {bound}"),
                p => format!("p = {p}"),
            },
        );
        format!("{} ({:.1} %, {p})", s.label, share(s))
    };
    let verdict = |s: &Setting| match s.guessing.map(|guessing| guessing.is_better()) {
        Some(Some(true)) => 0,
        Some(Some(false)) => 1,
        Some(None) => 2,
        None => 3,
    };
    let line = |(index, start): (usize, &&str)| {
        let mut found: Vec<&Setting> =
            examined.iter().copied().filter(|setting| verdict(setting) == index).collect();
        found.sort_by(|a, b| share(b).total_cmp(&share(a)));
        let lowest = share(found.last()?);
        let names = found.iter().map(|setting| described(setting));
        Some(format!("{start}: {}.", listed(names.collect(), &format!("down to {lowest:.1} %"))))
    };
    VERDICTS.iter().enumerate().filter_map(line).collect()
}

/// How guessing is tested; `None` if no setting is.
pub fn test_of_guessing(settings: &[Setting]) -> Option<String> {
    let tested = settings.iter().filter(|s| s.guessing.is_some()).count();
    (tested > 0).then(|| {
        format!(
            "Guessing is tested by Fisher's randomisation test, two-sided: the correct letters are shuffled {} times within each \
             subject, in the same way for all seeds of a setting, so that a preference for a letter has no effect and identical \
             answers of several seeds count once; if no shuffle is as extreme as the true key, p is an upper bound. Corrected by \
             Holm over {}.",
            crate::track::number(u64::from(PERMUTATIONS)),
            crate::track::counted(tested, "setting")
        )
    })
}

/// Sentence on the bits per byte, or else the validation loss, of settings without an exam.
fn measured(settings: &[&Setting], is_part: bool) -> Option<String> {
    let found = |of: fn(&Setting) -> Option<Spread>| -> Vec<(&str, Spread)> {
        settings.iter().filter_map(|s| Some((s.label, of(s)?))).collect()
    };
    let (name, mut found) = match found(|s| s.bpb) {
        bpb if !bpb.is_empty() => ("bits per byte of held-out text", bpb),
        _ => ("validation loss (nats per token)", found(|s| s.val_loss)),
    };
    found.sort_by(|a, b| a.1.mean.total_cmp(&b.1.mean));
    let digits = Digits::of(3, found.iter().map(|(_, spread)| spread.mean));
    let highest = digits.text(found.last()?.1.mean);
    let described = |(label, Spread { n, mean, t95, .. }): &(&str, Spread)| {
        let half = t95.map_or(String::new(), |half| format!(" ± {}", digits.half(half)));
        format!("{label} {}{half} ({})", digits.text(*mean), crate::track::counted(*n, "seed"))
    };
    let start = if is_part { "Settings without an exam" } else { "No exam was taken. Settings" };
    Some(format!(
        "{start} by {name}, lowest first: {}. ± is the 95 % interval over seeds.",
        listed(found.iter().map(described).collect(), &format!("up to {highest}"))
    ))
}

/// Joins names, of which the last stand for themselves as `and 12 more down to 31.0 %` if they are many.
fn listed(mut names: Vec<String>, rest: &str) -> String {
    let more = names.len().saturating_sub(MAX_NAMED);
    // One more takes no more room than its number.
    if more > 1 {
        names.truncate(MAX_NAMED);
        names.push(format!("and {more} more {rest}"));
    }
    names.join("; ")
}
