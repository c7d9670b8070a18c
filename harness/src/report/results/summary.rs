//! Trials grouped by setting: each setting over its seeds, with the numbers that go into tables and figures.

use super::observation::{Observation, Pooled, Results, p_of_guessing};
use crate::records::{Analysis, ExamScore, TrialRecord};
use rayon::prelude::*;
use stats::{Randomised, Spread, holm, spread};
use uuid::Uuid;

/// One exam of one trial.
#[derive(Debug, Clone, PartialEq)]
pub struct Row<'a> {
    /// The record of the trial.
    pub trial: &'a TrialRecord,
    /// The exam; `None` if none was taken.
    pub exam: Option<&'a ExamScore>,
}

/// Returns one row per trial and exam; a trial without an exam has one row.
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

/// One setting over its seeds, scored by the exam after its last stage.
#[derive(Debug, Clone)]
pub struct Setting<'a> {
    /// Label of the setting, as shown: `n_layers=4 d_model=64`.
    pub label: &'a str,
    /// Its label by its keys alone, for CSV files.
    pub keys: &'a str,
    /// Its finished trials, one per seed.
    pub trials: Vec<&'a TrialRecord>,
    /// Observations of these trials, in the same order.
    observations: Vec<Observation<'a>>,
    /// Pooled answers of these trials; `None` if no exam was taken.
    pub answers: Option<Pooled>,
    /// Exam accuracy over seeds, as a share.
    pub accuracy: Option<Spread>,
    /// Exam accuracy over seeds on the questions that do not appear in training text; `None` if that was not searched.
    pub clean: Option<Spread>,
    /// Validation bits per byte over seeds.
    pub bpb: Option<Spread>,
    /// Validation loss over seeds, in nats per token.
    pub val_loss: Option<Spread>,
    /// Test of guessing over all answers together; `None` if no answers are recorded.
    pub guessing: Option<Guessing>,
}

/// The test of guessing of one setting, corrected for the number of settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guessing {
    /// The uncorrected test.
    pub test: Randomised,
    /// p after Holm's correction over all settings.
    pub p_holm: f64,
}

impl Guessing {
    /// Whether significantly more (`true`) or fewer (`false`) answers are correct than with shuffled keys; `None` if neither
    /// at p < 0.05.
    pub fn is_better(&self) -> Option<bool> {
        (self.p_holm < 0.05).then_some(self.test.statistic as f64 > self.test.expected)
    }
}

impl Setting<'_> {
    /// Whether any questions of its exams appear in training text.
    pub fn is_contaminated(&self) -> bool {
        let of = |o: &Observation| o.score.as_ref().and_then(|score| score.contaminated);
        self.observations.iter().filter_map(of).any(|found| found.questions > 0)
    }

    /// Accuracy with the 95 % interval that a figure shows: Student's t over seeds, or Wilson's for a single seed.
    pub fn accuracy_interval(&self) -> Option<(f64, (f64, f64))> {
        let accuracy = self.accuracy?;
        let around = |half: f64| (accuracy.mean - half, accuracy.mean + half);
        Some((accuracy.mean, accuracy.t95.map_or(self.answers?.wilson(), around)))
    }

    /// Observations of its trials, one per seed.
    pub fn observations(&self) -> &[Observation<'_>] {
        &self.observations
    }

    /// Analyses of each seed's answers beyond accuracy; seeds of which only counts are recorded have none.
    pub fn analyses(&self) -> Vec<&Analysis> {
        self.observations.iter().filter_map(|o| o.score.as_ref()?.analysis()).collect()
    }

    /// Pooled answers by subject, in order of name.
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

/// Groups the finished trials by setting, in the order of each setting's first one.
pub fn settings<'a>(results: &'a Results) -> Vec<Setting<'a>> {
    let mut groups: Vec<(Uuid, Vec<Observation>)> = vec![];
    for observation in results.observations(&[]) {
        let setting = observation.trial.setting;
        match groups.iter_mut().find(|(known, _)| *known == setting) {
            Some((_, group)) => group.push(observation),
            None => groups.push((setting, vec![observation])),
        }
    }
    let mut settings: Vec<Setting> =
        groups.into_par_iter().map(|(_, group)| setting(results, group)).collect();
    let p: Vec<f64> = settings.iter().filter_map(|s| s.guessing.map(|g| g.test.p)).collect();
    let tested = settings.iter_mut().filter_map(|s| s.guessing.as_mut());
    tested.zip(holm(&p)).for_each(|(guessing, p)| guessing.p_holm = p);
    settings
}

fn setting<'a>(results: &'a Results, observations: Vec<Observation<'a>>) -> Setting<'a> {
    let seen: Vec<&Observation> = observations.iter().collect();
    let over = |value: &dyn Fn(&Observation) -> Option<f64>| {
        spread(&seen.iter().filter_map(|o| value(o)).filter(|v| v.is_finite()).collect::<Vec<_>>())
    };
    Setting {
        label: observations[0].label,
        keys: results.label_by_keys(observations[0].trial),
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
