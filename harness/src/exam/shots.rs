//! Shots: solved questions shown before the one to be answered.

use super::sheet::{Sheet, SheetQuestion};
use crate::track::counted;
use anyhow::{Result, ensure};
use std::collections::BTreeMap;

/// Solved questions of each subject, in the order in which they are shown.
pub type Shots = BTreeMap<String, Vec<SheetQuestion>>;

/// Returns the first `count` solved questions of each subject of `sheets`; `from` names the origin of `dev` in messages.
///
/// # Errors
/// If a subject has fewer than `count`.
pub fn shots(dev: Vec<Sheet>, count: usize, sheets: &[Sheet], from: &str) -> Result<Shots> {
    let mut solved: Shots = dev.into_iter().map(|sheet| (sheet.subject, sheet.questions)).collect();
    let mut missing = vec![];
    let mut shots = Shots::new();
    for Sheet { subject, .. } in sheets.iter().filter(|_| count > 0) {
        let mut questions = solved.remove(subject).unwrap_or_default();
        match questions.len() {
            0 => missing.push(format!("{subject} has no dev sheet")),
            found if found < count => missing.push(format!("{subject} has {found}")),
            _ => {}
        }
        questions.truncate(count);
        shots.insert(subject.clone(), questions);
    }
    let (shown, more) = missing.split_at(missing.len().min(5));
    let more =
        if more.is_empty() { String::new() } else { format!(" and {}", counted(more.len(), "more subject")) };
    ensure!(
        missing.is_empty(),
        "{from}: too few solved questions for {}: {}{more}; ask for fewer shots or give more questions",
        counted(count, "shot"),
        shown.join(", ")
    );
    Ok(shots)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sheet(subject: &str, questions: usize) -> Sheet {
        let question = |id: usize| SheetQuestion {
            id: id.to_string(),
            question: format!("{subject} {id}"),
            options: ["a", "b", "c", "d"].map(String::from).into(),
            answer: 'A',
        };
        Sheet { subject: subject.into(), questions: (0..questions).map(question).collect() }
    }

    #[test]
    fn every_subject_gets_its_first_solved_questions_or_all_that_lack_some_are_named() {
        let asked = ["art", "law"].map(|subject| sheet(subject, 1));
        let dev = || vec![sheet("law", 3), sheet("art", 2), sheet("unasked", 1)];
        let given = shots(dev(), 2, &asked, "dev").unwrap();
        let ids = |subject: &str| given[subject].iter().map(|q| q.question.clone()).collect::<Vec<_>>();
        assert_eq!(given.len(), 2);
        assert_eq!(
            (ids("art"), ids("law")),
            (vec!["art 0".into(), "art 1".into()], vec!["law 0".into(), "law 1".into()])
        );
        assert!(shots(dev(), 0, &asked, "dev").unwrap().is_empty());
        let error = |dev, count| shots(dev, count, &asked, "dev").unwrap_err().to_string();
        let mend = "; ask for fewer shots or give more questions";
        assert_eq!(error(dev(), 3), format!("dev: too few solved questions for 3 shots: art has 2{mend}"));
        assert_eq!(
            error(vec![sheet("law", 1)], 2),
            format!("dev: too few solved questions for 2 shots: art has no dev sheet, law has 1{mend}")
        );
    }
}
