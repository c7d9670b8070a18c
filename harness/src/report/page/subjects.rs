//! Table of accuracy with a row per subject and a column per setting, and the averages of C-Eval's groups.

use super::super::number::NOTHING;
use super::super::results::observation::Pooled;
use super::super::results::summary::Setting;
use super::{ACROSS, MARGIN, longest_word};
use crate::records::{GUESSING, group_of, groups};
use crate::track::{counted, number};
use minijinja::{Value, context};
use std::collections::BTreeMap;

/// Index of the darkest shade.
const DARKEST: f64 = 9.0;

/// Heading of subjects that belong to no group.
const OTHER: &str = "other subjects";

/// Letters that the columns of subjects and questions take of those across a printed page.
const TAKEN: usize = 38;

/// The answers of one setting, by subject.
type Answers = BTreeMap<String, Pooled>;

/// Returns the table; `None` if no exam has recorded answers.
pub fn values(settings: &[Setting]) -> Option<Value> {
    let examined: Vec<(&str, Answers)> = settings
        .iter()
        .map(|setting| (setting.label, setting.subjects().into_iter().collect::<Answers>()))
        .filter(|(_, answers)| !answers.is_empty())
        .collect();
    let mut all: Vec<&str> = examined.iter().flat_map(|(_, a)| a.keys().map(String::as_str)).collect();
    all.sort_unstable();
    all.dedup();
    let is_of = |group: &str, subject: &&&str| group_of(subject).unwrap_or(OTHER) == group;
    let of_group = |group| (group, all.iter().filter(|subject| is_of(group, subject)).copied().collect());
    let groups = groups().chain([OTHER]).map(of_group);
    let groups: Vec<(&str, Vec<&str>)> =
        groups.filter(|(_, subjects): &(_, Vec<&str>)| !subjects.is_empty()).collect();
    let columns: Vec<&Answers> = examined.iter().map(|(_, answers)| answers).collect();
    let is_grouped = groups.len() > 1 || groups.iter().any(|(group, _)| *group != OTHER);
    let shown = groups.iter().map(|(group, subjects)| {
        let rows: Vec<Value> = subjects.iter().map(|subject| row(subject, &[*subject], &columns)).collect();
        let name = || format!("{group}: {}", counted(subjects.len(), "subject"));
        context! { name => is_grouped.then(name), averages => is_grouped.then(|| averages(subjects, &columns)), rows }
    });
    let labels: Vec<&str> = examined.iter().map(|(label, _)| *label).collect();
    let is_upright = labels.iter().map(|label| longest_word(label) + MARGIN).sum::<usize>() + TAKEN > ACROSS;
    (!all.is_empty()).then(|| {
        let subjects = counted(all.len(), "subject");
        context! { labels, is_upright, averages => averages(&all, &columns), groups => shown.collect::<Vec<_>>(), subjects }
    })
}

/// Returns the micro average, over questions, and the macro average, over subjects.
fn averages(subjects: &[&str], columns: &[&Answers]) -> Vec<Value> {
    let macro_average = |answers: &&Answers| {
        let found = of(answers, subjects);
        let mean = |read: &dyn Fn(&Pooled) -> f64| found.iter().map(read).sum::<f64>() / found.len() as f64;
        (!found.is_empty()).then(|| cell(mean(&Pooled::share), mean(&chance)))
    };
    let cells: Vec<Value> = columns.iter().map(|a| macro_average(a).unwrap_or_else(nothing)).collect();
    vec![
        row("micro average", subjects, columns),
        context! { head => "macro average", questions => "", cells },
    ]
}

/// The accuracy of each setting over all questions of some subjects.
fn row(head: &str, subjects: &[&str], columns: &[&Answers]) -> Value {
    let asked =
        columns.iter().map(|answers| of(answers, subjects).iter().map(|p| p.questions).sum::<u64>()).max();
    let cells = columns.iter().map(|answers| {
        let found = of(answers, subjects);
        let count = |read: fn(&Pooled) -> u64| found.iter().map(read).sum::<u64>() as f64;
        let all = count(|p| p.asked);
        let by_chance = found.iter().map(|p| chance(p) * p.asked as f64).sum::<f64>() / all;
        if found.is_empty() { nothing() } else { cell(count(|p| p.correct) / all, by_chance) }
    });
    let questions = number(asked.unwrap_or(0));
    context! { head, questions, cells => cells.collect::<Vec<_>>() }
}

/// The answers of one setting for each of some subjects.
fn of(answers: &Answers, subjects: &[&str]) -> Vec<Pooled> {
    subjects.iter().filter_map(|subject| answers.get(*subject).copied()).collect()
}

fn chance(of: &Pooled) -> f64 {
    of.guessing.unwrap_or(GUESSING)
}

/// Formats a share in percent with its shade: none at the level of guessing or below, the darkest if all answers are
/// right.
fn cell(share: f64, chance: f64) -> Value {
    let beyond = ((share - chance) / (1.0 - chance)).clamp(0.0, 1.0);
    context! { text => format!("{:.0}", 100.0 * share), heat => (DARKEST * beyond).ceil() as u8 }
}

fn nothing() -> Value {
    context! { text => NOTHING, heat => 0 }
}
