//! The verb `exam`.

use super::model_arg::ModelArg;
use super::say;
use crate::config::{Answer, ExamConfig};
use crate::data::Tokenizer;
use crate::exam::{Prompter, Questions, notices, scores};
use crate::fsutil::write_atomic;
use crate::track::table;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use model::{Cpu, Transformer};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

/// How questions are answered.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum AnswerArg {
    Letter,
    Cloze,
}

/// Arguments of `exam`.
#[derive(Debug, Args)]
pub struct ExamArgs {
    #[command(flatten)]
    model: ModelArg,
    /// Folder of <subject>_val.csv sheets
    #[arg(long)]
    sheets: PathBuf,
    /// Folder of the tokenizer, where the model folder has none
    #[arg(long)]
    tokenizer: Option<PathBuf>,
    /// How questions are answered
    #[arg(long, value_enum, default_value = "letter")]
    answer: AnswerArg,
    /// Solved questions before each question, from the sheets of --dev
    #[arg(long, default_value_t = 0, requires = "dev")]
    shots: usize,
    /// Folder of <subject>_dev.csv sheets
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
    let Questions { sheets, shots } = Questions::read(&args.sheets, args.dev.as_deref(), args.shots)?;
    let dir = args.model.folder()?;
    let tokenizer = Tokenizer::load(args.tokenizer.as_deref().unwrap_or(&dir))?;
    let transformer = Transformer::load(&dir, &Cpu)?;
    let answer = match args.answer {
        AnswerArg::Letter => Answer::Letter,
        AnswerArg::Cloze => Answer::Cloze,
    };
    let max_len = transformer.config.max_seq_len;
    let prompter = Prompter { system: args.system.clone(), max_len, shots, answer };
    // Ctrl-C ends the program: nothing is written before the end.
    let stop = AtomicBool::new(false);
    let prompts = prompter.prompts(&tokenizer, &sheets, &stop)?;
    let records = crate::exam::sit(&transformer, &sheets, &prompts, answer, &stop, &|_| ())
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
    let rows = scores.iter().map(|s| {
        let [share, low, high] =
            [s.accuracy, s.interval.0, s.interval.1].map(|v| format!("{:.1}", 100.0 * v));
        let counts = [s.correct, s.questions].map(|n| n.to_string());
        let [correct, questions] = counts;
        vec![
            s.subject.clone(),
            correct,
            questions,
            share,
            format!("[{low}, {high}]"),
            format!("{:.3}", s.p_guess),
        ]
    });
    let rows: Vec<_> = rows.collect();
    say(table(&["subject", "correct", "of", "%", "95 % interval", "p of guessing"], &rows))?;
    let total = &scores[scores.len() - 1];
    let verdict = if total.p_guess < 0.05 { "differs from" } else { "is not distinguishable from" };
    say(format!("the total {verdict} guessing (exact binomial test, p = {:.3})", total.p_guess))?;
    Ok(true)
}
