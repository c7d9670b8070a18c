//! Continuations of the same prompts by the models of all trials.

use super::super::results::observation::Results;
use super::trials::by_setting;
use crate::records::{Sample, Status, TrialRecord};
use minijinja::{Value, context};

/// Number of prompts, hence columns, per table.
const ACROSS: usize = 4;

/// Returns tables of [`ACROSS`] prompts each, with a row for each finished trial that has samples.
pub fn values(trials: &[TrialRecord], results: &Results) -> Vec<Value> {
    let has_samples = |trial: &&TrialRecord| trial.status == Status::Done && !trial.samples.is_empty();
    let with_samples: Vec<&TrialRecord> =
        by_setting(trials).into_iter().flat_map(|(_, group)| group).filter(has_samples).collect();
    let mut prompts: Vec<&Sample> = vec![];
    for sample in with_samples.iter().flat_map(|trial| &trial.samples) {
        if !prompts.iter().any(|known| is_same(known, sample)) {
            prompts.push(sample);
        }
    }
    let table = |prompts: &[&Sample]| {
        let row = |trial: &&TrialRecord| {
            let cell = |prompt: &&Sample| match trial.samples.iter().find(|found| is_same(found, prompt)) {
                Some(found) => {
                    context! { text => one_line(&found.text), is_cut => found.is_cut, is_there => true }
                }
                None => context! { is_there => false },
            };
            let texts: Vec<Value> = prompts.iter().map(cell).collect();
            context! { label => results.label(trial), seed => trial.seed, texts }
        };
        let heads: Vec<Value> =
            prompts.iter().map(|of| context! { prompt => of.prompt, right => of.right }).collect();
        context! { heads, rows => with_samples.iter().map(row).collect::<Vec<_>>() }
    };
    prompts.chunks(ACROSS).map(table).collect()
}

/// Writes a text on one line: `↵` for a line break, `↵×7` for seven of them.
fn one_line(text: &str) -> String {
    let mut lines = text.split('\n');
    let mut shown = lines.next().unwrap_or_default().to_string();
    let mut breaks = 0;
    for line in lines {
        breaks += 1;
        if line.is_empty() {
            continue;
        }
        shown += &format!("{} {line}", marks(breaks));
        breaks = 0;
    }
    shown + &marks(breaks)
}

fn marks(breaks: usize) -> String {
    match breaks {
        0..=3 => " ↵".repeat(breaks),
        many => format!(" ↵×{many}"),
    }
}

fn is_same(a: &Sample, b: &Sample) -> bool {
    (&a.prompt, &a.right) == (&b.prompt, &b.right)
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn many_line_breaks_are_counted() {
        assert_eq!(["", "a", "a\nb", "\n\na", "a\n"].map(one_line), ["", "a", "a ↵ b", " ↵ ↵ a", "a ↵"]);
        assert_eq!(one_line(&format!("a{}b\n\n\n\n", "\n".repeat(57))), "a ↵×57 b ↵×4");
    }
}
