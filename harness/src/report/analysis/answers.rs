//! Tables of what exam answers show beyond accuracy: means over seeds, each with the counts that it rests on.

use crate::records::{Analysis, GroupScore};
use crate::report::number::{Digits, NOTHING, scaled_with_error};
use crate::report::results::summary::Setting;
use crate::report::tables::grid::Grid;
use crate::track::number;
use stats::{Spread, spread};

/// Names of the tables that every report with exams writes.
pub const NAMES: [&str; 3] = ["answer_analysis", "answer_groups", "answer_letters"];

/// The rows of a setting in a table, from the analyses of its seeds.
type RowsOf<'a> = dyn Fn(&Setting, &[&Analysis]) -> Vec<Vec<String>> + 'a;

/// Builds the tables of [`NAMES`]: averages, letter prior and calibration; groups of subjects; letters. Tables without
/// rows are left out.
pub fn tables(settings: &[Setting]) -> Vec<(&'static str, Grid)> {
    let of = |rows: &RowsOf| {
        settings.iter().flat_map(|setting| rows(setting, &setting.analyses())).collect::<Vec<_>>()
    };
    let digits = |read: fn(&Analysis) -> Option<f64>| {
        Digits::of(3, settings.iter().filter_map(|setting| Some(over(&setting.analyses(), read)?.mean)))
    };
    let (of_log_prob, of_ece) = (digits(log_prob), digits(ece));
    let grids = [
        grid(
            "Accuracy, letter prior and calibration",
            "± 95 % interval over seeds (Student's t). Accuracy is the micro average over questions, the mean over \
             subjects the macro average. The prior of a letter is its mean probability in a subject.",
            "setting,seeds,questions,accuracy (%),subjects,mean over subjects (%),\
             log-probability of the correct option,accuracy without letter prior (%),calibration error",
            1,
            of(&|setting, analyses| averages(setting, analyses, of_log_prob, of_ece)),
        ),
        grid(
            "Groups of subjects",
            "± 95 % interval over seeds (Student's t). Groups are C-Eval's.",
            "setting,group,seeds,questions,accuracy (%),subjects,mean over subjects (%)",
            2,
            of(&|setting, analyses| groups(setting.label, analyses)),
        ),
        grid(
            "Letters of the chosen and of the correct options",
            "Counted over the answers of all seeds.",
            "setting,letter,answers,chosen (%),correct option (%),recall (%)",
            2,
            of(&|setting, analyses| letters(setting.label, analyses)),
        ),
    ];
    NAMES.into_iter().zip(grids).filter(|(_, grid)| !grid.rows.is_empty()).collect()
}

fn grid(title: &str, note: &str, heads: &str, text_columns: usize, rows: Vec<Vec<String>>) -> Grid {
    Grid {
        title: title.into(),
        note: note.into(),
        heads: heads.split(',').map(String::from).collect(),
        text_columns,
        rows: rows.into_iter().map(|row| row.into_iter().map(Into::into).collect()).collect(),
        ..Grid::default()
    }
}

/// Spread over seeds of a number read from each seed's answers.
fn over(analyses: &[&Analysis], read: impl Fn(&Analysis) -> Option<f64>) -> Option<Spread> {
    spread(&analyses.iter().filter_map(|of| read(of)).filter(|value| value.is_finite()).collect::<Vec<_>>())
}

/// The count that all seeds of a setting share, or the distinct counts joined by "or".
fn common(values: impl Iterator<Item = u64>) -> String {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.dedup();
    values.into_iter().map(number).collect::<Vec<_>>().join(" or ")
}

fn log_prob(of: &Analysis) -> Option<f64> {
    Some(of.log_prob)
}

fn ece(of: &Analysis) -> Option<f64> {
    Some(of.calibration.as_ref()?.ece)
}

fn averages(
    setting: &Setting,
    analyses: &[&Analysis],
    of_log_prob: Digits,
    of_ece: Digits,
) -> Vec<Vec<String>> {
    let seeds = analyses.len();
    if seeds == 0 {
        return vec![];
    }
    let cell = |scale: f64, digits: Digits, read: fn(&Analysis) -> Option<f64>| {
        scaled_with_error(over(analyses, read), scale, digits, seeds)
    };
    let percent = Digits::fixed(1);
    vec![vec![
        setting.label.into(),
        seeds.to_string(),
        setting.answers.map_or(NOTHING.into(), |answers| number(answers.questions)),
        scaled_with_error(setting.accuracy, 100.0, percent, seeds),
        common(analyses.iter().map(|of| of.subjects as u64)),
        cell(100.0, percent, |of| Some(of.macro_accuracy)),
        cell(1.0, of_log_prob, log_prob),
        cell(100.0, percent, |of| Some(of.accuracy_without_prior)),
        cell(1.0, of_ece, ece),
    ]]
}

fn groups(label: &str, analyses: &[&Analysis]) -> Vec<Vec<String>> {
    let mut names: Vec<&str> = vec![];
    for group in analyses.iter().flat_map(|of| &of.groups) {
        if !names.contains(&group.group) {
            names.push(group.group);
        }
    }
    let row = |name: &str| {
        let of = |analysis: &Analysis| analysis.groups.iter().find(|group| group.group == name).cloned();
        let found: Vec<GroupScore> = analyses.iter().filter_map(|analysis| of(analysis)).collect();
        let cell = |read: fn(&GroupScore) -> f64| {
            let share = over(analyses, |analysis| of(analysis).as_ref().map(read));
            scaled_with_error(share, 100.0, Digits::fixed(1), found.len())
        };
        vec![
            label.into(),
            name.into(),
            found.len().to_string(),
            common(found.iter().map(|group| group.tally.questions)),
            cell(|group| group.accuracy),
            common(found.iter().map(|group| group.subjects as u64)),
            cell(|group| group.macro_accuracy),
        ]
    };
    names.into_iter().map(row).collect()
}

/// Rows by letter, counted over the answers of all seeds together.
fn letters(label: &str, analyses: &[&Analysis]) -> Vec<Vec<String>> {
    let Some(most) = analyses.iter().max_by_key(|of| of.letters.len()) else { return vec![] };
    let count = |right: Option<usize>, chosen: Option<usize>| -> u64 {
        let is = |wanted: Option<usize>, place: usize| wanted.is_none_or(|wanted| wanted == place);
        let rows = analyses.iter().flat_map(|of| of.confusion.iter().enumerate());
        let cells = rows.filter(|(i, _)| is(right, *i)).flat_map(|(_, row)| row.iter().enumerate());
        cells.filter(|(j, _)| is(chosen, *j)).map(|(_, count)| count).sum()
    };
    let all = count(None, None);
    let share = |part: u64, of: u64| match of {
        0 => NOTHING.into(),
        _ => format!("{:.1}", 100.0 * part as f64 / of as f64),
    };
    let row = |(i, letter): (usize, char)| {
        let in_key = count(Some(i), None);
        let right = match in_key {
            0 => NOTHING.into(),
            _ => format!("{} (n={})", share(count(Some(i), Some(i)), in_key), number(in_key)),
        };
        let (chosen, key) = (share(count(None, Some(i)), all), share(in_key, all));
        vec![label.into(), letter.to_string(), number(all), chosen, key, right]
    };
    most.letters.iter().map(|of| of.letter).enumerate().map(row).collect()
}
