//! Claims with their verdicts, formatted for the page.

use super::super::analysis::compare::{Comparison, Verdict};
use super::super::number::{NOTHING, difference, p_text};
use super::super::results::summary::Setting;
use minijinja::{Value, context};

/// The claims in the order of the experiment.
pub fn values(compared: &[Comparison]) -> Vec<Value> {
    compared.iter().map(value).collect()
}

fn value(c: &Comparison) -> Value {
    let metric = &c.spec.metric;
    let shown = |value: Option<f64>| value.map_or(NOTHING.into(), |value| difference(value, metric));
    let n = match (c.n, c.spec.paired_by.is_empty()) {
        ((0, 0), _) => NOTHING.into(),
        ((pairs, _), false) => crate::track::counted(pairs, "paired seed"),
        ((a, b), true) => format!("{a} and {}", crate::track::counted(b, "seed")),
    };
    let (mark, class) = match c.verdict {
        Verdict::Supported => ("✓", "supported"),
        Verdict::Contradicted => ("✗", "contradicted"),
        Verdict::Equivalent => ("≈", "equivalent"),
        Verdict::NotDecided(_) => ("?", "undecided"),
    };
    let interval =
        c.tested.map(|t| format!("{} to {}", shown(Some(t.interval.0)), shown(Some(t.interval.1))));
    context! {
        claim => c.spec.claim,
        mark, class,
        verdict => c.verdict.word(),
        why => why(c),
        metric => metric.label(),
        a => context! { condition => c.spec.a.text, mean => shown(c.means.map(|m| m.0)) },
        b => context! { condition => c.spec.b.text, mean => shown(c.means.map(|m| m.1)) },
        effect => shown(c.effect()),
        interval => interval.unwrap_or_else(|| NOTHING.into()),
        n,
        test => c.test,
        p => c.tested.map_or(NOTHING.into(), |t| p_text(t.p)),
        p_holm => c.tested.map_or(NOTHING.into(), |t| p_text(t.p_holm)),
        detectable => shown(c.tested.and_then(|t| t.detectable)),
        margin => c.spec.margin.map(|margin| difference(margin, metric)),
        family => c.spec.family,
    }
}

/// The part of the sentence of a verdict after its word: a reason, or what was left out.
fn why(c: &Comparison) -> String {
    let sentence = c.sentence();
    let rest = sentence.strip_prefix(c.verdict.word()).unwrap_or(&sentence);
    let rest = rest.trim_start_matches([':', ' ']);
    let mut letters = rest.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// Whether an exam was scored in which no setting is better than guessing, and claims concern an exam or there are
/// none.
pub fn is_at_chance(compared: &[Comparison], settings: &[Setting]) -> bool {
    let tested: Vec<bool> =
        settings.iter().filter_map(|s| Some(s.guessing?.is_better() == Some(true))).collect();
    let is_of_exam = compared.is_empty() || compared.iter().any(|c| c.spec.metric.is_of_exam());
    is_of_exam && !tested.is_empty() && !tested.contains(&true)
}
