//! The CSV files of every report, for programs.

use crate::records::QuestionTable;
use crate::report::TrialQuestion;
use crate::report::analysis::compare::Comparison;
use crate::report::columns::ValidationSetColumn;
use crate::report::columns::stage_column::StageColumn;
use crate::report::results::labels;
use crate::report::results::observation::Results;
use crate::report::results::summary::{Row, Setting};
use crate::track::csv_number;
use anyhow::Result;
use serde_json::Value;
use stats::Spread;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Formats a JSON value as the cell of a table.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn number(value: Option<f64>) -> String {
    value.map_or(String::new(), csv_number)
}

/// Columns of an exam whose questions were searched for in training text.
const CLEAN: [&str; 4] =
    ["exam_contaminated", "exam_correct_clean", "exam_questions_clean", "exam_accuracy_clean"];

/// Columns of the knowledge-capacity probe, written if any trial has them.
const CAPACITY: [&str; 2] = ["capacity_bits", "capacity_ratio"];

/// Columns of what answers show beyond accuracy.
const ANSWER_ANALYSIS: [&str; 4] =
    ["exam_macro_accuracy", "exam_log_prob", "exam_accuracy_without_prior", "exam_ece"];

fn count(count: Option<u64>) -> String {
    count.map_or(String::new(), |count| count.to_string())
}

/// Returns trials.csv: one row per trial and exam. A trial of several sweeps names them all: `a; b`.
pub fn trials_csv(rows: &[Row], results: &Results) -> Result<Vec<u8>> {
    let keys = results.keys();
    let configs: BTreeMap<Uuid, &Value> =
        results.trials().map(|(trial, config)| (trial.trial, config)).collect();
    let stages = stage_names(rows);
    let run_columns: Vec<String> = stages.iter().map(|stage| format!("run.{stage}")).collect();
    let mut csv = csv::Writer::from_writer(vec![]);
    let sets: BTreeSet<&str> =
        rows.iter().flat_map(|row| &row.trial.val_sets).map(|set| set.name.as_str()).collect();
    let set_columns: Vec<String> = sets.iter().flat_map(|set| ValidationSetColumn::names(set)).collect();
    let has_capacity = rows.iter().any(|row| row.trial.capacity_bits.is_some());
    let of_stages: Vec<&StageColumn> = StageColumn::all()
        .iter()
        .filter(|column| rows.iter().any(|row| column.of(row.trial).is_some()))
        .collect();
    let capacity = if has_capacity { CAPACITY.as_slice() } else { &[] };
    let after = "params active_params train_tokens train_flops val_loss val_bpb stage exam_correct exam_questions \
                 exam_accuracy exam_low exam_high exam_p_guess wall_seconds peak_rss_mb status reason at averaged exam_tokens";
    csv.write_record(
        ["trial", "sweep", "seed"]
            .into_iter()
            .chain(keys.iter().map(String::as_str))
            .chain(after.split(' ').filter(|s| !s.is_empty()))
            .chain(set_columns.iter().map(String::as_str))
            .chain(capacity.iter().copied())
            .chain(CLEAN)
            .chain(ANSWER_ANALYSIS)
            .chain(run_columns.iter().map(String::as_str))
            .chain(of_stages.iter().map(|column| column.name.as_str())),
    )?;
    for row in rows {
        let t = row.trial;
        let mut cells = vec![t.trial.to_string(), t.sweeps.join("; "), t.seed.to_string()];
        let config = configs.get(&t.trial).copied().unwrap_or(&Value::Null);
        cells.extend(keys.iter().map(|key| labels::value(t, config, key).map_or(String::new(), cell)));
        cells.extend([
            t.params.to_string(),
            t.active_params.to_string(),
            t.train_tokens.to_string(),
            csv_number(t.train_flops),
        ]);
        cells.extend([number(t.val_loss), number(t.val_bpb)]);
        cells.push(row.exam.map_or(String::new(), |e| e.stage.clone()));
        let tally = row.exam.map(|exam| exam.tally);
        cells.extend([tally.map(|t| t.correct), tally.map(|t| t.questions)].map(count));
        let interval = tally.map(|t| t.interval());
        cells.extend([tally.map(|t| t.accuracy()), interval.map(|i| i.0), interval.map(|i| i.1)].map(number));
        cells.push(number(tally.map(|t| t.p_guess())));
        cells.extend([t.wall_seconds, t.peak_rss_mb].map(csv_number));
        cells.push(serde_json::to_value(t.status).map_or(String::new(), |s| cell(&s)));
        cells.push(t.reason.clone().unwrap_or_default());
        cells.push(row.exam.map_or(String::new(), |e| csv_number(e.taken.at)));
        cells.push(row.exam.map_or(String::new(), |e| e.taken.averaged.to_string()));
        cells.push(row.exam.map_or(String::new(), |e| e.tokens.to_string()));
        let of_set =
            |name: &&str| ValidationSetColumn::values(t.val_sets.iter().find(|set| set.name == **name));
        cells.extend(sets.iter().flat_map(of_set).map(number));
        cells.extend([t.capacity_bits, t.capacity_ratio()].into_iter().take(capacity.len()).map(number));
        let found = row.exam.and_then(|exam| Some((exam.contaminated?, exam.tally.questions)));
        let clean = found.map(|(found, questions)| (found.correct_clean, questions - found.questions));
        cells.push(count(found.map(|(found, _)| found.questions)));
        cells.extend([clean.map(|clean| clean.0), clean.map(|clean| clean.1)].map(count));
        let share = clean.filter(|clean| clean.1 > 0).map(|(correct, of)| correct as f64 / of as f64);
        cells.push(number(share));
        let analysis = row.exam.and_then(|exam| results.analysis(t.trial, exam));
        let analysis = analysis.as_ref();
        cells.extend([
            number(analysis.map(|a| a.macro_accuracy)),
            number(analysis.map(|a| a.log_prob)),
            number(analysis.map(|a| a.accuracy_without_prior)),
            number(analysis.and_then(|a| a.calibration.as_ref()).map(|c| c.ece)),
        ]);
        cells.extend(stages.iter().map(|stage| folder_of(row, stage).unwrap_or_default()));
        cells.extend(of_stages.iter().map(|column| number(column.of(t))));
        csv.write_record(cells)?;
    }
    Ok(csv.into_inner()?)
}

/// Names of the stages of all trials, in order of first appearance.
fn stage_names(rows: &[Row]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for record in rows.iter().flat_map(|row| &row.trial.stages) {
        if !names.contains(&record.stage) {
            names.push(record.stage.clone());
        }
    }
    names
}

/// Name of a stage run's folder; for the exam stage, that of the row's exam.
fn folder_of(row: &Row, stage: &str) -> Option<String> {
    let stages = &row.trial.stages;
    if let Some(exam) = row.exam.filter(|exam| stage == EXAM && !exam.run.is_empty()) {
        return Some(exam.run.clone());
    }
    let after = row.exam.filter(|_| stage == EXAM).and_then(|exam| {
        let examined = stages.iter().position(|record| record.stage == exam.stage)?;
        stages[examined..].iter().find(|record| record.stage == EXAM)
    });
    let found = after.or_else(|| stages.iter().find(|record| record.stage == stage))?;
    Some(found.dir.file_name()?.to_string_lossy().into_owned())
}

/// The stage in which exams are taken.
const EXAM: &str = "exam";

/// Returns questions.csv: one row per trial, exam and question.
pub fn questions_csv(questions: &[TrialQuestion]) -> Result<Vec<u8>> {
    let table = QuestionTable::of(questions.iter().map(|question| &question.record));
    let mut csv = csv::Writer::from_writer(vec![]);
    let mut columns = table.columns();
    // The columns that identify the weights follow those of the question.
    let place = columns.iter().position(|name| name == "contaminated").map_or(columns.len(), |at| at + 1);
    columns.splice(place..place, ["at", "averaged"].map(String::from));
    csv.write_record(["trial", "stage"].map(String::from).into_iter().chain(columns))?;
    let exam = |q: &TrialQuestion| (q.trial, q.stage.clone(), q.taken);
    for answers in questions.chunk_by(|a, b| exam(a) == exam(b)) {
        let (trial, stage, taken) = exam(&answers[0]);
        for mut row in table.rows(&answers.iter().map(|question| &question.record).collect::<Vec<_>>()) {
            row.splice(place..place, [csv_number(taken.at), taken.averaged.to_string()]);
            csv.write_record([trial.to_string(), stage.clone()].into_iter().chain(row))?;
        }
    }
    Ok(csv.into_inner()?)
}

/// Returns summary.csv: one row per setting, over its seeds.
pub fn summary_csv(settings: &[Setting]) -> Result<Vec<u8>> {
    let mut csv = csv::Writer::from_writer(vec![]);
    csv.write_record([
        "setting",
        "seeds",
        "params",
        "active_params",
        "accuracy_mean",
        "accuracy_sd",
        "accuracy_t95",
        "exam_correct",
        "exam_questions",
        "exam_p_guess",
        "exam_p_holm",
        "val_loss_mean",
        "val_loss_t95",
        "val_bpb_mean",
        "val_bpb_t95",
        "questions",
        "shuffled_keys",
        "shuffled_accuracy",
        "accuracy_clean_mean",
        "accuracy_clean_t95",
    ])?;
    for s in settings {
        let mean = |spread: Option<Spread>| number(spread.map(|s| s.mean));
        let t95 = |spread: Option<Spread>| number(spread.and_then(|s| s.t95));
        csv.write_record([
            s.keys.to_string(),
            s.trials.len().to_string(),
            s.trials[0].params.to_string(),
            s.trials[0].active_params.to_string(),
            mean(s.accuracy),
            number(s.accuracy.and_then(|a| a.sd)),
            t95(s.accuracy),
            count(s.answers.map(|a| a.correct)),
            count(s.answers.map(|a| a.asked)),
            number(s.guessing.map(|g| g.test.p)),
            number(s.guessing.map(|g| g.p_holm)),
            mean(s.val_loss),
            t95(s.val_loss),
            mean(s.bpb),
            t95(s.bpb),
            count(s.answers.map(|a| a.questions)),
            count(s.guessing.map(|g| u64::from(g.test.n))),
            number(s.guessing.and_then(|g| Some(g.test.expected / s.answers?.asked as f64))),
            mean(s.clean),
            t95(s.clean),
        ])?;
    }
    Ok(csv.into_inner()?)
}

/// Returns comparisons.csv: one row per claim; shares are fractions of 1 here, not percent.
pub fn comparisons_csv(compared: &[Comparison]) -> Result<Vec<u8>> {
    let mut csv = csv::Writer::from_writer(vec![]);
    csv.write_record([
        "claim",
        "metric",
        "a",
        "b",
        "paired_by",
        "test",
        "n_a",
        "n_b",
        "unpaired",
        "mean_a",
        "mean_b",
        "effect",
        "low",
        "high",
        "p",
        "p_holm",
        "p_bh",
        "hedges_g",
        "g_low",
        "g_high",
        "margin",
        "p_equivalence",
        "p_equivalence_holm",
        "family",
        "verdict",
        "sentence",
        "detectable",
    ])?;
    for c in compared {
        let spec = c.spec;
        let pair: Vec<&str> = spec.paired_by.iter().map(|column| column.name()).collect();
        csv.write_record([
            spec.claim.clone(),
            spec.metric.name().into(),
            spec.a.text.clone(),
            spec.b.text.clone(),
            pair.join(" "),
            c.test.into(),
            c.n.0.to_string(),
            c.n.1.to_string(),
            c.unpaired.to_string(),
            number(c.means.map(|m| m.0)),
            number(c.means.map(|m| m.1)),
            number(c.effect()),
            number(c.tested.map(|t| t.interval.0)),
            number(c.tested.map(|t| t.interval.1)),
            number(c.tested.map(|t| t.p)),
            number(c.tested.map(|t| t.p_holm)),
            number(c.tested.map(|t| t.p_bh)),
            number(c.tested.and_then(|t| t.g).map(|g| g.value)),
            number(c.tested.and_then(|t| t.g).map(|g| g.low)),
            number(c.tested.and_then(|t| t.g).map(|g| g.high)),
            number(spec.margin),
            number(c.tested.and_then(|t| t.p_equivalence)),
            number(c.tested.and_then(|t| t.p_equivalence_holm)),
            spec.family.clone().unwrap_or_default(),
            c.verdict.word().into(),
            c.sentence(),
            number(c.tested.and_then(|t| t.detectable)),
        ])?;
    }
    Ok(csv.into_inner()?)
}
