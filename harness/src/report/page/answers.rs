//! Continuations of the same prompts by the models of all trials.

use super::super::observation::Results;
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
                    context! { text => found.text.replace('\n', " ↵ "), is_cut => found.is_cut, is_there => true }
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

fn is_same(a: &Sample, b: &Sample) -> bool {
    (&a.prompt, &a.right) == (&b.prompt, &b.right)
}
