//! Tables for programs (CSV), for reading (Markdown) and for papers (LaTeX).

use super::TrialQuestion;
use super::summary::{Row, Setting};
use crate::stats::Spread;
use anyhow::Result;
use serde_json::Value;

/// A value of JSON as the cell of a table.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn number(value: Option<f64>) -> String {
    value.filter(|v| v.is_finite()).map_or(String::new(), |v| v.to_string())
}

/// trials.csv: one row per trial and exam.
pub fn trials_csv(rows: &[Row]) -> Result<Vec<u8>> {
    let mut keys: Vec<&str> = vec![];
    for (key, _) in rows.iter().flat_map(|r| &r.trial.keys).filter(|(k, _)| k != "seed") {
        if !keys.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let mut csv = csv::Writer::from_writer(vec![]);
    let after = "params active_params train_tokens train_flops val_loss val_bpb stage exam_correct exam_questions \
                 exam_accuracy exam_low exam_high exam_p_guess wall_seconds peak_rss_mb status reason";
    csv.write_record(
        ["trial", "sweep", "seed"]
            .into_iter()
            .chain(keys.iter().copied())
            .chain(after.split(' ').filter(|s| !s.is_empty())),
    )?;
    for row in rows {
        let t = row.trial;
        let mut cells = vec![t.trial.to_string(), t.sweep.clone(), t.seed.to_string()];
        for key in &keys {
            cells.push(t.keys.iter().find(|(k, _)| k == key).map_or(String::new(), |(_, v)| cell(v)));
        }
        cells.extend([
            t.params.to_string(),
            t.active_params.to_string(),
            t.train_tokens.to_string(),
            t.train_flops.to_string(),
        ]);
        cells.extend([number(t.val_loss), number(t.val_bpb)]);
        cells.push(row.exam.map_or(String::new(), |e| e.stage.clone()));
        cells.push(row.exam.map_or(String::new(), |e| e.correct.to_string()));
        cells.push(row.exam.map_or(String::new(), |e| e.questions.to_string()));
        cells.extend(
            [row.accuracy(), Some(row.interval.0), Some(row.interval.1), Some(row.p_guess)].map(number),
        );
        cells.extend([t.wall_seconds.to_string(), t.peak_rss_mb.to_string()]);
        cells.push(serde_json::to_value(t.status).map_or(String::new(), |s| cell(&s)));
        cells.push(t.reason.clone().unwrap_or_default());
        csv.write_record(cells)?;
    }
    Ok(csv.into_inner()?)
}

/// questions.csv: one row per trial, exam and question.
pub fn questions_csv(questions: &[TrialQuestion]) -> Result<Vec<u8>> {
    let mut csv = csv::Writer::from_writer(vec![]);
    csv.write_record([
        "trial",
        "stage",
        "subject",
        "id",
        "p_a",
        "p_b",
        "p_c",
        "p_d",
        "prediction",
        "answer",
    ])?;
    for q in questions {
        let r = &q.record;
        let mut row = vec![q.trial.to_string(), q.stage.clone(), r.subject.clone(), r.id.clone()];
        row.extend(r.probabilities.map(|p| p.to_string()));
        row.extend([r.prediction.to_string(), r.answer.to_string()]);
        csv.write_record(row)?;
    }
    Ok(csv.into_inner()?)
}

/// summary.csv: one row per setting, over its seeds.
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
    ])?;
    for s in settings {
        let mean = |spread: Option<Spread>| number(spread.map(|s| s.mean));
        let t95 = |spread: Option<Spread>| number(spread.and_then(|s| s.t95));
        csv.write_record([
            s.label.clone(),
            s.trials.len().to_string(),
            s.trials[0].params.to_string(),
            s.trials[0].active_params.to_string(),
            mean(s.accuracy),
            number(s.accuracy.and_then(|a| a.sd)),
            t95(s.accuracy),
            s.pooled.0.to_string(),
            s.pooled.1.to_string(),
            number(Some(s.p_guess)),
            number(Some(s.p_holm)),
            mean(s.val_loss),
            t95(s.val_loss),
            mean(s.bpb),
            t95(s.bpb),
        ])?;
    }
    Ok(csv.into_inner()?)
}

/// `41.2 ± 1.3`, times `scale`, or the mean alone for a single seed.
fn with_error(spread: Option<Spread>, scale: f64, digits: usize, plus_minus: &str) -> String {
    match spread {
        None => "–".into(),
        Some(Spread { mean, t95: Some(half), .. }) => {
            format!("{:.digits$} {plus_minus} {:.digits$}", mean * scale, half * scale)
        }
        Some(Spread { mean, .. }) => format!("{:.digits$}", mean * scale),
    }
}

/// A p-value for reading.
pub fn p_text(p: f64) -> String {
    if !p.is_finite() {
        "–".into()
    } else if p < 0.001 {
        format!("{p:.1e}")
    } else {
        format!("{p:.3}")
    }
}

const HEADS: [&str; 8] = [
    "setting",
    "seeds",
    "parameters",
    "active",
    "validation loss",
    "bits per byte",
    "accuracy (%)",
    "p of guessing (Holm)",
];

fn body(settings: &[Setting], plus_minus: &str) -> Vec<[String; 8]> {
    let row = |s: &Setting| {
        [
            s.label.clone(),
            s.trials.len().to_string(),
            crate::track::number(s.trials[0].params),
            crate::track::number(s.trials[0].active_params),
            with_error(s.val_loss, 1.0, 3, plus_minus),
            with_error(s.bpb, 1.0, 3, plus_minus),
            with_error(s.accuracy, 100.0, 1, plus_minus),
            p_text(s.p_holm),
        ]
    };
    settings.iter().map(row).collect()
}

/// The head and the rows of the summary, for a page.
pub fn summary_rows(settings: &[Setting]) -> (Vec<&'static str>, Vec<Vec<String>>) {
    (HEADS.to_vec(), body(settings, "±").into_iter().map(|r| r.to_vec()).collect())
}

/// The summary in Markdown.
pub fn summary_md(settings: &[Setting]) -> String {
    let line = |cells: &[String]| {
        format!("| {} |\n", cells.iter().map(|c| c.replace('|', "\\|")).collect::<Vec<_>>().join(" | "))
    };
    let mut table = line(&HEADS.map(String::from));
    table.push_str(&line(&HEADS.map(|_| "---".to_string())));
    body(settings, "±").iter().for_each(|row| table.push_str(&line(row)));
    table
}

/// The summary in LaTeX, for `booktabs`.
pub fn summary_tex(settings: &[Setting]) -> String {
    let line = |cells: &[String]| cells.join(" & ") + " \\\\\n";
    let mut table = String::from("\\begin{tabular}{lrrrrrrr}\n\\toprule\n");
    table.push_str(&line(&HEADS.map(escape_tex)));
    table.push_str("\\midrule\n");
    for row in body(settings, "±") {
        table.push_str(&line(&row.map(|c| escape_tex(&c))));
    }
    table + "\\bottomrule\n\\end{tabular}\n"
}

fn escape_tex(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => escaped.extend(['\\', c]),
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '\\' => escaped.push_str("\\textbackslash{}"),
            '±' => escaped.push_str("$\\pm$"),
            '–' => escaped.push_str("--"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::escape_tex;

    #[test]
    fn latex_is_escaped() {
        assert_eq!(escape_tex("d_model=64 ± 5 % \\x"), "d\\_model=64 $\\pm$ 5 \\% \\textbackslash{}x");
    }
}
