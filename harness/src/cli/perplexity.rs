//! The verb `perplexity`: evaluates a model on a text with contexts of several lengths.

use super::data::named;
use super::device_arg::DeviceArgs;
use super::model_arg::ModelArg;
use super::{say, whole};
use crate::config::DataConfig;
use crate::data::read::{Advice, ReadOptions, rows};
use crate::data::{Kind, Row, SpecialText, Tokenizer};
use crate::exam::{LengthLoss, LengthPlan, loss_by_length};
use crate::fsutil::write_atomic;
use crate::models::{Model, ModelFiles};
use crate::report::write_length_figure;
use crate::track::{number, table};
use anyhow::{Result, ensure};
use clap::Args;
use model::{Backend, RopeScaling, Work};
use std::path::PathBuf;

/// Arguments of `perplexity`.
#[derive(Debug, Args)]
pub struct PerplexityArgs {
    #[command(flatten)]
    model: ModelArg,
    /// Files or globs of pretraining text, such as text/*.jsonl, read as one continuous text; conversations in them are
    /// put into the chat template
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    text: Vec<String>,
    /// Context lengths in tokens; unset: 1/4, 1/2, 1, 2 and 4 times the trained length
    #[arg(long, value_delimiter = ',', value_name = "N,...")]
    lengths: Vec<usize>,
    /// Scalings of rotary positions to compare: none, linear:F, ntk:F, yarn:F; unset: all of them, with F the ratio of
    /// the longest context to the trained length
    #[arg(long, value_delimiter = ',', value_name = "SCALING,...")]
    rope_scaling: Vec<RopeScaling>,
    /// Context length in tokens that the model was trained with; unset: its max_seq_len
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    trained: Option<u32>,
    /// Maximum number of windows of the text, each as long as the longest context
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = whole::<usize>)]
    windows: usize,
    #[command(flatten)]
    device: DeviceArgs,
    /// Folder to write perplexity.csv and a figure to
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print machine-readable JSON
    #[arg(long)]
    json: bool,
}

/// Measures how well a model predicts a text.
pub fn perplexity(args: &PerplexityArgs) -> Result<bool> {
    args.device.run(args)
}

impl Work for &PerplexityArgs {
    type Outcome = Result<bool>;

    fn run<B: Backend>(self, backend: &B) -> Result<bool> {
        perplexity_on(self, backend)
    }
}

fn perplexity_on<B: Backend>(args: &PerplexityArgs, backend: &B) -> Result<bool> {
    let Model { tokenizer, transformer: model, .. } =
        ModelFiles::of(args.model.folder()?, None).load(backend)?;
    let plan = plan(args, model.config.max_seq_len)?;
    let needed = plan.windows.saturating_mul(plan.lengths.last().copied().unwrap_or_default());
    let ids = read(args, &tokenizer, needed)?;
    let found = loss_by_length(model, &ids, &plan)?;
    if let Some(out) = &args.out {
        write_length_figure(&found, plan.trained, out)?;
        write_atomic(&out.join("perplexity.csv"), &csv(&found)?)?;
    }
    if args.json {
        say(serde_json::to_string_pretty(&found)?)?;
        return Ok(true);
    }
    let rows: Vec<Vec<String>> = found.iter().map(row).collect();
    say(table(&["scaling", "context", "perplexity", "95 % interval", "loss"], &rows))?;
    let (windows, tokens) = found.first().map_or((0, 0), |one| (one.windows, one.tokens));
    say(format!(
        "the same {} tokens at every length, in {windows} windows; trained with {} positions",
        number(tokens as u64),
        plan.trained
    ))?;
    Ok(true)
}

fn plan(args: &PerplexityArgs, max_seq_len: usize) -> Result<LengthPlan> {
    let trained = args.trained.map_or(max_seq_len, |trained| trained as usize);
    ensure!(trained >= 8, "--trained is {trained}, expected at least 8");
    let mut lengths = match args.lengths.is_empty() {
        true => [1, 2, 4, 8, 16].map(|quarters| trained * quarters / 4).into(),
        false => args.lengths.clone(),
    };
    lengths.sort_unstable();
    lengths.dedup();
    let factor = lengths.last().copied().unwrap_or_default() as f64 / trained as f64;
    let scalings = match args.rope_scaling.as_slice() {
        [] if factor > 1.0 => vec![
            RopeScaling::Unscaled,
            RopeScaling::Linear(factor),
            RopeScaling::Ntk(factor),
            RopeScaling::Yarn(factor),
        ],
        [] => vec![RopeScaling::Unscaled],
        given => given.to_vec(),
    };
    Ok(LengthPlan { lengths, scalings, trained, windows: args.windows.max(1) })
}

/// Reads the first tokens of the text: just over `needed` if there are enough.
fn read(args: &PerplexityArgs, tokenizer: &Tokenizer, needed: usize) -> Result<Vec<u32>> {
    let files = named(&args.text, "--text", args.json)?;
    let options = ReadOptions::new(&DataConfig::default()).advising(Advice::NONE);
    let mut ids = vec![];
    for row in rows(&files, Kind::Pretrain, &options) {
        let special = SpecialText::Characters;
        let (document, _) = match row? {
            Row::Text(text) => tokenizer.document(&text, special)?,
            Row::Chat(messages) => tokenizer.conversation_document(&messages, special)?,
            Row::Preference { .. } | Row::Labelled { .. } => continue, // do not occur in pretraining files
        };
        ids.extend(document);
        if ids.len() > needed {
            break;
        }
    }
    Ok(ids)
}

fn row(one: &LengthLoss) -> Vec<String> {
    let interval =
        one.interval.map_or(String::new(), |(low, high)| format!("[{:.2}, {:.2}]", low.exp(), high.exp()));
    vec![
        one.scaling.clone(),
        one.length.to_string(),
        format!("{:.2}", one.perplexity()),
        interval,
        format!("{:.4}", one.loss),
    ]
}

fn csv(found: &[LengthLoss]) -> Result<Vec<u8>> {
    let mut out = csv::Writer::from_writer(vec![]);
    out.write_record([
        "scaling",
        "context",
        "windows",
        "tokens",
        "loss",
        "loss_low",
        "loss_high",
        "perplexity",
    ])?;
    for one in found {
        let bound = |of: fn((f64, f64)) -> f64| {
            one.interval.map_or(String::new(), |interval| of(interval).to_string())
        };
        let numbers = [one.length, one.windows, one.tokens].map(|n| n.to_string());
        let [length, windows, tokens] = numbers;
        let (loss, perplexity) = (one.loss.to_string(), one.perplexity().to_string());
        out.write_record([
            &one.scaling,
            &length,
            &windows,
            &tokens,
            &loss,
            &bound(|i| i.0),
            &bound(|i| i.1),
            &perplexity,
        ])?;
    }
    Ok(out.into_inner()?)
}
