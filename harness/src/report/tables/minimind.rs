//! Tables in MiniMind's layout for C-Eval: correct answers of each model, in total and by subject.

use super::grid::{Grid, GridCell};
use crate::report::experiment::table_spec::TableSpec;
use crate::report::kind::group_label;
use crate::report::results::observation::{Observation, Pooled, distinct, grouped, p_of_guessing};
use stats::holm;

/// Builds the summary, then a table of subjects for each model that took an exam. A model is a setting, or a combination of
/// the columns of `rows`.
pub fn tables(spec: &TableSpec, observations: &[&Observation]) -> Vec<Grid> {
    let models: Vec<(String, Vec<&Observation>)> =
        models(spec, observations).into_iter().filter(|(_, group)| Pooled::of(group).is_some()).collect();
    let seeds: Vec<usize> = models.iter().map(|(_, group)| seeds(group)).collect();
    let of_seeds = |n: usize| if n > 1 { format!("Answers of {n} seeds together.") } else { String::new() };
    let mut notes = match (seeds.iter().min(), seeds.iter().max()) {
        (Some(least), Some(most)) if least == most => vec![of_seeds(*most)],
        (Some(_), Some(_)) => vec!["Answers of all seeds of a model together.".into()],
        _ => vec!["No finished trial took an exam.".into()],
    };
    notes.extend(guessing(&models));
    notes.retain(|note| !note.is_empty());
    let summary = |(name, group): &(String, Vec<&Observation>)| {
        let answers = Pooled::of(group)?;
        let counts = [answers.correct, answers.asked].map(|count| count.to_string());
        Some(cells([name.clone()].into_iter().chain(counts).chain([percent(&answers)])))
    };
    let mut grids = vec![Grid {
        title: spec.title.clone(),
        note: notes.join(" "),
        heads: ["model", "correct", "questions", "accuracy"].map(String::from).into(),
        text_columns: 1,
        rows: models.iter().filter_map(summary).collect(),
        ..Grid::default()
    }];
    grids.extend(models.iter().zip(&seeds).map(|((name, group), seeds)| Grid {
        title: if spec.title.is_empty() { name.clone() } else { format!("{}: {name}", spec.title) },
        note: of_seeds(*seeds),
        heads: ["category", "correct/total", "accuracy"].map(String::from).into(),
        text_columns: 1,
        rows: subjects(group),
        ..Grid::default()
    }));
    grids
}

fn models<'o, 'a>(
    spec: &TableSpec,
    observations: &[&'o Observation<'a>],
) -> Vec<(String, Vec<&'o Observation<'a>>)> {
    if !spec.rows.is_empty() {
        let name = |key: Vec<_>| {
            let parts: Vec<String> =
                key.iter().zip(&spec.rows).map(|(value, column)| group_label(column, value)).collect();
            parts.join(", ")
        };
        return grouped(observations, &spec.rows)
            .into_iter()
            .map(|(key, group)| (name(key), group))
            .collect();
    }
    let mut models: Vec<(String, Vec<&Observation>)> = vec![];
    for observation in distinct(observations) {
        match models.iter_mut().find(|(name, _)| name == observation.label) {
            Some((_, group)) => group.push(observation),
            None => models.push((observation.label.into(), vec![observation])),
        }
    }
    models
}

fn seeds(group: &[&Observation]) -> usize {
    group.iter().map(|o| o.trial.seed).collect::<std::collections::BTreeSet<_>>().len()
}

/// Rows of the subjects in order of name, then of the total.
fn subjects(group: &[&Observation]) -> Vec<Vec<GridCell>> {
    let parts: Vec<Observation> = group.iter().flat_map(|o| o.by_subject()).collect();
    let subject = |o: &Observation| o.score.as_ref().and_then(|score| score.subject.clone());
    let mut names: Vec<String> = parts.iter().filter_map(subject).collect();
    names.sort();
    names.dedup();
    let row = |name: String, answers: Pooled| {
        cells([name, format!("{}/{}", answers.correct, answers.asked), percent(&answers)])
    };
    let of = |name: String| {
        let own: Vec<&Observation> = parts.iter().filter(|o| subject(o).as_ref() == Some(&name)).collect();
        Some(row(name, Pooled::of(&own)?))
    };
    let all = Pooled::of(group).map(|answers| row("total".into(), answers));
    names.into_iter().filter_map(of).chain(all).collect()
}

fn percent(answers: &Pooled) -> String {
    format!("{:.2}%", 100.0 * answers.share())
}

fn cells(texts: impl IntoIterator<Item = String>) -> Vec<GridCell> {
    texts.into_iter().map(GridCell::from).collect()
}

/// Note on which models differ significantly from guessing; `None` if none could be tested.
fn guessing(models: &[(String, Vec<&Observation>)]) -> Option<String> {
    let tested: Vec<(&str, f64)> =
        models.iter().filter_map(|(name, group)| Some((name.as_str(), p_of_guessing(group)?.p))).collect();
    let p = holm(&tested.iter().map(|(_, p)| *p).collect::<Vec<_>>());
    let different: Vec<&str> =
        tested.iter().zip(p).filter(|(_, p)| *p < 0.05).map(|((name, _), _)| *name).collect();
    let how = "by Fisher's randomisation test, corrected by Holm over the models";
    match different.len() {
        _ if tested.is_empty() => None,
        0 => Some(format!("No model differs significantly from guessing (p ≥ 0.05 {how}).")),
        n if n == models.len() => {
            Some(format!("Every model differs significantly from guessing (p < 0.05 {how})."))
        }
        _ => {
            Some(format!("Significantly different from guessing (p < 0.05 {how}): {}.", different.join("; ")))
        }
    }
}
