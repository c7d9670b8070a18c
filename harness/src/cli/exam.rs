//! The verb `exam`.

use super::model_arg::ModelArg;
use super::say;
use crate::config::{Answer, ExamConfig, Norm};
use crate::data::Tokenizer;
use crate::exam::{Prompter, Questions, notices, scores};
use crate::fsutil::write_atomic;
use crate::records::Analysis;
use crate::track::table;
use anyhow::{Context, Result, ensure};
use clap::Args;
use model::{Cpu, Transformer};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

/// Arguments of `exam`.
#[derive(Debug, Args)]
pub struct ExamArgs {
    #[command(flatten)]
    model: ModelArg,
    /// Folder of <subject>_val.csv or <subject>_val.jsonl sheets
    #[arg(long)]
    sheets: PathBuf,
    /// Folder of the tokenizer, where the model folder has none
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// How questions are answered
    #[arg(long, value_enum, default_value = "letter")]
    answer: Answer,
    /// How the texts of options are compared, by cloze and continuation
    #[arg(long, value_enum, default_value = "byte")]
    norm: Norm,
    /// Put options into each position by turns, by letter
    #[arg(long)]
    rotate: bool,
    /// Solved questions before each question, from the sheets of --dev
    #[arg(long, default_value_t = 0, requires = "dev")]
    shots: usize,
    /// Folder of <subject>_dev.csv or <subject>_dev.jsonl sheets
    #[arg(long)]
    dev: Option<PathBuf>,
    /// System text in front of each prompt; empty leaves it out
    #[arg(long, default_value_t = ExamConfig::default().system)]
    system: String,
    /// Write the answers to this CSV file
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
}

/// Examines a model.
pub fn exam(args: &ExamArgs) -> Result<bool> {
    ensure!(
        !args.rotate || args.answer == Answer::Letter,
        "--rotate goes with --answer letter only: the texts of options have no letter to be freed from"
    );
    let Questions { sheets, shots } = Questions::read(&args.sheets, args.dev.as_deref(), args.shots)?;
    let dir = args.model.folder()?;
    let tokenizer = Tokenizer::load(args.tokenizer.as_deref().unwrap_or(&dir))?;
    let transformer = Transformer::load(&dir, &Cpu)?;
    let max_len = transformer.config.max_seq_len;
    let (system, answer, rotate) = (args.system.clone(), args.answer, args.rotate);
    let prompter = Prompter { system, max_len, shots, answer, rotate };
    // Ctrl-C ends the program: nothing is written before the end.
    let stop = AtomicBool::new(false);
    let prompts = prompter.prompts(&tokenizer, &sheets, &stop)?;
    let records = crate::exam::sit(&transformer, &sheets, &prompts, args.norm, &stop, &|_| ())
        .with_context(|| dir.display().to_string())?;
    if let Some(out) = &args.out {
        write_atomic(out, &crate::exam::questions_csv(&records)?)?;
    }
    let scores = scores(&records, &prompts);
    for notice in notices(&scores, max_len) {
        eprintln!("{notice}");
    }
    if args.json {
        say(serde_json::to_string_pretty(&scores)?)?;
        return Ok(true);
    }
    let percent = |share: f64| format!("{:.1}", 100.0 * share);
    let rows = scores.iter().map(|s| {
        vec![
            s.subject.clone(),
            s.tally.correct.to_string(),
            s.tally.questions.to_string(),
            percent(s.accuracy),
            format!("[{}, {}]", percent(s.interval.0), percent(s.interval.1)),
            format!("{:.3}", s.p_guess),
        ]
    });
    let rows: Vec<_> = rows.collect();
    say(table(&["subject", "correct", "of", "%", "95 % interval", "p of guessing"], &rows))?;
    let total = &scores[scores.len() - 1];
    let verdict = if total.p_guess < 0.05 { "differs from" } else { "is not distinguishable from" };
    say(format!("the total {verdict} guessing (exact binomial test, p = {:.3})", total.p_guess))?;
    if let Some(analysis) = &total.analysis {
        say(beyond(analysis, total.accuracy))?;
    }
    Ok(true)
}

/// What answers say beyond right and wrong, line by line.
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
