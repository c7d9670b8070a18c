//! Trials side by side: the same setting over its seeds, and the numbers that go into tables and figures.

use super::observation::{Observation, Pooled, Results, p_of_guessing};
use crate::records::{Analysis, ExamScore, TrialRecord};
use crate::stats::{Randomised, Spread, holm, spread};
use rayon::prelude::*;
use uuid::Uuid;

/// The exam of one trial after one stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Row<'a> {
    /// The trial.
    pub trial: &'a TrialRecord,
    /// The exam; `None` where none was sat.
    pub exam: Option<&'a ExamScore>,
}

/// One row per trial and exam; a trial without an exam has one row.
pub fn rows(trials: &[TrialRecord]) -> Vec<Row<'_>> {
    let mut rows = vec![];
    for trial in trials {
        if trial.exams.is_empty() {
            rows.push(Row { trial, exam: None });
        }
        rows.extend(trial.exams.iter().map(|exam| Row { trial, exam: Some(exam) }));
    }
    rows
}

/// One setting over its seeds, by the exam after its last stage.
#[derive(Debug, Clone)]
pub struct Setting<'a> {
    /// What sets it apart: `n_layers=4 d_model=64`.
    pub label: &'a str,
    /// Its trials that finished, one for each seed.
    pub trials: Vec<&'a TrialRecord>,
    /// What they scored.
    observations: Vec<Observation<'a>>,
    /// Their answers; `None` where no exam was sat.
    pub answers: Option<Pooled>,
    /// Accuracy over seeds.
    pub accuracy: Option<Spread>,
    /// Accuracy on the questions that do not stand in training text, over seeds; `None` where they were not looked for.
    pub clean: Option<Spread>,
    /// Bits per byte over seeds.
    pub bpb: Option<Spread>,
    /// Validation loss over seeds.
    pub val_loss: Option<Spread>,
    /// The test of guessing by all answers together.
    pub guessing: Option<Guessing>,
}

/// The test of guessing of one setting among others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guessing {
    /// The test.
    pub test: Randomised,
    /// Its p after Holm's correction over all settings.
    pub p_holm: f64,
}

impl Guessing {
    /// Whether more answers are right than by shuffled keys, fewer, or neither beyond chance.
    pub fn is_better(&self) -> Option<bool> {
        (self.p_holm < 0.05).then_some(self.test.statistic as f64 > self.test.expected)
    }
}

impl Setting<'_> {
    /// Whether questions of its exams stand in training text.
    pub fn is_contaminated(&self) -> bool {
        let of = |o: &Observation| o.score.as_ref().and_then(|score| score.contaminated);
        self.observations.iter().filter_map(of).any(|found| found.questions > 0)
    }

    /// The accuracy with the interval that a figure shows: Student's t over seeds, or Wilson's for a single seed.
    pub fn accuracy_interval(&self) -> Option<(f64, (f64, f64))> {
        let accuracy = self.accuracy?;
        let around = |half: f64| (accuracy.mean - half, accuracy.mean + half);
        Some((accuracy.mean, accuracy.t95.map_or(self.answers?.wilson(), around)))
    }

    /// What its trials scored.
    pub fn observations(&self) -> &[Observation<'_>] {
        &self.observations
    }

    /// What the answers of each seed say beyond right and wrong; none where only their counts are known.
    pub fn analyses(&self) -> Vec<&Analysis> {
        self.observations.iter().filter_map(|o| o.score.as_ref()?.analysis()).collect()
    }

    /// The answers in each subject, in the order of their names.
    pub fn subjects(&self) -> Vec<(String, Pooled)> {
        let parts: Vec<Observation> = self.observations.iter().flat_map(Observation::by_subject).collect();
        let name = |o: &Observation| o.score.as_ref().and_then(|score| score.subject.clone());
        let mut names: Vec<String> = parts.iter().filter_map(name).collect();
        names.sort();
        names.dedup();
        let of = |subject: String| {
            let own: Vec<&Observation> =
                parts.iter().filter(|o| name(o).as_ref() == Some(&subject)).collect();
            Some((subject, Pooled::of(&own)?))
        };
        names.into_iter().filter_map(of).collect()
    }
}

/// Settings in the order of their first trial; failed trials are left out.
pub fn settings<'a>(results: &'a Results) -> Vec<Setting<'a>> {
    let mut groups: Vec<(Uuid, Vec<Observation>)> = vec![];
    for observation in results.observations(&[]) {
        let setting = observation.trial.setting;
        match groups.iter_mut().find(|(known, _)| *known == setting) {
            Some((_, group)) => group.push(observation),
            None => groups.push((setting, vec![observation])),
        }
    }
    let mut settings: Vec<Setting> = groups.into_par_iter().map(|(_, group)| setting(group)).collect();
    let p: Vec<f64> = settings.iter().filter_map(|s| s.guessing.map(|g| g.test.p)).collect();
    let tested = settings.iter_mut().filter_map(|s| s.guessing.as_mut());
    tested.zip(holm(&p)).for_each(|(guessing, p)| guessing.p_holm = p);
    settings
}

fn setting(observations: Vec<Observation<'_>>) -> Setting<'_> {
    let seen: Vec<&Observation> = observations.iter().collect();
    let over = |value: &dyn Fn(&Observation) -> Option<f64>| {
        spread(&seen.iter().filter_map(|o| value(o)).filter(|v| v.is_finite()).collect::<Vec<_>>())
    };
    Setting {
        label: observations[0].label,
        trials: seen.iter().map(|o| o.trial).collect(),
        answers: Pooled::of(&seen),
        accuracy: over(&|o| o.score.as_ref()?.accuracy()),
        clean: over(&|o| o.score.as_ref()?.clean_accuracy()),
        bpb: over(&|o| o.trial.val_bpb),
        val_loss: over(&|o| o.trial.val_loss),
        guessing: p_of_guessing(&seen).map(|test| Guessing { test, p_holm: test.p }),
        observations,
    }
}
