//! Trials side by side: the same setting over its seeds, and the numbers that go into tables and figures.

use super::TrialQuestion;
use crate::records::{ExamScore, GUESSING, Status, TrialRecord};
use crate::stats::{Spread, binomial_p, holm, spread, wilson95};

/// The exam of one trial after one stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Row<'a> {
    /// The trial.
    pub trial: &'a TrialRecord,
    /// The exam; `None` where none was sat.
    pub exam: Option<&'a ExamScore>,
    /// Wilson 95 %.
    pub interval: (f64, f64),
    /// Exact two-sided p of guessing.
    pub p_guess: f64,
}

impl Row<'_> {
    /// Share of correct answers.
    pub fn accuracy(&self) -> Option<f64> {
        self.exam.map(|e| e.correct as f64 / (e.questions as f64).max(1.0))
    }
}

/// One row per trial and exam; a trial without an exam has one row.
pub fn rows(trials: &[TrialRecord]) -> Vec<Row<'_>> {
    let mut rows = vec![];
    for trial in trials {
        if trial.exams.is_empty() {
            rows.push(Row { trial, exam: None, interval: (f64::NAN, f64::NAN), p_guess: f64::NAN });
        }
        for exam in &trial.exams {
            rows.push(Row {
                trial,
                exam: Some(exam),
                interval: wilson95(exam.correct, exam.questions),
                p_guess: binomial_p(exam.correct, exam.questions, GUESSING),
            });
        }
    }
    rows
}

/// One setting over its seeds, by the exam after its last stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting<'a> {
    /// What sets it apart: `n_layers=4 d_model=64`.
    pub label: String,
    /// Its trials that finished.
    pub trials: Vec<&'a TrialRecord>,
    /// Questions answered correctly and asked, over all seeds.
    pub pooled: (u64, u64),
    /// Accuracy over seeds.
    pub accuracy: Option<Spread>,
    /// Bits per byte over seeds.
    pub bpb: Option<Spread>,
    /// Validation loss over seeds.
    pub val_loss: Option<Spread>,
    /// p of guessing for all questions together.
    pub p_guess: f64,
    /// The same after Holm's correction over all settings.
    pub p_holm: f64,
}

impl Setting<'_> {
    /// The interval that a figure shows: Student's t over seeds, or Wilson's for a single seed.
    pub fn accuracy_interval(&self) -> Option<(f64, f64, f64)> {
        let accuracy = self.accuracy?;
        Some(match accuracy.t95 {
            Some(half) => (accuracy.mean, accuracy.mean - half, accuracy.mean + half),
            None => {
                let (low, high) = wilson95(self.pooled.0, self.pooled.1);
                (accuracy.mean, low, high)
            }
        })
    }
}

/// A trial's keys without its seed.
pub fn label(trial: &TrialRecord) -> String {
    let keys = trial.keys.iter().filter(|(k, _)| k != "seed");
    let short = |(key, value): &(String, serde_json::Value)| {
        let key = key.rsplit('.').next().unwrap_or(key);
        format!("{key}={}", value.as_str().map_or_else(|| value.to_string(), String::from))
    };
    let label: Vec<String> = keys.map(short).collect();
    if label.is_empty() { trial.sweep.clone() } else { label.join(" ") }
}

/// Settings in the order of their first trial; failed trials are left out.
pub fn settings(trials: &[TrialRecord]) -> Vec<Setting<'_>> {
    let mut groups: Vec<(String, Vec<&TrialRecord>)> = vec![];
    for trial in trials.iter().filter(|t| t.status == Status::Done) {
        let label = label(trial);
        match groups.iter_mut().find(|(l, _)| *l == label) {
            Some((_, group)) => group.push(trial),
            None => groups.push((label, vec![trial])),
        }
    }
    let mut settings: Vec<Setting> = groups
        .into_iter()
        .map(|(label, trials)| {
            let last = || trials.iter().filter_map(|t| t.exams.last());
            let pooled = last().fold((0, 0), |(c, n), e| (c + e.correct, n + e.questions));
            let accuracies: Vec<f64> =
                last().map(|e| e.correct as f64 / (e.questions as f64).max(1.0)).collect();
            let of = |f: &dyn Fn(&TrialRecord) -> Option<f64>| {
                spread(&trials.iter().filter_map(|t| f(t)).collect::<Vec<_>>())
            };
            let p_guess = if pooled.1 == 0 { 1.0 } else { binomial_p(pooled.0, pooled.1, GUESSING) };
            Setting {
                label,
                pooled,
                accuracy: spread(&accuracies),
                bpb: of(&|t| t.val_bpb),
                val_loss: of(&|t| t.val_loss),
                p_guess,
                p_holm: p_guess,
                trials,
            }
        })
        .collect();
    let corrected = holm(&settings.iter().map(|s| s.p_guess).collect::<Vec<_>>());
    for (setting, p) in settings.iter_mut().zip(corrected) {
        setting.p_holm = p;
    }
    settings
}

/// Subjects in order, with correct and asked questions of some trials' last exams.
pub fn subjects(setting: &Setting, questions: &[TrialQuestion]) -> Vec<(String, u64, u64)> {
    let mut subjects: Vec<(String, u64, u64)> = vec![];
    for question in questions {
        let of_setting = setting
            .trials
            .iter()
            .any(|t| t.trial == question.trial && t.exams.last().is_some_and(|e| e.stage == question.stage));
        if !of_setting {
            continue;
        }
        let right = u64::from(question.record.prediction == question.record.answer);
        match subjects.iter_mut().find(|(s, _, _)| *s == question.record.subject) {
            Some((_, correct, asked)) => (*correct, *asked) = (*correct + right, *asked + 1),
            None => subjects.push((question.record.subject.clone(), right, 1)),
        }
    }
    subjects.sort();
    subjects
}
