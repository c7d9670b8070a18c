//! The verb `exam`: examines models on a folder of question sheets.

use super::device_arg::DeviceArgs;
use super::models_arg::ModelsArg;
use super::say;
use crate::config::{Answer, ExamConfig, ExamFormat, Norm};
use crate::exam::{Prompter, Questions, Score, notices, questions_csv, scores};
use crate::fsutil::write_atomic;
use crate::models::{Model, ModelFiles};
use crate::records::{Analysis, QuestionRecord, QuestionTable};
use crate::track::table;
use anyhow::{Context, Result, ensure};
use clap::Args;
use model::{Backend, Work};
use serde::Serialize;
use stats::{Agreement, agreement, holm};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

/// Arguments of `exam`.
#[derive(Debug, Args)]
pub struct ExamArgs {
    #[command(flatten)]
    models: ModelsArg,
    /// Folder of <subject>_val.csv or <subject>_val.jsonl sheets
    #[arg(long)]
    sheets: PathBuf,
    /// How prompts are worded
    #[arg(long, value_enum, default_value = "minimind")]
    format: ExamFormat,
    /// How questions are answered
    #[arg(long, value_enum, default_value = "letter")]
    answer: Answer,
    /// How option texts are compared by cloze and continuation; unset: byte
    #[arg(long, value_enum)]
    norm: Option<Norm>,
    /// With --answer letter: ask each question once per rotation of its options, and average over the rotations
    #[arg(long)]
    rotate: bool,
    /// Number of solved questions shown before each question, from the sheets of --dev
    #[arg(long, default_value_t = 0, requires = "dev")]
    shots: usize,
    /// Folder of <subject>_dev.csv or <subject>_dev.jsonl sheets, for --shots
    #[arg(long)]
    dev: Option<PathBuf>,
    /// System message of each prompt with --format minimind; empty: none; unset: 开始回答问题
    #[arg(long)]
    system: Option<String>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Write the answers to this CSV file; for several models, with a column of their names
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print machine-readable JSON
    #[arg(long)]
    json: bool,
}

/// Results of one model.
#[derive(Serialize)]
struct ExamResult {
    /// Name of the model.
    model: String,
    /// Where the model was loaded from.
    source: String,
    /// Score of each subject; the total comes last.
    scores: Vec<Score>,
    #[serde(skip)]
    answers: Vec<QuestionRecord>,
}

impl ExamResult {
    fn total(&self) -> &Score {
        &self.scores[self.scores.len() - 1]
    }
}

/// Agreement between the answers of two models.
#[derive(Serialize)]
struct Agreed<'a> {
    model_a: &'a str,
    model_b: &'a str,
    #[serde(flatten)]
    agreement: Agreement,
}

/// Examines models one after the other.
pub fn exam(args: &ExamArgs) -> Result<bool> {
    args.device.run(args)
}

impl Work for &ExamArgs {
    type Outcome = Result<bool>;

    fn run<B: Backend>(self, backend: &B) -> Result<bool> {
        exam_on(self, backend)
    }
}

fn exam_on<B: Backend>(args: &ExamArgs, backend: &B) -> Result<bool> {
    ensure!(
        !args.rotate || args.answer == Answer::Letter,
        "--rotate applies to --answer letter only: option texts have no letters to rotate"
    );
    ensure!(
        args.norm.is_none() || args.answer != Answer::Letter,
        "--norm applies to --answer cloze or continuation only: letters need no normalisation"
    );
    ensure!(
        args.system.is_none() || args.format == ExamFormat::Minimind,
        "--system goes with --format minimind only: lm_eval has no system message"
    );
    let questions = Questions::read(&args.sheets, args.dev.as_deref(), args.shots)?;
    let files = args.models.files()?;
    let mut names = BTreeSet::new();
    for of in &files {
        let (name, dir) = (of.called(), of.dir.display());
        ensure!(names.insert(name.clone()), "two models are called {name}; name one as in other={dir}");
    }
    let take = |of: &ModelFiles| take_exam(args, &questions, of.load(backend)?, files.len() > 1);
    let all: Vec<ExamResult> = files.iter().map(take).collect::<Result<_>>()?;
    let agreed = agreed(&all)?;
    if let Some(out) = &args.out {
        let csv = if let [one] = all.as_slice() { questions_csv(&one.answers)? } else { csv(&all)? };
        write_atomic(out, &csv)?;
    }
    match (all.as_slice(), args.json) {
        ([one], true) => say(serde_json::to_string_pretty(&one.scores)?)?,
        (all, true) => {
            say(serde_json::to_string_pretty(&serde_json::json!({ "models": all, "agreement": agreed }))?)?;
        }
        ([one], false) => say(by_subject(&one.scores))?,
        (all, false) => say(side_by_side(all, &agreed))?,
    }
    Ok(true)
}

fn take_exam<B: Backend>(
    args: &ExamArgs,
    questions: &Questions,
    model: Model<B>,
    is_one_of_several: bool,
) -> Result<ExamResult> {
    let Model { name, source, transformer, tokenizer, .. } = model;
    let Questions { sheets, shots } = questions;
    let max_len = transformer.config.max_seq_len;
    let system = args.system.clone().unwrap_or_else(|| ExamConfig::default().system);
    let (format, answer, rotate) = (args.format, args.answer, args.rotate);
    let prompter = Prompter { format, system, max_len, shots: shots.clone(), answer, rotate };
    // Ctrl-C simply ends the program: nothing is written before the end.
    let stop = AtomicBool::new(false);
    let shown = || source.clone();
    let prompts = prompter.prompts(&tokenizer, sheets, &stop).with_context(shown)?;
    let norm = args.norm.unwrap_or(ExamConfig::default().norm);
    let answers =
        crate::exam::run_exam(&transformer, sheets, &prompts, norm, &stop, &|_| ()).with_context(shown)?;
    let scores = scores(&answers, &prompts);
    for notice in notices(&scores, max_len) {
        if is_one_of_several {
            eprintln!("{name}: {notice}");
        } else {
            eprintln!("{notice}");
        }
    }
    Ok(ExamResult { model: name, source, scores, answers })
}

/// Returns the agreement of every pair of models.
fn agreed(all: &[ExamResult]) -> Result<Vec<Agreed<'_>>> {
    let letters = |result: &ExamResult| {
        result.answers.iter().map(|record| record.prediction as u8).collect::<Vec<u8>>()
    };
    let chosen: Vec<Vec<u8>> = all.iter().map(letters).collect();
    let mut found = vec![];
    for (i, a) in all.iter().enumerate() {
        for (j, b) in all.iter().enumerate().skip(i + 1) {
            let agreement = agreement(&chosen[i], &chosen[j])?;
            found.push(Agreed { model_a: &a.model, model_b: &b.model, agreement });
        }
    }
    Ok(found)
}

/// Formats `questions.csv` with the model's name as the first column.
fn csv(all: &[ExamResult]) -> Result<Vec<u8>> {
    let records = QuestionTable::of(all.iter().flat_map(|result| &result.answers));
    let mut csv = csv::Writer::from_writer(vec![]);
    csv.write_record(std::iter::once("model".into()).chain(records.columns()))?;
    for result in all {
        for row in records.rows(&result.answers.iter().collect::<Vec<_>>()) {
            csv.write_record(std::iter::once(result.model.clone()).chain(row))?;
        }
    }
    Ok(csv.into_inner()?)
}

fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

/// Formats a score as a row: counts, interval and p-value.
fn row(name: &str, score: &Score) -> Vec<String> {
    vec![
        name.into(),
        score.tally.correct.to_string(),
        score.tally.questions.to_string(),
        percent(score.accuracy),
        format!("[{}, {}]", percent(score.interval.0), percent(score.interval.1)),
        format!("{:.3}", score.p_guess),
    ]
}

/// Formats the scores of one model, by subject.
fn by_subject(scores: &[Score]) -> String {
    let rows: Vec<_> = scores.iter().map(|score| row(&score.subject, score)).collect();
    let mut lines = vec![table(&["subject", "correct", "of", "%", "95 % interval", "p of guessing"], &rows)];
    let total = &scores[scores.len() - 1];
    let verdict = if total.p_guess < 0.05 { "differs from" } else { "is not distinguishable from" };
    lines.push(format!("the total {verdict} guessing (exact binomial test, p = {:.3})", total.p_guess));
    lines.extend(total.analysis.as_ref().map(|analysis| beyond(analysis, total.accuracy)));
    lines.join("\n")
}

/// Formats the totals of several models, the agreement of each pair, and where they were loaded from.
fn side_by_side(all: &[ExamResult], agreed: &[Agreed]) -> String {
    let p: Vec<f64> = all.iter().map(|result| result.total().p_guess).collect();
    let rows = all.iter().zip(holm(&p)).map(|(result, p)| {
        let of = |read: &dyn Fn(&Analysis) -> Option<String>| {
            result.total().analysis.as_ref().and_then(read).unwrap_or_default()
        };
        let mut cells = row(&result.model, result.total());
        cells.extend([
            format!("{p:.3}"),
            of(&|a| Some(percent(a.macro_accuracy))),
            of(&|a| Some(format!("{:.3}", a.log_prob))),
            of(&|a| Some(percent(a.accuracy_without_prior))),
            of(&|a| Some(format!("{:.3}", a.calibration.as_ref()?.ece))),
        ]);
        cells
    });
    let heads = [
        "model",
        "correct",
        "of",
        "%",
        "95 % interval",
        "p of guessing",
        "p (Holm)",
        "macro %",
        "log-probability",
        "without prior %",
        "calibration error",
    ];
    let kappa = |kappa: f64| if kappa.is_finite() { format!("{kappa:.3}") } else { "?".into() };
    let pairs =
        agreed.iter().map(|Agreed { model_a, model_b, agreement: Agreement { n, equal, kappa: k } }| {
            vec![(*model_a).into(), (*model_b).into(), n.to_string(), percent(*equal), kappa(*k)]
        });
    let pairs =
        table(&["model", "and", "questions", "equal answers (%)", "kappa"], &pairs.collect::<Vec<_>>());
    let sources = all.iter().map(|result| format!("{}: {}", result.model, result.source)).collect::<Vec<_>>();
    format!("{}\n\n{pairs}\n\n{}", table(&heads, &rows.collect::<Vec<_>>()), sources.join("\n"))
}

/// Formats the analysis beyond accuracy, line by line.
fn beyond(analysis: &Analysis, accuracy: f64) -> String {
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let mut lines = vec![format!(
        "micro average (all questions) {}, macro average (mean over subjects) {}",
        percent(accuracy),
        percent(analysis.macro_accuracy)
    )];
    let groups = analysis.groups.iter().map(|group| {
        let (micro, mean) = (percent(group.accuracy), percent(group.macro_accuracy));
        format!("{}: {micro} of {} questions, macro {mean}", group.group, group.tally.questions)
    });
    lines.extend(groups);
    lines.push(format!(
        "mean log-probability of the right option {:.4}; without the prior of letters {} right",
        analysis.log_prob,
        percent(analysis.accuracy_without_prior)
    ));
    let bias = analysis
        .letters
        .iter()
        .map(|of| format!("{} {} ({})", of.letter, percent(of.chosen), percent(of.right)));
    lines.push(format!("letters chosen (in the key): {}", bias.collect::<Vec<_>>().join(", ")));
    lines.extend(analysis.calibration.as_ref().map(|c| format!("expected calibration error {:.3}", c.ece)));
    lines.join("\n")
}
